//! The log on Kafka, from brokers of version 2.5 on, through librdkafka.
//!
//! ```no_run
//! use millstream_broker::{Broker, kafka::{KafkaBroker, KafkaConfig}};
//!
//! # fn main() -> Result<(), millstream_broker::Error> {
//! let broker = KafkaBroker::new(KafkaConfig::new("localhost:9092"))?;
//! println!("{} topics", broker.admin()?.topics()?.len());
//! # Ok(())
//! # }
//! ```
//!
//! Groups use the `range` assignor and static membership: equal partitions of co-partitioned topics
//! land on one member, and a member that comes back within its session timeout gets its place
//! without anybody noticing. They use the classic protocol, or that of KIP-848 where
//! [`KafkaConfig::group_protocol`] says so; its changes are presented as whole assignments. What
//! librdkafka does not offer is named where it matters: there is no custom assignor, a transaction
//! that outlives its timeout looks like fencing, a static member of KIP-848 cannot leave for good,
//! and the timestamp 0 is written as 1.

mod admin;
mod appender;
mod config;
mod consumer;
mod context;
#[cfg(test)]
mod faults;
mod joint_queue;
mod ledger;
mod offsets;
mod place;
mod producer;
mod raw;
mod reader;
mod share;
mod triage;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::bounded;
use rdkafka::{ClientConfig, ClientContext, config::FromClientConfigAndContext};
use tracing::warn;

pub use self::config::{GroupProtocol, KafkaConfig};
use crate::{Admin, Appender, Broker, Consumer, ConsumerConfig, Error, Producer, Reader, Result};

/// A Kafka cluster.
#[derive(Debug)]
pub struct KafkaBroker {
    config: KafkaConfig,
}

impl KafkaBroker {
    /// Checks the configuration. Connections are made by the clients, when they are made.
    ///
    /// # Errors
    /// When a property would break a promise of the seam.
    pub fn new(config: KafkaConfig) -> Result<Arc<Self>> {
        config.check()?;
        Ok(Arc::new(Self { config }))
    }
}

impl Broker for KafkaBroker {
    fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(admin::KafkaAdmin::new(&self.config)?))
    }

    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(consumer::KafkaConsumer::new(
            &self.config,
            config,
        )?))
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(producer::KafkaProducer::new(
            &self.config,
            transactional_id,
        )?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::KafkaReader::new(&self.config)?))
    }

    fn appender(&self) -> Result<Arc<dyn Appender>> {
        Ok(Arc::new(appender::KafkaAppender::new(&self.config)?))
    }
}

fn create<T, C>(config: &ClientConfig, context: C) -> Result<T>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    T::from_config_and_context(config, context)
        .map_err(|e| Error::client("cannot make a kafka client", e))
}

/// The end of a wait, also of one that is meant to be endless.
fn deadline(wait: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    Instant::now() + wait.min(LONGEST)
}

/// Pause between two tries of something that the client or the cluster is not ready for.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Tries until it is done, or returns the last error when it is too late for another try.
fn again<E>(until: Instant, mut done: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    loop {
        match done() {
            Err(_) if Instant::now() < until => std::thread::sleep(RETRY_PAUSE),
            last => return last,
        }
    }
}

/// Drops a client on a thread of its own and waits so long for it: librdkafka's destructors have
/// been seen to hang, and neither a rebalance nor the end of the program may hang with them.
fn retire<T: Send + 'static>(what: &'static str, client: T, wait: Duration) {
    let (done, wait_done) = bounded::<()>(1);
    let closing = std::thread::Builder::new()
        .name(format!("close-{what}"))
        .spawn(move || {
            drop(client);
            drop(done);
        });
    // Without a thread, the closure and the client in it were dropped here.
    let Ok(_detached) = closing else {
        return;
    };
    // An error that is not a timeout says that the thread is done.
    if wait_done
        .recv_timeout(wait)
        .is_err_and(|error| error.is_timeout())
    {
        warn!(
            what,
            ?wait,
            "kafka client does not close and is left behind"
        );
    }
}
