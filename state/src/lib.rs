//! The stores of a task: typed, fast, and never ahead of the log.
//!
//! A task has one [`ByteStore`], on disk or in memory, that all its stores share. Between a typed
//! store and those bytes lie two layers:
//!
//! - the *live* layer: typed values by key, owned by the thread that runs the task. It holds what
//!   the open transaction has changed, and a cache of what it has read;
//! - the *committed* layer: bytes that the log has committed and the base does not hold yet.
//!   Queries read it together with the base, from any thread.
//!
//! A commit moves changes one layer down, in the order of [`TaskState::write_changelog`],
//! [`TaskState::commit`], and from time to time [`TaskState::start_flush`]. What is not committed
//! never reaches the base, so a base is never wiped: after a crash it is opened where it stands,
//! and only the changelog's tail is replayed.
//!
//! ```
//! use std::sync::Arc;
//!
//! use millstream_state::{KvDefinition, MemoryBytes, TaskState};
//! use millstream_topology::{KvStore, text, u64_be};
//!
//! const SPEND: KvStore<String, u64> = KvStore::new("spend", text(), u64_be());
//!
//! # fn main() -> millstream_state::Result {
//! let base = Arc::new(MemoryBytes::default());
//! let mut state = TaskState::open(base, &[Arc::new(KvDefinition(SPEND))])?;
//! state.kv(0, &SPEND).put(&"ada".to_owned(), 4200, 1)?;
//!
//! let mut changelog = Vec::new();
//! state.write_changelog(&mut |store, key, value, timestamp| {
//!     changelog.push((store, key.to_vec(), value.map(<[u8]>::to_vec), timestamp));
//!     Ok(())
//! })?;
//! state.commit(&[(0, 1)])?;
//! assert_eq!(state.view(0).get_typed(&SPEND, &"ada".to_owned())?, Some((4200, 1)));
//! assert_eq!(changelog.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! What this crate is not: it knows no log and no thread pool. Its caller writes the changelog,
//! runs the flushes, and decides when to commit.

mod bytes;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;

mod changelog;
mod committed;
mod definition;
mod expiry;
mod flush;
mod kv;
mod live;
mod replica;
mod session;
mod task_state;
mod versioned;
mod view;
mod window;
mod window_live;

mod blob;
mod error;
mod layout;
mod merge;

pub use bytes::{ByteStore, Droppable, Entries, Scan};
pub use definition::{
    BufferDefinition, KvDefinition, SessionDefinition, StoreDefinition, VersionedDefinition,
    WindowDefinition,
};
pub use error::{Fault, Result};
pub use flush::{FlushJob, FlushReport};
pub use kv::Kv;
pub use layout::{split_session_key, split_window_key};
pub use live::AnyStore;
pub use memory::MemoryBytes;
pub use replica::Replica;
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksBytes, RocksShared};
pub use session::Session;
pub use task_state::{ChangelogSink, TaskState};
pub use versioned::{Version, Versioned, Versions};
pub use view::{StoreView, VIEW_PAGE_MAX};
pub use window::Window;
