//! The log seam: what the runtime needs of a partitioned, transactional log, and the logs that
//! offer it.
//!
//! | module | log | for |
//! |---|---|---|
//! | [`embedded`] | durable, one process, on RocksDB | programs without a broker |
//! | [`kafka`] | any Kafka broker from 2.5 on, through librdkafka | everything else |
//! | [`sim`] | in memory, in virtual time, with seeded faults | tests of whatever runs on a log |
//!
//! All traits are synchronous and know nothing of operators. A rebalance is an [`Event`] that
//! [`Consumer::poll`] returns, not a callback: the caller tears down and commits at its own pace,
//! then answers with [`Consumer::assign`] or [`Consumer::unassign`], and only then does the group
//! go on.
//!
//! Isolation is read committed everywhere: records of open and aborted transactions are never seen.

pub mod embedded;
mod error;
pub mod kafka;
mod seam;
pub mod sim;

pub use error::{Error, ProducerError, Result};
pub use seam::{
    Admin, Appended, Appender, Broker, Cleanup, Consumer, ConsumerConfig, Event, Fetched,
    GroupMetadata, NewTopic, Outgoing, OwnedRecord, PartitionIx, Producer, Reader, Start,
    TopicInfo, TopicIx, TopicPartition, Watermarks,
};
