//! Keys and values of the shop's records.

use millstream_broker::{Fetched, TopicPartition};
use millstream_topology::{BoxError, Topic};

use crate::{Error, Result};

pub(super) fn key<K, V>(topic: Topic<K, V>, partition: i32, record: &Fetched) -> Result<K> {
    let decoded = topic.key().decode(record.key.as_deref());
    decoded.map_err(|e| unreadable(topic.name(), partition, record, e))
}

pub(super) fn value<K, V>(topic: Topic<K, V>, partition: i32, record: &Fetched) -> Result<V> {
    let decoded = topic.value().decode(record.value.as_deref());
    decoded.map_err(|e| unreadable(topic.name(), partition, record, e))
}

pub(super) fn unreadable(
    topic: &str,
    partition: i32,
    record: &Fetched,
    source: impl Into<BoxError>,
) -> Error {
    Error::Unreadable {
        partition: TopicPartition::new(topic, partition),
        offset: record.offset,
        source: source.into(),
    }
}
