//! Runs topologies: stream threads, tasks, the commit sequence, restoring, rebalances, and the test
//! driver.
//!
//! One record's way: [`stream_thread`](self) polls it into its task's queue; the task pushes it
//! through its nodes once its turn by timestamp has come; the commit writes what it changed to the
//! changelogs and commits changelogs, output and input offsets in one transaction of the log.
//!
//! ```
//! use millstream_operators::StreamsBuilder;
//! use millstream_runtime::TestDriver;
//! use millstream_topology::{text, u64_be, KvStore, Topic};
//!
//! const WORDS: Topic<String, String> = Topic::new("words", text(), text());
//! const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
//!
//! let b = StreamsBuilder::new();
//! b.stream(WORDS).group_by_key().count(COUNTS);
//! let mut driver = TestDriver::new(&b.build()?)?;
//! driver.send(WORDS, "a".to_owned(), "x".to_owned(), 0)?;
//! driver.send(WORDS, "a".to_owned(), "y".to_owned(), 1)?;
//! assert_eq!(driver.get(COUNTS, &"a".to_owned())?, Some(2));
//! # Ok::<(), millstream_topology::Error>(())
//! ```
//!
//! What this crate is not: it knows no HTTP and no SQL.

mod application;
mod movement;
mod roster;
mod stepped;
mod config;
mod stream_thread;
mod session;
mod rebalance;
mod rebuilds;
mod upkeep;
mod assignment;
mod task;
mod global_tables;
mod partition_group;
mod outbox;
mod commit;
mod restore;
mod old_state;
mod standby;
mod tails;
mod placement;
mod bases;
mod stage;
mod flush_pool;
mod policy;
mod internal_topics;
mod manifest;
mod evolution;
mod manifest_topic;
mod reset;
mod members;
mod queries;
mod stale_reads;
mod status;
mod clock;
mod test_driver;

pub use application::{Application, Health};
pub use bases::Bases;
pub use clock::{SystemClock, WallClock};
pub use config::{Config, StateKind};
pub use internal_topics::full_name;
pub use members::{Member, Members, StandbyHost};
pub use policy::{ErrorPolicy, Policies};
pub use queries::{Located, Queries, StoreInfo};
pub use reset::{Reset, ResetTo};
pub use stage::{Moment, Stage};
pub use stale_reads::StaleView;
pub use status::{
    CommitStats, RestoreStats, StandbyStatus, Status, StoreStatus, TaskPhase, TaskStatus,
    ThreadStatus,
};
pub use stepped::{Part, Stepped};
pub use test_driver::TestDriver;
