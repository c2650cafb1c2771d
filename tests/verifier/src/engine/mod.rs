//! The engine's promises: what an application wrote is what its committed input gives.

mod compare;
mod mark;
mod outputs;
mod part;
mod progress;
mod reference;
mod stores;
mod transactions;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_broker::Broker;
use millstream_operators::Topology;
use millstream_runtime::{Policies, Queries};

pub use part::{Emission, Part};
pub use progress::Offsets;
pub use reference::{Driven, Input, Made, Pure, Reference, State};
pub use transactions::open_transactions;

use crate::{Report, Result, Scan};

/// The promises of the engine, as [`Row::promise`](crate::Row::promise) says them.
pub mod promises {
    /// Every output holds what the committed input gives: nothing is lost, doubled, changed, added
    /// or out of order.
    pub const OUTPUT: &str = "output = recomputed from the committed input";
    /// Every changelog holds the state that the committed input gives.
    pub const CHANGELOG: &str = "changelogs = recomputed state";
    /// A live store holds what its changelog holds.
    pub const STORES: &str = "live stores = their changelogs";
    /// Readers come to the end of every partition.
    pub const TRANSACTIONS: &str = "no transaction is open";
    /// The committed offsets of a group never go back.
    pub const FORWARD: &str = "committed offsets never go back";
    /// A group has read everything.
    pub const LAG: &str = "everything is read";
    /// As much was read as was asked for.
    pub const WORK: &str = "enough is read";
}

/// The entries of one partition of a live store, given by the caller.
pub struct Dump<'a> {
    /// The store's name.
    pub store: Arc<str>,
    /// The partition of its task.
    pub partition: i32,
    /// Key, value and timestamp of each entry, as a store view gives them.
    pub entries: Box<dyn Iterator<Item = (Bytes, Bytes, i64)> + 'a>,
}

impl Dump<'_> {
    /// What the key-value stores that an instance serves hold at this moment.
    ///
    /// # Errors
    /// When a store cannot be read.
    pub fn all(queries: &Queries) -> Result<Vec<Dump<'static>>> {
        let mut dumps = Vec::new();
        let stores = queries.stores();
        for store in stores.iter().filter(|store| store.kind == "key-value") {
            for (partition, view) in queries.local(&store.name)? {
                let mut entries: Vec<(Bytes, Bytes, i64)> = Vec::new();
                loop {
                    // The first key behind another is that one with a zero byte more.
                    let after = entries.last().map(|(key, ..)| [key, &[0][..]].concat());
                    let page = view.range(after.as_deref(), None, usize::MAX)?;
                    if page.is_empty() {
                        break;
                    }
                    entries.extend(page);
                }
                dumps.push(Dump {
                    store: store.name.clone().into(),
                    partition,
                    entries: Box::new(entries.into_iter()),
                });
            }
        }
        Ok(dumps)
    }
}

/// Verifies one application. It must be at rest, or stopped: what it commits meanwhile is looked
/// at in part only.
///
/// The tasks' input is read up to the committed offsets, given to a [`Reference`] of each task, and
/// what that makes is compared with the log record by record, by hashes of 64 bits for each part of
/// a record. What is kept in memory are 48 bytes for each record of an output, and the stores of
/// one task at a time for each sub-topology.
///
/// The input must be there from its first record on: let the application keep what it is done with
/// of its repartition topics, by a long `purge_interval`.
///
/// What depends on more than the task's input is not recomputed: wall-clock timers, global tables,
/// and, where a task reads several topics, the order among them. Their records are taken by
/// timestamp, as a task does that finds all of them waiting.
pub struct Engine<'a> {
    application_id: Arc<str>,
    parts: Vec<Part<'a>>,
    within: Duration,
    /// All input must be read, and so many records at the least.
    records_min: Option<u64>,
}

impl<'a> Engine<'a> {
    /// An application of which nothing is known yet.
    pub fn new(application_id: &str) -> Self {
        Self {
            application_id: application_id.into(),
            parts: Vec::new(),
            within: Duration::ZERO,
            records_min: None,
        }
    }

    /// An application that is compared with fresh runs of its own operators: see [`Driven`].
    pub fn of(topology: &'a Topology, application_id: &str, policies: Policies) -> Self {
        let parts = 0..topology.subtopologies().len();
        let parts = parts.map(|at| Part::of(topology, at, application_id, policies.clone()));
        Self {
            parts: parts.collect(),
            ..Self::new(application_id)
        }
    }

    /// Adds a sub-topology.
    #[must_use]
    pub fn part(mut self, part: Part<'a>) -> Self {
        self.parts.push(part);
        self
    }

    /// Waits so long for open transactions to end.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Says how an output's records come about, in all sub-topologies that write it.
    #[must_use]
    pub fn emits(mut self, topic: &str, emission: Emission) -> Self {
        for part in &mut self.parts {
            part.emits(topic, emission);
        }
        self
    }

    /// Expects that the input is read to its end, and so many records of it at the least.
    #[must_use]
    pub fn has_read_all(mut self, records_min: u64) -> Self {
        self.records_min = Some(records_min);
        self
    }

    /// Verifies what the log holds, and the live stores in `dumps`.
    ///
    /// # Errors
    /// When the log does not answer, or a reference fails. A broken promise is in the report.
    pub fn verify(&self, log: &dyn Broker, dumps: Vec<Dump<'_>>) -> Result<Report> {
        let scan = Scan::new(log)?;
        let mut report = Report::from_iter([open_transactions(log, self.within)?]);
        let mut due = outputs::Outputs::new(&scan, &self.parts)?;
        let mut work = progress::Work::default();
        let mut stores = stores::Stores::new(&scan, &self.application_id, dumps, self.within);
        for (number, part) in self.parts.iter().enumerate() {
            let group = &self.application_id;
            let mut each =
                |input: &_, task, made: &_, from| due.add(number, input, task, made, from);
            let mut unknown = Vec::new();
            part.run(&scan, group, &mut each, &mut |task| {
                work.add(&task);
                unknown.extend((!task.input.whole).then(|| task.input.ranges.clone()));
                stores.check(part, task)
            })?;
            unknown.iter().for_each(|input| due.forget(part, input));
        }
        report.extend([due.compare(&scan, self.within)?]);
        report.extend(stores.finish()?);
        if let Some(least) = self.records_min {
            report.extend(work.rows(&scan, least)?);
        }
        Ok(report)
    }
}
