//! Compaction: of each key only the newest record stays, at its offset.
//!
//! A pass first learns the newest offset of each key in the part that is new since the last pass,
//! then walks over everything up to the end of that part and writes blocks anew without the records
//! that are superseded. It goes in steps, each of them one write, so a crash between two leaves a
//! log that is merely less compact.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    block::{Block, BlockBuilder, Cursor, RawRecord},
    layout::Cleaned,
    log::Log,
    partition::{Partition, lock},
    queue::Edit,
};
use crate::{Error, Result};

/// How much is read and written in one step.
const STEP_BYTES: usize = 1 << 20;

/// What the map costs for a key beside the key's bytes.
const KEY_OVERHEAD_BYTES: usize = 64;

/// How often a pass is begun anew because records were deleted under it.
const ATTEMPTS: usize = 3;

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Records that are gone.
    pub removed: u64,
    /// Records that are left below `offset`.
    pub kept: u64,
    /// How far it went.
    pub offset: i64,
}

/// Whether so much is new that a compaction pays.
pub(super) fn is_due(log: &Log, partition: &Partition) -> bool {
    let cleaned = partition.cleaned();
    let dirty = partition.end() - cleaned.offset.max(partition.low());
    let dirty = u64::try_from(dirty).unwrap_or(0);
    let all = dirty + cleaned.kept;
    let ratio = log.config.compaction_dirty_ratio;
    dirty >= log.config.compaction_dirty_records && dirty as f64 > ratio * all as f64
}

/// Compacts everything but the newest blocks. With `force` also where nothing is new: that drops
/// tombstones whose time has come. `pause` is called between steps and says whether to go on.
pub(super) fn compact(
    log: &Log,
    partition: &Arc<Partition>,
    force: bool,
    mut pause: impl FnMut() -> bool,
) -> Result<Compacted> {
    let _alone = lock(&partition.compacting);
    let mut total = Compacted::default();
    let mut attempts = 0;
    let mut force = force;
    loop {
        let bound = partition.newest_blocks(log, log.config.compaction_spared_blocks)?;
        if partition.cleaned().offset >= bound && !force {
            total.offset = partition.cleaned().offset;
            total.kept = partition.cleaned().kept;
            return Ok(total);
        }
        let mut pass = Pass::new(log, partition);
        force = false;
        match pass.run(bound, &mut pause) {
            Ok(true) => total.removed += pass.removed,
            Ok(false) => return Ok(total),
            Err(Error::State(_)) if attempts < ATTEMPTS => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

struct Pass<'a> {
    log: &'a Log,
    partition: &'a Arc<Partition>,
    /// The low watermark under which this pass is valid.
    low: i64,
    now_ms: i64,
    /// The newest offset of each key in the new part.
    newest: HashMap<Box<[u8]>, i64, foldhash::fast::RandomState>,
    kept: u64,
    removed: u64,
    /// Blocks that become one, and the records left of them.
    merge: Merge,
    remove: Vec<i64>,
    insert: Vec<Block>,
}

#[derive(Default)]
struct Merge {
    builder: BlockBuilder,
    base: i64,
    last: i64,
    /// Behind the last record in the builder.
    next: i64,
    sources: Vec<i64>,
    changed: bool,
    tombstones_until: i64,
}

impl<'a> Pass<'a> {
    fn new(log: &'a Log, partition: &'a Arc<Partition>) -> Self {
        Self {
            log,
            partition,
            low: partition.low(),
            now_ms: log.config.clock.now_ms(),
            newest: HashMap::default(),
            kept: 0,
            removed: 0,
            merge: Merge::default(),
            remove: Vec::new(),
            insert: Vec::new(),
        }
    }

    /// False when it was told to stop.
    fn run(&mut self, bound: i64, pause: &mut impl FnMut() -> bool) -> Result<bool> {
        let from = self.partition.cleaned().offset.max(self.low);
        let stop = self.learn(from, bound)?;
        let mut at = self.low;
        while at < stop {
            if !pause() {
                return Ok(false);
            }
            at = self.step(at, stop)?;
        }
        let cleaned = Cleaned {
            offset: stop,
            kept: self.kept,
        };
        self.log
            .edit(Edit::Cleaned(self.partition.clone(), cleaned))?;
        Ok(true)
    }

    /// Learns the newest offset of each key until the memory is full, and tells up to where that
    /// was.
    fn learn(&mut self, from: i64, bound: i64) -> Result<i64> {
        let mut room = self.log.config.compaction_memory_bytes;
        let mut at = from;
        while at < bound {
            let blocks = self.read(at, bound)?;
            let Some(last) = blocks.back().map(|block| block.last) else {
                break;
            };
            for block in blocks {
                if room == 0 {
                    return Ok(block.base);
                }
                each_record(self.partition, block, |block, record| {
                    let Some(key) = record.key.clone() else {
                        return;
                    };
                    let key = &block.bytes[key];
                    match self.newest.get_mut(key) {
                        Some(newest) => *newest = record.offset,
                        None => {
                            room = room.saturating_sub(key.len() + KEY_OVERHEAD_BYTES);
                            self.newest.insert(key.into(), record.offset);
                        }
                    }
                })?;
            }
            at = last + 1;
        }
        Ok(bound)
    }

    /// The next blocks below `bound`.
    fn read(&self, at: i64, bound: i64) -> Result<VecDeque<Block>> {
        let mut blocks = VecDeque::new();
        let mut room = STEP_BYTES;
        self.partition.stored_blocks(self.log, at, |block| {
            if block.base >= bound {
                return false;
            }
            room = room.saturating_sub(block.bytes.len());
            blocks.push_back(block);
            room > 0
        })?;
        Ok(blocks)
    }

    /// Rewrites some blocks from `at` on and tells where to go on.
    fn step(&mut self, at: i64, stop: i64) -> Result<i64> {
        let blocks = self.read(at, stop)?;
        let Some(last) = blocks.back().map(|block| block.last) else {
            return Ok(stop);
        };
        for block in blocks {
            self.add(block)?;
        }
        self.end_merge();
        if !self.remove.is_empty() {
            self.log.edit(Edit::Replace {
                partition: self.partition.clone(),
                low: self.low,
                remove: std::mem::take(&mut self.remove),
                insert: std::mem::take(&mut self.insert),
            })?;
        }
        Ok(last + 1)
    }

    /// Adds what is left of a block to the blocks that become one.
    fn add(&mut self, block: Block) -> Result<()> {
        let mut left = Vec::with_capacity(block.count as usize);
        let mut has_tombstones = false;
        let source = block.clone();
        each_record(self.partition, block, |block, record| {
            if self.stays(block, &record) {
                has_tombstones |= record.key.is_some() && record.value.is_none();
                left.push(record);
            }
        })?;
        self.kept += left.len() as u64;
        self.removed += u64::from(source.count) - left.len() as u64;

        let first_seen = has_tombstones && source.tombstones_until == 0;
        let changed = left.len() < source.count as usize || first_seen;
        let block_bytes = self.log.config.block_bytes;
        if !changed && source.bytes.len() >= block_bytes / 2 {
            // Large and whole: it stays as it is.
            self.end_merge();
            return Ok(());
        }
        let retention_ms = self.log.config.tombstone_retention.as_millis() as i64;
        let merge = &mut self.merge;
        if merge.sources.is_empty() {
            merge.base = source.base;
            merge.next = source.base;
        }
        merge.sources.push(source.base);
        merge.last = source.last;
        merge.changed |= changed;
        if has_tombstones {
            let until = match source.tombstones_until {
                0 => self.now_ms + retention_ms,
                until => until,
            };
            merge.tombstones_until = merge.tombstones_until.max(until);
        }
        for record in left {
            let gap = (record.offset - merge.next) as u64;
            merge.next = record.offset + 1;
            merge.builder.push_raw(gap, &record, &source.bytes);
        }
        if merge.builder.len() >= block_bytes {
            self.end_merge();
        }
        Ok(())
    }

    fn stays(&self, block: &Block, record: &RawRecord) -> bool {
        if record.offset < self.low {
            return false;
        }
        let Some(key) = record.key.clone() else {
            return true;
        };
        let superseded = self
            .newest
            .get(&block.bytes[key])
            .is_some_and(|&newest| newest > record.offset);
        let until = block.tombstones_until;
        let expired = record.value.is_none() && until != 0 && until <= self.now_ms;
        !superseded && !expired
    }

    /// Ends the blocks that become one.
    fn end_merge(&mut self) {
        let mut merge = std::mem::take(&mut self.merge);
        if merge.sources.len() < 2 && !merge.changed {
            return;
        }
        if !merge.builder.is_empty() {
            let draft = merge.builder.take();
            let block = draft.spanning(merge.base, merge.last, merge.tombstones_until);
            self.insert.push(block);
        }
        self.remove.append(&mut merge.sources);
    }
}

fn each_record(
    partition: &Partition,
    block: Block,
    mut each: impl FnMut(&Block, RawRecord),
) -> Result<()> {
    let base = block.base;
    let mut cursor = Cursor::new(block);
    let corrupt = |damage| partition.corrupt(&damage, base);
    while let Some(record) = cursor.next().map_err(corrupt)? {
        each(&cursor.block, record);
    }
    Ok(())
}
