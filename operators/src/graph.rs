//! `Topology`, the finished plan with its factories, and `TaskGraph`, the nodes of one task.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use millstream_state::StoreDefinition;
use millstream_topology::{
    Description, Headers, NodeId, Plan, Result, StoreId, SubTopology, TopicRole,
};

use crate::{
    Clock, Cx, GlobalSource, Punctuation,
    build::{Flush, TaskBuild},
    processor::{Live, ScheduleChange, ScheduleId},
};

/// A record as a log delivers it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawRecord {
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// The timestamp that the log holds.
    pub timestamp: i64,
    /// The headers.
    pub headers: Headers,
}

/// The entry of a task for the records of one topic.
pub trait RawSource {
    /// The event time by which the record is ordered; `partition_time` is the greatest one before
    /// it, -1 at first. Negative means that the record must be dropped.
    ///
    /// # Errors
    /// When the record does not decode.
    fn event_time(&mut self, record: &RawRecord, partition_time: i64) -> Result<i64>;

    /// Decodes a record and pushes it through the task, with `event_time` as its timestamp.
    ///
    /// # Errors
    /// When the record does not decode, or a node behind fails.
    fn push(&mut self, cx: &mut Cx<'_>, record: RawRecord, event_time: i64) -> Result<()>;
}

/// Key and value of a store's entry, as the store writes them; without a value it is deleted.
pub type Entry = (Vec<u8>, Option<Vec<u8>>);

/// A store that is restored from a topic which its sub-topology reads.
#[derive(Clone)]
pub struct Refill {
    pub(crate) topic: Arc<str>,
    pub(crate) translate: Arc<dyn Fn(&RawRecord) -> Result<Option<Entry>> + Send + Sync>,
}

impl Refill {
    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// What a record of the topic is in the store; `None` when it has no key.
    ///
    /// # Errors
    /// When the record does not decode.
    pub fn entry(&self, record: &RawRecord) -> Result<Option<Entry>> {
        (self.translate)(record)
    }
}

/// Makes the entry for one of a source's topics, by its place among them.
pub(crate) type EntryOf = Rc<dyn Fn(usize) -> Rc<RefCell<dyn RawSource>>>;

/// The entry of a source that has one topic.
pub(crate) fn only_entry(source: impl RawSource + 'static) -> EntryOf {
    let source: Rc<RefCell<dyn RawSource>> = Rc::new(RefCell::new(source));
    Rc::new(move |_| source.clone())
}

/// Makes a source of one task, with all nodes behind it.
pub(crate) type SourceFactory = Arc<dyn Fn(&mut TaskBuild<'_>) -> EntryOf + Send + Sync>;

/// A topology that is complete and checked: what applications and test drivers are made of.
#[derive(Clone)]
pub struct Topology {
    plan: Arc<Plan>,
    subtopologies: Arc<[SubTopology]>,
    sources: Arc<BTreeMap<NodeId, SourceFactory>>,
    definitions: Arc<[Arc<dyn StoreDefinition>]>,
    sink_topics: Arc<[(Arc<str>, TopicRole)]>,
    globals: Arc<[GlobalSource]>,
    refills: Arc<BTreeMap<StoreId, Refill>>,
}

impl Topology {
    pub(crate) fn new(
        plan: Plan,
        sources: BTreeMap<NodeId, SourceFactory>,
        definitions: Vec<Arc<dyn StoreDefinition>>,
        globals: Vec<GlobalSource>,
        refills: BTreeMap<StoreId, Refill>,
    ) -> Self {
        let subtopologies = plan.subtopologies();
        let mut sink_topics: Vec<(Arc<str>, TopicRole)> = Vec::new();
        for sink in subtopologies.iter().flat_map(|s| &s.sinks) {
            if !sink_topics.contains(sink) {
                sink_topics.push(sink.clone());
            }
        }
        Self {
            plan: Arc::new(plan),
            subtopologies: subtopologies.into(),
            sources: Arc::new(sources),
            definitions: definitions.into(),
            sink_topics: sink_topics.into(),
            globals: globals.into(),
            refills: Arc::new(refills),
        }
    }

    /// The shape.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The same topology, with that topic read by the first source whose pattern it matches; `None`
    /// when there is no such source, or the topic is read already.
    pub fn find_topic(&self, topic: &str) -> Option<Self> {
        self.plan.finder_of(topic)?;
        let mut plan = (*self.plan).clone();
        plan.find_topic(topic);
        Some(Self {
            subtopologies: plan.subtopologies().into(),
            plan: Arc::new(plan),
            ..self.clone()
        })
    }

    /// The shape, for people.
    pub fn describe(&self) -> Description {
        self.plan.describe()
    }

    /// The parts that run as tasks.
    pub fn subtopologies(&self) -> &[SubTopology] {
        &self.subtopologies
    }

    /// The topics that some task writes; [`SinkIx`](crate::SinkIx) counts in this list.
    pub fn sink_topics(&self) -> &[(Arc<str>, TopicRole)] {
        &self.sink_topics
    }

    /// The definition of a store.
    pub fn definition(&self, store: StoreId) -> &Arc<dyn StoreDefinition> {
        &self.definitions[store.0]
    }

    /// Where a store is restored from, if that is a topic which its sub-topology reads.
    pub fn refill(&self, store: StoreId) -> Option<&Refill> {
        self.refills.get(&store)
    }

    /// The global tables; their place here is their place among the views of
    /// [`Globals`](crate::Globals).
    pub fn globals(&self) -> &[GlobalSource] {
        &self.globals
    }

    /// Builds the nodes of one task of sub-topology `index`. They stay on the calling thread.
    pub fn instantiate(&self, index: u32) -> TaskGraph {
        let sub = &self.subtopologies[index as usize];
        let mut build = TaskBuild::new(self, &sub.stores);
        let mut sources = Vec::new();
        let mut by_pattern = BTreeMap::new();
        for id in &sub.nodes {
            let Some(make) = self.sources.get(id) else {
                continue;
            };
            let entry_of = make(&mut build);
            let node = &self.plan.nodes()[id.0];
            sources.extend(
                node.topics
                    .iter()
                    .enumerate()
                    .map(|(at, topic)| SourceTopic {
                        topic: topic.clone(),
                        role: node.role,
                        source: entry_of(at),
                    }),
            );
            if node.pattern.is_some() {
                by_pattern.insert(*id, entry_of);
            }
        }
        let mut flushes = build.flushes;
        flushes.reverse();
        TaskGraph {
            sources,
            by_pattern,
            flushes,
            processors: build.processors,
            counters: build.counters.into_iter().collect(),
        }
    }
}

/// One topic that a task reads.
pub struct SourceTopic {
    /// Its name, without application prefix.
    pub topic: Arc<str>,
    /// Who makes it.
    pub role: TopicRole,
    /// Where its records enter.
    pub source: Rc<RefCell<dyn RawSource>>,
}

/// How many records each node of a task has taken.
pub type NodeCounters = BTreeMap<NodeId, Arc<AtomicU64>>;

/// The nodes of one task.
pub struct TaskGraph {
    sources: Vec<SourceTopic>,
    by_pattern: BTreeMap<NodeId, EntryOf>,
    flushes: Vec<Flush>,
    processors: Vec<(Arc<str>, Rc<RefCell<dyn Live>>)>,
    counters: NodeCounters,
}

impl TaskGraph {
    /// Where records enter, by topic.
    pub fn sources(&self) -> &[SourceTopic] {
        &self.sources
    }

    /// Adds the entry of a topic that `topology` has found by pattern since this was built from it;
    /// `None` when it belongs to another task.
    pub fn find_topic(&mut self, topology: &Topology, topic: &str) -> Option<&SourceTopic> {
        let (id, entry_of) = self.by_pattern.iter().find(|(id, _)| {
            topology.plan.nodes()[id.0]
                .topics
                .iter()
                .any(|found| &**found == topic)
        })?;
        let (topic, role) = (topic.into(), topology.plan.nodes()[id.0].role);
        self.sources.push(SourceTopic {
            topic,
            role,
            source: entry_of(0),
        });
        self.sources.last()
    }

    /// The nodes' counters.
    pub fn counters(&self) -> &NodeCounters {
        &self.counters
    }

    /// Calls `init` of every processor; what they schedule is for [`reschedule`](Self::reschedule).
    ///
    /// # Errors
    /// What a processor fails with.
    pub fn init(&mut self, cx: &mut Cx<'_>) -> Result<()> {
        for (name, live) in &self.processors {
            live.borrow_mut().init(cx).map_err(|e| e.in_node(name))?;
        }
        Ok(())
    }

    /// Adds and removes schedules as the processors have asked since the last call.
    pub fn reschedule(&mut self, punctuators: &mut Vec<Punctuator>, wall_clock_ms: i64) {
        for (name, live) in &self.processors {
            for change in live.borrow_mut().take_changes() {
                match change {
                    ScheduleChange::Add {
                        id,
                        every_ms,
                        clock,
                    } => punctuators.push(Punctuator {
                        id,
                        clock,
                        every_ms,
                        due_ms: match clock {
                            Clock::Stream => 0,
                            Clock::Wall => wall_clock_ms + every_ms,
                        },
                        name: name.clone(),
                        live: live.clone(),
                    }),
                    ScheduleChange::Cancel(id) => {
                        punctuators.retain(|p| p.id != id || !Rc::ptr_eq(&p.live, live));
                    }
                }
            }
        }
    }

    /// Lets operators emit what they held back, those nearest to the sources first.
    ///
    /// # Errors
    /// What a node behind fails with.
    pub fn flush(&mut self, cx: &mut Cx<'_>) -> Result<()> {
        self.flushes
            .iter()
            .try_for_each(|flush| (flush.borrow_mut())(cx))
    }
}

/// One call that a processor scheduled.
pub struct Punctuator {
    id: ScheduleId,
    clock: Clock,
    every_ms: i64,
    due_ms: i64,
    name: Arc<str>,
    live: Rc<RefCell<dyn Live>>,
}

impl Punctuator {
    /// The clock it follows.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// When it is due next, on its clock.
    pub fn due_ms(&self) -> i64 {
        self.due_ms
    }

    /// Calls the processor if it is due at `now_ms`; missed calls are not made up for
    /// (Kafka Streams' `PunctuationSchedule.next`).
    ///
    /// # Errors
    /// What the processor, or a node behind, fails with.
    pub fn fire(&mut self, cx: &mut Cx<'_>, now_ms: i64) -> Result<bool> {
        if now_ms < self.due_ms {
            return Ok(false);
        }
        let next = self.due_ms + self.every_ms;
        self.due_ms = match now_ms < next {
            true => next,
            // More than one was missed: the next multiple behind now.
            false => self.due_ms + ((now_ms - self.due_ms) / self.every_ms + 1) * self.every_ms,
        };
        let tick = Punctuation {
            schedule: self.id,
            clock: self.clock,
            time_ms: now_ms,
        };
        self.live
            .borrow_mut()
            .punctuate(cx, tick)
            .map_err(|e| e.in_node(&self.name))?;
        Ok(true)
    }
}
