//! `Producing`: a thread's way out: a transactional producer that begins its transaction at the
//! first record.

use std::{collections::BTreeMap, sync::Arc};

use millstream_broker::{Outgoing, Producer, ProducerError, TopicIx, TopicPartition};
use millstream_operators::{Outbox, SinkIx, Topology};
use millstream_topology::{Error, ErrorKind, Headers, Result, partition_for_key};

use crate::internal_topics::{Layout, changelog_name, full_name};

/// A topic that records are written to.
#[derive(Clone, Copy)]
struct Target {
    topic: TopicIx,
    partitions: u32,
}

pub(crate) struct Producing {
    producer: Box<dyn Producer>,
    sinks: Vec<Target>,
    /// Partitions of all topics that the log had at the start.
    partitions: BTreeMap<Arc<str>, u32>,
    /// Those of them that records have chosen so far.
    chosen: BTreeMap<Arc<str>, Target>,
    changelogs: BTreeMap<Arc<str>, TopicIx>,
    dead_letters: Option<Target>,
    /// False until the producer was initialised, which fences its predecessors.
    ready: bool,
    open: bool,
    /// Where the next record without a key goes; such records are spread evenly.
    spread: u32,
    /// The broker's own error, when `send` had to report it as the topology crate's.
    failed: Option<ProducerError>,
}

impl Producing {
    pub(crate) fn new(
        mut producer: Box<dyn Producer>,
        topology: &Topology,
        application_id: &str,
        layout: &Layout,
        dead_letter_topic: Option<&str>,
    ) -> Self {
        let mut target = |name: &str| Target {
            topic: producer.topic(name),
            partitions: layout.partitions.get(name).copied().unwrap_or(1),
        };
        let sinks = topology
            .sink_topics()
            .iter()
            .map(|(topic, role)| target(&full_name(application_id, topic, *role)))
            .collect();
        let dead_letters = dead_letter_topic.map(target);
        let changelogs = topology
            .plan()
            .stores()
            .iter()
            .filter(|s| s.logged)
            .map(|s| {
                let name = changelog_name(application_id, &s.name);
                let topic = producer.topic(&name);
                (s.name.clone(), topic)
            })
            .collect();
        let (ready, open, spread, failed) = (false, false, 0, None);
        let (partitions, chosen) = (layout.partitions.clone(), BTreeMap::new());
        Self {
            producer,
            sinks,
            partitions,
            chosen,
            changelogs,
            dead_letters,
            ready,
            open,
            spread,
            failed,
        }
    }

    /// Ends what an earlier producer of this name has open, and fences it. To be called before the
    /// first record, and not before the group has accepted this member: until then another process
    /// of its name may work.
    pub(crate) fn take_over(&mut self) -> Result<(), ProducerError> {
        if !self.ready {
            self.producer.init()?;
            self.ready = true;
        }
        Ok(())
    }

    /// True while a transaction is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The producer's own error behind the one that a node reported.
    pub(crate) fn take_failure(&mut self) -> Option<ProducerError> {
        self.failed.take()
    }

    pub(crate) fn changelog(&self, store: &str) -> Option<TopicIx> {
        self.changelogs.get(store).copied()
    }

    fn begin(&mut self) -> Result<(), ProducerError> {
        if !self.open {
            self.producer.begin()?;
            self.open = true;
        }
        Ok(())
    }

    fn write(&mut self, record: Outgoing<'_>) -> Result<()> {
        let written = self.begin().and_then(|()| self.producer.send(record));
        written.map_err(|error| {
            let report = Error::new(
                ErrorKind::Broker,
                format!("a record could not be written: {error}"),
            );
            self.failed = Some(error);
            report
        })
    }

    /// Writes one change of a store to its changelog.
    pub(crate) fn log_change(
        &mut self,
        topic: TopicIx,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
        timestamp: i64,
    ) -> Result<()> {
        let headers = &Headers::default();
        self.write(Outgoing {
            topic,
            partition,
            timestamp,
            key: Some(key),
            value,
            headers,
        })
    }

    /// Writes a record that failed to the dead-letter topic.
    pub(crate) fn dead_letter(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()> {
        let Some(target) = self.dead_letters else {
            return Ok(());
        };
        let partition = self.partition(key, target.partitions);
        self.write(Outgoing {
            topic: target.topic,
            partition,
            timestamp,
            key,
            value,
            headers,
        })
    }

    /// A topic that a record chose. There can be no more of them than the log has topics.
    fn chosen(&mut self, name: &str) -> Result<Target> {
        if let Some(target) = self.chosen.get(name) {
            return Ok(*target);
        }
        let Some((name, partitions)) = self.partitions.get_key_value(name) else {
            let what = format!(
                "a record chose a topic that the log did not have when the application started. \
                 topic=`{name}`"
            );
            return Err(Error::new(ErrorKind::User, what).on_output());
        };
        let target = Target {
            topic: self.producer.topic(name),
            partitions: *partitions,
        };
        self.chosen.insert(name.clone(), target);
        Ok(target)
    }

    fn partition(&mut self, key: Option<&[u8]>, partitions: u32) -> i32 {
        match key {
            Some(key) => partition_for_key(key, partitions),
            None => {
                self.spread = self.spread.wrapping_add(1);
                (self.spread % partitions) as i32
            }
        }
    }

    /// Steps 2 to 4 of the commit: drain, add the offsets, commit.
    pub(crate) fn commit(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: &millstream_broker::GroupMetadata,
    ) -> Result<(), ProducerError> {
        self.begin()?;
        self.producer.drain()?;
        self.producer.send_offsets(offsets, group)?;
        self.producer.commit()?;
        self.open = false;
        Ok(())
    }

    pub(crate) fn abort(&mut self) -> Result<(), ProducerError> {
        self.failed = None;
        self.open = false;
        match self.ready {
            true => self.producer.abort(),
            false => Ok(()),
        }
    }

    pub(crate) fn ends(&self, each: &mut dyn FnMut(TopicIx, i32, i64)) {
        self.producer.ends(each);
    }
}

impl Outbox for Producing {
    fn send(
        &mut self,
        sink: SinkIx,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()> {
        let target = self.sinks[sink.0 as usize];
        let partition = self.partition(key, target.partitions);
        self.write(Outgoing {
            topic: target.topic,
            partition,
            timestamp,
            key,
            value,
            headers,
        })
    }

    fn send_to(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()> {
        let target = self.chosen(topic)?;
        let partition = self.partition(key, target.partitions);
        self.write(Outgoing {
            topic: target.topic,
            partition,
            timestamp,
            key,
            value,
            headers,
        })
    }
}
