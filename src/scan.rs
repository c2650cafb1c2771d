//! Reads whole topics, as far as they go at that moment.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::{
    Admin, Broker, Error, Fetched, PartitionIx, Reader, Start, TopicPartition, Watermarks,
};

use crate::failure::{Failure, Outcome};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 5_000;
/// How long one poll waits.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// A log that brings nothing for so long does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Reads topics.
pub(crate) struct Scan<'a> {
    log: &'a dyn Broker,
    admin: &'a dyn Admin,
}

impl<'a> Scan<'a> {
    /// Reads topics of that log.
    pub(crate) fn new(log: &'a dyn Broker, admin: &'a dyn Admin) -> Self {
        Self { log, admin }
    }

    /// The partitions of a topic with their ends; none if there is no such topic.
    pub(crate) fn ends(&self, topic: &str) -> Outcome<Vec<(TopicPartition, Watermarks)>> {
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

    /// Gives each record of a topic to `each`, with its partition, up to the ends at this moment.
    pub(crate) fn topic(
        &self,
        topic: &str,
        each: &mut dyn FnMut(i32, &Fetched) -> Outcome,
    ) -> Outcome {
        let ranges = self.ends(topic)?;
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|(p, ends)| (p, ends.low, ends.high))
            .collect();
        self.ranges(&ranges, &mut |partition, record| {
            each(ranges[partition].0.partition, record)
        })
    }

    /// The topics that have a record at or behind an offset.
    pub(crate) fn topics_from(
        &self,
        starts: &[(TopicPartition, i64)],
    ) -> Outcome<BTreeSet<Arc<str>>> {
        let mut ranges = Vec::new();
        for (partition, from) in starts {
            let ends = self.admin.watermarks(partition)?;
            ranges.push((partition.clone(), (*from).max(ends.low), ends.high));
        }
        let mut topics = BTreeSet::new();
        self.ranges(&ranges, &mut |at, _| {
            topics.insert(ranges[at].0.topic.clone());
            Ok(())
        })?;
        Ok(topics)
    }

    fn ranges(
        &self,
        ranges: &[(TopicPartition, i64, i64)],
        each: &mut dyn FnMut(usize, &Fetched) -> Outcome,
    ) -> Outcome {
        let open: Vec<usize> = (0..ranges.len())
            .filter(|&at| ranges[at].1 < ranges[at].2)
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut reader = self.log.reader()?;
        let starts: Vec<_> = open
            .iter()
            .map(|&at| (ranges[at].0.clone(), Start::Offset(ranges[at].1)))
            .collect();
        reader.assign(&starts)?;
        let mut fetched = Vec::new();
        let mut heard = Instant::now();
        while !reached(&mut *reader, &open, ranges)? {
            fetched.clear();
            reader.poll(POLL_WAIT, POLL_RECORDS_MAX, &mut fetched)?;
            if !fetched.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > SILENCE_MAX {
                return Err(Failure::Failed("the log does not answer".to_owned()));
            }
            for record in &fetched {
                let at = open[record.partition.0 as usize];
                if record.offset < ranges[at].2 {
                    each(at, record)?;
                }
            }
        }
        Ok(())
    }
}

fn reached(
    reader: &mut dyn Reader,
    open: &[usize],
    ranges: &[(TopicPartition, i64, i64)],
) -> Result<bool, Error> {
    for (index, &at) in (0u32..).zip(open) {
        if reader.position(PartitionIx(index))? < ranges[at].2 {
            return Ok(false);
        }
    }
    Ok(true)
}
