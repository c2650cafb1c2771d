//! `Reference`: what a task makes of its input, computed again.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use millstream_broker::{Fetched, TopicPartition};
use millstream_operators::{RawRecord, Topology};
use millstream_runtime::{Policies, TestDriver, full_name};
use millstream_topology::{Headers, Result};

/// What a store holds: by key, value and timestamp, as they stand in its changelog.
pub type State = BTreeMap<Bytes, (Bytes, i64)>;

/// A record that a task has read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Where it was read.
    pub from: &'a TopicPartition,
    /// The record.
    pub record: &'a Fetched,
}

/// A record that a task must have written.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition; `None` is the one that the key chooses. Records without a key are spread, and
    /// then found in any partition.
    pub partition: Option<i32>,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The headers.
    pub headers: Headers,
}

impl Made {
    /// A record for the partition that its key chooses, without headers.
    pub fn new(
        topic: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        timestamp: i64,
    ) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: Some(key.into()),
            value: Some(value.into()),
            timestamp,
            headers: Headers::default(),
        }
    }
}

/// Computes again what one task makes of its input.
pub trait Reference {
    /// Takes the next record of the task and appends what the task must have written.
    ///
    /// # Errors
    /// When the task would have stopped at this record.
    fn take(&mut self, input: &Input<'_>, made: &mut Vec<Made>) -> Result<()>;

    /// What a store must hold by now; `None` when the reference does not know.
    ///
    /// # Errors
    /// When it cannot be read.
    fn state(&mut self, store: &str) -> Result<Option<State>>;
}

/// What a store holds, by a reference's own state.
type StateOf<S> = Box<dyn Fn(&S) -> State>;

/// A reference that is a pure function over a state: the one that shares no code with what it
/// checks.
pub struct Pure<S, F> {
    state: S,
    step: F,
    stores: Vec<(&'static str, StateOf<S>)>,
}

impl<S, F: FnMut(&mut S, &Input<'_>, &mut Vec<Made>)> Pure<S, F> {
    /// The state at first, and what each record does.
    pub fn new(state: S, step: F) -> Self {
        Self {
            state,
            step,
            stores: Vec::new(),
        }
    }

    /// Says what a store must hold.
    #[must_use]
    pub fn store(mut self, name: &'static str, of: impl Fn(&S) -> State + 'static) -> Self {
        self.stores.push((name, Box::new(of)));
        self
    }
}

impl<S, F: FnMut(&mut S, &Input<'_>, &mut Vec<Made>)> Reference for Pure<S, F> {
    fn take(&mut self, input: &Input<'_>, made: &mut Vec<Made>) -> Result<()> {
        (self.step)(&mut self.state, input, made);
        Ok(())
    }

    fn state(&mut self, store: &str) -> Result<Option<State>> {
        let found = self.stores.iter().find(|(name, _)| *name == store);
        Ok(found.map(|(_, of)| of(&self.state)))
    }
}

/// A reference that is the real operators in one fresh run without threads, log or faults: it
/// finds what a run lost, doubled or mixed up, and not what the operators compute wrongly.
///
/// The driver's tasks are all of partition 0 and count offsets from 0, and its wall clock stands
/// still; a processor that writes what these say needs a reference of its own.
pub struct Driven {
    driver: TestDriver,
    /// Full names and the topology's own of what the task reads.
    sources: Vec<(Arc<str>, Arc<str>)>,
    /// Full names and the topology's own of what the task writes.
    sinks: Vec<(Arc<str>, Arc<str>)>,
}

impl Driven {
    /// A fresh run of one sub-topology.
    ///
    /// # Errors
    /// What a processor fails with when it starts.
    pub fn new(
        topology: &Topology,
        subtopology: usize,
        application_id: &str,
        policies: Policies,
    ) -> Result<Self> {
        let sub = &topology.subtopologies()[subtopology];
        let names = |topics: &[(Arc<str>, millstream_topology::TopicRole)]| {
            let name = |(topic, role): &(Arc<str>, _)| {
                (full_name(application_id, topic, *role), topic.clone())
            };
            topics.iter().map(name).collect()
        };
        let driver = TestDriver::new(topology)?
            .with_policies(policies)
            .without_loops();
        Ok(Self {
            driver,
            sources: names(&sub.sources),
            sinks: names(&sub.sinks),
        })
    }
}

impl Reference for Driven {
    fn take(&mut self, input: &Input<'_>, made: &mut Vec<Made>) -> Result<()> {
        let full = &input.from.topic;
        let source = self.sources.iter().find(|(name, _)| name == full);
        let topic = source.map_or(full, |(_, own)| own);
        let record = input.record;
        let raw = RawRecord {
            key: record.key.clone(),
            value: record.value.clone(),
            timestamp: record.timestamp,
            headers: record.headers.clone(),
        };
        self.driver.send_raw(topic, raw)?;
        for (topic, own) in &self.sinks {
            for raw in self.driver.read_raw(own) {
                made.push(Made {
                    topic: topic.clone(),
                    partition: None,
                    key: raw.key,
                    value: raw.value,
                    timestamp: raw.timestamp,
                    headers: raw.headers,
                });
            }
        }
        Ok(())
    }

    fn state(&mut self, store: &str) -> Result<Option<State>> {
        let mut state = State::new();
        for change in self.driver.changes(store)? {
            apply(&mut state, change.key, change.value, change.timestamp);
        }
        Ok(Some(state))
    }
}

/// Does to a state what a record of its changelog says.
pub(crate) fn apply(state: &mut State, key: Option<Bytes>, value: Option<Bytes>, timestamp: i64) {
    let key = key.unwrap_or_default();
    match value {
        Some(value) => drop(state.insert(key, (value, timestamp))),
        None => drop(state.remove(&key)),
    }
}
