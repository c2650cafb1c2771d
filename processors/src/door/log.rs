//! `Log`: appends records for requests and waits until they are durable.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_api::{Problem, ProblemKind};
use millstream_broker::{Appender, Broker, OwnedRecord, TopicPartition};
use millstream_runtime::WallClock;
use millstream_topology::{Error, ErrorKind, Headers, Result, Topic, partition_for_key};
use tokio::{
    sync::oneshot,
    time::{error::Elapsed, timeout},
};

use super::RETRY_AFTER;
use crate::topics;

/// Called once when the outcome of an append is known, whether or not anybody waits for it.
pub(super) type Told = Box<dyn FnOnce(bool) + Send>;

/// Appends to the shop's topics.
pub(super) struct Log {
    appender: Arc<dyn Appender>,
    clock: Arc<dyn WallClock>,
    partitions: u32,
    append_time_max: Duration,
}

impl Log {
    pub(super) fn open(
        broker: &dyn Broker,
        append_time_max: Duration,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self> {
        let existing = broker.admin()?.topics()?;
        let find = |name: &str| {
            existing
                .iter()
                .find(|t| &*t.name == name)
                .map(|t| t.partitions)
        };
        let mut partitions = None;
        for name in [
            topics::ORDERS.name(),
            topics::ORDER_EVENTS.name(),
            topics::PRODUCTS.name(),
            topics::INVENTORY_COMMANDS.name(),
        ] {
            let missing =
                || Error::new(ErrorKind::Config, format!("no such topic. topic=`{name}`"));
            let found = find(name).ok_or_else(missing)?;
            if *partitions.get_or_insert(found) != found {
                let what = format!("the shop's topics need equal partitions. topic=`{name}`");
                return Err(Error::new(ErrorKind::Config, what));
            }
        }
        let partitions = partitions.expect("the shop has topics");
        Ok(Self {
            appender: broker.appender()?,
            clock,
            partitions,
            append_time_max,
        })
    }

    /// How many partitions each of the shop's topics has.
    pub(super) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Appends a record and waits until it is durable; tells where it is.
    pub(super) async fn append<K, V>(
        &self,
        topic: &Topic<K, V>,
        key: &K,
        value: &V,
        told: Told,
    ) -> Result<(i32, i64), Problem> {
        let (record, partition) = match self.record(topic, key, value) {
            Ok(made) => made,
            Err(error) => {
                told(false);
                return Err(Problem::internal(error));
            }
        };
        let (done, durable) = oneshot::channel();
        // The appender drops the callback where it refuses the record: `told` must hear of that
        // too.
        let mut told = TellOnce(Some(told));
        let callback = Box::new(move |result: millstream_broker::Result<i64>| {
            told.tell(result.is_ok());
            // Nobody waits when the client has gone.
            let _ = done.send(result);
        });
        self.appender.append(record, callback).map_err(|error| {
            tracing::debug!(%error, "the log takes no more records");
            Problem::of(ProblemKind::OVERLOADED).retry_after(RETRY_AFTER)
        })?;
        match timeout(self.append_time_max, durable).await {
            Ok(Ok(Ok(offset))) => Ok((partition, offset)),
            Ok(Ok(Err(error))) => Err(not_durable(&error)),
            Ok(Err(_)) => Err(not_durable(&"the log was closed")),
            Err(Elapsed { .. }) => Err(not_durable(&"the append took too long")),
        }
    }

    fn record<K, V>(
        &self,
        topic: &Topic<K, V>,
        key: &K,
        value: &V,
    ) -> Result<(OwnedRecord, i32), millstream_topology::BoxError> {
        let mut key_bytes = Vec::new();
        topic.key().encode(key, &mut key_bytes)?;
        let mut value_bytes = Vec::new();
        let present = topic.value().encode(value, &mut value_bytes)?;
        let partition = partition_for_key(&key_bytes, self.partitions);
        let record = OwnedRecord {
            to: TopicPartition::new(topic.name(), partition),
            timestamp: self.clock.now_ms(),
            key: Some(Bytes::from(key_bytes)),
            value: present.then(|| Bytes::from(value_bytes)),
            headers: Headers::default(),
        };
        Ok((record, partition))
    }
}

/// Tells a failure where nothing else was told.
struct TellOnce(Option<Told>);

impl TellOnce {
    fn tell(&mut self, durable: bool) {
        if let Some(told) = self.0.take() {
            told(durable);
        }
    }
}

impl Drop for TellOnce {
    fn drop(&mut self) {
        self.tell(false);
    }
}

fn not_durable(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "a request could not be written to the log");
    Problem::of(ProblemKind::UNAVAILABLE)
        .detail("it is not known to be accepted; send it again, with the same key")
        .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use millstream_broker::Appended;
    use millstream_runtime::SystemClock;

    use super::*;
    use crate::{model::OrderCommand, topics::ORDERS};

    /// Does with an append what the test says.
    struct Appends(
        fn(Appended) -> millstream_broker::Result<()>,
        Mutex<Vec<OwnedRecord>>,
    );

    impl Appender for Appends {
        fn append(&self, record: OwnedRecord, done: Appended) -> millstream_broker::Result<()> {
            self.1.lock().expect("no panic").push(record);
            (self.0)(done)
        }
    }

    /// The problem of an append, and how often failure was told.
    async fn append(how: fn(Appended) -> millstream_broker::Result<()>) -> (Option<u16>, u32) {
        let appender = Arc::new(Appends(how, Mutex::default()));
        let log = Log {
            appender,
            clock: Arc::new(SystemClock),
            partitions: 4,
            append_time_max: Duration::from_millis(50),
        };
        let failures = Arc::new(AtomicU32::new(0));
        let counted = failures.clone();
        let told = Box::new(move |durable: bool| {
            counted.fetch_add(u32::from(!durable), Ordering::Relaxed);
        });
        let id = "6d1c0f5e-7a3b-5b0e-9c2f-4f1e8a7731d2"
            .parse()
            .expect("an id");
        let command = OrderCommand::Cancel { restock: true };
        let result = log.append(&ORDERS, &id, &command, told).await;
        let status = result.err().map(|problem| problem.kind().status().as_u16());
        (status, failures.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn only_what_is_durable_is_acknowledged() {
        let durable = append(|done| {
            done(Ok(7));
            Ok(())
        });
        assert_eq!(durable.await, (None, 0));
        let full = append(|_| Err(millstream_broker::Error::Full));
        assert_eq!(full.await, (Some(503), 1));
        let failed = append(|done| {
            done(Err(millstream_broker::Error::State("broken")));
            Ok(())
        });
        assert_eq!(failed.await, (Some(503), 1));
        let forgotten = append(|done| {
            drop(done);
            Ok(())
        });
        assert_eq!(forgotten.await, (Some(503), 1));
    }

    #[tokio::test]
    async fn an_append_that_takes_too_long_is_not_acknowledged() {
        let slow = append(|done| {
            // Kept for ever, as by a log that hangs.
            std::mem::forget(done);
            Ok(())
        });
        assert_eq!(slow.await, (Some(503), 0));
    }
}
