//! The embedded log: durable, for one process, on RocksDB.
//!
//! A program without a broker opens one folder and has what it would have of Kafka: topics with
//! partitions, consumer groups with generations, transactions, compaction and retention. What is
//! acknowledged has been synced to disk; commits and appends that wait at the same time share one
//! sync. A transaction's records and offsets are one write batch, so a crash leaves all of it or
//! nothing.
//!
//! ```
//! use millstream_broker::{Broker, Cleanup, NewTopic, embedded::{EmbeddedBroker, EmbeddedConfig}};
//!
//! # fn main() -> millstream_broker::Result<()> {
//! let dir = tempfile::tempdir().expect("a folder");
//! let log = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default())?;
//! let keep = Cleanup::Delete { retention_ms: None };
//! let orders = NewTopic { name: "orders".into(), partitions: 4, cleanup: keep };
//! log.admin()?.create_topics(&[orders])?;
//! assert_eq!(log.admin()?.topics()?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! What it is not: replicated, or open to other processes. Group memberships and transactional ids
//! live in memory, as they end with the process; offsets and records live on disk.
//!
//! Keys and values that come out of a poll are slices of a block of up to
//! [`block_bytes`](EmbeddedConfig::block_bytes); whoever keeps one for long copies it.

mod admin;
mod appender;
mod block;
mod cleanup;
mod clock;
mod compaction;
mod consumer;
mod fetcher;
mod group;
mod journal;
mod layout;
mod log;
mod open;
mod partition;
mod producer;
mod queue;
pub(crate) mod range;
mod reader;
mod settings;
mod signal;
mod writer;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

pub use clock::Clock;
pub use compaction::Compacted;
pub use log::LogFigures;
pub use settings::EmbeddedConfig;

use crate::{
    Admin, Appender, Broker, Consumer, ConsumerConfig, Producer, Reader, Result, TopicPartition,
};
use log::Running;

/// A log in a folder of this machine. It stays open until this and all clients are dropped.
pub struct EmbeddedBroker {
    running: Arc<Running>,
}

impl EmbeddedBroker {
    /// Opens the log in that folder, which is created if need be.
    ///
    /// # Errors
    /// When another process has it open, the data is damaged, or the folder cannot be used.
    pub fn open(dir: &Path, config: EmbeddedConfig) -> Result<Arc<Self>> {
        let running = Arc::new(Running::start(dir, config)?);
        Ok(Arc::new(Self { running }))
    }

    /// Compacts a partition at once, however little there is to gain. The newest blocks stay as
    /// they are.
    ///
    /// # Errors
    /// When the partition does not exist, is not of a compacted topic, or the log fails.
    pub fn compact_now(&self, partition: &TopicPartition) -> Result<Compacted> {
        cleanup::compact_now(&self.running.log, partition)
    }

    /// Deletes at once what is older than its topic keeps it, and tells how many partitions lost
    /// records.
    ///
    /// # Errors
    /// When the log fails.
    pub fn expire_now(&self) -> Result<usize> {
        cleanup::expire(&self.running.log)
    }

    /// What the log has done since it was opened, and holds in memory.
    pub fn figures(&self) -> LogFigures {
        self.running.log.figures()
    }
}

impl Broker for EmbeddedBroker {
    fn admin(&self) -> Result<Arc<dyn Admin>> {
        self.running.log.check()?;
        Ok(Arc::new(admin::EmbeddedAdmin::new(self.running.clone())))
    }

    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>> {
        let consumer = consumer::EmbeddedConsumer::join(self.running.clone(), config)?;
        Ok(Box::new(consumer))
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        self.running.log.check()?;
        let producer = producer::EmbeddedProducer::new(self.running.clone(), transactional_id);
        Ok(Box::new(producer))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        self.running.log.check()?;
        Ok(Box::new(reader::EmbeddedReader::new(self.running.clone())))
    }

    fn appender(&self) -> Result<Arc<dyn Appender>> {
        self.running.log.check()?;
        Ok(Arc::new(appender::EmbeddedAppender::new(
            self.running.clone(),
        )))
    }
}
