//! No transaction stays open.

use std::time::{Duration, Instant};

use millstream_broker::{Broker, PartitionIx, Start, TopicPartition};

use super::promises::TRANSACTIONS;
use crate::{Result, Row, Scan};

/// How long one poll waits.
const POLL_WAIT: Duration = Duration::from_millis(50);
const POLL_RECORDS_MAX: usize = 2_000;

/// Looks at every partition of the log: a reader of committed records comes to the high watermark
/// only where no transaction is open. Those that are must end within that time.
///
/// # Errors
/// When the log does not answer.
pub fn open_transactions(log: &dyn Broker, within: Duration) -> Result<Row> {
    let scan = Scan::new(log)?;
    let mut ends: Vec<(TopicPartition, i64)> = Vec::new();
    let mut row = Row::new(TRANSACTIONS);
    for topic in scan.admin().topics()? {
        for partition in 0..topic.partitions.cast_signed() {
            let partition = TopicPartition::new(topic.name.clone(), partition);
            let found = scan.admin().watermarks(&partition)?;
            match found.low < found.high {
                true => ends.push((partition, found.high)),
                false => row.hold(1),
            }
        }
    }
    if ends.is_empty() {
        return Ok(row);
    }
    let starts = ends
        .iter()
        .map(|(of, high)| (of.clone(), Start::Offset(high - 1)));
    let mut reader = log.reader()?;
    reader.assign(&starts.collect::<Vec<_>>())?;
    let until = Instant::now() + within;
    let mut fetched = Vec::new();
    let mut before = Vec::new();
    loop {
        let mut positions = Vec::with_capacity(ends.len());
        for at in (0u32..).take(ends.len()) {
            positions.push(reader.position(PartitionIx(at))?);
        }
        let behind = |at: &usize| positions[*at] < ends[*at].1;
        let is_last_look = positions == before && Instant::now() >= until;
        if is_last_look || !(0..ends.len()).any(|at| behind(&at)) {
            for (at, (partition, high)) in ends.iter().enumerate() {
                let position = positions[at];
                row.expect(!behind(&at), || {
                    format!("partition=`{partition}`, readers stand at {position} of {high}")
                });
            }
            return Ok(row);
        }
        before = positions;
        fetched.clear();
        reader.poll(POLL_WAIT.min(within), POLL_RECORDS_MAX, &mut fetched)?;
    }
}
