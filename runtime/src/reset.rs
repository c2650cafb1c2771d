//! `Reset`: makes an application forget what it did, so that it begins anew.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_broker::{Admin, Broker, TopicPartition};
use millstream_operators::Topology;
use millstream_topology::{Error, ErrorKind, REPARTITION_SUFFIX, Result, TopicRole};
use serde::Deserialize;

use crate::{
    clock::SystemClock,
    internal_topics::{MEMBERS, changelog_name, full_name},
    manifest::{FORMAT, Kept, Manifest},
    manifest_topic::ManifestTopic,
};

/// Where an application that was reset begins to read its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// At their oldest records.
    Earliest,
    /// Behind their newest records.
    Latest,
    /// At the first record with that timestamp or a later one, in milliseconds since the Unix
    /// epoch; behind the newest record where there is none.
    Time(i64),
}

/// What it takes to make an application begin anew. [`Reset::plan`] only looks; what is printed is
/// what [`run`](Reset::run) does.
///
/// Repartition topics, changelogs, the members' topic and the local state are deleted, and the
/// offsets of the inputs are set. Topics that the application reads or writes by their own names
/// stay with everything in them, so output that is made again is there twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    application_id: String,
    /// Members that are alive.
    members: Vec<String>,
    /// Inputs, where the group stands and where it is set to.
    offsets: Vec<(TopicPartition, Option<i64>, i64)>,
    /// Topics to delete.
    topics: Vec<Arc<str>>,
    /// Topics that look like the application's and that neither it nor its manifest knows.
    unknown: Vec<Arc<str>>,
    /// The folder to delete, if it is there.
    folder: Option<PathBuf>,
}

impl Reset {
    /// Looks what there is to reset of an application: of what its manifest tells, and of its
    /// topology. `state_dir` is where this machine keeps the state; that of other machines is not
    /// used any more and can be deleted there.
    ///
    /// # Errors
    /// [`ErrorKind::Broker`] when the log does not answer.
    pub fn plan(
        broker: &dyn Broker,
        topology: &Topology,
        application_id: &str,
        to: ResetTo,
        state_dir: Option<&Path>,
    ) -> Result<Self> {
        let admin = broker.admin()?;
        let topic = ManifestTopic::new(broker, &*admin, &SystemClock, application_id);
        let manifest = topic.read()?;
        // One that cannot be read has nothing to tell.
        let manifest = manifest
            .and_then(|bytes| Manifest::from_bytes(&bytes, application_id).ok())
            .unwrap_or_default();
        let existing = admin.topics()?;
        let (inputs, internal) = topics_of(&manifest, topology, application_id);
        let is_input = |name: &str| {
            let found = || topology.plan().finder_of(name).is_some();
            inputs.contains(name) || (found() && !is_own(application_id, name))
        };
        let mut reset = Self {
            application_id: application_id.to_owned(),
            members: members(&*admin, application_id)?,
            offsets: Vec::new(),
            topics: Vec::new(),
            unknown: Vec::new(),
            folder: state_dir
                .map(|root| root.join(application_id))
                .filter(|folder| folder.is_dir()),
        };
        for topic in existing {
            if internal.contains(&topic.name) {
                reset.topics.push(topic.name);
            } else if is_input(&topic.name) {
                let numbers = 0..topic.partitions.cast_signed();
                let partitions = numbers.map(|p| TopicPartition::new(topic.name.clone(), p));
                let partitions: Vec<_> = partitions.collect();
                let committed = admin.committed(application_id, &partitions)?;
                for (partition, at) in partitions.into_iter().zip(committed) {
                    let target = target(&*admin, &partition, to)?;
                    reset.offsets.push((partition, at, target));
                }
            } else if is_own(application_id, &topic.name) {
                reset.unknown.push(topic.name);
            }
        }
        Ok(reset)
    }

    /// The members that are alive; as long as there are some, nothing can be reset.
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// Does it. When it fails or the process ends in between, the application does not start before
    /// it has been planned and run again, to the end.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when members are alive, [`ErrorKind::Broker`] when the log fails,
    /// [`ErrorKind::State`] when the folder cannot be deleted.
    pub fn run(&self, broker: &dyn Broker) -> Result<()> {
        let admin = broker.admin()?;
        self.refuse_members(members(&*admin, &self.application_id)?)?;
        let topic = ManifestTopic::new(broker, &*admin, &SystemClock, &self.application_id);
        // From here on the application refuses to start, until the last step. What the manifest
        // tells stays in it until then: a second reset finds the same topics.
        topic.replace(&mut |stored| {
            let mut manifest = self.stored(stored);
            manifest.resetting = true;
            Ok(Some(manifest))
        })?;
        // A member that came in between is seen here, or by the log, which sets no offsets then.
        self.refuse_members(members(&*admin, &self.application_id)?)?;
        let offsets: Vec<(TopicPartition, i64)> = self
            .offsets
            .iter()
            .map(|(partition, _, target)| (partition.clone(), *target))
            .collect();
        admin.set_committed(&self.application_id, &offsets)?;
        let topics: Vec<&str> = self.topics.iter().map(|name| &**name).collect();
        admin.delete_topics(&topics)?;
        if let Some(folder) = &self.folder {
            delete(folder)?;
        }
        topic.replace(&mut |stored| {
            Ok(Some(Manifest {
                format: FORMAT,
                next_place: self.stored(stored).next_place,
                ..Manifest::default()
            }))
        })
    }

    /// The stored manifest, or what can be known of one that cannot be read.
    fn stored(&self, stored: Option<&[u8]>) -> Manifest {
        #[derive(Deserialize)]
        struct Places {
            next_place: u32,
        }
        /// Far behind the places that an application comes to, where its manifest does not tell.
        const PLACES_UNKNOWN: u32 = 1 << 20;
        let Some(bytes) = stored else {
            return Manifest {
                format: FORMAT,
                // What ran before there were manifests had places that are as its numbers were.
                next_place: PLACES_UNKNOWN,
                ..Manifest::default()
            };
        };
        Manifest::from_bytes(bytes, &self.application_id).unwrap_or_else(|_| {
            let places = serde_json::from_slice(bytes).map(|p: Places| p.next_place);
            Manifest {
                format: FORMAT,
                next_place: places.unwrap_or(PLACES_UNKNOWN),
                ..Manifest::default()
            }
        })
    }

    fn refuse_members(&self, members: Vec<String>) -> Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        let what = format!(
            "members of the application are alive; stop them first, or wait until their sessions \
             have ended. application=`{}`, members=`{}`",
            self.application_id,
            members.join("`, `")
        );
        Err(Error::new(ErrorKind::Config, what))
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "application {}", self.application_id)?;
        for member in &self.members {
            writeln!(f, "  is alive: {member}")?;
        }
        for (partition, from, to) in &self.offsets {
            let from = from.map_or_else(|| "none".to_owned(), |at| at.to_string());
            writeln!(f, "  set offset of {partition}: from {from} to {to}")?;
        }
        for topic in &self.topics {
            writeln!(f, "  delete topic {topic}")?;
        }
        for topic in &self.unknown {
            writeln!(
                f,
                "  leave topic {topic}, which the application does not know"
            )?;
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "  delete folder {}", folder.display())?;
        }
        Ok(())
    }
}

/// Inputs by their names, and the application's own topics.
fn topics_of(
    manifest: &Manifest,
    topology: &Topology,
    application_id: &str,
) -> (BTreeSet<Arc<str>>, BTreeSet<Arc<str>>) {
    let repartition = TopicRole::Repartition { partitions: None };
    let mut inputs = BTreeSet::new();
    let mut internal = BTreeSet::from([format!("{application_id}-{MEMBERS}").into()]);
    for (_, source) in manifest.sources() {
        match source.repartition {
            true => internal.insert(full_name(application_id, &source.topic, repartition)),
            false => inputs.insert(source.topic.clone()),
        };
    }
    for (topic, role) in topology.subtopologies().iter().flat_map(|sub| &sub.sources) {
        match role {
            TopicRole::External => inputs.insert(topic.clone()),
            TopicRole::Repartition { .. } => {
                internal.insert(full_name(application_id, topic, *role))
            }
        };
    }
    let stores = manifest.stores().map(|(_, store)| store);
    for store in stores.chain(&manifest.retired) {
        if store.kept == Kept::Changelog {
            internal.insert(changelog_name(application_id, &store.name));
        }
    }
    for store in topology.plan().stores().iter().filter(|s| s.logged) {
        internal.insert(changelog_name(application_id, &store.name));
    }
    (inputs, internal)
}

/// Named as the application's own topics are; those of an application whose name goes on behind a
/// dash are, too.
fn is_own(application_id: &str, topic: &str) -> bool {
    let rest = topic.strip_prefix(application_id);
    let rest = rest.and_then(|rest| rest.strip_prefix('-'));
    let suffixes = [REPARTITION_SUFFIX, millstream_topology::CHANGELOG_SUFFIX];
    rest.is_some_and(|rest| suffixes.iter().any(|suffix| rest.ends_with(suffix)))
}

fn members(admin: &dyn Admin, application_id: &str) -> Result<Vec<String>> {
    let groups = admin.groups()?;
    let group = groups.into_iter().find(|(id, _)| id == application_id);
    Ok(group.map(|(_, members)| members).unwrap_or_default())
}

fn target(admin: &dyn Admin, partition: &TopicPartition, to: ResetTo) -> Result<i64> {
    let ends = admin.watermarks(partition)?;
    Ok(match to {
        ResetTo::Earliest => ends.low,
        ResetTo::Latest => ends.high,
        ResetTo::Time(ms) => admin.offset_at(partition, ms)?.unwrap_or(ends.high),
    })
}

fn delete(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => {
            let what = format!("state could not be deleted. folder=`{}`", folder.display());
            Err(Error::caused(ErrorKind::State, what, e))
        }
    }
}
