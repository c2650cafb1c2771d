//! Committed offsets, and whether a partition is there at all.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};

use super::{deadline, triage};
use crate::{Error, Result, TopicPartition};

/// Pause between two tries of a question that the cluster could not answer yet.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The committed offsets of a group, waiting for open transactions to end where `consumer` reads
/// committed.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[TopicPartition],
    wait: Duration,
) -> Result<Vec<Option<i64>>> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let until = deadline(wait);
    loop {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for of in partitions {
            list.add_partition(&of.topic, of.partition);
        }
        let left = until
            .saturating_duration_since(Instant::now())
            .max(RETRY_PAUSE);
        let error = match consumer
            .committed_offsets(list, left)
            .and_then(|l| offsets(&l, partitions))
        {
            Ok(offsets) => return Ok(offsets),
            Err(error) => error,
        };
        if !triage::may_pass(error.rdkafka_error_code()) {
            return Err(Error::client("cannot read committed offsets", error));
        }
        if Instant::now() >= until {
            let what = "cannot read committed offsets in time; the group's coordinator is away, or a \
                        transaction of an earlier owner is still open";
            return Err(Error::client(what, error));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// True when the brokers say that there is no such partition.
///
/// librdkafka says so too, of partitions that have no leader at this moment: while a broker is
/// starting, or was away for longer than its session. Only the metadata tell the two apart.
pub(super) fn is_missing<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &TopicPartition,
    wait: Duration,
) -> bool {
    let Ok(metadata) = consumer.fetch_metadata(None, wait) else {
        return false;
    };
    let topic = metadata.topics().iter().find(|t| t.name() == &*of.topic);
    !topic.is_some_and(|t| t.partitions().iter().any(|p| p.id() == of.partition))
}

fn offsets(
    list: &TopicPartitionList,
    partitions: &[TopicPartition],
) -> std::result::Result<Vec<Option<i64>>, KafkaError> {
    let offset = |of: &TopicPartition| {
        let Some(found) = list.find_partition(&of.topic, of.partition) else {
            return Ok(None);
        };
        found.error()?;
        Ok(match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    };
    partitions.iter().map(offset).collect()
}
