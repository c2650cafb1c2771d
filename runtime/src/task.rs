//! `Task`: one sub-topology on one partition: its nodes, its stores, its buffered records, its
//! timers.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use millstream_broker::TopicPartition;
use millstream_operators::{
    Clock, Counters, Cx, Globals, Outbox, Punctuator, RawRecord, RecordSite, Refill, Scratch,
    TaskGraph, Topology,
};
use millstream_state::{ByteStore, FlushJob, Replica, StoreDefinition, TaskState};
use millstream_topology::{Error, Result, TaskId, TopicRole};

use crate::partition_group::{Buffered, PartitionGroup, RecordQueue};

/// Bytes of committed changes of one task above which they are written to disk at once.
pub(crate) const COMMITTED_BYTES_MAX: usize = 16 << 20;
/// Bytes of them above which the task waits for the disk. One transaction may go beyond.
pub(crate) const UNWRITTEN_BYTES_MAX: usize = 4 * COMMITTED_BYTES_MAX;

/// A record that failed, with what a policy needs to deal with it.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) site: RecordSite,
    /// `None` when a timer failed, which no policy can skip.
    pub(crate) raw: Option<RawRecord>,
}

pub(crate) struct Task {
    pub(crate) id: TaskId,
    topology: Topology,
    graph: TaskGraph,
    globals: Globals,
    pub(crate) state: TaskState,
    pub(crate) group: PartitionGroup,
    punctuators: Vec<Punctuator>,
    /// A processor has changed its schedules.
    rescheduled: bool,
    pub(crate) counters: Counters,
    scratch: Scratch,
    nowhere: RecordSite,
    /// The record that is being processed, for the report if its processing panics.
    pub(crate) in_progress: Option<(usize, i64)>,
    pub(crate) records: u64,
    /// Changelog records that were replayed since the task was opened, by store.
    pub(crate) replayed: BTreeMap<String, u64>,
    started: bool,
}

/// The stores of a sub-topology, in the order of their indices.
pub(crate) fn definitions(topology: &Topology, subtopology: u32) -> Vec<Arc<dyn StoreDefinition>> {
    let sub = &topology.subtopologies()[subtopology as usize];
    let definition = |store| topology.definition(store).clone();
    sub.stores.iter().copied().map(definition).collect()
}

/// For each store of a sub-topology its name if it has a changelog.
pub(crate) fn logged_stores(
    topology: &Topology,
    subtopology: u32,
) -> impl Iterator<Item = Option<&str>> {
    let plan = topology.plan();
    let sub = &topology.subtopologies()[subtopology as usize];
    sub.stores.iter().map(|store| {
        let spec = &plan.stores()[store.0];
        spec.logged.then_some(&*spec.name)
    })
}

/// Where a store comes back from: its name, and how the records of an input become its entries if
/// it has no changelog.
pub(crate) type Origin<'a> = (&'a str, Option<&'a Refill>);

/// For each store of a sub-topology where it comes back from; `None` for one that does not.
pub(crate) fn origins(
    topology: &Topology,
    subtopology: u32,
) -> impl Iterator<Item = Option<Origin<'_>>> {
    let plan = topology.plan();
    let sub = &topology.subtopologies()[subtopology as usize];
    sub.stores.iter().map(|store| {
        let spec = &plan.stores()[store.0];
        let refill = topology.refill(*store);
        (spec.logged || refill.is_some()).then_some((&*spec.name, refill))
    })
}

/// What a call into the task's nodes needs from outside.
pub(crate) struct Surroundings<'a> {
    pub(crate) out: &'a mut dyn Outbox,
    pub(crate) wall_clock_ms: i64,
}

impl Task {
    /// Builds the task over `base`. `topic_name` gives the full name of each topic.
    pub(crate) fn open(
        topology: &Topology,
        id: TaskId,
        base: Arc<dyn ByteStore>,
        globals: Globals,
        topic_name: impl Fn(&str, TopicRole) -> Arc<str>,
    ) -> Result<Self> {
        let replica = Replica::open(base, &definitions(topology, id.subtopology))?;
        Ok(Self::over(topology, id, replica, globals, topic_name))
    }

    /// Builds the task over a replica of its stores, which is open and may be far on its way.
    pub(crate) fn over(
        topology: &Topology,
        id: TaskId,
        replica: Replica,
        globals: Globals,
        topic_name: impl Fn(&str, TopicRole) -> Arc<str>,
    ) -> Self {
        let graph = topology.instantiate(id.subtopology);
        let state = TaskState::over(replica);
        let queues = graph.sources().iter().enumerate().map(|(at, source)| {
            let topic = topic_name(&source.topic, source.role);
            RecordQueue::new(topic, id.partition, at, source.source.clone())
        });
        let group = PartitionGroup::new(queues.collect());
        Self {
            id,
            topology: topology.clone(),
            graph,
            globals,
            state,
            group,
            punctuators: Vec::new(),
            rescheduled: false,
            counters: Counters::default(),
            scratch: Scratch::default(),
            nowhere: RecordSite {
                topic: "".into(),
                partition: id.partition,
                offset: -1,
            },
            in_progress: None,
            records: 0,
            replayed: BTreeMap::new(),
            started: false,
        }
    }

    /// Starts the processors; the stores are restored by now.
    pub(crate) fn start(&mut self, around: &mut Surroundings<'_>) -> Result<()> {
        let (graph, _, mut cx) = self.parts(around, None);
        graph.init(&mut cx)?;
        self.reschedule(around.wall_clock_ms);
        self.started = true;
        Ok(())
    }

    /// The nodes, the timers, and what a call into them needs; at `site`, or outside a record.
    fn parts<'a>(
        &'a mut self,
        around: &'a mut Surroundings<'_>,
        site: Option<&'a RecordSite>,
    ) -> (&'a mut TaskGraph, &'a mut Vec<Punctuator>, Cx<'a>) {
        let cx = Cx {
            state: &mut self.state,
            globals: &self.globals,
            out: &mut *around.out,
            site: site.unwrap_or(&self.nowhere),
            stream_time_ms: self.group.stream_time(),
            wall_clock_ms: around.wall_clock_ms,
            counters: &mut self.counters,
            scratch: &mut self.scratch,
            rescheduled: &mut self.rescheduled,
        };
        (&mut self.graph, &mut self.punctuators, cx)
    }

    /// Takes up what processors have changed in their schedules.
    fn reschedule(&mut self, wall_clock_ms: i64) {
        if std::mem::take(&mut self.rescheduled) {
            self.graph.reschedule(&mut self.punctuators, wall_clock_ms);
        }
    }

    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// The report of a timer that failed.
    pub(crate) fn failed(&self, error: Error) -> Box<Failed> {
        Box::new(Failed {
            error,
            site: self.nowhere.clone(),
            raw: None,
        })
    }

    /// Reads a topic that `topology`, made of this task's, has found, if it belongs to this task.
    pub(crate) fn find_topic(&mut self, topology: &Topology, topic: &Arc<str>) {
        self.topology = topology.clone();
        let at = self.graph.sources().len();
        let Some(found) = self.graph.find_topic(topology, topic) else {
            return;
        };
        let source = found.source.clone();
        self.group.add_queue(RecordQueue::new(
            topic.clone(),
            self.id.partition,
            at,
            source,
        ));
    }

    pub(crate) fn add(&mut self, queue: usize, record: Buffered) {
        self.group.add(queue, record);
    }

    /// What is to be written to disk now: what is large, and at times, what there is. What could
    /// not be written is tried again at those times only.
    pub(crate) fn due_flush(&mut self, timed: bool) -> Option<FlushJob> {
        let bytes = self.state.committed_bytes();
        let is_large = bytes > COMMITTED_BYTES_MAX && self.state.flush_failure().is_none();
        let is_due = is_large || (timed && bytes > 0);
        is_due.then(|| self.state.start_flush()).flatten()
    }

    /// True when so much waits to be written to disk that the task has to wait, too.
    pub(crate) fn is_stalled(&self) -> bool {
        self.state.committed_bytes() > UNWRITTEN_BYTES_MAX
    }

    /// Processes the waiting record with the lowest timestamp; `false` when none waits.
    pub(crate) fn process_one(
        &mut self,
        around: &mut Surroundings<'_>,
    ) -> Result<bool, Box<Failed>> {
        let Some(turn) = self.group.next() else {
            return Ok(false);
        };
        self.records += 1;
        let queue = &self.group.queues()[turn.queue];
        let offset = turn.record.offset;
        let site = queue.site(offset);
        let event_time = match turn.event_time {
            Ok(time) if time < 0 => {
                self.counters.dropped += 1;
                return Ok(true);
            }
            Ok(time) => time,
            Err(error) => {
                return Err(Box::new(Failed {
                    error,
                    site,
                    raw: Some(turn.record.raw),
                }));
            }
        };
        let source = queue.source().clone();
        // A copy of the handle, not of the bytes: a failed record goes to the dead letters whole.
        let raw = turn.record.raw.clone();
        self.in_progress = Some((turn.queue, offset));
        let (_, _, mut cx) = self.parts(around, Some(&site));
        let pushed = source.borrow_mut().push(&mut cx, raw, event_time);
        self.in_progress = None;
        self.reschedule(around.wall_clock_ms);
        match pushed {
            Ok(()) => Ok(true),
            Err(error) => Err(Box::new(Failed {
                error,
                site,
                raw: Some(turn.record.raw),
            })),
        }
    }

    /// Calls the timers of one clock that are due; returns whether any was.
    pub(crate) fn punctuate(
        &mut self,
        clock: Clock,
        around: &mut Surroundings<'_>,
    ) -> Result<bool> {
        let now = match clock {
            Clock::Stream => self.group.stream_time(),
            Clock::Wall => around.wall_clock_ms,
        };
        if clock == Clock::Stream && now < 0 {
            return Ok(false);
        }
        let (_, punctuators, mut cx) = self.parts(around, None);
        let mut any = false;
        for punctuator in punctuators.iter_mut().filter(|p| p.clock() == clock) {
            any |= punctuator.fire(&mut cx, now)?;
        }
        self.reschedule(around.wall_clock_ms);
        Ok(any)
    }

    /// When the next wall-clock timer is due, if there is one.
    pub(crate) fn next_wall_clock_ms(&self) -> Option<i64> {
        let wall = self.punctuators.iter().filter(|p| p.clock() == Clock::Wall);
        wall.map(Punctuator::due_ms).min()
    }

    /// Lets operators emit what they held back.
    pub(crate) fn flush(&mut self, around: &mut Surroundings<'_>) -> Result<()> {
        let (graph, _, mut cx) = self.parts(around, None);
        graph.flush(&mut cx)
    }

    /// Throws away everything since the last commit: uncommitted state, what the nodes remember,
    /// what waits. The caller rewinds the input and calls [`start`](Self::start) again.
    pub(crate) fn rewind(&mut self) {
        self.state.abort();
        self.group.rewind();
        self.in_progress = None;
        self.renew();
    }

    /// Builds the nodes anew, as what they remember does not fit the stores any more. The caller
    /// calls [`start`](Self::start) when those are up to date.
    pub(crate) fn renew(&mut self) {
        self.graph = self.topology.instantiate(self.id.subtopology);
        self.group.replace_sources(self.graph.sources());
        self.punctuators.clear();
        self.started = false;
    }

    /// For each store its name if it has a changelog.
    pub(crate) fn logged_stores(&self) -> impl Iterator<Item = Option<&str>> {
        logged_stores(&self.topology, self.id.subtopology)
    }

    /// For each store that is restored from a topic which the task reads: the store, how, and the
    /// queue of that topic.
    pub(crate) fn refills(&self) -> impl Iterator<Item = (usize, &Refill, &RecordQueue)> {
        let sub = &self.topology.subtopologies()[self.id.subtopology as usize];
        sub.stores.iter().enumerate().filter_map(|(at, store)| {
            let refill = self.topology.refill(*store)?;
            // The name of a topic that others make stands as it is.
            let mut queues = self.group.queues().iter();
            let queue = queues.find(|queue| queue.topic == *refill.topic())?;
            Some((at, refill, queue))
        })
    }

    /// The offsets that a commit must record, by partition: those that moved since the last one.
    pub(crate) fn uncommitted_offsets(&self) -> impl Iterator<Item = (TopicPartition, i64)> {
        self.group.queues().iter().filter_map(|queue| {
            let next = queue.next_offset()?;
            let moved = queue.committed_offset() != Some(next);
            moved.then(|| {
                (
                    TopicPartition::new(queue.topic.clone(), queue.partition),
                    next,
                )
            })
        })
    }

    /// Where each input stands, committed or not; at its beginning before anything was.
    pub(crate) fn standing_offsets(&self) -> impl Iterator<Item = (TopicPartition, i64)> {
        self.group.queues().iter().map(|queue| {
            let at = queue.next_offset().or(queue.committed_offset());
            let of = TopicPartition::new(queue.topic.clone(), queue.partition);
            (of, at.unwrap_or(0))
        })
    }

    /// The offsets handed out so far are committed.
    pub(crate) fn mark_committed(&mut self) {
        self.group.mark_committed();
    }

    /// The names of the stores, in the order of their indices.
    pub(crate) fn store_names(&self) -> impl Iterator<Item = &str> {
        let sub = &self.topology.subtopologies()[self.id.subtopology as usize];
        sub.stores
            .iter()
            .map(|store| &*self.topology.plan().stores()[store.0].name)
    }

    /// How many records each node has taken, by name.
    pub(crate) fn node_records(&self) -> impl Iterator<Item = (String, u64)> {
        self.graph.counters().iter().map(|(id, records)| {
            let name = self.topology.plan().nodes()[id.0].name.to_string();
            (name, records.load(Ordering::Relaxed))
        })
    }
}
