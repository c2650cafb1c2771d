//! One partition: its ends, its newest blocks and who waits for more.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use rocksdb::ReadOptions;

use super::{
    block::{Block, Damage},
    layout::{self, Cleaned},
    log::Log,
    open,
    signal::Signal,
};
use crate::{Cleanup, Error, Result, TopicPartition, Watermarks};

/// A topic that exists.
#[derive(Debug)]
pub(super) struct Topic {
    pub id: u32,
    pub name: Arc<str>,
    pub cleanup: Cleanup,
    pub partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub(super) fn new(id: u32, name: Arc<str>, partitions: u32, cleanup: Cleanup) -> Self {
        let partition = |number| {
            Arc::new(Partition {
                topic_id: id,
                at: TopicPartition::new(name.clone(), number as i32),
                cleanup,
                low: AtomicI64::new(0),
                end: AtomicI64::new(0),
                next: AtomicI64::new(0),
                deleted: AtomicBool::new(false),
                oldest_ms: AtomicI64::new(i64::MIN),
                tail: Mutex::default(),
                listeners: Mutex::default(),
                cleaned: Mutex::default(),
                compacting: Mutex::default(),
            })
        };
        Self {
            id,
            partitions: (0..partitions).map(partition).collect(),
            cleanup,
            name,
        }
    }

    pub(super) fn partition(&self, number: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(number).ok()?)
    }
}

/// One partition of a topic.
#[derive(Debug)]
pub(super) struct Partition {
    pub topic_id: u32,
    pub at: TopicPartition,
    pub cleanup: Cleanup,
    /// Offset of the oldest record that counts.
    low: AtomicI64,
    /// Offset behind the newest durable record: readers go no further.
    end: AtomicI64,
    /// The next offset to give away; only the log's writer uses it.
    next: AtomicI64,
    deleted: AtomicBool,
    /// The time of the oldest block when retention last looked; nothing expires before that does.
    oldest_ms: AtomicI64,
    /// The newest blocks without a hole between them, up to `end`.
    tail: Mutex<VecDeque<Block>>,
    listeners: Mutex<Vec<Arc<Signal>>>,
    cleaned: Mutex<Cleaned>,
    /// Held by the one compaction that may run at a time.
    pub compacting: Mutex<()>,
}

impl Partition {
    pub(super) fn low(&self) -> i64 {
        self.low.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        Watermarks {
            low: self.low(),
            high: self.end(),
        }
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(super) fn oldest_ms(&self) -> i64 {
        self.oldest_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_oldest_ms(&self, oldest_ms: i64) {
        self.oldest_ms.store(oldest_ms, Ordering::Relaxed);
    }

    pub(super) fn cleaned(&self) -> Cleaned {
        *lock(&self.cleaned)
    }

    pub(super) fn unknown(&self) -> Error {
        Error::UnknownPartition(self.at.clone())
    }

    pub(super) fn out_of_range(&self, offset: i64) -> Error {
        let marks = self.watermarks();
        Error::OffsetOutOfRange {
            partition: self.at.clone(),
            offset,
            low: marks.low,
            high: marks.high,
        }
    }

    pub(super) fn corrupt(&self, damage: &Damage, near: i64) -> Error {
        Error::Corrupt(format!(
            "{}. partition=`{}`, offset={near}",
            damage.0, self.at
        ))
    }

    pub(super) fn block_key(&self, base: i64) -> [u8; 17] {
        layout::block_key(self.topic_id, self.at.partition, base)
    }

    pub(super) fn listen(&self, signal: &Arc<Signal>) {
        lock(&self.listeners).push(signal.clone());
    }

    pub(super) fn unlisten(&self, signal: &Arc<Signal>) {
        lock(&self.listeners).retain(|known| !Arc::ptr_eq(known, signal));
    }

    pub(super) fn ring(&self) {
        for signal in lock(&self.listeners).iter() {
            signal.ring();
        }
    }
}

/// For the log's writer alone.
impl Partition {
    /// Takes `count` offsets and gives the first.
    pub(super) fn take_offsets(&self, count: u32) -> i64 {
        self.next.fetch_add(i64::from(count), Ordering::Relaxed)
    }

    /// Makes a durable block visible.
    pub(super) fn publish(&self, block: Block) {
        let end = block.last + 1;
        lock(&self.tail).push_back(block);
        self.end.store(end, Ordering::Release);
    }

    /// Forgets the oldest block of the tail.
    pub(super) fn evict(&self) {
        lock(&self.tail).pop_front();
    }

    pub(super) fn set_low(&self, low: i64) {
        self.low.store(low, Ordering::Release);
    }

    pub(super) fn set_cleaned(&self, cleaned: Cleaned) {
        *lock(&self.cleaned) = cleaned;
    }

    pub(super) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    /// Sets what was found on disk when the log was opened.
    pub(super) fn restore(&self, low: i64, end: i64, cleaned: Cleaned) {
        lock(&self.tail).clear();
        self.set_low(low);
        self.set_cleaned(cleaned);
        self.end.store(end, Ordering::Release);
        self.next.store(end, Ordering::Relaxed);
    }
}

/// Reading.
impl Partition {
    /// Adds the blocks from the one of offset `from` on, about `bytes` of them and at least one:
    /// out of memory if they are there, or else from disk.
    pub(super) fn blocks(
        &self,
        log: &Log,
        from: i64,
        bytes: usize,
        into: &mut VecDeque<Block>,
    ) -> Result<()> {
        if self.tail_blocks(from, bytes, into) {
            return Ok(());
        }
        let end = self.end();
        let mut left = bytes;
        self.stored_blocks(log, from, |block| {
            if block.base >= end {
                return false;
            }
            left = left.saturating_sub(block.bytes.len());
            into.push_back(block);
            left > 0
        })
    }

    fn tail_blocks(&self, from: i64, bytes: usize, into: &mut VecDeque<Block>) -> bool {
        let tail = lock(&self.tail);
        if tail.front().is_none_or(|oldest| oldest.base > from) {
            return false;
        }
        let first = tail.partition_point(|block| block.last < from);
        let mut left = bytes;
        for block in tail.range(first..) {
            into.push_back(block.clone());
            left = left.saturating_sub(block.bytes.len());
            if left == 0 {
                break;
            }
        }
        true
    }

    /// Calls `each` with the stored blocks from the one of offset `from` on, until it says false.
    /// Blocks that are not durable yet may be among them.
    pub(super) fn stored_blocks(
        &self,
        log: &Log,
        from: i64,
        mut each: impl FnMut(Block) -> bool,
    ) -> Result<()> {
        let db = log.db()?;
        let mut blocks = db.raw_iterator_opt(self.read_options());
        blocks.seek_for_prev(self.block_key(from.max(0)));
        if !blocks.valid() {
            blocks.status().map_err(|cause| self.read_failed(cause))?;
            blocks.seek_to_first();
        }
        while let Some(bytes) = blocks.value() {
            let bytes = bytes::Bytes::copy_from_slice(bytes);
            let block = Block::parse(bytes).map_err(|damage| self.corrupt(&damage, from))?;
            if block.last >= from && !each(block) {
                return Ok(());
            }
            blocks.next();
        }
        blocks.status().map_err(|cause| self.read_failed(cause))
    }

    /// Where the stored block of that offset, or the next one, begins.
    pub(super) fn stored_base(&self, log: &Log, offset: i64) -> Result<Option<i64>> {
        let mut base = None;
        self.stored_blocks(log, offset, |block| {
            base = Some(block.base);
            false
        })?;
        Ok(base)
    }

    /// Where the newest `spared` stored blocks begin.
    pub(super) fn newest_blocks(&self, log: &Log, spared: usize) -> Result<i64> {
        let db = log.db()?;
        let mut blocks = db.raw_iterator_opt(self.read_options());
        blocks.seek_to_last();
        let mut base = self.end();
        for _ in 0..spared {
            let Some(key) = blocks.key() else {
                break;
            };
            base = layout::base_of(key).min(base);
            blocks.prev();
        }
        blocks.status().map_err(|cause| self.read_failed(cause))?;
        Ok(base)
    }

    /// The offset behind the newest stored block.
    pub(super) fn stored_end(&self, log: &Log) -> Result<i64> {
        let db = log.db()?;
        let mut blocks = db.raw_iterator_opt(self.read_options());
        blocks.seek_to_last();
        blocks.status().map_err(|cause| self.read_failed(cause))?;
        let Some(bytes) = blocks.value() else {
            return Ok(0);
        };
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let block = Block::parse(bytes).map_err(|damage| self.corrupt(&damage, -1))?;
        Ok(block.last + 1)
    }

    fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(self.block_key(0));
        options.set_iterate_upper_bound(self.block_key(-1));
        options.fill_cache(false);
        options
    }

    fn read_failed(&self, cause: rocksdb::Error) -> Error {
        open::read_failed(&format!("reading `{}`", self.at), cause)
    }
}

/// Locks, also after a panic of another holder: what these locks guard is whole between any two
/// statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
