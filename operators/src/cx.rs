//! `Cx`: what travels with a record through a task: its stores, its way out, and where and when it
//! is.

use std::sync::Arc;

use millstream_state::{StoreView, TaskState};
use millstream_topology::{Headers, Result};

/// Index of a topic in [`Topology::sink_topics`](crate::Topology::sink_topics).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SinkIx(pub u32);

/// Takes the records that a task writes to topics.
pub trait Outbox {
    /// Adds a record to the open transaction.
    ///
    /// # Errors
    /// When the log refuses it.
    fn send(
        &mut self,
        sink: SinkIx,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()>;

    /// As [`send`](Self::send), to a topic that the record chose. It is none of the application's
    /// own.
    ///
    /// # Errors
    /// When the topic does not exist, or the log refuses it.
    fn send_to(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()>;
}

/// Where the record that is being processed was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSite {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset; -1 outside a record, as in a punctuation.
    pub offset: i64,
}

/// What a task counts, for its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that an operator had to drop: null keys, late records.
    pub dropped: u64,
}

/// The stores of the global tables, as every task sees them: what is applied and committed.
#[derive(Clone, Debug, Default)]
pub struct Globals(Arc<[StoreView]>);

impl Globals {
    /// Views in the order of [`Topology::globals`](crate::Topology::globals).
    pub fn new(views: impl IntoIterator<Item = StoreView>) -> Self {
        Self(views.into_iter().collect())
    }

    pub(crate) fn view(&self, index: usize) -> &StoreView {
        &self.0[index]
    }
}

/// What travels with a record through a task.
pub struct Cx<'a> {
    /// The stores of the task.
    pub state: &'a mut TaskState,
    /// The global tables.
    pub globals: &'a Globals,
    /// Where records leave.
    pub out: &'a mut dyn Outbox,
    /// Where the record was read.
    pub site: &'a RecordSite,
    /// Greatest timestamp that the task has seen, in milliseconds; -1 before the first record.
    pub stream_time_ms: i64,
    /// Wall clock at the start of this batch of work, in milliseconds since the Unix epoch.
    pub wall_clock_ms: i64,
    /// What is counted.
    pub counters: &'a mut Counters,
    /// Buffers that sinks encode into.
    pub scratch: &'a mut Scratch,
    /// Set when a processor has changed its schedules: see
    /// [`TaskGraph::reschedule`](crate::TaskGraph::reschedule).
    pub rescheduled: &'a mut bool,
}

/// Buffers that sinks encode into, kept from record to record.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}
