//! Committed offsets.

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
        if Instant::now() >= until || !triage::may_pass(error.rdkafka_error_code()) {
            return Err(Error::client("cannot read committed offsets", error));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
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
