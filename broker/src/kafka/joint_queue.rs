//! The partitions that a client reads: their records in batches, their positions, their pauses.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use tracing::debug;

use super::{
    context::Signal,
    offsets::is_missing,
    raw::{Batch, Joint, Message, Source},
};
use crate::{Error, Fetched, PartitionIx, Result, Start, TopicPartition};

/// Messages taken from librdkafka by one call.
const BATCH_MAX: usize = 1000;

/// Batches looked at by one poll when all their records belong to paused partitions.
const PAUSED_BATCHES_MAX: usize = 16;

/// How long an assignment is held up by asking where its partitions are.
const LEADERS_WAIT: Duration = Duration::from_secs(1);

/// How long asking the brokers what an error means may take.
const EXPLAIN_WAIT: Duration = Duration::from_secs(5);

/// The assigned partitions of one client, led into one queue.
pub(super) struct JointQueue<C: ConsumerContext + 'static> {
    // Slots hold places of the queue, so they are dropped before it.
    slots: Vec<Slot>,
    queue: Joint<C>,
    numbers: HashMap<(usize, i32), u32>,
    /// Records come in runs of one partition: the last answer is mostly the next one too.
    last: Option<((usize, i32), u32)>,
    /// An error met behind records that had to be returned first.
    error: Option<Error>,
    /// Something is or was assigned that may not have been stopped yet.
    assigned: bool,
}

struct Slot {
    of: TopicPartition,
    source: Source,
    /// The next record returned has this offset or a later one; `None` until the first message
    /// tells.
    position: Option<i64>,
    /// The offset of the last message that was no record, such as the end of the partition.
    told_at: i64,
    /// False until the first message, where the partition may have been read before. librdkafka
    /// stops that in its own time, and then takes the lead off and forgets its position.
    settled: bool,
    paused: bool,
    /// Records that were already on their way when the partition was paused.
    held: VecDeque<Fetched>,
}

/// What [`JointQueue::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Records were appended.
    pub(super) records: bool,
    /// A partition has been read to its end.
    pub(super) end: bool,
}

impl<C: ConsumerContext + 'static> JointQueue<C> {
    pub(super) fn new(consumer: Arc<BaseConsumer<C>>, signal: Arc<Signal>) -> Result<Self> {
        let queue = Joint::new(consumer, signal, BATCH_MAX)
            .map_err(|e| Error::client("cannot make a queue", e))?;
        Ok(Self {
            slots: Vec::new(),
            queue,
            numbers: HashMap::new(),
            last: None,
            error: None,
            assigned: false,
        })
    }

    pub(super) fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        self.queue.consumer()
    }

    pub(super) fn events_waiting(&self) -> usize {
        self.queue.events_waiting()
    }

    /// Reads these partitions from these places, instead of what was read before.
    pub(super) fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        let list = self.lead(partitions, |_| true)?;
        self.assigned = true;
        let assigned = self.consumer().assign(&list);
        assigned.map_err(|e| Error::client("cannot assign partitions", e))
    }

    /// As [`assign`](Self::assign), where the client has all but the `added` ones already.
    pub(super) fn assign_more(
        &mut self,
        partitions: &[(TopicPartition, Start)],
        added: &[TopicPartition],
        wait: Duration,
    ) -> Result<()> {
        let list = self.lead(partitions, |of| added.contains(of))?;
        let assigned = self.consumer().incremental_assign(&list);
        assigned.map_err(|e| Error::client("cannot assign partitions", e))?;
        // The others were read on meanwhile, or were stopped in the middle.
        for (of, start) in partitions.iter().filter(|(of, _)| !added.contains(of)) {
            let until = Instant::now() + wait;
            let sought = || {
                let (topic, partition) = (&*of.topic, of.partition);
                self.consumer().seek(topic, partition, offset(*start), wait)
            };
            super::again(until, sought)
                .map_err(|e| Error::client(format!("cannot go back. of=`{of}`"), e))?;
        }
        Ok(())
    }

    /// Leads these partitions here, and names those of them that the client is to start.
    fn lead(
        &mut self,
        partitions: &[(TopicPartition, Start)],
        starts: impl Fn(&TopicPartition) -> bool,
    ) -> Result<TopicPartitionList> {
        self.forget();
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (of, start) in partitions {
            let source = self.queue.source(&of.topic, of.partition);
            let source = source.ok_or_else(|| Error::UnknownPartition(of.clone()))?;
            self.queue.lead(&source);
            if starts(of) {
                list.add_partition_offset(&of.topic, of.partition, offset(*start))
                    .map_err(|e| {
                        Error::client(format!("cannot start at that offset. of=`{of}`"), e)
                    })?;
            }
            self.slots.push(Slot {
                of: of.clone(),
                source,
                position: match *start {
                    Start::Offset(offset) => Some(offset),
                    Start::Earliest | Start::Latest => None,
                },
                told_at: -1,
                settled: !self.assigned,
                paused: false,
                held: VecDeque::new(),
            });
        }
        self.find_leaders(partitions);
        Ok(list)
    }

    /// Where the client does not know yet which broker has a partition, it would ask that broker
    /// for the partition's ends only half a second later.
    fn find_leaders(&self, partitions: &[(TopicPartition, Start)]) {
        let ends = partitions
            .iter()
            .filter(|(_, start)| !matches!(start, Start::Offset(_)));
        let topics: BTreeSet<&str> = ends.map(|(of, _)| &*of.topic).collect();
        for topic in topics {
            if let Err(error) = self.consumer().fetch_metadata(Some(topic), LEADERS_WAIT) {
                debug!(topic, %error, "leaders are not known yet");
                return;
            }
        }
    }

    /// Reads nothing more; records that were on their way are dropped.
    pub(super) fn unassign(&mut self) -> Result<()> {
        self.forget();
        // The group goes on only when everything has been stopped, so the next assignment finds it
        // so.
        self.assigned = false;
        let unassigned = self.consumer().unassign();
        unassigned.map_err(|e| Error::client("cannot give partitions back", e))
    }

    /// Reads nothing more; of what the client reads, these partitions are stopped.
    pub(super) fn unassign_some(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.forget();
        let unassigned = self.consumer().incremental_unassign(&list(partitions));
        unassigned.map_err(|e| Error::client("cannot give partitions back", e))
    }

    /// From now on, what is still on its way belongs to no partition and is dropped.
    pub(super) fn forget(&mut self) {
        self.slots.clear();
        self.numbers.clear();
        self.last = None;
        self.error = None;
    }

    /// Records of the partition stay at their source. Pausing by librdkafka's own means would throw
    /// away what was fetched, and fetch it again.
    pub(super) fn pause(&mut self, partition: PartitionIx) -> Result<()> {
        let slot = slot(&mut self.slots, partition)?;
        if !slot.paused {
            slot.paused = true;
            self.queue.hold(&slot.source);
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, partition: PartitionIx) -> Result<()> {
        let slot = slot(&mut self.slots, partition)?;
        if slot.paused {
            slot.paused = false;
            // What waits at the source is appended behind what is in the joint queue, which is
            // older; what is held is older still, and `take` returns it first.
            self.queue.lead(&slot.source);
        }
        Ok(())
    }

    pub(super) fn seek(
        &mut self,
        partition: PartitionIx,
        offset: i64,
        wait: Duration,
    ) -> std::result::Result<(), KafkaError> {
        let Ok(slot) = slot(&mut self.slots, partition) else {
            return Err(KafkaError::Seek("not assigned".to_owned()));
        };
        // librdkafka drops what it fetched before the seek, also what is in the joint queue.
        let consumer = self.queue.consumer();
        consumer.seek(
            &slot.of.topic,
            slot.of.partition,
            Offset::Offset(offset),
            wait,
        )?;
        slot.position = Some(offset);
        slot.held.clear();
        Ok(())
    }

    /// The partition and the offset of its next record, if that is known.
    pub(super) fn position(
        &mut self,
        partition: PartitionIx,
    ) -> Result<(&TopicPartition, Option<i64>)> {
        let slot = slot(&mut self.slots, partition)?;
        // Markers at the end move only librdkafka's own position. It is wrong by one directly
        // behind a message that was no record, and right again behind everything that follows.
        let of = &slot.of;
        let beyond = self.queue.position(&of.topic, of.partition);
        let beyond = beyond.filter(|at| *at > slot.told_at + 1);
        if slot.settled && slot.held.is_empty() {
            slot.position = slot.position.max(beyond);
        }
        Ok((&slot.of, slot.position))
    }

    /// Appends what is there, at most `limit` records, without waiting.
    pub(super) fn take(&mut self, limit: usize, into: &mut Vec<Fetched>) -> Result<Taken> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let full = into.len() + limit;
        for slot in self
            .slots
            .iter()
            .filter(|slot| !slot.settled && !slot.paused)
        {
            self.queue.lead(&slot.source);
        }
        for slot in self
            .slots
            .iter_mut()
            .filter(|s| !s.paused && !s.held.is_empty())
        {
            let room = slot.held.len().min(full - into.len());
            into.extend(slot.held.drain(..room));
        }
        let mut taken = Taken::default();
        for _ in 0..PAUSED_BATCHES_MAX {
            let room = full - into.len();
            if room == 0 {
                break;
            }
            let before = into.len();
            let batch = self.queue.take(room);
            let len = batch.len();
            let mut sorter = Sorter {
                slots: &mut self.slots,
                numbers: &mut self.numbers,
                last: &mut self.last,
            };
            let failed = sorter.sort(&batch, into, &mut taken.end);
            drop(batch);
            if let Some((ix, code, offset)) = failed {
                self.error = Some(self.explain(ix, code, offset));
            }
            if into.len() > before || len < room.min(BATCH_MAX) || self.error.is_some() {
                break;
            }
        }
        taken.records = into.len() > full - limit;
        match self.error.take() {
            Some(error) if !taken.records => Err(error),
            error => {
                self.error = error;
                Ok(taken)
            }
        }
    }

    fn explain(&self, ix: u32, code: RDKafkaErrorCode, offset: i64) -> Error {
        let Some(slot) = self.slots.get(ix as usize) else {
            return Error::client("cannot read", KafkaError::MessageConsumption(code));
        };
        let of = slot.of.clone();
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                let ends = self
                    .consumer()
                    .fetch_watermarks(&of.topic, of.partition, EXPLAIN_WAIT);
                let (low, high) = ends.unwrap_or((-1, -1));
                Error::OffsetOutOfRange {
                    partition: of,
                    offset: slot.position.unwrap_or(offset),
                    low,
                    high,
                }
            }
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopic
                if is_missing(self.consumer(), &of, EXPLAIN_WAIT) =>
            {
                Error::UnknownPartition(of)
            }
            other => Error::client(
                format!("cannot read. partition=`{of}`, offset={offset}"),
                KafkaError::MessageConsumption(other),
            ),
        }
    }
}

/// The partitions, for the client.
pub(super) fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for of in partitions {
        list.add_partition(&of.topic, of.partition);
    }
    list
}

fn offset(start: Start) -> Offset {
    match start {
        Start::Offset(offset) => Offset::Offset(offset),
        Start::Earliest => Offset::Beginning,
        Start::Latest => Offset::End,
    }
}

fn slot(slots: &mut [Slot], partition: PartitionIx) -> Result<&mut Slot> {
    slots
        .get_mut(partition.0 as usize)
        .ok_or(Error::State("partition is not assigned"))
}

/// Hands the messages of a batch to their partitions.
struct Sorter<'a> {
    slots: &'a mut [Slot],
    numbers: &'a mut HashMap<(usize, i32), u32>,
    last: &'a mut Option<((usize, i32), u32)>,
}

impl Sorter<'_> {
    /// Appends the records, and returns the first error of a partition.
    fn sort(
        &mut self,
        batch: &Batch<'_>,
        into: &mut Vec<Fetched>,
        end: &mut bool,
    ) -> Option<(u32, RDKafkaErrorCode, i64)> {
        let mut failed = None;
        // One allocation for all keys and values of the batch; each is a slice of it.
        let mut arena = BytesMut::with_capacity(batch.iter().map(|m| size(&m)).sum());
        for message in batch.iter() {
            let Some(ix) = self.index(&message) else {
                continue;
            };
            let Some(slot) = self.slots.get_mut(ix as usize) else {
                continue;
            };
            slot.settled = true;
            match message.error() {
                None => {
                    let record = record(ix, &message, &mut arena);
                    // Also backwards: an offset that is gone starts at the oldest record.
                    slot.position = Some(record.offset + 1);
                    // What is held is older: a record may only pass when nothing is.
                    if slot.paused || !slot.held.is_empty() {
                        slot.held.push_back(record);
                    } else {
                        into.push(record);
                    }
                }
                Some(RDKafkaErrorCode::PartitionEOF) => {
                    *end = true;
                    slot.told_at = slot.told_at.max(message.offset());
                    slot.position = slot.position.max(Some(message.offset()));
                }
                Some(code) => {
                    slot.told_at = slot.told_at.max(message.offset());
                    failed = failed.or(Some((ix, code, message.offset())));
                }
            }
        }
        failed
    }

    /// Which of the assigned partitions a message is from; a name is compared only at its first
    /// message.
    fn index(&mut self, message: &Message<'_>) -> Option<u32> {
        let key = (message.topic_number(), message.partition());
        if let Some((last, ix)) = *self.last
            && last == key
        {
            return Some(ix);
        }
        let ix = match self.numbers.get(&key) {
            Some(ix) => *ix,
            None => {
                let topic = message.topic();
                let of = |s: &Slot| s.of.partition == key.1 && &*s.of.topic == topic;
                let ix = u32::try_from(self.slots.iter().position(of)?).ok()?;
                self.numbers.insert(key, ix);
                ix
            }
        };
        *self.last = Some((key, ix));
        Some(ix)
    }
}

fn size(message: &Message<'_>) -> usize {
    if message.error().is_some() {
        return 0;
    }
    message.key().map_or(0, <[u8]>::len) + message.value().map_or(0, <[u8]>::len)
}

fn record(ix: u32, message: &Message<'_>, arena: &mut BytesMut) -> Fetched {
    Fetched {
        partition: PartitionIx(ix),
        offset: message.offset(),
        timestamp: message.timestamp(),
        key: message.key().map(|key| copy(key, arena)),
        value: message.value().map(|value| copy(value, arena)),
        headers: message.headers(),
    }
}

fn copy(bytes: &[u8], arena: &mut BytesMut) -> Bytes {
    if bytes.is_empty() {
        return Bytes::new();
    }
    arena.extend_from_slice(bytes);
    arena.split().freeze()
}
