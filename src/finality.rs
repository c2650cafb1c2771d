//! `Finality`: sees each order's end on the log, and how long it took.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use millstream_broker::{Broker, Fetched, Reader, Start, TopicPartition};
use millstream_processors::{
    model::{OrderEventKind, OrderId},
    topics::ORDER_EVENTS,
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::error;

use crate::{
    failure::{Failure, Outcome},
    replay::{OnAccepted, latencies},
};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 2_000;
/// How long a poll waits for records, and a stop for the poll.
const POLL_WAIT: Duration = Duration::from_millis(50);

/// Follows `shop.order-events` from the moment it is made until it is dropped.
pub(crate) struct Finality {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen.
pub(crate) struct Seen {
    orders: Mutex<HashMap<OrderId, Half>>,
    /// Orders confirmed.
    pub(crate) confirmed: AtomicU64,
    /// Orders cancelled.
    pub(crate) cancelled: AtomicU64,
    /// From the time an order was meant to be sent until its end was committed, in microseconds.
    pub(crate) latency_us: Mutex<Histogram<u64>>,
    /// When orders became final.
    ends: Mutex<Vec<Instant>>,
    window: Arc<Semaphore>,
}

/// An order's answer and its end may come in any order.
enum Half {
    Accepted(Instant),
    Ended(Instant, OrderEventKind),
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: OrderEventKind,
}

impl Finality {
    /// Begins to follow. Each order that ends gives a place back to `window`.
    pub(crate) fn follow(log: &dyn Broker, window: Arc<Semaphore>) -> Outcome<Self> {
        let admin = log.admin()?;
        let topics = admin.topics()?;
        let count = topics
            .iter()
            .find(|t| &*t.name == ORDER_EVENTS.name())
            .map_or(0, |t| t.partitions);
        let mut starts = Vec::new();
        for partition in 0..count.cast_signed() {
            let partition = TopicPartition::new(ORDER_EVENTS.name(), partition);
            // By number, so that nothing is missed between now and the first poll.
            let end = admin.watermarks(&partition)?.high;
            starts.push((partition, Start::Offset(end)));
        }
        let mut reader = log.reader()?;
        reader.assign(&starts)?;
        let seen = Arc::new(Seen {
            orders: Mutex::default(),
            confirmed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            latency_us: Mutex::new(latencies()),
            ends: Mutex::default(),
            window,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("finality".into()).spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                if let Err(error) = seen.watch(&mut *reader, &stop) {
                    error!(%error, "the ends of orders cannot be seen any more");
                }
            }
        });
        let thread = thread.map_err(|e| Failure::at("a thread cannot be started", &e))?;
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }
}

impl Drop for Finality {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic in there has printed itself.
            let _ = thread.join();
        }
    }
}

impl Seen {
    /// To be told of orders that the shop took.
    pub(crate) fn listener(self: &Arc<Self>) -> OnAccepted {
        let seen = self.clone();
        Arc::new(move |id, intended| {
            if let Ok(id) = id.parse() {
                seen.accepted(id, intended);
            }
        })
    }

    /// Orders that were taken and have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed) + self.cancelled.load(Ordering::Relaxed)
    }

    /// When that share of so many orders had ended, counted from `start`; `None` when they have
    /// not.
    pub(crate) fn ended_within(&self, start: Instant, orders: u64, share: f64) -> Option<Duration> {
        let mut ends = self
            .ends
            .lock()
            .expect("nothing panics with this lock")
            .clone();
        ends.sort_unstable();
        let wanted = (orders as f64 * share).ceil() as usize;
        Some(ends.get(wanted.checked_sub(1)?)?.duration_since(start))
    }

    fn accepted(&self, id: OrderId, intended: Instant) {
        let mut orders = self.orders.lock().expect("nothing panics with this lock");
        match orders.remove(&id) {
            Some(Half::Ended(at, kind)) => {
                drop(orders);
                self.end(intended, at, kind);
            }
            Some(Half::Accepted(_)) | None => drop(orders.insert(id, Half::Accepted(intended))),
        }
    }

    fn watch(&self, reader: &mut dyn Reader, stop: &AtomicBool) -> millstream_broker::Result<()> {
        let mut fetched = Vec::with_capacity(POLL_RECORDS_MAX);
        while !stop.load(Ordering::Acquire) {
            fetched.clear();
            reader.poll(POLL_WAIT, POLL_RECORDS_MAX, &mut fetched)?;
            let now = Instant::now();
            fetched.iter().for_each(|record| self.hear(record, now));
        }
        Ok(())
    }

    fn hear(&self, record: &Fetched, now: Instant) {
        let id = ORDER_EVENTS.key().decode(record.key.as_deref());
        let event = serde_json::from_slice::<Kind>(record.value.as_deref().unwrap_or_default());
        let (Ok(id), Ok(Kind { kind })) = (id, event) else {
            return;
        };
        if !matches!(kind, OrderEventKind::Confirmed | OrderEventKind::Cancelled) {
            return;
        }
        let mut orders = self.orders.lock().expect("nothing panics with this lock");
        match orders.remove(&id) {
            Some(Half::Accepted(intended)) => {
                drop(orders);
                self.end(intended, now, kind);
            }
            Some(Half::Ended(..)) | None => drop(orders.insert(id, Half::Ended(now, kind))),
        }
    }

    fn end(&self, intended: Instant, at: Instant, kind: OrderEventKind) {
        let us = u64::try_from(at.saturating_duration_since(intended).as_micros());
        let mut latency = self
            .latency_us
            .lock()
            .expect("nothing panics with this lock");
        latency.saturating_record(us.unwrap_or(u64::MAX));
        drop(latency);
        self.ends
            .lock()
            .expect("nothing panics with this lock")
            .push(at);
        let count = match kind {
            OrderEventKind::Confirmed => &self.confirmed,
            _ => &self.cancelled,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.window.add_permits(1);
    }
}
