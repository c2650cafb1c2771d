//! Liveness: offsets go on, nothing is left to be read, and something was done.

use std::collections::BTreeMap;

use millstream_broker::{Broker, TopicPartition};

use super::{
    part::Task,
    promises::{FORWARD, LAG, WORK},
};
use crate::{Error, Result, Row, Scan, scan::Range};

/// What the tasks have read, and what they have not.
#[derive(Default)]
pub(super) struct Work {
    left: Vec<Range>,
    records: u64,
}

impl Work {
    pub(super) fn add(&mut self, task: &Task<'_>) {
        self.records += task.records;
        for (range, high) in task.input.ranges.iter().zip(&task.input.high) {
            self.left.push(Range {
                partition: range.partition.clone(),
                from: range.to.max(range.from),
                to: *high,
            });
        }
    }

    pub(super) fn rows(self, scan: &Scan<'_>, records_min: u64) -> Result<[Row; 2]> {
        let mut unread = vec![0u64; self.left.len()];
        // Markers of transactions stand behind the last record and are never read.
        scan.until_silent(&self.left, std::time::Duration::ZERO, &mut |at, _| {
            unread[at] += 1;
            Ok::<_, Error>(())
        })?;
        let mut lag = Row::new(LAG);
        for (range, unread) in self.left.iter().zip(unread) {
            lag.expect(unread == 0, || {
                let (partition, from) = (&range.partition, range.from);
                format!("partition=`{partition}`, committed={from}, records={unread}")
            });
        }
        let mut work = Row::new(WORK);
        work.expect(self.records >= records_min, || {
            format!("records={}, least={records_min}", self.records)
        });
        Ok([lag, work])
    }
}

/// Looks at the committed offsets of a group now and then: they never go back.
pub struct Offsets {
    group: String,
    topics: Vec<String>,
    seen: BTreeMap<TopicPartition, i64>,
    row: Row,
}

impl Offsets {
    /// The offsets of a group in these topics, by their full names.
    pub fn new(group: &str, topics: &[&str]) -> Self {
        Self {
            group: group.to_owned(),
            topics: topics.iter().map(|&name| name.to_owned()).collect(),
            seen: BTreeMap::new(),
            row: Row::new(FORWARD),
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn look(&mut self, log: &dyn Broker) -> Result {
        let scan = Scan::new(log)?;
        let mut found = Vec::new();
        for topic in &self.topics {
            found.extend(scan.committed(&self.group, topic)?);
        }
        self.take(found);
        Ok(())
    }

    /// Takes one more snapshot that the caller has made.
    pub fn take(&mut self, committed: impl IntoIterator<Item = (TopicPartition, i64)>) {
        for (partition, at) in committed {
            let before = self.seen.get(&partition).copied().unwrap_or(0);
            self.row.expect(at >= before, || {
                format!("partition=`{partition}`, committed={at}, before={before}")
            });
            self.seen.insert(partition, at);
        }
    }

    /// What was found so far.
    pub fn row(&self) -> Row {
        self.row.clone()
    }
}
