//! `Manifest`: what of a topology persists, as the application keeps it in its log between runs.
//!
//! It names what an application leaves behind: stores with their layouts, repartition topics, and
//! how the topics that it reads are divided. What it does with records is not in it, as that may
//! change from one run to the next.

use std::{collections::BTreeSet, sync::Arc};

use millstream_operators::Topology;
use millstream_topology::{Error, ErrorKind, Result, StoreId, StoreKind, StoreSpec, TopicRole};
use serde::{Deserialize, Serialize};

use crate::internal_topics::{Layout, full_name};

/// The format that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// What of a topology persists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// The first number that no folder of state has ever had. It outlives resets, so that state
    /// which another machine kept from before is never taken for new.
    pub(crate) next_place: u32,
    /// A reset has begun and has not ended.
    #[serde(default)]
    pub(crate) resetting: bool,
    pub(crate) subtopologies: Vec<Part>,
    pub(crate) globals: Vec<GlobalTable>,
    /// Stores that were removed, whose changelogs may still be there.
    #[serde(default)]
    pub(crate) retired: Vec<Store>,
}

/// A sub-topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its number, as in the names of its tasks.
    pub(crate) number: u32,
    /// The number in the names of its folders of state: it stays when sub-topologies are
    /// numbered anew.
    pub(crate) place: u32,
    /// How many tasks it has, and so how many partitions its changelogs.
    pub(crate) partitions: u32,
    pub(crate) sources: Vec<Source>,
    pub(crate) stores: Vec<Store>,
}

/// A topic that is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// Its name, without the application's.
    pub(crate) topic: Arc<str>,
    /// Made by the application itself.
    pub(crate) repartition: bool,
    pub(crate) partitions: u32,
    /// It was found by a pattern.
    #[serde(default)]
    pub(crate) found: bool,
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Store {
    pub(crate) name: Arc<str>,
    /// How its entries are laid out.
    pub(crate) layout: String,
    /// How long it keeps windows or sessions, if it does.
    pub(crate) retention_ms: Option<i64>,
    pub(crate) kept: Kept,
    /// The types of keys and values, as the compiler names them.
    pub(crate) types: String,
}

/// What a store is restored from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kept {
    /// Its changelog.
    Changelog,
    /// A topic that its sub-topology reads.
    Topic(Arc<str>),
    /// Nothing: it lives on its disk alone.
    Nowhere,
}

/// A global table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GlobalTable {
    pub(crate) topic: Arc<str>,
    pub(crate) store: Arc<str>,
    pub(crate) layout: String,
}

impl Manifest {
    /// That of a topology; places are as the numbers are.
    pub(crate) fn of(topology: &Topology, layout: &Layout, application_id: &str) -> Self {
        let found: BTreeSet<&Arc<str>> = topology
            .plan()
            .nodes()
            .iter()
            .filter(|node| node.pattern.is_some())
            .flat_map(|node| &node.topics)
            .collect();
        let source = |(topic, role): &(Arc<str>, TopicRole)| Source {
            topic: topic.clone(),
            repartition: *role != TopicRole::External,
            partitions: layout.partitions[&full_name(application_id, topic, *role)],
            found: found.contains(topic),
        };
        let parts = topology.subtopologies().iter().zip(&layout.tasks);
        let part = |(sub, partitions): (&millstream_topology::SubTopology, &u32)| Part {
            number: sub.id,
            place: sub.id,
            partitions: *partitions,
            sources: sub.sources.iter().map(source).collect(),
            stores: sub.stores.iter().map(|id| store(topology, *id)).collect(),
        };
        let globals = topology.plan().globals().iter().map(|global| GlobalTable {
            topic: global.topic.clone(),
            store: global.store.name.clone(),
            layout: layout_of(&global.store, "").0,
        });
        let subtopologies: Vec<Part> = parts.map(part).collect();
        Self {
            format: FORMAT,
            next_place: subtopologies.len() as u32,
            resetting: false,
            subtopologies,
            globals: globals.collect(),
            retired: Vec::new(),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has a JSON form")
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] for a format that this program does not know, or no manifest at all.
    pub(crate) fn from_bytes(bytes: &[u8], application_id: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let format = serde_json::from_slice(bytes).map(|v: Versioned| v.format);
        if let Ok(format) = format
            && format != FORMAT
        {
            let what = format!(
                "the application's manifest was written by another version of the program; start \
                 that version or a newer one, or reset the application. \
                 application=`{application_id}`, format={format}, known={FORMAT}"
            );
            return Err(Error::new(ErrorKind::Topology, what));
        }
        serde_json::from_slice(bytes).map_err(|source| {
            let what = format!(
                "the application's manifest cannot be read; reset the application. \
                 application=`{application_id}`"
            );
            Error::caused(ErrorKind::Topology, what, source)
        })
    }

    /// The stores of all sub-topologies, with these.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (&Part, &Store)> {
        let parts = self.subtopologies.iter();
        parts.flat_map(|part| part.stores.iter().map(move |store| (part, store)))
    }

    pub(crate) fn store(&self, name: &str) -> Option<(&Part, &Store)> {
        self.stores().find(|(_, store)| &*store.name == name)
    }

    /// The topics that sub-topologies read, with these.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&Part, &Source)> {
        let parts = self.subtopologies.iter();
        parts.flat_map(|part| part.sources.iter().map(move |source| (part, source)))
    }

    pub(crate) fn source(&self, like: &Source) -> Option<(&Part, &Source)> {
        let same = |s: &Source| s.topic == like.topic && s.repartition == like.repartition;
        self.sources().find(|(_, source)| same(source))
    }

    /// The numbers in the names of folders, by sub-topology.
    pub(crate) fn places(&self) -> Vec<u32> {
        self.subtopologies.iter().map(|part| part.place).collect()
    }
}

fn store(topology: &Topology, id: StoreId) -> Store {
    let spec = &topology.plan().stores()[id.0];
    let types = topology.definition(id).types();
    let (layout, retention_ms) = layout_of(spec, types);
    let kept = match topology.refill(id) {
        Some(refill) => Kept::Topic(refill.topic().clone()),
        None if spec.logged => Kept::Changelog,
        None => Kept::Nowhere,
    };
    Store {
        name: spec.name.clone(),
        layout,
        retention_ms,
        kept,
        types: types.to_owned(),
    }
}

/// The layout's name, and how long it keeps what it is about.
fn layout_of(spec: &StoreSpec, types: &str) -> (String, Option<i64>) {
    let (name, retention) = match spec.kind {
        // A versioned store is laid out as a key-value store, but its keys are of its own making.
        StoreKind::KeyValue if types.contains("VersionedDefinition<") => ("versioned", None),
        StoreKind::KeyValue => ("key-value", None),
        StoreKind::Window {
            retention_ms,
            duplicates: false,
        } => ("window", Some(retention_ms)),
        StoreKind::Window {
            retention_ms,
            duplicates: true,
        } => ("window-of-several", Some(retention_ms)),
        StoreKind::Session { retention_ms } => ("session", Some(retention_ms)),
        StoreKind::Buffer => ("buffer", None),
    };
    (name.to_owned(), retention)
}
