//! Where the gateway worker writes: results, and intents that nobody can read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_broker::{Appender, Broker, Fetched, OwnedRecord, TopicPartition};
use millstream_topology::{BoxError, Error, Headers, Result, partition_for_key};

use super::call::now_ms;
use crate::{
    model::{OrderId, PaymentResult},
    topics::{DEAD_LETTERS, PAYMENT_RESULTS},
};

/// How often a result that found the log's queue full is offered again.
const APPEND_AGAIN: Duration = Duration::from_millis(20);

/// Where results and dead letters go.
pub(super) struct Output {
    appender: Arc<dyn Appender>,
    results: Target,
    dead_letters: Target,
}

/// A topic and how many partitions it has.
struct Target {
    topic: Arc<str>,
    partitions: u32,
}

impl Target {
    fn of(&self, key: &[u8]) -> TopicPartition {
        let partition = partition_for_key(key, self.partitions);
        TopicPartition {
            topic: self.topic.clone(),
            partition,
        }
    }
}

impl Output {
    pub(super) fn open(broker: &dyn Broker) -> Result<Self> {
        let topics = broker.admin()?.topics()?;
        let target = |name: &str| {
            let found = topics.iter().find(|topic| &*topic.name == name);
            let found = found.ok_or_else(|| {
                millstream_broker::Error::UnknownPartition(TopicPartition::new(name, 0))
            })?;
            Ok::<_, Error>(Target {
                topic: found.name.clone(),
                partitions: found.partitions,
            })
        };
        Ok(Self {
            appender: broker.appender()?,
            results: target(PAYMENT_RESULTS.name())?,
            dead_letters: target(DEAD_LETTERS.name())?,
        })
    }

    pub(super) async fn result(
        &self,
        order_id: OrderId,
        result: &PaymentResult,
    ) -> millstream_broker::Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let bad = |source| millstream_broker::Error::client("a result does not encode", source);
        PAYMENT_RESULTS
            .key()
            .encode(&order_id, &mut key)
            .map_err(bad)?;
        PAYMENT_RESULTS
            .value()
            .encode(result, &mut value)
            .map_err(bad)?;
        self.append(OwnedRecord {
            to: self.results.of(&key),
            timestamp: now_ms(),
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Headers::default(),
        })
        .await
    }

    /// Sets a record aside, with Kafka's names for where it came from and why it is here
    /// (KIP-1034).
    pub(super) async fn dead_letter(
        &self,
        record: Fetched,
        place: &TopicPartition,
        error: &BoxError,
    ) -> millstream_broker::Result<()> {
        let mut headers = record.headers;
        let mut add = |name: &str, value: String| headers.push(name, Bytes::from(value));
        add("__streams.errors.exception", "Data".into());
        add("__streams.errors.message", error.to_string());
        add("__streams.errors.topic", place.topic.to_string());
        add("__streams.errors.partition", place.partition.to_string());
        add("__streams.errors.offset", record.offset.to_string());
        self.append(OwnedRecord {
            to: self
                .dead_letters
                .of(record.key.as_deref().unwrap_or_default()),
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers,
        })
        .await
    }

    async fn append(&self, record: OwnedRecord) -> millstream_broker::Result<()> {
        loop {
            let (done, appended) = tokio::sync::oneshot::channel();
            let tell = Box::new(move |result: millstream_broker::Result<i64>| {
                let _gone = done.send(result);
            });
            match self.appender.append(record.clone(), tell) {
                Ok(()) => {
                    let closed = |e| millstream_broker::Error::client("the log has closed", e);
                    return appended.await.map_err(closed)?.map(|_| ());
                }
                Err(millstream_broker::Error::Full) => tokio::time::sleep(APPEND_AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }
}
