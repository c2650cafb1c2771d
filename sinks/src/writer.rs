//! The writing half of a sink: claims partitions, and writes batches until they are in the
//! database.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_broker::TopicPartition;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{
    Database, DeadLetter, DeadLetters, Error, Message, Metrics, Output, Projection, Result,
    batch::BatchSize,
    changes::Settled,
    dead_letters::chain,
    fault::{Fault, classify},
    progress::{self, Claim, Fate, Identity, Step},
    sink::is_told,
};

/// First pause before a transaction is tried again; it doubles …
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// … up to this. A sink tries as long as it owns its partitions: giving up would lose records.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A transaction that takes longer is given up, with its connection.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// What the two halves tell each other outside the queue.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Rises with every rebalance: records of an earlier generation are dropped.
    pub(crate) generation: AtomicU64,
    /// Ends the reading thread.
    pub(crate) stop: AtomicBool,
}

/// Why writing ends before the batch is written.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The partitions were taken away, or the sink stops; nothing is lost, it is read again.
    Dropped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(crate) struct Writer {
    pub(crate) sink: Arc<str>,
    pub(crate) database: Database,
    pub(crate) projections: Arc<[Arc<dyn Projection>]>,
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) size: BatchSize,
    /// By [`PartitionIx`](millstream_broker::PartitionIx).
    pub(crate) claims: Vec<Claim>,
    pub(crate) generation: u64,
    /// Makes a step fail, or ends the process there, as far as the database can tell.
    #[cfg(test)]
    pub(crate) inject: Option<crate::tests::Inject>,
}

/// A batch whose records mean these rows.
struct Work {
    steps: Vec<Step>,
    changes: Settled,
    records: usize,
}

/// How one try to write a batch ended.
enum Attempt {
    Committed,
    /// A step matched no row.
    Mismatch,
    Failed(Fault, Error),
}

impl Writer {
    /// Takes partitions over and answers where to read on.
    pub(crate) async fn claim(
        &mut self,
        partitions: &[TopicPartition],
        identity: &Identity,
    ) -> Result<Vec<i64>, Halt> {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.claim_once(partitions, identity).await {
                Ok(claims) => {
                    self.claims = claims;
                    return Ok(self.claims.iter().map(|c| c.next_offset).collect());
                }
                // A second writer's first claim at the same moment is a duplicate key.
                Err(error) if error.is_temporary() || is_data(&error) => {
                    self.pause(&mut backoff, &error, "partitions are not claimed")
                        .await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn claim_once(
        &self,
        partitions: &[TopicPartition],
        identity: &Identity,
    ) -> Result<Vec<Claim>> {
        let failed = || Error::database("claiming partitions");
        let mut order: Vec<usize> = (0..partitions.len()).collect();
        order.sort_by(|&a, &b| partitions[a].cmp(&partitions[b]));
        let attempt = async {
            let mut lease = self.database.lease().await.map_err(failed())?;
            let mut tx = lease.begin().await.map_err(failed())?;
            let mut claims: Vec<Option<Claim>> = vec![None; partitions.len()];
            for at in order {
                let claim = progress::claim(&mut tx, &self.sink, &partitions[at], identity);
                claims[at] = Some(claim.await?);
            }
            tx.commit().await.map_err(failed())?;
            lease.give_back();
            Ok(claims.into_iter().flatten().collect())
        };
        match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout("claiming partitions")),
        }
    }

    /// Writes the records, whatever the database says, in as many parts as it takes.
    pub(crate) async fn write(&mut self, records: Vec<Message>) -> Result<(), Halt> {
        let records: Arc<[Message]> = records.into();
        let mut todo: Vec<Range<usize>> = std::iter::once(0..records.len()).collect();
        // Records that make no rows: their letters are safe.
        let mut aside: HashSet<usize> = HashSet::new();
        while let Some(range) = todo.pop() {
            if range.is_empty() {
                continue;
            }
            let refused = match self.work(&records, range.clone(), &mut aside).await? {
                Ok(work) => self.write_work(&work).await?,
                Err(panicked) => Some(panicked),
            };
            match refused {
                None => {}
                Some(error) if range.len() > 1 => {
                    debug!(sink = %self.sink, records = range.len(), %error, "looking for the record that is refused");
                    let middle = range.start + range.len() / 2;
                    todo.push(middle..range.end);
                    todo.push(range.start..middle);
                }
                Some(error) if !aside.contains(&range.start) => {
                    self.set_aside(&records[range.start], chain(&error)).await?;
                    aside.insert(range.start);
                    todo.push(range);
                }
                // Without its rows, only the progress is written.
                Some(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What the records mean. Those that no projection can read are set aside first. The inner
    /// error is a projection that panicked over one of them.
    async fn work(
        &mut self,
        records: &Arc<[Message]>,
        range: Range<usize>,
        aside: &mut HashSet<usize>,
    ) -> Result<Result<Work>, Halt> {
        let projections = self.projections.clone();
        let (batch, among, skip) = (records.clone(), range.clone(), aside.clone());
        // Decoding thousands of records takes milliseconds: not on a thread that serves others.
        let projected = tokio::task::spawn_blocking(move || {
            let mut out = Output::default();
            project(&projections, &batch, among, &skip, &mut out);
            (out.changes.settle(), out.rejects)
        })
        .await;
        let (changes, rejects) = match projected {
            Ok(projected) => projected,
            Err(error) => return Ok(Err(Error::Broken(format!("a projection: {error}")))),
        };
        for reject in rejects {
            let origin = |m: &Message| {
                (m.offset, m.partition, &m.topic)
                    == (reject.offset, reject.partition, &reject.topic)
            };
            let at = range.clone().find(|&i| origin(&records[i]));
            let at =
                at.ok_or_else(|| Error::Broken("rejected record is not in the batch".into()))?;
            if aside.insert(at) {
                self.set_aside(&records[at], chain(&*reject.error)).await?;
            }
        }
        Ok(Ok(Work {
            steps: self.steps(&records[range.clone()]),
            changes,
            records: range.len(),
        }))
    }

    fn steps(&self, records: &[Message]) -> Vec<Step> {
        let mut ends: BTreeMap<(&str, i32), (usize, i64)> = BTreeMap::new();
        for record in records {
            let end = (record.claimed.0 as usize, record.offset + 1);
            ends.insert((&record.topic, record.partition), end);
        }
        // Sorted by topic and partition: all writers lock in that order.
        ends.into_values()
            .map(|(at, to)| {
                let claim = &self.claims[at];
                assert!(claim.next_offset < to, "records come in order");
                Step {
                    partition: claim.partition.clone(),
                    epoch: claim.epoch,
                    from: claim.next_offset,
                    to,
                }
            })
            .collect()
    }

    /// Tries until the work is committed. Answers the error when a row is refused.
    async fn write_work(&mut self, work: &Work) -> Result<Option<Error>, Halt> {
        let mut backoff = BACKOFF_MIN;
        loop {
            self.go_on()?;
            let started = Instant::now();
            let (fault, error) = match self.attempt(work).await {
                Attempt::Committed => {
                    self.committed(work, started.elapsed());
                    return Ok(None);
                }
                Attempt::Mismatch => (Fault::Unavailable, None),
                Attempt::Failed(Fault::Data, error) => return Ok(Some(error)),
                Attempt::Failed(fault, error) => (fault, Some(error)),
            };
            match fault {
                Fault::Conflict { waited: true } => self.size.shrink(),
                Fault::Conflict { waited: false } | Fault::Unavailable | Fault::Data => {}
                Fault::Defect => {
                    return Err(Halt::Failed(error.expect("a defect is an error")));
                }
            }
            if let Some(error) = &error {
                self.pause(&mut backoff, error, "transaction is tried again")
                    .await?;
            }
            match self.fate(&work.steps).await {
                Ok(Fate::Committed) => {
                    self.committed(work, started.elapsed());
                    return Ok(None);
                }
                Ok(Fate::NotCommitted) => {}
                Ok(Fate::Fenced(partition)) => return Err(self.fenced(&partition)),
                Err(error) if error.is_temporary() => {
                    self.pause(&mut backoff, &error, "fate of a transaction is unknown")
                        .await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One transaction: progress first, then rows, then COMMIT.
    async fn attempt(&self, work: &Work) -> Attempt {
        let attempt = async {
            let mut lease = self.database.lease().await?;
            self.at(Point::Begin)?;
            let mut tx = lease.begin().await?;
            for step in &work.steps {
                if !progress::advance(&mut tx, &self.sink, step).await? {
                    tx.rollback().await?;
                    lease.give_back();
                    return Ok(Attempt::Mismatch);
                }
            }
            self.at(Point::Rows)?;
            work.changes.write(&mut tx).await?;
            self.at(Point::Commit)?;
            tx.commit().await?;
            self.at(Point::Committed)?;
            lease.give_back();
            Ok(Attempt::Committed)
        };
        match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(error)) => {
                Attempt::Failed(classify(&error), Error::database("writing a batch")(error))
            }
            Err(_) => Attempt::Failed(Fault::Unavailable, Error::Timeout("writing a batch")),
        }
    }

    async fn fate(&self, steps: &[Step]) -> Result<Fate> {
        let failed = || Error::database("reading progress");
        let read = async {
            let mut lease = self.database.lease().await.map_err(failed())?;
            let mut tx = lease.begin().await.map_err(failed())?;
            let fate = progress::fate(&mut tx, &self.sink, steps).await?;
            tx.rollback().await.map_err(failed())?;
            lease.give_back();
            Ok(fate)
        };
        match tokio::time::timeout(ATTEMPT_MAX, read).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout("reading progress")),
        }
    }

    fn committed(&mut self, work: &Work, took: Duration) {
        for step in &work.steps {
            let claim = self
                .claims
                .iter_mut()
                .find(|c| c.partition == step.partition);
            let claim = claim.expect("steps are made from claims");
            claim.next_offset = step.to;
        }
        self.size.committed(work.records, took);
        let target = self.size.records() as u64;
        self.metrics.batch_records.store(target, Ordering::Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.metrics
            .committed(work.records, work.changes.len(), took_us);
    }

    /// A writer that knows of the rebalance is late, not fenced.
    fn fenced(&self, partition: &TopicPartition) -> Halt {
        if let Err(dropped) = self.go_on() {
            return dropped;
        }
        self.metrics.fenced.fetch_add(1, Ordering::Relaxed);
        Halt::Failed(Error::Fenced {
            sink: self.sink.to_string(),
            partition: partition.to_string(),
        })
    }

    async fn set_aside(&mut self, message: &Message, reason: String) -> Result<(), Halt> {
        warn!(sink = %self.sink, topic = %message.topic, partition = message.partition,
            offset = message.offset, reason, "record is set aside");
        let mut backoff = BACKOFF_MIN;
        loop {
            let letter = DeadLetter {
                sink: self.sink.to_string(),
                message: message.clone(),
                reason: reason.clone(),
            };
            match self.dead_letters.put(letter).await {
                Ok(()) => {
                    self.metrics.dead_letters.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => {
                    let error = Error::DeadLetter(error);
                    self.pause(&mut backoff, &error, "dead letter is tried again")
                        .await?;
                }
            }
        }
    }

    /// Waits before another try; ends early when there is no more reason to try.
    async fn pause(
        &self,
        backoff: &mut Duration,
        error: &Error,
        what: &'static str,
    ) -> Result<(), Halt> {
        self.go_on()?;
        let error = chain(error);
        warn!(sink = %self.sink, pause_ms = backoff.as_millis(), error, "{what}");
        self.metrics.failed(Some(error));
        self.metrics.retries.fetch_add(1, Ordering::Relaxed);
        let until = tokio::time::Instant::now() + *backoff;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        while tokio::time::Instant::now() < until {
            let step = tokio::time::Instant::now() + Duration::from_millis(50);
            tokio::time::sleep_until(step.min(until)).await;
            self.go_on()?;
        }
        Ok(())
    }

    /// Fails when the partitions were taken away or the sink stops.
    fn go_on(&self) -> Result<(), Halt> {
        let stale = self.shared.generation.load(Ordering::Acquire) != self.generation;
        if stale || is_told(&self.stop) {
            return Err(Halt::Dropped);
        }
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests fail here"
    )]
    fn at(&self, _point: Point) -> Result<(), sqlx::Error> {
        Ok(())
    }

    #[cfg(test)]
    fn at(&self, point: Point) -> Result<(), sqlx::Error> {
        self.inject.as_ref().map_or(Ok(()), |inject| inject(point))
    }
}

/// Steps of a batch between which a process can die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Begin,
    Rows,
    Commit,
    Committed,
}

fn project(
    projections: &[Arc<dyn Projection>],
    records: &[Message],
    range: Range<usize>,
    skip: &HashSet<usize>,
    out: &mut Output,
) {
    for projection in projections {
        let topics = projection.topics();
        let batch: Vec<&Message> = range
            .clone()
            .filter(|at| !skip.contains(at))
            .map(|at| &records[at])
            .filter(|record| topics.contains(&record.topic))
            .collect();
        if !batch.is_empty() {
            projection.project(&batch, out);
        }
    }
}

fn is_data(error: &Error) -> bool {
    matches!(error, Error::Database { source, .. } if classify(source) == Fault::Data)
}
