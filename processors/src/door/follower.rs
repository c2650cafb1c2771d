//! `Follower`: the thread that reads order events for the door.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_broker::{Admin, Broker, Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_topology::{BoxError, Error, ErrorKind, Result};
use tracing::warn;

use super::{feed::Feed, in_flight::InFlight};
use crate::{
    model::{OrderCommand, OrderId},
    topics::{ORDER_EVENTS, ORDERS},
};

/// How long a poll waits, and so a stop.
const POLL_WAIT: Duration = Duration::from_millis(100);
const POLL_RECORDS_MAX: usize = 2000;
/// The pause before reading begins anew after an error.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the unprocessed tail of the commands may take to read.
const TAIL_TIME_MAX: Duration = Duration::from_secs(30);

/// The thread that reads order events for the door. Dropping it ends the thread.
pub(super) struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Reads the commands that wait to be processed, then follows the events in a thread.
    pub(super) fn start(
        broker: Arc<dyn Broker>,
        application_id: &str,
        partitions: u32,
        in_flight: Arc<InFlight>,
        feed: Arc<Feed>,
    ) -> Result<Self> {
        let admin = broker.admin()?;
        // Events from here on: what is processed while the tail is read is noticed.
        let mut places = Places::at_present(&*admin, partitions)?;
        read_tail(&*broker, &*admin, application_id, partitions, &in_flight)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let run = move || {
            let take = |record: &Fetched| take_event(record, &in_flight, &feed);
            while !stopping.load(Ordering::Acquire) {
                if let Err(error) = follow(&*broker, &mut places, &take, &stopping) {
                    warn!(%error, "the door cannot follow the events");
                    places.recover(&error);
                    std::thread::park_timeout(AGAIN);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("shop-door".into())
            .spawn(run);
        let thread = thread
            .map_err(|e| Error::caused(ErrorKind::Config, "a thread could not be started", e))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in there was reported by its own thread.
            let _ = thread.join();
        }
    }
}

/// Where each partition of the events is read next.
struct Places(Vec<(TopicPartition, Start)>);

impl Places {
    fn at_present(admin: &dyn Admin, partitions: u32) -> Result<Self> {
        let mut next = Vec::new();
        for partition in 0..partitions as i32 {
            let events = TopicPartition::new(ORDER_EVENTS.name(), partition);
            let end = admin.watermarks(&events)?.high;
            next.push((events, Start::Offset(end)));
        }
        Ok(Self(next))
    }

    /// Events that were deleted before they were read are over.
    fn recover(&mut self, error: &millstream_broker::Error) {
        if let millstream_broker::Error::OffsetOutOfRange { partition, low, .. } = error
            && let Some((_, start)) = self.0.iter_mut().find(|(p, _)| p == partition)
        {
            *start = Start::Offset(*low);
        }
    }
}

fn follow(
    broker: &dyn Broker,
    places: &mut Places,
    take: &dyn Fn(&Fetched),
    stopping: &AtomicBool,
) -> millstream_broker::Result<()> {
    let mut reader = broker.reader()?;
    reader.assign(&places.0)?;
    let mut fetched = Vec::new();
    while !stopping.load(Ordering::Acquire) {
        fetched.clear();
        reader.poll(POLL_WAIT, POLL_RECORDS_MAX, &mut fetched)?;
        fetched.iter().for_each(take);
        for index in 0..places.0.len() {
            places.0[index].1 = Start::Offset(reader.position(PartitionIx(index as u32))?);
        }
    }
    Ok(())
}

fn take_event(record: &Fetched, in_flight: &InFlight, feed: &Feed) {
    let (Some(key), Some(value)) = (&record.key, &record.value) else {
        return;
    };
    let Ok(id) = ORDER_EVENTS.key().decode(Some(key)) else {
        return;
    };
    in_flight.settled(id);
    feed.publish(id, value);
}

/// Reads the commands behind those that the application's group has committed.
fn read_tail(
    broker: &dyn Broker,
    admin: &dyn Admin,
    application_id: &str,
    partitions: u32,
    in_flight: &InFlight,
) -> Result<()> {
    let orders = |partition| TopicPartition::new(ORDERS.name(), partition);
    let orders: Vec<TopicPartition> = (0..partitions as i32).map(orders).collect();
    let committed = admin.committed(application_id, &orders)?;
    let mut assigned = Vec::new();
    let mut ends = Vec::new();
    for (partition, committed) in orders.into_iter().zip(committed) {
        let watermarks = admin.watermarks(&partition)?;
        let begin = committed.unwrap_or(watermarks.low).max(watermarks.low);
        if begin < watermarks.high {
            assigned.push((partition, Start::Offset(begin)));
            ends.push(watermarks.high);
        }
    }
    if assigned.is_empty() {
        return Ok(());
    }
    let mut reader = broker.reader()?;
    reader.assign(&assigned)?;
    let begin = Instant::now();
    let mut fetched = Vec::new();
    while !reached(&mut *reader, &ends)? {
        if begin.elapsed() > TAIL_TIME_MAX {
            warn!("the orders that wait to be processed could not all be read");
            break;
        }
        fetched.clear();
        reader.poll(POLL_WAIT, POLL_RECORDS_MAX, &mut fetched)?;
        for record in &fetched {
            if let Ok((id, OrderCommand::Place(place))) = command(record) {
                in_flight.found(id, place);
            }
        }
    }
    Ok(())
}

fn reached(reader: &mut dyn Reader, ends: &[i64]) -> Result<bool> {
    for (index, end) in ends.iter().enumerate() {
        if reader.position(PartitionIx(index as u32))? < *end {
            return Ok(false);
        }
    }
    Ok(true)
}

fn command(record: &Fetched) -> Result<(OrderId, OrderCommand), BoxError> {
    let id = ORDERS.key().decode(record.key.as_deref())?;
    Ok((id, ORDERS.value().decode(record.value.as_deref())?))
}
