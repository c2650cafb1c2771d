//! `Feed`: keeps a [`Catalogue`] up to date from its topic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_broker::{Broker, Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_topology::Result;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Catalogue;
use crate::topics::PRODUCTS;

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 2_000;
/// How long a poll waits for records.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Pause before reading starts anew after an error.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A thread that reads `shop.products` into a catalogue until it is dropped.
#[derive(Debug)]
pub struct Feed {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    progress: watch::Receiver<Progress>,
}

/// How far the topic was read.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// By partition: the catalogue holds everything before this offset.
    positions: Vec<i64>,
    /// True once everything is in that was there at the start.
    complete: bool,
}

impl Feed {
    /// Starts reading. The topic must exist.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(broker: Arc<dyn Broker>, catalogue: Arc<Catalogue>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, progress) = watch::channel(Progress::default());
        let reading = Reading {
            broker,
            catalogue,
            tell,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("catalogue-feed".into())
            .spawn(move || reading.run())?;
        Ok(Self {
            stop,
            thread: Some(thread),
            progress,
        })
    }

    /// True once the catalogue holds everything that was in the topic at the start.
    pub fn is_complete(&self) -> bool {
        self.progress.borrow().complete
    }

    /// Waits until the catalogue holds the record at that offset, so that who wrote it reads it.
    /// `false` when it does not within `patience`.
    pub async fn wait_for(&self, partition: i32, offset: i64, patience: Duration) -> bool {
        let mut progress = self.progress.clone();
        let at = usize::try_from(partition).unwrap_or(usize::MAX);
        let read = progress.wait_for(|p| p.positions.get(at).is_some_and(|next| *next > offset));
        matches!(tokio::time::timeout(patience, read).await, Ok(Ok(_)))
    }

    /// Waits until [`is_complete`](Self::is_complete). `false` when it does not within `patience`.
    pub async fn wait_complete(&self, patience: Duration) -> bool {
        let mut progress = self.progress.clone();
        let complete = progress.wait_for(|p| p.complete);
        matches!(tokio::time::timeout(patience, complete).await, Ok(Ok(_)))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the catalogue's feed panicked");
        }
    }
}

struct Reading {
    broker: Arc<dyn Broker>,
    catalogue: Arc<Catalogue>,
    tell: watch::Sender<Progress>,
    stop: Arc<AtomicBool>,
}

impl Reading {
    fn run(self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = self.read() {
                warn!(error = %error.chain(), "the catalogue's feed starts anew");
                let until = Instant::now() + RESTART_PAUSE;
                while !self.stop.load(Ordering::Acquire) && Instant::now() < until {
                    std::thread::park_timeout(POLL_WAIT);
                }
            }
        }
    }

    fn read(&self) -> Result<()> {
        let admin = self.broker.admin()?;
        let topics = admin.topics()?;
        let found = topics.iter().find(|topic| &*topic.name == PRODUCTS.name());
        let unknown = TopicPartition::new(PRODUCTS.name(), 0);
        let count = found
            .ok_or(millstream_broker::Error::UnknownPartition(unknown))?
            .partitions;
        let partitions: Vec<TopicPartition> = (0..count)
            .map(|p| TopicPartition::new(PRODUCTS.name(), p.cast_signed()))
            .collect();
        let mut ends = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            ends.push(admin.watermarks(partition)?.high);
        }
        let mut reader = self.broker.reader()?;
        let starts: Vec<(TopicPartition, Start)> = partitions
            .into_iter()
            .map(|p| (p, Start::Earliest))
            .collect();
        reader.assign(&starts)?;
        self.follow(&mut *reader, &ends)
    }

    fn follow(&self, reader: &mut dyn Reader, ends: &[i64]) -> Result<()> {
        let mut fetched = Vec::with_capacity(POLL_RECORDS_MAX);
        while !self.stop.load(Ordering::Acquire) {
            fetched.clear();
            reader.poll(POLL_WAIT, POLL_RECORDS_MAX, &mut fetched)?;
            fetched.iter().for_each(|record| self.take(record));
            let mut positions = Vec::with_capacity(ends.len());
            for partition in 0..ends.len() {
                let partition = u32::try_from(partition).expect("partitions are few");
                positions.push(reader.position(PartitionIx(partition))?);
            }
            let caught_up = positions
                .iter()
                .zip(ends)
                .all(|(position, end)| position >= end);
            self.tell.send_if_modified(|progress| {
                let newly_complete = caught_up && !progress.complete;
                let moved = progress.positions != positions;
                progress.complete |= caught_up;
                progress.positions = positions;
                if newly_complete {
                    info!(products = self.catalogue.len(), "the catalogue is complete");
                }
                moved || newly_complete
            });
        }
        Ok(())
    }

    fn take(&self, record: &Fetched) {
        let decoded = PRODUCTS
            .key()
            .decode(record.key.as_deref())
            .and_then(|sku| Ok((sku, PRODUCTS.value().decode(record.value.as_deref())?)));
        match decoded {
            Ok((sku, product)) => self.catalogue.apply(&sku, product),
            // Inventory reads the same record and sets it aside.
            Err(error) => {
                warn!(error = %error, offset = record.offset, "a product does not decode")
            }
        }
    }
}
