//! `Ends`: follows the log and notes when orders became final.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{Broker, Fetched, Result, Start, TopicPartition};
use millstream_processors::topics::ORDER_EVENTS;
use serde::Deserialize;

/// How long a poll waits, and so the end of the thread.
const POLL_WAIT: Duration = Duration::from_millis(50);
const POLL_RECORDS_MAX: usize = 2_000;
/// Pauses that a report tells.
const PAUSES_TOLD: usize = 5;
/// The pause before reading begins anew after an error.
const AGAIN: Duration = Duration::from_millis(200);

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Seen {
    /// When orders were confirmed or cancelled.
    pub(crate) times: Vec<Instant>,
    pub(crate) confirmed: usize,
    /// Orders that became final more than once.
    pub(crate) twice: Vec<String>,
    last: HashMap<Bytes, String>,
}

/// The thread that follows `shop.order-events`. It ends when this is dropped.
pub(crate) struct Ends {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

impl Ends {
    pub(crate) fn follow(log: Arc<dyn Broker>) -> Result<Self> {
        let topics = log.admin()?.topics()?;
        let partitions = topics
            .iter()
            .find(|topic| &*topic.name == ORDER_EVENTS.name());
        let partitions = partitions.map_or(0, |topic| topic.partitions);
        let place = |p| (TopicPartition::new(ORDER_EVENTS.name(), p), Start::Earliest);
        let mut places: Vec<_> = (0..partitions.cast_signed()).map(place).collect();
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Acquire) {
                    // The broker is away now and then, which is what this run is for.
                    if follow(&*log, &mut places, &seen, &stop).is_err() {
                        std::thread::park_timeout(AGAIN);
                    }
                }
            }
        });
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics with this lock")
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic in there has printed itself.
            let _ = thread.join();
        }
    }
}

fn follow(
    log: &dyn Broker,
    places: &mut [(TopicPartition, Start)],
    seen: &Mutex<Seen>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut reader = log.reader()?;
    reader.assign(places)?;
    let mut fetched = Vec::new();
    while !stop.load(Ordering::Acquire) {
        fetched.clear();
        reader.poll(POLL_WAIT, POLL_RECORDS_MAX, &mut fetched)?;
        let mut seen = seen.lock().expect("nothing panics with this lock");
        for record in &fetched {
            seen.take(record, Instant::now());
            places[record.partition.0 as usize].1 = Start::Offset(record.offset + 1);
        }
    }
    Ok(())
}

impl Seen {
    fn take(&mut self, record: &Fetched, now: Instant) {
        let value = record.value.as_deref().unwrap_or_default();
        let (Some(key), Ok(Kind { kind })) = (&record.key, serde_json::from_slice(value)) else {
            return;
        };
        if !matches!(&*kind, "order.confirmed" | "order.cancelled") {
            return;
        }
        self.times.push(now);
        self.confirmed += usize::from(kind == "order.confirmed");
        if let Some(before) = self.last.insert(key.clone(), kind.clone()) {
            let key = String::from_utf8_lossy(key);
            self.twice
                .push(format!("order {key}: {before}, then {kind}"));
        }
    }

    /// The longest times from `from` to `to` in which no order became final, the longest first:
    /// when each began, and how long it was.
    pub(crate) fn pauses(&self, from: Instant, to: Instant) -> Vec<(Duration, Duration)> {
        let mut times = self.times.clone();
        times.retain(|time| (from..=to).contains(time));
        times.extend([from, to]);
        times.sort_unstable();
        let pauses = times.windows(2).map(|two| (two[0] - from, two[1] - two[0]));
        let mut pauses: Vec<_> = pauses.collect();
        pauses.sort_unstable_by_key(|(_, length)| std::cmp::Reverse(*length));
        pauses.truncate(PAUSES_TOLD);
        pauses
    }
}
