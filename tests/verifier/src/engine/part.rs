//! `Part`: one sub-topology, and the run of its references over the committed input.

use std::{collections::VecDeque, sync::Arc};

use millstream_broker::Fetched;
use millstream_operators::Topology;
use millstream_runtime::{Policies, full_name};
use millstream_topology::Result as ReferenceResult;

use super::reference::{Driven, Input, Made, Reference};
use crate::{Error, Result, Scan, scan::Range};

/// How the records of an output come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emission {
    /// Every record that the reference makes, and nothing else.
    Every,
    /// Of each key the last record for certain and those before it perhaps, in their order: for
    /// operators that hold changes back until the commit, and for topics that are compacted.
    Latest,
}

type MakeReference<'a> = Box<dyn Fn(i32) -> ReferenceResult<Box<dyn Reference + 'a>> + 'a>;

/// One sub-topology: what its tasks read, what they write, and the references of its tasks.
///
/// An output is a topic that nobody but tasks of the application writes to, repartition topics
/// among them. Several sub-topologies may write to one.
pub struct Part<'a> {
    sources: Vec<Arc<str>>,
    pub(super) outputs: Vec<(Arc<str>, Emission)>,
    pub(super) stores: Vec<Arc<str>>,
    reference: MakeReference<'a>,
}

impl<'a> Part<'a> {
    /// A sub-topology that reads these topics, by their full names. `reference` makes the reference
    /// of the task of a partition.
    pub fn new<R: Reference + 'a>(sources: &[&str], reference: impl Fn(i32) -> R + 'a) -> Self {
        Self {
            sources: sources.iter().map(|name| (*name).into()).collect(),
            outputs: Vec::new(),
            stores: Vec::new(),
            reference: Box::new(move |partition| Ok(Box::new(reference(partition)))),
        }
    }

    /// It writes that topic, by its full name.
    #[must_use]
    pub fn writes(mut self, topic: &str, emission: Emission) -> Self {
        self.outputs.push((topic.into(), emission));
        self
    }

    /// It has that store, with a changelog.
    #[must_use]
    pub fn keeps(mut self, store: &str) -> Self {
        self.stores.push(store.into());
        self
    }

    /// A sub-topology of a topology, with [`Driven`] references.
    pub(super) fn of(
        topology: &'a Topology,
        at: usize,
        application_id: &str,
        policies: Policies,
    ) -> Self {
        let sub = &topology.subtopologies()[at];
        let stores = sub.stores.iter().map(|id| &topology.plan().stores()[id.0]);
        let name = |(topic, role): &(Arc<str>, _)| full_name(application_id, topic, *role);
        let application: Arc<str> = application_id.into();
        Self {
            sources: sub.sources.iter().map(name).collect(),
            outputs: sub
                .sinks
                .iter()
                .map(name)
                .map(|to| (to, Emission::Every))
                .collect(),
            stores: stores
                .filter(|it| it.logged)
                .map(|it| it.name.clone())
                .collect(),
            reference: Box::new(move |_| {
                Ok(Box::new(Driven::new(
                    topology,
                    at,
                    &application,
                    policies.clone(),
                )?))
            }),
        }
    }

    pub(super) fn emits(&mut self, topic: &str, emission: Emission) {
        for output in self.outputs.iter_mut().filter(|(name, _)| &**name == topic) {
            output.1 = emission;
        }
    }

    /// Runs the reference of each task over its committed input: gives each record that it makes to
    /// `each`, and the task to `done`.
    pub(super) fn run(
        &self,
        scan: &Scan<'_>,
        group: &str,
        each: OnMade<'_>,
        done: &mut dyn FnMut(Task<'a>) -> Result,
    ) -> Result {
        let mut inputs: Vec<TaskInput> = Vec::new();
        for source in &self.sources {
            let committed = scan.committed(group, source)?;
            for ((partition, ends), (_, at)) in scan.ends(source)?.into_iter().zip(committed) {
                let task = partition.partition as usize;
                while inputs.len() <= task {
                    inputs.push(TaskInput::default());
                }
                inputs[task].high.push(ends.high);
                inputs[task].whole &= ends.low == 0;
                inputs[task].ranges.push(Range {
                    partition,
                    from: ends.low,
                    to: at.min(ends.high),
                });
            }
        }
        for (partition, input) in (0..).zip(inputs) {
            let mut task = Task {
                partition,
                reference: (self.reference)(partition)?,
                records: 0,
                input,
            };
            task.run(scan, each)?;
            done(task)?;
        }
        Ok(())
    }
}

/// What is called with each record that a reference makes, and the place of the input record that
/// it is made of.
pub(super) type OnMade<'a> = &'a mut dyn FnMut(&TaskInput, i32, &Made, (usize, i64)) -> Result;

/// What one task has read.
pub(super) struct TaskInput {
    /// What is committed of each partition.
    pub(super) ranges: Vec<Range>,
    /// The ends of the partitions.
    pub(super) high: Vec<i64>,
    /// False when the first records are gone.
    pub(super) whole: bool,
}

impl Default for TaskInput {
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            high: Vec::new(),
            whole: true,
        }
    }
}

/// A task and its reference.
pub(super) struct Task<'a> {
    pub(super) partition: i32,
    pub(super) reference: Box<dyn Reference + 'a>,
    /// How many records it has taken.
    pub(super) records: u64,
    pub(super) input: TaskInput,
}

impl Task<'_> {
    fn run(&mut self, scan: &Scan<'_>, each: OnMade<'_>) -> Result {
        let ranges = self.input.ranges.clone();
        let mut made = Vec::new();
        if ranges.len() == 1 {
            return scan.ranges(&ranges, &mut |at, record| {
                self.take(at, record, &mut made, each)
            });
        }
        let mut waiting = vec![VecDeque::new(); ranges.len()];
        scan.ranges(&ranges, &mut |at, record| {
            waiting[at].push_back(record.clone());
            Ok::<_, Error>(())
        })?;
        while let Some((at, record)) = next(&ranges, &mut waiting) {
            self.take(at, &record, &mut made, each)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        at: usize,
        record: &Fetched,
        made: &mut Vec<Made>,
        each: OnMade<'_>,
    ) -> Result {
        let from = &self.input.ranges[at].partition;
        self.records += 1;
        self.reference.take(&Input { from, record }, made)?;
        for made in made.drain(..) {
            each(&self.input, self.partition, &made, (at, record.offset))?;
        }
        Ok(())
    }
}

/// The waiting record with the lowest timestamp; of equal ones the first topic's, by name.
fn next(ranges: &[Range], waiting: &mut [VecDeque<Fetched>]) -> Option<(usize, Fetched)> {
    let heads = waiting.iter().enumerate();
    let lowest = heads
        .filter_map(|(at, queue)| Some((queue.front()?.timestamp, &ranges[at].partition, at)))
        .min()?;
    let at = lowest.2;
    Some((at, waiting[at].pop_front()?))
}
