//! The gateway worker: makes the calls that intents ask for and writes down how they ended.
//!
//! It stands outside the exactly-once machinery, because a gateway cannot take part in a transaction of the
//! log. An intent's offset is committed only after its result is durable, so after a crash an intent may be
//! called again and a result may come twice: idempotency keys and the order's state make that harmless.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Appender, Broker, Consumer, ConsumerConfig, Event, Fetched, OwnedRecord, Producer,
    ProducerError, Start, TopicPartition,
};
use millstream_topology::{BoxError, Error, Headers, Result, partition_for_key};
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::{
    call::{self, CallPolicy},
    gateway::PaymentGateway,
    progress::Progress,
};
use crate::{
    model::{OrderId, PaymentIntent, PaymentResult},
    topics::{DEAD_LETTERS, PAYMENT_INTENTS, PAYMENT_RESULTS},
};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 512;
/// How long a poll waits for records.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How long offsets of an earlier owner may keep this one waiting.
const COMMITTED_WAIT: Duration = Duration::from_secs(60);
/// How long calls under way may take when partitions are taken away or the worker stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How often a result that found the log's queue full is offered again.
const APPEND_AGAIN: Duration = Duration::from_millis(20);
/// Pause before the worker starts anew after an error; doubled each time …
const RESTART_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// How a [`GatewayWorker`] works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The application; its workers are the group `<application>-gateway`.
    pub application_id: String,
    /// Tells this process from others of the application; stable over restarts.
    pub instance_id: String,
    /// Calls under way at the same time.
    pub calls_max: usize,
    /// How calls are made.
    pub calls: CallPolicy,
    /// How often finished intents are committed.
    pub commit_every: Duration,
    /// How long a silent worker keeps its partitions.
    pub session_timeout: Duration,
}

impl WorkerConfig {
    /// The defaults: 1,024 calls at a time.
    pub fn new(application_id: impl Into<String>, instance_id: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            instance_id: instance_id.into(),
            calls_max: 1024,
            calls: CallPolicy::default(),
            commit_every: Duration::from_millis(500),
            session_timeout: Duration::from_secs(15),
        }
    }
}

/// The worker, on a thread of its own. Calls run on a tokio runtime.
#[derive(Debug)]
pub struct GatewayWorker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GatewayWorker {
    /// Starts it. It starts anew by itself after errors of the log, with growing pauses.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start<G: PaymentGateway>(
        broker: Arc<dyn Broker>,
        gateway: Arc<G>,
        runtime: Handle,
        config: WorkerConfig,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker { broker, gateway, runtime, config, stop: stop.clone() };
        let thread = std::thread::Builder::new()
            .name("gateway-worker".into())
            .spawn(move || worker.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops taking intents, waits for the calls under way, commits, leaves the group.
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the gateway worker panicked");
        }
    }
}

impl Drop for GatewayWorker {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

struct Worker<G> {
    broker: Arc<dyn Broker>,
    gateway: Arc<G>,
    runtime: Handle,
    config: WorkerConfig,
    stop: Arc<AtomicBool>,
}

impl<G: PaymentGateway> Worker<G> {
    fn run(self) {
        let mut pause = RESTART_FIRST;
        while !self.stopping() {
            let began = Instant::now();
            match Session::join(&self).and_then(|mut session| session.run()) {
                Ok(()) => return,
                Err(error) => warn!(error = %error.chain(), "gateway worker starts anew"),
            }
            if began.elapsed() > RESTART_MAX {
                pause = RESTART_FIRST;
            }
            self.rest(pause);
            pause = (pause * 2).min(RESTART_MAX);
        }
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.stopping() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A record that is done with: its result is durable, or could not be written.
struct Finished {
    generation: u64,
    partition: usize,
    offset: i64,
    result: millstream_broker::Result<()>,
}

/// One membership in the group.
struct Session<'a, G> {
    worker: &'a Worker<G>,
    consumer: Option<Box<dyn Consumer>>,
    producer: Box<dyn Producer>,
    output: Arc<Output>,
    /// Tells completions of this assignment from those of earlier ones.
    generation: u64,
    assigned: Vec<(TopicPartition, Progress)>,
    finished: mpsc::Receiver<Finished>,
    finish: mpsc::Sender<Finished>,
    last_commit: Instant,
}

impl<'a, G: PaymentGateway> Session<'a, G> {
    fn join(worker: &'a Worker<G>) -> Result<Self> {
        let WorkerConfig { application_id, instance_id, .. } = &worker.config;
        let member = format!("{application_id}-gateway-{instance_id}");
        let mut producer = worker.broker.producer(&member)?;
        producer.init()?;
        let output = Arc::new(Output::open(&*worker.broker)?);
        let consumer = worker.broker.consumer(ConsumerConfig {
            group_id: format!("{application_id}-gateway"),
            instance_id: member,
            topics: vec![PAYMENT_INTENTS.name().into()],
            session_timeout: worker.config.session_timeout,
        })?;
        let (finish, finished) = mpsc::channel();
        Ok(Self {
            worker,
            consumer: Some(consumer),
            producer,
            output,
            generation: 0,
            assigned: Vec::new(),
            finished,
            finish,
            last_commit: Instant::now(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut fetched = Vec::with_capacity(POLL_RECORDS_MAX);
        while !self.worker.stopping() {
            let under_way: usize = self.assigned.iter().map(|(_, p)| p.under_way()).sum();
            let free = self.worker.config.calls_max.saturating_sub(under_way).min(POLL_RECORDS_MAX);
            if free == 0 {
                self.hear(POLL_WAIT)?;
                continue;
            }
            fetched.clear();
            match self.consumer().poll(POLL_WAIT, free, &mut fetched)? {
                Event::Records => fetched.drain(..).for_each(|record| self.begin(record)),
                Event::Assigned(partitions) => self.take(partitions)?,
                Event::Revoked { lost } => self.give_up(lost)?,
            }
            self.hear(Duration::ZERO)?;
            if self.last_commit.elapsed() >= self.worker.config.commit_every {
                self.commit()?;
            }
        }
        self.drain()?;
        self.commit()?;
        info!("gateway worker has stopped");
        Ok(())
    }

    fn consumer(&mut self) -> &mut dyn Consumer {
        self.consumer.as_deref_mut().expect("the consumer is there until the session ends")
    }

    fn take(&mut self, partitions: Vec<TopicPartition>) -> Result<()> {
        let committed = self.consumer().committed(&partitions, COMMITTED_WAIT)?;
        let starts: Vec<(TopicPartition, Start)> = partitions
            .into_iter()
            .zip(committed)
            .map(|(partition, offset)| (partition, offset.map_or(Start::Earliest, Start::Offset)))
            .collect();
        self.consumer().assign(&starts)?;
        self.generation += 1;
        self.assigned = starts
            .into_iter()
            .map(|(partition, start)| match start {
                Start::Offset(offset) => (partition, Progress::starting_at(offset)),
                Start::Earliest | Start::Latest => (partition, Progress::starting_at(0)),
            })
            .collect();
        info!(partitions = self.assigned.len(), "gateway worker has partitions");
        Ok(())
    }

    fn give_up(&mut self, lost: bool) -> Result<()> {
        if !lost {
            self.drain()?;
            self.commit()?;
        }
        self.generation += 1;
        self.assigned.clear();
        self.consumer().unassign()?;
        Ok(())
    }

    fn begin(&mut self, record: Fetched) {
        let partition = record.partition.0 as usize;
        let Some((place, progress)) = self.assigned.get_mut(partition) else { return };
        if !progress.begin(record.offset) {
            return;
        }
        let finish = self.finish.clone();
        let (generation, offset) = (self.generation, record.offset);
        let finished = move |result| {
            // Nobody listens any more when the session has ended: the record is read again then.
            let _ended = finish.send(Finished { generation, partition, offset, result });
        };
        let output = self.output.clone();
        match decode(&record) {
            Ok((order_id, intent)) => {
                let gateway = self.worker.gateway.clone();
                let policy = self.worker.config.calls;
                self.worker.runtime.spawn(async move {
                    let result = call::make(&*gateway, order_id, intent, policy).await;
                    finished(output.result(order_id, &result).await);
                });
            }
            Err(error) => {
                warn!(error = %error, partition = %place, offset, "an intent does not decode");
                let place = place.clone();
                self.worker.runtime.spawn(async move {
                    finished(output.dead_letter(record, &place, &error).await);
                });
            }
        }
    }

    /// Hears which records are done, waiting for the first one.
    fn hear(&mut self, wait: Duration) -> Result<()> {
        let first = self.finished.recv_timeout(wait).ok();
        let others: Vec<Finished> = self.finished.try_iter().collect();
        for done in first.into_iter().chain(others) {
            done.result?;
            if done.generation == self.generation
                && let Some((_, progress)) = self.assigned.get_mut(done.partition)
            {
                progress.done(done.offset);
            }
        }
        Ok(())
    }

    /// Waits for the calls under way, not for ever: what is left is called again by whoever comes next.
    fn drain(&mut self) -> Result<()> {
        let until = Instant::now() + DRAIN_MAX;
        while self.assigned.iter().any(|(_, progress)| progress.under_way() > 0) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.hear(left.min(POLL_WAIT))?;
        }
        Ok(())
    }

    /// Commits how far each partition is done, in a transaction that writes nothing else.
    fn commit(&mut self) -> Result<()> {
        self.last_commit = Instant::now();
        let offsets: Vec<(TopicPartition, i64)> = self
            .assigned
            .iter()
            .filter_map(|(partition, progress)| Some((partition.clone(), progress.to_commit()?)))
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        match self.commit_offsets(&offsets)? {
            Ok(()) => {
                for (_, progress) in &mut self.assigned {
                    progress.committed(progress.done_before());
                }
            }
            // A rebalance is under way; what is not committed is called again.
            Err(cause) => {
                warn!(error = %cause, "offsets of intents are not committed yet");
                self.producer.abort()?;
            }
        }
        Ok(())
    }

    fn commit_offsets(
        &mut self,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Result<(), BoxError>> {
        let group = self.consumer().group_metadata()?;
        self.producer.begin()?;
        let committed = self
            .producer
            .drain()
            .and_then(|()| self.producer.send_offsets(offsets, &group))
            .and_then(|()| self.producer.commit());
        match committed {
            Ok(()) => Ok(Ok(())),
            Err(ProducerError::Abort(cause)) => Ok(Err(cause)),
            Err(fatal) => Err(fatal.into()),
        }
    }
}

impl<G> Drop for Session<'_, G> {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            consumer.close(true);
        }
    }
}

fn decode(record: &Fetched) -> Result<(OrderId, PaymentIntent), BoxError> {
    let order_id = PAYMENT_INTENTS.key().decode(record.key.as_deref())?;
    let intent = PAYMENT_INTENTS.value().decode(record.value.as_deref())?;
    Ok((order_id, intent))
}

/// Where results and dead letters go.
struct Output {
    appender: Arc<dyn Appender>,
    results: Target,
    dead_letters: Target,
}

/// A topic and how many partitions it has.
struct Target {
    topic: Arc<str>,
    partitions: u32,
}

impl Target {
    fn of(&self, key: &[u8]) -> TopicPartition {
        let partition = partition_for_key(key, self.partitions);
        TopicPartition { topic: self.topic.clone(), partition }
    }
}

impl Output {
    fn open(broker: &dyn Broker) -> Result<Self> {
        let topics = broker.admin()?.topics()?;
        let target = |name: &str| {
            let found = topics.iter().find(|topic| &*topic.name == name);
            let found = found.ok_or_else(|| {
                millstream_broker::Error::UnknownPartition(TopicPartition::new(name, 0))
            })?;
            Ok::<_, Error>(Target { topic: found.name.clone(), partitions: found.partitions })
        };
        Ok(Self {
            appender: broker.appender()?,
            results: target(PAYMENT_RESULTS.name())?,
            dead_letters: target(DEAD_LETTERS.name())?,
        })
    }

    async fn result(
        &self,
        order_id: OrderId,
        result: &PaymentResult,
    ) -> millstream_broker::Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let bad = |source| millstream_broker::Error::client("a result does not encode", source);
        PAYMENT_RESULTS.key().encode(&order_id, &mut key).map_err(bad)?;
        PAYMENT_RESULTS.value().encode(result, &mut value).map_err(bad)?;
        self.append(OwnedRecord {
            to: self.results.of(&key),
            timestamp: call::now_ms(),
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Headers::default(),
        })
        .await
    }

    /// Sets a record aside, with Kafka's names for where it came from and why it is here (KIP-1034).
    async fn dead_letter(
        &self,
        record: Fetched,
        place: &TopicPartition,
        error: &BoxError,
    ) -> millstream_broker::Result<()> {
        let mut headers = record.headers;
        let mut add = |name: &str, value: String| headers.push(name, Bytes::from(value));
        add("__streams.errors.exception", "Data".into());
        add("__streams.errors.message", error.to_string());
        add("__streams.errors.topic", place.topic.to_string());
        add("__streams.errors.partition", place.partition.to_string());
        add("__streams.errors.offset", record.offset.to_string());
        self.append(OwnedRecord {
            to: self.dead_letters.of(record.key.as_deref().unwrap_or_default()),
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers,
        })
        .await
    }

    async fn append(&self, record: OwnedRecord) -> millstream_broker::Result<()> {
        loop {
            let (done, appended) = tokio::sync::oneshot::channel();
            let tell = Box::new(move |result: millstream_broker::Result<i64>| {
                let _gone = done.send(result);
            });
            match self.appender.append(record.clone(), tell) {
                Ok(()) => {
                    let closed = |e| millstream_broker::Error::client("the log has closed", e);
                    return appended.await.map_err(closed)?.map(|_| ());
                }
                Err(millstream_broker::Error::Full) => tokio::time::sleep(APPEND_AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }
}
