//! The topic `<application>-topology`, in which an application keeps its manifest, and what is done
//! with it at a start.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_broker::{
    Admin, Broker, Cleanup, NewTopic, Outgoing, PartitionIx, ProducerError, Start, TopicPartition,
};
use millstream_operators::Topology;
use millstream_state::ByteStore;
use millstream_topology::{Error, ErrorKind, Headers, Result, TaskId};
use tracing::{info, warn};

use crate::{
    bases::Bases,
    clock::WallClock,
    config::Config,
    evolution::Evolution,
    internal_topics::{MANIFEST, Plans, changelog_name},
    manifest::Manifest,
    stage::{Moment, Stage},
};

/// The only key of the topic.
const KEY: &[u8] = b"manifest";
/// How long one poll waits for the manifest, and how many polls may bring no end.
const POLL_WAIT: Duration = Duration::from_millis(100);
const POLLS_MAX: u32 = 900;
/// Records of one poll.
const POLL_RECORDS: usize = 1000;
/// How often a manifest is tried to be written while other instances write theirs, and the pause
/// between the first two tries; each later pause is longer by as much.
const WRITES_MAX: u32 = 10;
const WRITE_PAUSE: Duration = Duration::from_millis(50);

/// The topic that keeps an application's manifest.
pub(crate) struct ManifestTopic<'a> {
    broker: &'a dyn Broker,
    admin: &'a dyn Admin,
    clock: &'a dyn WallClock,
    name: Arc<str>,
}

impl<'a> ManifestTopic<'a> {
    pub(crate) fn new(
        broker: &'a dyn Broker,
        admin: &'a dyn Admin,
        clock: &'a dyn WallClock,
        application_id: &str,
    ) -> Self {
        Self {
            broker,
            admin,
            clock,
            name: format!("{application_id}-{MANIFEST}").into(),
        }
    }

    /// The newest manifest.
    ///
    /// # Errors
    /// When the log does not answer in time.
    pub(crate) fn read(&self) -> Result<Option<Bytes>> {
        let topics = self.admin.topics()?;
        if !topics.iter().any(|topic| topic.name == self.name) {
            return Ok(None);
        }
        let partition = TopicPartition::new(self.name.clone(), 0);
        let end = self.admin.watermarks(&partition)?.high;
        let mut reader = self.broker.reader()?;
        reader.assign(&[(partition, Start::Earliest)])?;
        let (mut newest, mut fetched) = (None, Vec::new());
        for _ in 0..POLLS_MAX {
            for record in fetched.drain(..) {
                let record: millstream_broker::Fetched = record;
                if record.key.as_deref() == Some(KEY) {
                    newest = record.value;
                }
            }
            if reader.position(PartitionIx(0))? >= end {
                return Ok(newest);
            }
            reader.poll(POLL_WAIT, POLL_RECORDS, &mut fetched)?;
        }
        let what = format!(
            "the application's manifest could not be read in time. topic=`{}`",
            self.name
        );
        Err(Error::new(ErrorKind::Broker, what))
    }

    /// Replaces the newest manifest by what `next` makes of it, unless that is nothing. Between the
    /// reading and the writing nobody else writes: whoever comes in between fences this one, which
    /// then begins again.
    ///
    /// # Errors
    /// What `next` fails with, and when the log does not answer.
    pub(crate) fn replace(
        &self,
        next: &mut dyn FnMut(Option<&[u8]>) -> Result<Option<Manifest>>,
    ) -> Result<()> {
        self.admin.create_topics(&[NewTopic {
            name: self.name.clone(),
            partitions: 1,
            cleanup: Cleanup::Compact,
        }])?;
        let mut tries = 1;
        loop {
            let error = match self.try_replace(next)? {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if tries == WRITES_MAX {
                return Err(error.into());
            }
            self.clock.wait(WRITE_PAUSE * tries);
            tries += 1;
        }
    }

    fn try_replace(
        &self,
        next: &mut dyn FnMut(Option<&[u8]>) -> Result<Option<Manifest>>,
    ) -> Result<Result<(), ProducerError>> {
        let mut producer = self.broker.producer(&self.name)?;
        if let Err(error) = producer.init() {
            return Ok(Err(error));
        }
        let Some(manifest) = next(self.read()?.as_deref())? else {
            return Ok(Ok(()));
        };
        let bytes = manifest.to_bytes();
        let topic = producer.topic(&self.name);
        let headers = Headers::default();
        let record = Outgoing {
            topic,
            partition: 0,
            timestamp: self.clock.now_ms(),
            key: Some(KEY),
            value: Some(&bytes),
            headers: &headers,
        };
        Ok(producer
            .begin()
            .and_then(|()| producer.send(record))
            .and_then(|()| producer.drain())
            .and_then(|()| producer.commit()))
    }
}

/// A topology that fits what its application left behind, and is stored as what it runs now.
pub(crate) struct Admission {
    places: Vec<u32>,
}

/// Compares the topology with the manifest that the application stored last, and stores the new
/// one.
///
/// Invariant: when this fails with [`ErrorKind::Topology`], nothing has been written.
pub(crate) fn admit(
    broker: &dyn Broker,
    admin: &dyn Admin,
    clock: &dyn WallClock,
    topology: &Topology,
    config: &Config,
    plans: &Plans,
) -> Result<Admission> {
    let application_id = &config.application_id;
    let topic = ManifestTopic::new(broker, admin, clock, application_id);
    let own = Manifest::of(topology, &plans.layout, application_id);
    let follow = |stored: Option<&[u8]>| -> Result<(Manifest, Manifest, Evolution)> {
        let before = match stored {
            Some(bytes) => Manifest::from_bytes(bytes, application_id)?,
            None => Manifest::default(),
        };
        if before.resetting {
            let what = format!(
                "a reset of the application has begun and not ended; reset it again. \
                 application=`{application_id}`"
            );
            return Err(Error::new(ErrorKind::Topology, what));
        }
        let mut after = own.clone();
        let has = |store: &str| plans.exists(&changelog_name(application_id, store));
        let evolution = Evolution::between(&before, &mut after, &config.accept_removed, &has);
        match evolution.refusal(application_id) {
            Some(error) => Err(error),
            None => Ok((before, after, evolution)),
        }
    };
    let (before, mut after, _) = follow(topic.read()?.as_deref())?;
    plans.check()?;
    if before != after {
        topic.replace(&mut |stored| {
            let (before, next, evolution) = follow(stored)?;
            after = next;
            if before == after {
                return Ok(None);
            }
            // At first there is nothing to tell.
            if !before.subtopologies.is_empty() {
                tell(application_id, &evolution);
            }
            Ok(Some(after.clone()))
        })?;
    }
    Ok(Admission {
        places: after.places(),
    })
}

fn tell(application: &str, evolution: &Evolution) {
    for change in &evolution.warnings {
        warn!(application, change, "the topology has changed");
    }
    for change in &evolution.notes {
        info!(application, change, "the topology has changed");
    }
}

impl Admission {
    /// The bases under the numbers that the sub-topologies had when they first ran.
    pub(crate) fn placed(self, bases: Box<dyn Bases>) -> Box<dyn Bases> {
        Box::new(Placed {
            bases,
            places: self.places,
        })
    }
}

/// Bases of tasks whose sub-topologies have been numbered anew.
struct Placed {
    bases: Box<dyn Bases>,
    places: Vec<u32>,
}

impl Placed {
    fn of(&self, task: TaskId) -> TaskId {
        TaskId {
            subtopology: self.places[task.subtopology as usize],
            ..task
        }
    }
}

impl Bases for Placed {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        self.bases.open(self.of(task))
    }

    fn wipe(&self, task: TaskId) -> Result<()> {
        self.bases.wipe(self.of(task))
    }

    fn passes(&self, stage: Stage, moment: Moment, task: Option<TaskId>) {
        let task = task.map(|task| self.of(task));
        self.bases.passes(stage, moment, task);
    }
}
