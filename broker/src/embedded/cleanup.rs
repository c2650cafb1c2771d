//! The thread that deletes and compacts what its topics no longer want, in small steps.

use std::{sync::Arc, time::Duration};

use super::{
    compaction::{self, Compacted},
    log::Log,
    partition::Partition,
    queue::Edit,
};
use crate::{Cleanup, Error, Result, TopicPartition};

/// The rest between two steps of a compaction, which leaves the disk and the processor to others.
const REST: Duration = Duration::from_millis(5);

/// Looks for work from time to time until the log is closed.
pub(super) fn run(log: &Log) {
    while !log.stop.is_set() {
        log.stop.wait(log.config.cleanup_interval);
        if log.is_broken() {
            continue;
        }
        let done = expire(log).and_then(|_| compact_due(log));
        if let Err(error) = done
            && !log.stop.is_set()
        {
            tracing::warn!(%error, "cleaning the log failed; it is tried again");
        }
    }
}

/// Deletes what is older than its topic keeps it, and tells how many partitions lost records.
pub(super) fn expire(log: &Log) -> Result<usize> {
    let mut shortened = 0;
    for topic in log.topics() {
        let retention_ms = match topic.cleanup {
            Cleanup::Delete { retention_ms } => retention_ms,
            Cleanup::CompactAndDelete { retention_ms } => Some(retention_ms),
            Cleanup::Compact => None,
        };
        let Some(retention_ms) = retention_ms else {
            continue;
        };
        let oldest_ms = log.config.clock.now_ms().saturating_sub(retention_ms);
        for partition in &topic.partitions {
            if partition.oldest_ms() >= oldest_ms {
                continue;
            }
            let keep = first_kept(log, partition, oldest_ms)?;
            if keep > partition.low() && !partition.is_deleted() {
                log.edit(Edit::DeleteBefore(partition.clone(), keep))?;
                shortened += 1;
            }
        }
    }
    Ok(shortened)
}

/// The first offset from which on something is young enough.
fn first_kept(log: &Log, partition: &Partition, oldest_ms: i64) -> Result<i64> {
    // Read first: what is written meanwhile stays in any case.
    let end = partition.end();
    let mut keep = None;
    partition.stored_blocks(log, partition.low(), |block| {
        if block.max_timestamp >= oldest_ms {
            partition.set_oldest_ms(block.max_timestamp);
            keep = Some(block.base);
        }
        keep.is_none() && block.last + 1 < end
    })?;
    Ok(keep.unwrap_or(end).min(end))
}

fn compact_due(log: &Log) -> Result<()> {
    for topic in log.topics() {
        if matches!(topic.cleanup, Cleanup::Delete { .. }) {
            continue;
        }
        for partition in &topic.partitions {
            if !partition.is_deleted() && compaction::is_due(log, partition) {
                let go_on = || {
                    log.stop.wait(REST);
                    !log.stop.is_set()
                };
                let done = compaction::compact(log, partition, false, go_on)?;
                tracing::debug!(partition = %partition.at, ?done, "compacted");
            }
        }
    }
    Ok(())
}

/// Compacts a partition without rests.
pub(super) fn compact_now(log: &Arc<Log>, at: &TopicPartition) -> Result<Compacted> {
    let partition = log.partition(at)?;
    match partition.cleanup {
        Cleanup::Compact | Cleanup::CompactAndDelete { .. } => {
            compaction::compact(log, &partition, true, || true)
        }
        Cleanup::Delete { .. } => Err(Error::State("the topic is not compacted")),
    }
}
