//! The reading half of a sink: a thread that owns the consumer and hands records over a bounded
//! queue.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering, mpsc as reply},
    time::Duration,
};

use millstream_broker::{
    Admin, Broker, Consumer, ConsumerConfig, Event, Fetched, PartitionIx, Start, TopicPartition,
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{debug, info};

use crate::{
    Error, Message, Metrics, Result,
    progress::Identity,
    writer::{ATTEMPT_MAX, Shared},
};

/// Parcels between reader and writer.
pub(crate) const QUEUE_MAX: usize = 4;
/// Records of one poll, and of one parcel.
const POLL_RECORDS_MAX: usize = 1024;
/// Bytes of one parcel; a single larger record makes a parcel of its own.
const PARCEL_BYTES_MAX: usize = 2 << 20;
/// Records and bytes that wait in front of a full queue before partitions are paused; they are
/// resumed at half.
const WAITING_RECORDS_MAX: usize = 8192;
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Most records in memory, those of the batch under way apart.
#[cfg(test)]
pub(crate) const IN_MEMORY_MAX: usize = WAITING_RECORDS_MAX + (QUEUE_MAX + 2) * POLL_RECORDS_MAX;
/// How long a poll waits for records, and so how soon a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// The same when the writer is slower than the log.
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// How long a rebalance waits for the database. After that the member leaves, and joins again
/// later.
const CLAIM_MAX: Duration = Duration::from_secs(60);

/// What the reader hands to the writer, in order.
pub(crate) enum Feed {
    /// Take these over; answer where to read on.
    Claim {
        generation: u64,
        partitions: Vec<TopicPartition>,
        identity: Identity,
        offsets: reply::SyncSender<Vec<i64>>,
    },
    Records {
        generation: u64,
        records: Vec<Message>,
    },
    /// Nothing came for a while. The writer tells itself.
    Idle,
    /// Everything before is written or dropped.
    Settled(reply::SyncSender<()>),
}

pub(crate) struct Feeder {
    sink: Arc<str>,
    consumer: Box<dyn Consumer>,
    admin: Arc<dyn Admin>,
    identity: Identity,
    queue: mpsc::Sender<Feed>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    skip_missing: bool,
    assigned: Vec<TopicPartition>,
    /// By partition: records before were written earlier.
    next: Vec<i64>,
    waiting: VecDeque<Message>,
    waiting_bytes: usize,
    paused: bool,
}

impl Feeder {
    /// Joins the group. Called on the thread that then runs it.
    pub(crate) fn join(
        sink: Arc<str>,
        broker: &dyn Broker,
        config: ConsumerConfig,
        queue: mpsc::Sender<Feed>,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
        skip_missing: bool,
    ) -> Result<Self> {
        let admin = broker.admin()?;
        let identity = Identity {
            cluster_id: admin.cluster_id()?,
            topic_id: String::new(),
        };
        Ok(Self {
            sink,
            consumer: broker.consumer(config)?,
            admin,
            identity,
            queue,
            shared,
            metrics,
            skip_missing,
            assigned: Vec::new(),
            next: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            paused: false,
        })
    }

    /// Reads until it is told to stop or the writer has gone.
    pub(crate) fn run(mut self) -> Result<()> {
        let result = self.read();
        // A claim that is still tried would take partitions over that others have by now.
        self.forget();
        self.metrics.partitions.store(0, Ordering::Relaxed);
        self.consumer.close(false);
        result
    }

    fn read(&mut self) -> Result<()> {
        let mut fetched = Vec::new();
        while !self.shared.stop.load(Ordering::Acquire) && !self.queue.is_closed() {
            let busy = !self.hand_over();
            self.hold_back()?;
            let wait = if busy { BUSY_WAIT } else { POLL_WAIT };
            match self.consumer.poll(wait, POLL_RECORDS_MAX, &mut fetched)? {
                Event::Records => self.take(&mut fetched),
                Event::Assigned(partitions) => self.assigned(partitions)?,
                Event::Revoked { lost } => self.revoked(lost)?,
            }
            fetched.clear();
        }
        Ok(())
    }

    fn take(&mut self, fetched: &mut Vec<Fetched>) {
        for record in fetched.drain(..) {
            let at = record.partition.0 as usize;
            let (Some(partition), Some(next)) = (self.assigned.get(at), self.next.get_mut(at))
            else {
                continue;
            };
            if record.offset < *next {
                continue;
            }
            *next = record.offset + 1;
            let message = Message {
                topic: partition.topic.clone(),
                partition: partition.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
                claimed: record.partition,
            };
            self.waiting_bytes += message.bytes();
            self.waiting.push_back(message);
            self.metrics.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Moves what waits into the queue; `false` when not all of it fits.
    fn hand_over(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let permit = match self.queue.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return false,
                // The loop ends at its next look.
                Err(TrySendError::Closed(())) => return true,
            };
            let mut bytes = 0;
            let fitting = self.waiting.iter().take(POLL_RECORDS_MAX).take_while(|m| {
                bytes += m.bytes();
                bytes <= PARCEL_BYTES_MAX
            });
            let n = fitting.count().max(1);
            let records: Vec<Message> = self.waiting.drain(..n).collect();
            self.waiting_bytes -= records.iter().map(Message::bytes).sum::<usize>();
            permit.send(Feed::Records {
                generation: self.shared.generation.load(Ordering::Acquire),
                records,
            });
        }
        true
    }

    /// Pauses all partitions while too much waits, so that polling can go on and memory stays
    /// bounded.
    fn hold_back(&mut self) -> Result<()> {
        let exceeds = |part: usize| {
            self.waiting.len() > WAITING_RECORDS_MAX / part
                || self.waiting_bytes > WAITING_BYTES_MAX / part
        };
        let pause = exceeds(if self.paused { 2 } else { 1 });
        if pause == self.paused {
            return Ok(());
        }
        for at in 0..self.assigned.len() {
            let partition = PartitionIx(u32::try_from(at).expect("partitions are few"));
            if pause {
                self.consumer.pause(partition)?;
            } else {
                self.consumer.resume(partition)?;
            }
        }
        self.paused = pause;
        debug!(sink = %self.sink, waiting = self.waiting.len(), pause, "reading is held back or goes on");
        Ok(())
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result<()> {
        let generation = self.forget();
        let (offsets, answer) = reply::sync_channel(1);
        self.send(Feed::Claim {
            generation,
            partitions: partitions.clone(),
            identity: self.identity.clone(),
            offsets,
        })?;
        let offsets = answer
            .recv_timeout(CLAIM_MAX)
            .map_err(|_| Error::Timeout("claiming partitions"))?;
        let mut starts = Vec::with_capacity(partitions.len());
        for (partition, next) in partitions.iter().zip(&offsets) {
            starts.push((partition.clone(), self.start(partition, *next)?));
        }
        match self.consumer.assign(&starts) {
            // The database took so long that the group went on without: it will say what holds now.
            Err(millstream_broker::Error::State(_)) => {
                self.forget();
                return Ok(());
            }
            answered => answered?,
        }
        info!(sink = %self.sink, partitions = partitions.len(), "sink reads on from the database's offsets");
        self.metrics
            .partitions
            .store(partitions.len() as u64, Ordering::Relaxed);
        self.assigned = partitions;
        self.next = offsets;
        Ok(())
    }

    /// Where to read on, if the log still has it.
    fn start(&self, partition: &TopicPartition, next: i64) -> Result<Start> {
        if next == 0 {
            return Ok(Start::Earliest);
        }
        let ends = self.admin.watermarks(partition)?;
        let shorter = next > ends.high;
        let gone = next < ends.low && !self.skip_missing;
        if shorter || gone {
            return Err(Error::Missing {
                sink: self.sink.to_string(),
                partition: partition.to_string(),
                next,
                low: ends.low,
                high: ends.high,
            });
        }
        Ok(Start::Offset(next))
    }

    fn revoked(&mut self, lost: bool) -> Result<()> {
        self.forget();
        self.metrics.partitions.store(0, Ordering::Relaxed);
        if !lost {
            // The successor's claim would wait for the batch's locks anyway; waiting here lets it
            // finish.
            let (settled, answer) = reply::sync_channel(1);
            self.send(Feed::Settled(settled))?;
            // A batch that hangs is fenced by the successor's claim.
            let _ = answer.recv_timeout(ATTEMPT_MAX);
        }
        self.consumer.unassign()?;
        info!(sink = %self.sink, lost, "partitions were taken away");
        Ok(())
    }

    /// Begins a new generation, without records or partitions.
    fn forget(&mut self) -> u64 {
        let dropped = self.waiting.len() as u64;
        self.metrics.waiting.fetch_sub(dropped, Ordering::Relaxed);
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.assigned.clear();
        self.next.clear();
        self.paused = false;
        self.shared.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn send(&self, feed: Feed) -> Result<()> {
        let gone = |_| Error::Broken("the writing half has ended".into());
        self.queue.blocking_send(feed).map_err(gone)
    }
}
