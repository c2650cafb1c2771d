//! Reading assigned partitions in turn; what consumers and readers have in common.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use millstream_topology::Headers;

use super::{
    block::{Block, Cursor, HeaderNames, RawRecord},
    log::Log,
    partition::Partition,
    signal::Signal,
};
use crate::{Error, Fetched, PartitionIx, Result, Start, TopicPartition};

/// What to do where the next offset is gone or does not exist yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutOfRange {
    /// Go on at the oldest record.
    StartOver,
    /// Say so.
    Fail,
}

/// The assigned partitions and how far each was read.
pub(super) struct Fetcher {
    slots: Vec<Slot>,
    /// Whose turn is first at the next poll.
    turn: usize,
    out_of_range: OutOfRange,
    names: HeaderNames,
    signal: Arc<Signal>,
}

struct Slot {
    partition: Arc<Partition>,
    /// The next offset to return.
    position: i64,
    paused: bool,
    cursor: Option<Cursor>,
    ahead: VecDeque<Block>,
}

impl Fetcher {
    pub(super) fn new(out_of_range: OutOfRange, signal: Arc<Signal>) -> Self {
        Self {
            slots: Vec::new(),
            turn: 0,
            out_of_range,
            names: HeaderNames::default(),
            signal,
        }
    }

    /// Reads these from now on, and nothing else.
    pub(super) fn assign(&mut self, log: &Log, from: &[(TopicPartition, Start)]) -> Result<()> {
        let found: Vec<_> = from
            .iter()
            .map(|(at, start)| Ok((log.partition(at)?, *start)))
            .collect::<Result<_>>()?;
        self.clear();
        for (partition, start) in found {
            partition.listen(&self.signal);
            let position = match start {
                Start::Offset(offset) => offset,
                Start::Earliest => partition.low(),
                Start::Latest => partition.end(),
            };
            self.slots.push(Slot {
                partition,
                position,
                paused: false,
                cursor: None,
                ahead: VecDeque::new(),
            });
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        for slot in self.slots.drain(..) {
            slot.partition.unlisten(&self.signal);
        }
        self.turn = 0;
    }

    pub(super) fn pause(&mut self, ix: PartitionIx, paused: bool) -> Result<()> {
        self.slot(ix)?.paused = paused;
        Ok(())
    }

    pub(super) fn seek(&mut self, ix: PartitionIx, offset: i64) -> Result<()> {
        let slot = self.slot(ix)?;
        slot.position = offset;
        slot.cursor = None;
        slot.ahead.clear();
        Ok(())
    }

    pub(super) fn position(&mut self, ix: PartitionIx) -> Result<i64> {
        Ok(self.slot(ix)?.position)
    }

    fn slot(&mut self, ix: PartitionIx) -> Result<&mut Slot> {
        self.slots
            .get_mut(ix.0 as usize)
            .ok_or(Error::State("the partition is not assigned"))
    }

    /// Adds at most `limit` of the records that are there: first an equal share of each partition,
    /// then what is left of the limit from whoever has more.
    pub(super) fn fetch(&mut self, log: &Log, limit: usize, into: &mut Vec<Fetched>) -> Result<()> {
        let slots = self.slots.len();
        if slots == 0 || limit == 0 {
            return Ok(());
        }
        let end = into.len() + limit;
        let read_ahead = log.config.read_ahead_bytes / slots;
        for share in [limit.div_ceil(slots), limit] {
            for step in 0..slots {
                let share = share.min(end - into.len());
                if share == 0 {
                    break;
                }
                let ix = (self.turn + step) % slots;
                let names = &mut self.names;
                let slot = &mut self.slots[ix];
                if !slot.paused {
                    let ix = PartitionIx(ix as u32);
                    slot.fetch(log, self.out_of_range, read_ahead, names, ix, share, into)?;
                }
            }
        }
        self.turn = (self.turn + 1) % slots;
        Ok(())
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Slot {
    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one fetcher, borrowed apart"
    )]
    fn fetch(
        &mut self,
        log: &Log,
        out_of_range: OutOfRange,
        read_ahead: usize,
        names: &mut HeaderNames,
        ix: PartitionIx,
        limit: usize,
        into: &mut Vec<Fetched>,
    ) -> Result<()> {
        let end = into.len() + limit;
        while into.len() < end {
            let Some(cursor) = &mut self.cursor else {
                if self.next_block(log, out_of_range, read_ahead)? {
                    continue;
                }
                return Ok(());
            };
            let near = self.position;
            let corrupt = |damage| self.partition.corrupt(&damage, near);
            match cursor.next().map_err(corrupt)? {
                Some(record) if record.offset < self.position => {}
                Some(record) => {
                    self.position = record.offset + 1;
                    let block = &cursor.block.bytes;
                    into.push(fetched(ix, block, record, names).map_err(corrupt)?);
                }
                None => {
                    // Compaction may have removed the records at the block's end.
                    self.position = self.position.max(cursor.block.last + 1);
                    self.cursor = None;
                }
            }
        }
        Ok(())
    }

    /// Opens the next block; false when there is none yet.
    fn next_block(
        &mut self,
        log: &Log,
        out_of_range: OutOfRange,
        read_ahead: usize,
    ) -> Result<bool> {
        while let Some(block) = self.ahead.pop_front() {
            if block.last >= self.position {
                self.cursor = Some(Cursor::new(block));
                return Ok(true);
            }
        }
        let end = self.partition.end();
        if self.position == end {
            return Ok(false);
        }
        if self.partition.is_deleted() {
            return match out_of_range {
                OutOfRange::StartOver => Ok(false),
                OutOfRange::Fail => Err(self.partition.unknown()),
            };
        }
        let low = self.partition.low();
        if self.position < low || self.position > end {
            if out_of_range == OutOfRange::Fail {
                return Err(self.partition.out_of_range(self.position));
            }
            self.position = low;
            return Ok(low < end);
        }
        self.partition
            .blocks(log, self.position, read_ahead, &mut self.ahead)?;
        if self.ahead.is_empty() && self.partition.low() <= self.position {
            // Nothing is left between here and the end.
            self.position = end;
        }
        Ok(true)
    }
}

fn fetched(
    partition: PartitionIx,
    block: &Bytes,
    record: RawRecord,
    names: &mut HeaderNames,
) -> Result<Fetched, super::block::Damage> {
    let headers = if record.headers.is_empty() {
        Headers::default()
    } else {
        names.decode(block, record.headers)?
    };
    Ok(Fetched {
        partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(|range| block.slice(range)),
        value: record.value.map(|range| block.slice(range)),
        headers,
    })
}
