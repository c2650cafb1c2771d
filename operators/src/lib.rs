//! The DSL and the Processor API: what a user writes a topology with.
//!
//! A [`KStream`] or [`KTable`] is a handle on a node of the plan. Each method adds a node and
//! returns the handle on it; nothing runs until a task is built from the finished [`Topology`]. A
//! task is built from its sinks up to its sources, each node holding typed edges to the nodes
//! behind it, so that a record is moved from function to function without boxing, queues or locks.
//!
//! ```
//! use millstream_operators::StreamsBuilder;
//! use millstream_topology::{text, u64_be, KvStore, Topic};
//!
//! const WORDS: Topic<String, String> = Topic::new("words", text(), text());
//! const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
//!
//! let b = StreamsBuilder::new();
//! b.stream(WORDS).filter(|_, word| !word.is_empty()).group_by_key().count(COUNTS);
//! let topology = b.build()?;
//! assert_eq!(topology.subtopologies().len(), 1);
//! # Ok::<(), millstream_topology::Error>(())
//! ```
//!
//! What this crate is not: it starts no threads, knows no broker and reads no clock. The runtime
//! does.

mod builder;
mod stream;
mod table;
mod table_store;
mod grouped;
mod foreign_key;
mod windows;
mod cogroup;
mod suppress;
mod grouped_table;
mod join;
mod global;
mod maybe_null;
mod processor;
mod processor_stores;
mod lru;
mod fixed_key;
mod edge;
mod cx;
mod build;
mod graph;
mod ops;

pub use builder::{StreamOrigin, StreamsBuilder, TableOrigin};
pub use cogroup::{Cogrouped, SessionCogrouped, WindowedCogrouped};
pub use cx::{Counters, Cx, Globals, Outbox, RecordSite, Scratch, SinkIx};
pub use fixed_key::{AnyKey, FixedKey, FixedKeyContext, FixedKeyProcessor, FixedKeyRecord};
pub use foreign_key::ForeignKey;
pub use global::{GlobalKTable, GlobalLookup, GlobalSource};
pub use graph::{
    Entry, NodeCounters, Punctuator, RawRecord, RawSource, Refill, SourceTopic, TaskGraph, Topology,
};
pub use grouped::Grouped;
pub use grouped_table::GroupedTable;
pub use join::{
    JoinWindow, JoinWith, LeftJoinWith, OuterJoinWith, WithGrace, Within, WithinUnmatched,
};
pub use lru::{Lru, LruEntries, LruHandle};
pub use maybe_null::MaybeNull;
pub use ops::process_to::{Output, OutputHandle, Outputs};
pub use processor::{Clock, Context, Processor, Punctuation, ScheduleId};
pub use processor_stores::{
    KvHandle, KvRead, ReadHandle, ReadSessionHandle, ReadVersionedHandle, ReadWindowHandle, Reads,
    SessionHandle, SessionRead, Stores, VersionedHandle, VersionedRead, WindowHandle, WindowRead,
};
pub use stream::{KStream, Split};
pub use suppress::{
    SuppressUntil, UntilTimeLimit, UntilWindowCloses, until_time_limit, until_window_closes,
};
pub use table::KTable;
pub use table_store::{FromTopic, Kept, NoStore, Remembers, TableStore};
pub use windows::{SessionGrouped, WindowedGrouped, Windows};
