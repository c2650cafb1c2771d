//! `Scan`: reads whole topics, as far as they go at that moment.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::{
    Admin, Broker, Fetched, PartitionIx, Reader, Start, TopicPartition, Watermarks,
};

use crate::{Error, Result};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 5_000;
/// How long one poll waits.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// A log that brings nothing for so long does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A part of a partition: the offsets from `from` to before `to`.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) partition: TopicPartition,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// What is called with each record and the place of its range in the list.
pub(crate) type Each<'a, E> = &'a mut dyn FnMut(usize, &Fetched) -> Result<(), E>;

/// Reads topics.
pub struct Scan<'a> {
    log: &'a dyn Broker,
    admin: Arc<dyn Admin>,
}

impl<'a> Scan<'a> {
    /// Reads topics of that log.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(log: &'a dyn Broker) -> Result<Self> {
        let admin = log.admin()?;
        Ok(Self { log, admin })
    }

    pub(crate) fn admin(&self) -> &dyn Admin {
        &*self.admin
    }

    /// The partitions of a topic with their ends; none if there is no such topic.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn ends(&self, topic: &str) -> Result<Vec<(TopicPartition, Watermarks)>> {
        let topics = self.admin.topics()?;
        let count = topics
            .iter()
            .find(|t| &*t.name == topic)
            .map_or(0, |t| t.partitions);
        (0..count.cast_signed())
            .map(|p| {
                let partition = TopicPartition::new(topic, p);
                let ends = self.admin.watermarks(&partition)?;
                Ok((partition, ends))
            })
            .collect()
    }

    /// Where a group stands in a topic; 0 where it has committed nothing.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn committed(&self, group: &str, topic: &str) -> Result<Vec<(TopicPartition, i64)>> {
        let ends = self.ends(topic)?;
        let partitions: Vec<_> = ends.into_iter().map(|(partition, _)| partition).collect();
        let offsets = self.admin.committed(group, &partitions)?;
        let committed = offsets.into_iter().map(|at| at.unwrap_or(0));
        Ok(partitions.into_iter().zip(committed).collect())
    }

    /// Gives each record of a topic to `each`, with its partition, up to the ends at this moment.
    ///
    /// # Errors
    /// When the log does not answer, and what `each` fails with.
    pub fn topic<E: From<Error>>(
        &self,
        topic: &str,
        each: &mut dyn FnMut(i32, &Fetched) -> Result<(), E>,
    ) -> Result<(), E> {
        let ends = self.ends(topic)?;
        let ranges: Vec<_> = ends
            .into_iter()
            .map(|(partition, Watermarks { low, high })| Range {
                partition,
                from: low,
                to: high,
            })
            .collect();
        self.ranges(&ranges, &mut |at, record| {
            each(ranges[at].partition.partition, record)
        })
    }

    /// The topics that have a record at or behind an offset.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn topics_from(&self, starts: &[(TopicPartition, i64)]) -> Result<BTreeSet<Arc<str>>> {
        let mut ranges = Vec::new();
        for (partition, from) in starts {
            let ends = self.admin.watermarks(partition)?;
            ranges.push(Range {
                partition: partition.clone(),
                from: (*from).max(ends.low),
                to: ends.high,
            });
        }
        let mut topics = BTreeSet::new();
        self.ranges(&ranges, &mut |at, _| {
            topics.insert(ranges[at].partition.topic.clone());
            Ok::<_, Error>(())
        })?;
        Ok(topics)
    }

    /// Gives each record of these ranges to `each`.
    pub(crate) fn ranges<E: From<Error>>(
        &self,
        ranges: &[Range],
        each: Each<'_, E>,
    ) -> Result<(), E> {
        match self.until_silent(ranges, SILENCE_MAX, each)?.first() {
            None => Ok(()),
            Some((at, _)) => Err(Error::Silent(ranges[*at].partition.clone()).into()),
        }
    }

    /// As [`ranges`](Self::ranges), but ends also when nothing has moved for so long: the ranges
    /// that were not read to their ends, with the positions that were reached.
    pub(crate) fn until_silent<E: From<Error>>(
        &self,
        ranges: &[Range],
        silence: Duration,
        each: Each<'_, E>,
    ) -> Result<Vec<(usize, i64)>, E> {
        let open: Vec<usize> = (0..ranges.len())
            .filter(|&at| ranges[at].from < ranges[at].to)
            .collect();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = self.log.reader().map_err(Error::from)?;
        let starts: Vec<_> = open
            .iter()
            .map(|&at| (ranges[at].partition.clone(), Start::Offset(ranges[at].from)))
            .collect();
        reader.assign(&starts).map_err(Error::from)?;
        let mut fetched = Vec::new();
        let mut left: Vec<(usize, i64)> = Vec::new();
        let mut moved = Instant::now();
        loop {
            let now_left = unread(&mut *reader, &open, ranges)?;
            if now_left.is_empty() {
                return Ok(now_left);
            }
            if now_left != left {
                left = now_left;
                moved = Instant::now();
            } else if moved.elapsed() > silence {
                return Ok(left);
            }
            fetched.clear();
            let polled = reader.poll(POLL_WAIT.min(silence), POLL_RECORDS_MAX, &mut fetched);
            polled.map_err(Error::from)?;
            for record in &fetched {
                let at = open[record.partition.0 as usize];
                if record.offset < ranges[at].to {
                    each(at, record)?;
                }
            }
        }
    }
}

/// The ranges that the reader has not read to their ends, with its positions.
fn unread(reader: &mut dyn Reader, open: &[usize], ranges: &[Range]) -> Result<Vec<(usize, i64)>> {
    let mut left = Vec::new();
    for (index, &at) in (0u32..).zip(open) {
        let position = reader.position(PartitionIx(index))?;
        if position < ranges[at].to {
            left.push((at, position));
        }
    }
    Ok(left)
}
