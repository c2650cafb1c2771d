//! A partition: records and control markers, each with an offset.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Writer;
use crate::{Cleanup, Error, OwnedRecord, Result, Start, TopicPartition};

pub(super) struct Topic {
    pub cleanup: Cleanup,
    pub partitions: Vec<Partition>,
}

/// What takes an offset.
pub(super) enum Entry {
    Record {
        record: OwnedRecord,
        /// Whose transaction it is of, if any.
        writer: Option<Writer>,
        written: Duration,
    },
    Marker,
}

#[derive(Default)]
pub(super) struct Partition {
    pub low: i64,
    pub high: i64,
    /// By offset; compaction leaves holes.
    entries: VecDeque<(i64, Entry)>,
    /// Open transactions with their first offsets here.
    open: BTreeMap<u64, i64>,
    aborted: BTreeSet<u64>,
    /// The newest epoch that has written here, by transactional id.
    epochs: BTreeMap<Arc<str>, u32>,
}

impl Partition {
    pub(super) fn append(
        &mut self,
        record: OwnedRecord,
        writer: Option<Writer>,
        written: Duration,
    ) -> i64 {
        if let Some(writer) = &writer
            && !self.open.contains_key(&writer.transaction)
        {
            self.open.insert(writer.transaction, self.high);
            let newest = self.epochs.entry(writer.id.clone()).or_default();
            // Invariant: a fenced producer never appends.
            assert!(*newest <= writer.epoch, "a newer epoch has written here");
            *newest = writer.epoch;
        }
        self.push(Entry::Record {
            record,
            writer,
            written,
        })
    }

    /// Ends a transaction here.
    pub(super) fn end(&mut self, transaction: u64, commit: bool) {
        let open = self.open.remove(&transaction).is_some();
        assert!(open, "a transaction ends where it is open");
        if !commit {
            self.aborted.insert(transaction);
        }
        self.push(Entry::Marker);
    }

    fn push(&mut self, entry: Entry) -> i64 {
        let offset = self.high;
        let newest = self.entries.back().map(|(offset, _)| *offset);
        assert!(newest.is_none_or(|newest| newest < offset), "offsets grow");
        self.entries.push_back((offset, entry));
        self.high += 1;
        offset
    }

    /// The last stable offset: nothing from here on is decided.
    pub(super) fn stable(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.high)
    }

    /// What is decided, from an offset on.
    fn stable_entries(&self, from: i64) -> impl Iterator<Item = &(i64, Entry)> {
        let end = self.index(self.stable());
        self.entries.range(self.index(from).min(end)..end)
    }

    /// How many entries are before an offset.
    fn index(&self, offset: i64) -> usize {
        // Without holes there is nothing to search.
        let first = self.entries.front().map_or(offset, |(first, _)| *first);
        let dense = usize::try_from(offset - first).ok();
        let before = |ix: usize| self.entries.get(ix).map(|(before, _)| *before);
        dense
            .filter(|&ix| ix > 0 && before(ix - 1) == Some(offset - 1))
            .unwrap_or_else(|| self.entries.partition_point(|(other, _)| *other < offset))
    }

    fn committed(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Marker => false,
            Entry::Record { writer, .. } => writer
                .as_ref()
                .is_none_or(|writer| !self.aborted.contains(&writer.transaction)),
        }
    }

    /// The committed records from an offset on.
    pub(super) fn visible(&self, from: i64) -> impl Iterator<Item = (i64, &OwnedRecord)> {
        self.written(from).map(|(at, record, _)| (at, record))
    }

    /// The committed records from an offset on, and whose they are.
    pub(super) fn written(
        &self,
        from: i64,
    ) -> impl Iterator<Item = (i64, &OwnedRecord, Option<&Writer>)> {
        self.stable_entries(from)
            .filter(|(_, entry)| self.committed(entry))
            .filter_map(|(offset, entry)| match entry {
                Entry::Record { record, writer, .. } => Some((*offset, record, writer.as_ref())),
                Entry::Marker => None,
            })
    }

    pub(super) fn resolve(&self, start: Start) -> i64 {
        match start {
            Start::Offset(offset) => offset,
            Start::Earliest => self.low,
            Start::Latest => self.stable(),
        }
    }

    pub(super) fn delete_before(&mut self, at: &TopicPartition, offset: i64) -> Result<()> {
        if offset > self.high {
            return Err(Error::OffsetOutOfRange {
                partition: at.clone(),
                offset,
                low: self.low,
                high: self.high,
            });
        }
        self.cut(offset);
        Ok(())
    }

    fn cut(&mut self, offset: i64) {
        self.low = self.low.max(offset);
        let gone = self.index(self.low);
        self.entries.drain(..gone);
    }

    /// Keeps the newest committed record of each key; null values go when older than `tombstones`.
    pub(super) fn compact(&mut self, now: Duration, tombstones: Duration) {
        let mut newest = BTreeMap::new();
        for (offset, record) in self.visible(self.low) {
            if let Some(key) = &record.key {
                newest.insert(key.clone(), offset);
            }
        }
        let gone: BTreeSet<i64> = self
            .stable_entries(self.low)
            .filter(|(offset, entry)| match entry {
                Entry::Marker => true,
                Entry::Record { .. } if !self.committed(entry) => true,
                Entry::Record {
                    record, written, ..
                } => {
                    let key = record.key.as_ref();
                    let replaced = key.is_some_and(|key| newest.get(key) != Some(offset));
                    replaced || (record.value.is_none() && *written + tombstones <= now)
                }
            })
            .map(|(offset, _)| *offset)
            .collect();
        self.entries.retain(|(offset, _)| !gone.contains(offset));
    }

    /// Deletes from the beginning what is older than that time.
    pub(super) fn retain_since(&mut self, oldest_ms: i64) {
        let kept = self
            .stable_entries(self.low)
            .find(|(_, entry)| match entry {
                Entry::Marker => false,
                Entry::Record { record, .. } => record.timestamp >= oldest_ms,
            })
            .map_or(self.stable(), |(offset, _)| *offset);
        self.cut(kept);
    }

    /// Asserts what always holds; `dense` unless the partition is compacted.
    pub(super) fn check(&self, at: &TopicPartition, dense: bool) {
        assert!(
            self.low <= self.high,
            "low is behind high. partition=`{at}`"
        );
        assert!(
            self.stable() <= self.high,
            "stable is behind high. partition=`{at}`"
        );
        if dense {
            let offsets = self.entries.iter().map(|(offset, _)| *offset);
            assert!(
                offsets.eq(self.low..self.high),
                "offsets have holes. partition=`{at}`"
            );
        }
    }
}
