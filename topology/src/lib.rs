//! The vocabulary of Millstream: records, topics, stores, serdes, windows, and the plan of a
//! topology.
//!
//! Every other crate speaks in these types. A program names what persists once, as constants:
//!
//! ```
//! use millstream_topology::{json, text, u64_be, KvStore, Topic};
//!
//! pub const ORDERS: Topic<String, serde_json::Value> = Topic::new("orders", text(), json());
//! pub const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
//! assert_eq!(ORDERS.name(), "orders");
//! assert_eq!(COUNTS.changelog("my-app"), "my-app-counts-changelog");
//! ```
//!
//! What this crate is not: it does no I/O, reads no clock and starts no thread.

mod record;
mod serde;
mod codec;
mod topic;
mod store;
mod versioned;
mod window;
mod error;
mod plan;
mod subtopology;
mod suppress;
mod describe;
mod partition;

pub use codec::{
    Bincode, Codec, I64Be, Json, Nullable, RawBytes, Text, U32Be, U64Be, WindowedKey, bincode,
    bytes, i64_be, json, nullable, text, u32_be, u64_be, windowed,
};
pub use describe::{DescribedNode, Description};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use partition::{murmur2, partition_for_key};
pub use plan::{
    GlobalSpec, Node, NodeId, NodeKind, Plan, StoreId, StoreKind, StoreSpec, TopicRole,
};
pub use record::{Change, Header, Headers, Record};
pub use serde::Serde;
pub use store::{KvStore, SessionStore, WindowStore};
pub use subtopology::{SubTopology, TaskId};
pub use suppress::{Buffered, SuppressStore};
pub use topic::{AnyTopic, CHANGELOG_SUFFIX, REPARTITION_SUFFIX, Topic, TopicPattern};
pub use versioned::VersionedStore;
pub use window::{
    Hopping, Sessions, Sliding, TimeWindows, Tumbling, Unlimited, Windowed, days, hours, millis,
    mins, secs,
};
