//! The writing half of a sink: claims partitions, and writes batches until they are in the
//! database.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
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
    Backoff, Database, DeadLetter, DeadLetters, Error, Message, Metrics, Output, Projection,
    Result,
    backoff::Pauses,
    batch::BatchSize,
    changes::Settled,
    dead_letters::chain,
    fault::{Fault, advice, classify},
    progress::{self, Claim, Fate, Step},
    projection::Reject,
    sink::is_told,
};

/// How often a waiting writer looks whether it should go on.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A transaction that takes longer is given up, with its connection.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// Characters of the reason that the table of dead letters keeps.
const REASON_CHARS_MAX: usize = 2000;

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
    pub(crate) backoff: Backoff,
    /// By [`PartitionIx`](millstream_broker::PartitionIx).
    pub(crate) claims: Vec<Claim>,
    pub(crate) generation: u64,
}

/// A batch whose records mean these rows.
struct Work {
    steps: Vec<Step>,
    changes: Settled,
    records: usize,
}

/// How the work on a batch ended.
enum Outcome {
    Written,
    /// A row is refused, or a projection panicked.
    Refused(Error),
    /// The database finds it too large: it should be written in parts.
    TooLarge,
}

/// How one try to write a batch ended.
enum Attempt {
    Committed(Timing),
    /// A step matched no row.
    Mismatch,
    Failed(Fault, Error),
}

/// How long a transaction took.
#[derive(Clone, Copy)]
struct Timing {
    all: Duration,
    /// The part of it that a transaction of one row takes too: the way to the server and back, for
    /// each statement.
    ways: Duration,
}

impl Writer {
    /// Writes the records, whatever the database says, in as many parts as it takes.
    pub(crate) async fn write(&mut self, records: Vec<Message>) -> Result<(), Halt> {
        let records: Arc<[Message]> = records.into();
        let mut todo: Vec<Range<usize>> = std::iter::once(0..records.len()).collect();
        // Records that make no rows, with the reason: their letters are safe.
        let mut aside: HashMap<usize, String> = HashMap::new();
        while let Some(range) = todo.pop() {
            if range.is_empty() {
                continue;
            }
            let outcome = match self.work(&records, range.clone(), &mut aside).await? {
                Ok(work) => self.write_work(&work).await?,
                Err(panicked) => Outcome::Refused(panicked),
            };
            match outcome {
                Outcome::Written => {}
                Outcome::TooLarge | Outcome::Refused(_) if range.len() > 1 => {
                    debug!(sink = %self.sink, records = range.len(), "batch is written in parts");
                    let middle = range.start + range.len() / 2;
                    todo.push(middle..range.end);
                    todo.push(range.start..middle);
                }
                Outcome::TooLarge => unreachable!("one record is the smallest batch"),
                Outcome::Refused(error) if !aside.contains_key(&range.start) => {
                    let reason = chain(&error);
                    self.set_aside(&records[range.start], &reason).await?;
                    aside.insert(range.start, reason);
                    todo.push(range);
                }
                // Without its rows, only the progress is written.
                Outcome::Refused(error) => return Err(self.final_error(error).into()),
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
        aside: &mut HashMap<usize, String>,
    ) -> Result<Result<Work>, Halt> {
        let projections = self.projections.clone();
        let (batch, among, skip) = (records.clone(), range.clone(), aside.clone());
        let sink = self.sink.clone();
        // Decoding thousands of records takes milliseconds: not on a thread that serves others.
        let projected = tokio::task::spawn_blocking(move || {
            let mut out = Output::default();
            project(&projections, &batch, among.clone(), &skip, &mut out);
            let rejects: Vec<Rejected> = std::mem::take(&mut out.rejects)
                .into_iter()
                .map(|reject| Rejected::among(&batch, &among, reject))
                .collect();
            let earlier = skip.iter().filter(|(at, _)| among.contains(at));
            let now = rejects
                .iter()
                .filter_map(|r| Some((r.at.as_ref()?, &r.reason)));
            for (at, reason) in earlier.chain(now) {
                note(&sink, &batch[*at], reason, &mut out);
            }
            (out.changes.settle(), rejects)
        })
        .await;
        let (changes, rejects) = match projected {
            Ok(projected) => projected,
            Err(error) => return Ok(Err(Error::Broken(format!("a projection: {error}")))),
        };
        for Rejected { at, reason } in rejects {
            let at =
                at.ok_or_else(|| Error::Broken("rejected record is not in the batch".into()))?;
            if let Entry::Vacant(vacant) = aside.entry(at) {
                self.set_aside(&records[at], &reason).await?;
                vacant.insert(reason);
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

    /// Tries until the work is committed, or is better written in another way.
    async fn write_work(&mut self, work: &Work) -> Result<Outcome, Halt> {
        let mut pauses = self.backoff.pauses();
        loop {
            self.go_on()?;
            match self.attempt(work).await? {
                Attempt::Committed(timing) => {
                    self.committed(work, Some(timing));
                    return Ok(Outcome::Written);
                }
                // What stands there instead is looked up at once.
                Attempt::Mismatch => {}
                Attempt::Failed(Fault::Data, error) => return Ok(Outcome::Refused(error)),
                Attempt::Failed(Fault::Defect, error) => {
                    return Err(self.final_error(error).into());
                }
                Attempt::Failed(fault, error) => {
                    if fault == Fault::Conflict {
                        self.size.shrink();
                    }
                    self.pause(&mut pauses, &error, "transaction is tried again")
                        .await?;
                }
            }
            match self.settled_fate(&work.steps, &mut pauses).await? {
                Fate::Committed => {
                    self.committed(work, None);
                    return Ok(Outcome::Written);
                }
                Fate::NotCommitted if work.records > self.size.records() => {
                    return Ok(Outcome::TooLarge);
                }
                Fate::NotCommitted => {}
                Fate::Fenced(partition) => return Err(self.fenced(&partition)),
            }
        }
    }

    /// Asks for a batch's fate until the database tells.
    async fn settled_fate(&self, steps: &[Step], pauses: &mut Pauses) -> Result<Fate, Halt> {
        loop {
            match self.unless_it_ends(self.fate(steps)).await? {
                Ok(fate) => return Ok(fate),
                Err(error) if error.is_temporary() => {
                    self.pause(pauses, &error, "fate of a transaction is unknown")
                        .await?;
                }
                Err(error) => return Err(self.final_error(error).into()),
            }
        }
    }

    /// One transaction: progress first, then rows, then COMMIT.
    async fn attempt(&self, work: &Work) -> Result<Attempt, Halt> {
        // As long as it waits for a connection there is nothing to finish.
        let lease = self.unless_it_ends(self.database.lease()).await?;
        let attempt = async {
            let mut lease = lease?;
            let tables = work.changes.tables();
            match self.database.check(&mut lease, tables).await {
                Ok(()) => {}
                Err(Error::Database { source, .. }) => return Err(source),
                Err(error) => return Ok(Attempt::Failed(Fault::Defect, error)),
            }
            let started = Instant::now();
            let mut tx = lease.begin().await?;
            let way = started.elapsed();
            for step in &work.steps {
                if !progress::advance(&mut tx, &self.sink, step).await? {
                    tx.rollback().await?;
                    lease.give_back();
                    return Ok(Attempt::Mismatch);
                }
            }
            work.changes.write(&mut tx).await?;
            let ways = 2 + tx.statements();
            tx.commit().await?;
            lease.give_back();
            Ok(Attempt::Committed(Timing {
                all: started.elapsed(),
                ways: way * ways,
            }))
        };
        Ok(match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(error)) => {
                Attempt::Failed(classify(&error), Error::database("writing a batch")(error))
            }
            // Away, or too slow for that much.
            Err(_) => Attempt::Failed(Fault::Conflict, Error::Timeout("writing a batch")),
        })
    }

    pub(crate) async fn fate(&self, steps: &[Step]) -> Result<Fate> {
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

    fn committed(&mut self, work: &Work, timing: Option<Timing>) {
        for step in &work.steps {
            let claim = self
                .claims
                .iter_mut()
                .find(|c| c.partition == step.partition);
            let claim = claim.expect("steps are made from claims");
            claim.next_offset = step.to;
        }
        if let Some(timing) = timing {
            self.size.committed(work.records, timing.all, timing.ways);
        }
        let target = self.size.records() as u64;
        self.metrics.batch_records.store(target, Ordering::Relaxed);
        let took_us = timing.map(|t| u64::try_from(t.all.as_micros()).unwrap_or(u64::MAX));
        self.metrics
            .committed(work.records, work.changes.len(), took_us);
    }

    /// A writer that knows of the rebalance is late, not fenced.
    pub(crate) fn fenced(&self, partition: &TopicPartition) -> Halt {
        if let Err(dropped) = self.go_on() {
            return dropped;
        }
        self.metrics.fenced.fetch_add(1, Ordering::Relaxed);
        Halt::Failed(Error::Fenced {
            sink: self.sink.to_string(),
            partition: partition.to_string(),
        })
    }

    /// An error that ends the sink says what to do about it.
    pub(crate) fn final_error(&self, error: Error) -> Error {
        match error {
            Error::Database { source, .. } => Error::Refused {
                sink: self.sink.to_string(),
                advice: advice(&source),
                source,
            },
            error => error,
        }
    }

    async fn set_aside(&self, message: &Message, reason: &str) -> Result<(), Halt> {
        warn!(sink = %self.sink, topic = %message.topic, partition = message.partition,
            offset = message.offset, reason, "record is set aside");
        let mut pauses = self.backoff.pauses();
        loop {
            let letter = DeadLetter {
                sink: self.sink.to_string(),
                message: message.clone(),
                reason: reason.to_owned(),
            };
            let put = self.dead_letters.put(letter);
            match self.unless_it_ends(put).await? {
                Ok(()) => {
                    self.metrics.dead_letters.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => {
                    let error = Error::DeadLetter(error);
                    self.pause(&mut pauses, &error, "dead letter is tried again")
                        .await?;
                }
            }
        }
    }

    /// Waits before another try; ends early when there is no more reason to try.
    pub(crate) async fn pause(
        &self,
        pauses: &mut Pauses,
        error: &Error,
        what: &'static str,
    ) -> Result<(), Halt> {
        self.go_on()?;
        let error = chain(error);
        let pause = pauses.next();
        warn!(sink = %self.sink, pause_ms = pause.as_millis(), error, "{what}");
        self.metrics.failed(Some(error));
        self.metrics.retries.fetch_add(1, Ordering::Relaxed);
        self.unless_it_ends(tokio::time::sleep(pause)).await
    }

    /// Waits for something that may take long and may be left at any point, as long as there is a
    /// reason to.
    pub(crate) async fn unless_it_ends<T>(&self, long: impl Future<Output = T>) -> Result<T, Halt> {
        let mut long = std::pin::pin!(long);
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut long).await {
                Ok(done) => return Ok(done),
                Err(_) => self.go_on()?,
            }
        }
    }

    /// Fails when the partitions were taken away or the sink stops.
    pub(crate) fn go_on(&self) -> Result<(), Halt> {
        let stale = self.shared.generation.load(Ordering::Acquire) != self.generation;
        if stale || is_told(&self.stop) {
            return Err(Halt::Dropped);
        }
        Ok(())
    }
}

/// A record that a projection cannot read, found in its batch.
struct Rejected {
    at: Option<usize>,
    reason: String,
}

impl Rejected {
    fn among(records: &[Message], range: &Range<usize>, reject: Reject) -> Self {
        let of = |m: &Message| {
            (m.offset, m.partition, &m.topic) == (reject.offset, reject.partition, &reject.topic)
        };
        Self {
            at: range.clone().find(|&at| of(&records[at])),
            reason: chain(&*reject.error),
        }
    }
}

/// Keeps a dead letter's origin and reason in the table of dead letters.
fn note(sink: &str, message: &Message, reason: &str, out: &mut Output) {
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    out.changes.put(
        &progress::LETTERS,
        [
            sink.into(),
            message.topic.clone().into(),
            message.partition.into(),
            message.offset.into(),
            reason.into(),
        ],
    );
}

fn project(
    projections: &[Arc<dyn Projection>],
    records: &[Message],
    range: Range<usize>,
    skip: &HashMap<usize, String>,
    out: &mut Output,
) {
    for projection in projections {
        let topics = projection.topics();
        let batch: Vec<&Message> = range
            .clone()
            .filter(|at| !skip.contains_key(at))
            .map(|at| &records[at])
            .filter(|record| topics.contains(&record.topic))
            .collect();
        if !batch.is_empty() {
            projection.project(&batch, out);
        }
    }
}
