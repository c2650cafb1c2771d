//! One membership of the gateway worker in its group: read intents, have them called, commit what
//! is done.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use millstream_broker::{
    Consumer, ConsumerConfig, Event, Fetched, Producer, ProducerError, Start, TopicPartition,
};
use millstream_topology::{BoxError, Result};
use tracing::{info, warn};

use super::{
    call,
    gateway::PaymentGateway,
    output::Output,
    progress::Progress,
    worker::{Worker, WorkerConfig},
};
use crate::{
    model::{OrderId, PaymentIntent},
    topics::PAYMENT_INTENTS,
};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 512;
/// How long a poll waits for records.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How long offsets of an earlier owner may keep this one waiting.
const COMMITTED_WAIT: Duration = Duration::from_secs(60);
/// How long calls under way may take when partitions are taken away or the worker stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// A record that is done with: its result is durable, or could not be written.
struct Finished {
    generation: u64,
    partition: usize,
    offset: i64,
    result: millstream_broker::Result<()>,
}

/// One membership in the group.
pub(super) struct Session<'a, G> {
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
    pub(super) fn join(worker: &'a Worker<G>) -> Result<Self> {
        let WorkerConfig {
            application_id,
            instance_id,
            ..
        } = &worker.config;
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

    pub(super) fn run(&mut self) -> Result<()> {
        let mut fetched = Vec::with_capacity(POLL_RECORDS_MAX);
        while !self.worker.stopping() {
            let under_way: usize = self.assigned.iter().map(|(_, p)| p.under_way()).sum();
            let free = self
                .worker
                .config
                .calls_max
                .saturating_sub(under_way)
                .min(POLL_RECORDS_MAX);
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
        self.consumer
            .as_deref_mut()
            .expect("the consumer is there until the session ends")
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
        info!(
            partitions = self.assigned.len(),
            "gateway worker has partitions"
        );
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
        let Some((place, progress)) = self.assigned.get_mut(partition) else {
            return;
        };
        if !progress.begin(record.offset) {
            return;
        }
        let finish = self.finish.clone();
        let (generation, offset) = (self.generation, record.offset);
        let finished = move |result| {
            // Nobody listens any more when the session has ended: the record is read again then.
            let _ended = finish.send(Finished {
                generation,
                partition,
                offset,
                result,
            });
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

    /// Waits for the calls under way, not for ever: what is left is called again by whoever comes
    /// next.
    fn drain(&mut self) -> Result<()> {
        let until = Instant::now() + DRAIN_MAX;
        while self
            .assigned
            .iter()
            .any(|(_, progress)| progress.under_way() > 0)
        {
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
