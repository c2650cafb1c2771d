//! `Sink`: topics into tables, exactly once.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use millstream_broker::{Broker, ConsumerConfig};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::{debug, error, info, warn};

use crate::{
    Backoff, BatchLimits, Database, DeadLetters, Error, Message, Metrics, Projection, Result,
    batch::BatchSize,
    dead_letters::chain,
    feed::{Feed, Feeder, QUEUE_MAX},
    progress::{self, read_progress},
    writer::{Halt, Shared, Writer},
};

/// A session longer than this was in order: the pause starts small again.
const STEADY: Duration = Duration::from_secs(60);
/// How often the ends of the log are looked up for [`Metrics::lag`].
const LAG_EVERY: Duration = Duration::from_secs(2);

/// Names and bounds of a sink.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Its name in `sink_progress`. It stays the same as long as the tables do.
    pub name: String,
    /// The consumer group, which decides who reads what; the offsets are the database's.
    pub group_id: String,
    /// A stable name of this member of the group.
    pub instance_id: String,
    /// How long a silent member keeps its partitions.
    pub session_timeout: Duration,
    /// How long a batch waits for more records when there are few.
    pub linger: Duration,
    /// Bounds of one transaction.
    pub batch: BatchLimits,
    /// Pauses before a transaction is tried again.
    pub backoff: Backoff,
    /// Pauses before the sink joins its group again.
    pub rejoin: Backoff,
    /// How often a sink without records looks whether the database is still where it left it.
    pub check_every: Duration,
    /// Go on when records that were not read yet have been deleted from the log. Tables lack them
    /// then.
    pub skip_missing: bool,
}

impl SinkConfig {
    /// The usual bounds: 100 ms linger, 30 s session, a check every 10 s.
    pub fn new(
        name: impl Into<String>,
        group_id: impl Into<String>,
        instance_id: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            group_id: group_id.into(),
            instance_id: instance_id.into(),
            session_timeout: Duration::from_secs(30),
            linger: Duration::from_millis(100),
            batch: BatchLimits::default(),
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_secs(5)),
            rejoin: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            check_every: Duration::from_secs(10),
            skip_missing: false,
        }
    }
}

/// Reads topics and writes what its projections make of them.
pub struct Sink {
    config: SinkConfig,
    broker: Arc<dyn Broker>,
    database: Database,
    projections: Arc<[Arc<dyn Projection>]>,
    dead_letters: Arc<dyn DeadLetters>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// A sink, not yet running. The projections' tables must exist.
    pub fn new(
        config: SinkConfig,
        broker: Arc<dyn Broker>,
        database: Database,
        projections: Vec<Arc<dyn Projection>>,
        dead_letters: Arc<dyn DeadLetters>,
    ) -> Self {
        Self {
            config,
            broker,
            database,
            projections: projections.into(),
            dead_letters,
            metrics: Arc::default(),
        }
    }

    /// Starts it on the present tokio runtime.
    pub fn start(self) -> RunningSink {
        let (stop, stopped) = watch::channel(false);
        let metrics = self.metrics.clone();
        let name = self.config.name.clone();
        let task = tokio::spawn(async move {
            let result = self.run(stopped).await;
            if let Err(error) = &result {
                error!(sink = self.config.name, error = chain(error), "sink ended");
                self.metrics.failed(Some(chain(error)));
            }
            result
        });
        RunningSink {
            name,
            stop,
            metrics,
            task,
        }
    }

    /// Runs until `stop` turns true. What can pass by itself is tried again for ever, with pauses.
    ///
    /// # Errors
    /// What cannot: wrong schema or rights, another log, records that are gone, a projection that
    /// panics.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut pauses = self.config.rejoin.pauses();
        loop {
            let started = Instant::now();
            match self.session(&mut stop).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_temporary() => {
                    if started.elapsed() > STEADY {
                        pauses = self.config.rejoin.pauses();
                    }
                    let reason = chain(&error);
                    let pause = pauses.next();
                    warn!(
                        sink = self.config.name,
                        error = reason,
                        pause_ms = pause.as_millis(),
                        "sink joins again"
                    );
                    self.metrics.failed(Some(reason));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = told(&mut stop) => return Ok(()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One membership of the group; ends well only when told to stop.
    async fn session(&self, stop: &mut watch::Receiver<bool>) -> Result<()> {
        let migrate = self
            .database
            .migrate(progress::COMPONENT, progress::MIGRATIONS);
        tokio::select! {
            migrated = migrate => migrated?,
            () = told(stop) => return Ok(()),
        }
        let shared = Arc::new(Shared::default());
        self.metrics.waiting.store(0, Ordering::Relaxed);
        let (queue, mut parcels) = mpsc::channel(QUEUE_MAX);
        let reader = self.spawn_reader(queue, shared.clone())?;
        let lag = tokio::spawn(sample_lag(
            self.broker.clone(),
            self.database.clone(),
            self.config.name.clone(),
            self.metrics.clone(),
        ));
        let mut writer = self.writer(shared.clone(), stop);
        let written = self.write(&mut writer, &mut parcels, stop).await;
        shared.stop.store(true, Ordering::Release);
        // The reader may wait for room or for an answer: both end with the queue.
        drop(parcels);
        lag.abort();
        let read = tokio::task::spawn_blocking(move || reader.join()).await;
        let read = match read {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Error::Broken("the reading thread panicked".into())),
        };
        let stopping = is_told(stop);
        match (written, read) {
            (Err(error), _) => Err(error),
            (Ok(()), _) if stopping => Ok(()),
            (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(())) => Err(Error::Broken("the reading thread ended".into())),
        }
    }

    fn spawn_reader(
        &self,
        queue: mpsc::Sender<Feed>,
        shared: Arc<Shared>,
    ) -> Result<std::thread::JoinHandle<Result<()>>> {
        let topics: BTreeSet<Arc<str>> = self.projections.iter().flat_map(|p| p.topics()).collect();
        let config = ConsumerConfig {
            group_id: self.config.group_id.clone(),
            instance_id: self.config.instance_id.clone(),
            topics: topics.into_iter().collect(),
            session_timeout: self.config.session_timeout,
        };
        let sink: Arc<str> = self.config.name.as_str().into();
        let (broker, metrics) = (self.broker.clone(), self.metrics.clone());
        let skip_missing = self.config.skip_missing;
        std::thread::Builder::new()
            .name(format!("sink-{sink}"))
            .spawn(move || {
                Feeder::join(sink, &*broker, config, queue, shared, metrics, skip_missing)?.run()
            })
            .map_err(|e| Error::Broken(format!("no thread: {e}")))
    }

    fn writer(&self, shared: Arc<Shared>, stop: &watch::Receiver<bool>) -> Writer {
        Writer {
            sink: self.config.name.as_str().into(),
            database: self.database.clone(),
            projections: self.projections.clone(),
            dead_letters: self.dead_letters.clone(),
            metrics: self.metrics.clone(),
            stop: stop.clone(),
            shared,
            size: BatchSize::new(self.config.batch),
            backoff: self.config.backoff,
            claims: Vec::new(),
            generation: 0,
        }
    }

    /// Writes what comes until the reader ends, the sink is told to stop, or something fails.
    async fn write(
        &self,
        writer: &mut Writer,
        parcels: &mut mpsc::Receiver<Feed>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let mut next = None;
        loop {
            let feed = match next.take() {
                Some(feed) => feed,
                None => tokio::select! {
                    () = told(stop) => return Ok(()),
                    feed = parcels.recv() => match feed {
                        Some(feed) => feed,
                        None => return Ok(()),
                    },
                    () = tokio::time::sleep(self.config.check_every) => Feed::Idle,
                },
            };
            // Whoever asked and waits no more has ended, and the queue with it.
            let done = match feed {
                Feed::Claim {
                    generation,
                    partitions,
                    identity,
                    offsets,
                } => {
                    writer.generation = generation;
                    let claimed = writer.claim(&partitions, &identity).await;
                    claimed.map(|found| drop(offsets.send(found)))
                }
                Feed::Idle => writer.check_claims().await,
                Feed::Settled(settled) => {
                    let _ = settled.send(());
                    Ok(())
                }
                Feed::Records {
                    generation,
                    mut records,
                } => {
                    next = self
                        .gather(&writer.size, generation, &mut records, parcels)
                        .await;
                    let many = records.len() as u64;
                    let written = write_records(writer, generation, records).await;
                    self.metrics.waiting.fetch_sub(many, Ordering::Relaxed);
                    written
                }
            };
            match done {
                Ok(()) => {}
                Err(Halt::Dropped) if is_told(stop) => return Ok(()),
                Err(Halt::Dropped) => {}
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
    }

    /// Adds records until the batch is full or has waited long enough. Answers what else came.
    async fn gather(
        &self,
        size: &BatchSize,
        generation: u64,
        records: &mut Vec<Message>,
        parcels: &mut mpsc::Receiver<Feed>,
    ) -> Option<Feed> {
        let until = Instant::now() + self.config.linger;
        let mut bytes: usize = records.iter().map(Message::bytes).sum();
        while records.len() < size.records() && bytes < size.bytes_max() {
            match tokio::time::timeout_at(until, parcels.recv()).await {
                Ok(Some(Feed::Records {
                    generation: same,
                    records: more,
                })) if same == generation => {
                    bytes += more.iter().map(Message::bytes).sum::<usize>();
                    records.extend(more);
                }
                Ok(other) => return other,
                Err(_) => return None,
            }
        }
        None
    }
}

/// Writes records in batches of the size that suits the database.
async fn write_records(
    writer: &mut Writer,
    generation: u64,
    mut records: Vec<Message>,
) -> Result<(), Halt> {
    if generation != writer.generation {
        return Ok(());
    }
    while !records.is_empty() {
        let mut bytes = 0;
        let fitting = records
            .iter()
            .take(writer.size.records())
            .take_while(|record| {
                bytes += record.bytes();
                bytes <= writer.size.bytes_max()
            })
            .count()
            .max(1);
        let rest = records.split_off(fitting);
        writer.write(records).await?;
        records = rest;
    }
    Ok(())
}

/// Ends when the sink is told to stop, or nobody can tell it any more.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

pub(crate) fn is_told(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

/// Keeps [`Metrics::lag`] up to date until it is aborted.
async fn sample_lag(
    broker: Arc<dyn Broker>,
    database: Database,
    sink: String,
    metrics: Arc<Metrics>,
) {
    loop {
        match lag(&broker, &database, &sink).await {
            Ok(lag) => metrics.lag.store(lag, Ordering::Relaxed),
            Err(error) => debug!(sink, error = chain(&error), "lag is unknown"),
        }
        tokio::time::sleep(LAG_EVERY).await;
    }
}

async fn lag(broker: &Arc<dyn Broker>, database: &Database, sink: &str) -> Result<i64> {
    let progress = read_progress(database, sink).await?;
    let broker = broker.clone();
    let ends = tokio::task::spawn_blocking(move || {
        let admin = broker.admin()?;
        let mut lag = 0;
        for p in progress {
            let ends = admin.watermarks(&p.partition)?;
            lag += (ends.high - p.next_offset.max(ends.low)).max(0);
        }
        Ok(lag)
    });
    match ends.await {
        Ok(result) => result,
        Err(error) => Err(Error::Broken(error.to_string())),
    }
}

/// A sink at work. Dropping it stops it, without waiting.
pub struct RunningSink {
    name: String,
    stop: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    task: JoinHandle<Result<()>>,
}

impl RunningSink {
    /// What it has done so far.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// True when it has ended, by an error if it was not stopped: see [`Metrics::last_error`].
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Lets it finish the batch it is writing, leave its group and end.
    ///
    /// # Errors
    /// What ended it before, and [`Error::StopDeadline`] when it takes longer than `deadline`.
    pub async fn stop(mut self, deadline: Duration) -> Result<()> {
        self.stop.send_replace(true);
        match tokio::time::timeout(deadline, &mut self.task).await {
            Ok(Ok(result)) => {
                info!(sink = self.name, "sink stopped");
                result
            }
            Ok(Err(error)) => Err(Error::Broken(error.to_string())),
            Err(_) => {
                // The connection is thrown away with the task, and its transaction rolled back.
                self.task.abort();
                Err(Error::StopDeadline)
            }
        }
    }
}
