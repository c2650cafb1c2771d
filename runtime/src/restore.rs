//! Restoring: bringing the stores of newly given tasks up to their changelogs before the first
//! record.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{Admin, Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_operators::{Entry, RawRecord, Refill};
use millstream_state::TaskState;
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{info, warn};

use crate::{
    clock::WallClock,
    internal_topics::changelog_name,
    old_state::{Ages, Stored, TooOld},
    status::RestoreStats,
    task::Task,
};

/// Records read in one go.
pub(crate) const BATCH_RECORDS: usize = 20_000;
/// How long one step waits for records.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// After so long without progress a wait says what it waits for, and again each time.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(30);

struct Item {
    task: TaskId,
    /// How records become entries, of a store that is restored from an input.
    refill: Option<Refill>,
    store: usize,
    name: String,
    partition: TopicPartition,
    position: i64,
    target: i64,
    /// The store knew nothing.
    from_scratch: bool,
    replayed: u64,
    done: bool,
    /// When it last came nearer to its target.
    progress: Duration,
}

impl Item {
    /// Nothing has come for a while, although records are left.
    fn is_stuck(&self, now: Duration) -> bool {
        !self.done && now.saturating_sub(self.progress) >= STUCK_AFTER
    }
}

/// What became of the beginning of a restore.
pub(crate) enum Begun {
    /// It goes on step by step.
    Restores(Restoration),
    /// The state of these tasks must be thrown away first, for these reasons.
    Unusable(Vec<(TaskId, Error)>),
}

impl Item {
    fn remaining(&self) -> i64 {
        (self.target - self.position).max(0)
    }
}

/// The restore of one or more tasks, all their changelogs read at once.
pub(crate) struct Restoration {
    reader: Box<dyn Reader>,
    items: Vec<Item>,
    /// The wall clock's time, taken before the targets: who has reached them was level at it.
    level_ms: i64,
    started: Duration,
    /// When it was last said that something is stuck.
    told: Duration,
    fetched: Vec<Fetched>,
}

impl Restoration {
    /// Starts to restore these tasks from where each store stands.
    ///
    /// The target is the changelog's end, open transactions included, and it is met by position,
    /// not by record: aborted records and markers take offsets too, and a reader that stopped at
    /// the last stable offset would miss what a dead owner had committed.
    pub(crate) fn begin(
        mut reader: Box<dyn Reader>,
        admin: &dyn Admin,
        application_id: &str,
        tasks: &BTreeMap<TaskId, Task>,
        ids: &BTreeSet<TaskId>,
        clock: &dyn WallClock,
    ) -> Result<Begun> {
        let now = clock.monotonic();
        let mut ages = Ages::new(admin, clock);
        let (mut items, mut unusable) = (Vec::new(), Vec::new());
        for task in ids.iter().filter_map(|id| tasks.get(id)) {
            let of_task = Self::from_changelogs(admin, &mut ages, application_id, task, now)
                .and_then(|mut items| {
                    items.append(&mut Self::from_inputs(admin, &mut ages, task, now)?);
                    Ok(items)
                });
            match of_task {
                Ok(mut of_task) => items.append(&mut of_task),
                Err(error) if is_unusable(&error) => unusable.push((task.id, error)),
                Err(error) => return Err(error),
            }
        }
        if !unusable.is_empty() {
            return Ok(Begun::Unusable(unusable));
        }
        // What is read from the beginning has learnt by now of all deletions so far: their keys are
        // there no more, or their tombstones still are.
        for item in items.iter().filter(|item| item.from_scratch) {
            let task = tasks.get(&item.task).expect("a restoring task is open");
            task.state.set_level(item.store, ages.now_ms());
        }
        let starts: Vec<(TopicPartition, Start)> = items
            .iter()
            .map(|i| (i.partition.clone(), Start::Offset(i.position)))
            .collect();
        reader.assign(&starts)?;
        Ok(Begun::Restores(Self {
            reader,
            items,
            level_ms: ages.now_ms(),
            started: now,
            told: now,
            fetched: Vec::new(),
        }))
    }

    /// The stores of a task that are restored from changelogs.
    fn from_changelogs(
        admin: &dyn Admin,
        ages: &mut Ages<'_>,
        application_id: &str,
        task: &Task,
        now: Duration,
    ) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (store, name) in task.logged_stores().enumerate() {
            let Some(name) = name else { continue };
            let topic = changelog_name(application_id, name);
            let partition = TopicPartition::new(topic, task.id.partition);
            let stored = stored(&task.state, store);
            let (position, target) = begins_at(admin, ages, &partition, task.id, name, stored)?;
            items.push(Item {
                task: task.id,
                refill: None,
                store,
                name: name.to_owned(),
                partition,
                position,
                target,
                from_scratch: stored.position.is_none(),
                replayed: 0,
                done: false,
                progress: now,
            });
        }
        Ok(items)
    }

    /// The stores of a task that are restored from its inputs. What lies behind the committed
    /// offset is still to be processed, so the restore ends there.
    fn from_inputs(
        admin: &dyn Admin,
        ages: &mut Ages<'_>,
        task: &Task,
        now: Duration,
    ) -> Result<Vec<Item>> {
        let names: Vec<String> = task.store_names().map(str::to_owned).collect();
        let mut items = Vec::new();
        for (store, refill, queue) in task.refills() {
            let partition = TopicPartition::new(queue.topic.clone(), queue.partition);
            let committed = queue.committed_offset();
            let ends = match admin.watermarks(&partition) {
                // A topic may have fewer partitions than its sub-topology has tasks.
                Err(millstream_broker::Error::UnknownPartition(_)) if committed.is_none() => {
                    continue;
                }
                ends => ends?,
            };
            let target = committed.unwrap_or(0).min(ends.high);
            let stored = stored(&task.state, store);
            if let Some(at) = stored.position.filter(|at| *at > target) {
                return Err(ahead(task.id, &names[store], at, target));
            }
            let unread = target - stored.position.unwrap_or(target);
            ages.check(&partition, task.id, &names[store], stored, unread)?;
            items.push(Item {
                task: task.id,
                refill: Some(refill.clone()),
                store,
                name: names[store].clone(),
                partition,
                position: stored.position.unwrap_or(0).max(ends.low),
                target,
                from_scratch: stored.position.is_none(),
                replayed: 0,
                done: false,
                progress: now,
            });
        }
        Ok(items)
    }

    /// Reads and applies a batch, which `restored` counts.
    pub(crate) fn step(
        &mut self,
        tasks: &mut BTreeMap<TaskId, Task>,
        restored: &Restored,
        now: Duration,
    ) -> Result<()> {
        if self.items.iter().any(|i| !i.done && i.position < i.target) {
            self.fetched.clear();
            self.reader
                .poll(POLL_WAIT, BATCH_RECORDS, &mut self.fetched)?;
            self.apply(tasks, restored, now)?;
        }
        for (at, item) in self.items.iter_mut().enumerate().filter(|(_, i)| !i.done) {
            let position = match item.position < item.target {
                true => self.reader.position(PartitionIx(at as u32))?,
                false => item.position,
            };
            let position = match item.refill {
                Some(_) => position.min(item.target),
                None => position,
            };
            if position > item.position {
                item.progress = now;
            }
            item.position = position.max(item.position);
            if item.position >= item.target {
                item.done = true;
                let task = tasks.get_mut(&item.task).expect("a restoring task is open");
                task.state
                    .restore(item.store, &mut std::iter::empty(), item.position)?;
                task.state.set_level(item.store, self.level_ms);
                *task.replayed.entry(item.name.clone()).or_default() += item.replayed;
                info!(
                    task = %item.task, store = item.name, replayed = item.replayed,
                    position = item.position, took_ms = (now - self.started).as_millis() as u64,
                    "store is up to date"
                );
            }
        }
        if now.saturating_sub(self.told) >= STUCK_AFTER {
            let stuck: Vec<String> = self.stuck(now).map(|(_, what)| what).collect();
            if !stuck.is_empty() {
                self.told = now;
                let changelogs = stuck.join(", ");
                warn!(
                    changelogs,
                    "restore makes no progress; is a transaction open on these changelogs?"
                );
            }
        }
        Ok(())
    }

    /// It is kept waiting, which is not for a lack of progress.
    pub(crate) fn rest(&mut self, now: Duration) {
        for item in &mut self.items {
            item.progress = now;
        }
    }

    /// The changelogs of which nothing has come for a while, although records are left: with whose
    /// they are, how far they are read, and where they end.
    pub(crate) fn stuck(&self, now: Duration) -> impl Iterator<Item = (TaskId, String)> {
        let stuck = self.items.iter().filter(move |item| item.is_stuck(now));
        stuck.map(|i| {
            let what = format!("{} at {} of {}", i.partition, i.position, i.target);
            (i.task, what)
        })
    }

    fn apply(
        &mut self,
        tasks: &mut BTreeMap<TaskId, Task>,
        restored: &Restored,
        now: Duration,
    ) -> Result<()> {
        self.fetched.sort_by_key(|f| (f.partition, f.offset));
        for batch in self.fetched.chunk_by(|a, b| a.partition == b.partition) {
            let item = &mut self.items[batch[0].partition.0 as usize];
            let task = tasks.get_mut(&item.task).expect("a restoring task is open");
            // An input goes on behind the target, and is read here only up to it.
            let wanted = batch.partition_point(|f| f.offset < item.target);
            let batch = match item.refill {
                Some(_) => &batch[..wanted],
                None => batch,
            };
            let Some(last) = batch.last() else { continue };
            let next = last.offset + 1;
            // A task that was kept over a rebalance, and that another instance has run meanwhile.
            if task.is_started() {
                task.renew();
            }
            match &item.refill {
                None => {
                    let records = &mut changelog_records(batch);
                    task.state.restore(item.store, records, next)?;
                }
                Some(refill) => {
                    let entries = refill_entries(refill, batch);
                    let records = &mut as_records(&entries);
                    task.state.restore(item.store, records, next)?;
                }
            }
            item.replayed += batch.len() as u64;
            restored.add(batch);
            item.position = item.position.max(next);
            item.progress = now;
        }
        Ok(())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.items.iter().all(|i| i.done)
    }

    /// Changelog records that a task still has to read.
    pub(crate) fn remaining(&self, task: TaskId) -> i64 {
        let of_task = self.items.iter().filter(|i| i.task == task);
        of_task.map(Item::remaining).sum()
    }

    /// Changelog records that are still to be read for all tasks.
    pub(crate) fn all_remaining(&self) -> i64 {
        self.items.iter().map(Item::remaining).sum()
    }
}

/// What all restores of an instance have read since it started.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Restored {
    fn add(&self, batch: &[Fetched]) {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len) as u64;
        let bytes = batch.iter().map(|f| len(&f.key) + len(&f.value));
        self.records
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.sum(), Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> RestoreStats {
        RestoreStats {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Where reading a changelog begins for a store that stands at `stored`, and where the changelog
/// ends now.
pub(crate) fn begins_at(
    admin: &dyn Admin,
    ages: &mut Ages<'_>,
    partition: &TopicPartition,
    task: TaskId,
    store: &str,
    stored: Stored,
) -> Result<(i64, i64)> {
    let ends = admin.watermarks(partition)?;
    let Some(at) = stored.position else {
        return Ok((ends.low, ends.high));
    };
    if at > ends.high {
        return Err(ahead(task, store, at, ends.high));
    }
    let unread = ends.high - at - ages.marks();
    ages.check(partition, task, store, stored, unread)?;
    // What lies before the oldest record has expired, so nothing is missed.
    Ok((at.max(ends.low), ends.high))
}

/// How a store stands.
fn stored(state: &TaskState, store: usize) -> Stored {
    Stored {
        position: state.position(store),
        level_ms: state.level_ms(store),
    }
}

/// What records of a changelog say, as stores take it.
pub(crate) fn changelog_records(
    batch: &[Fetched],
) -> impl Iterator<Item = (&[u8], Option<&[u8]>, i64)> {
    let records = batch.iter();
    records.filter_map(|f| Some((f.key.as_deref()?, f.value.as_deref(), f.timestamp)))
}

/// An entry of a store with its time.
pub(crate) type TimedEntry = (Entry, i64);

/// What a record of an input is in a store. One that did not decode was left out when it was
/// processed, and is left out here.
pub(crate) fn entry(refill: &Refill, record: &RawRecord) -> Option<TimedEntry> {
    // A negative time is no time: such records are dropped.
    let entry = refill.entry(record).ok().flatten();
    entry
        .filter(|_| record.timestamp >= 0)
        .map(|entry| (entry, record.timestamp))
}

/// What records of an input are in a store.
pub(crate) fn refill_entries(refill: &Refill, batch: &[Fetched]) -> Vec<TimedEntry> {
    let entries = batch.iter().filter_map(|f| {
        let raw = RawRecord {
            key: f.key.clone(),
            value: f.value.clone(),
            timestamp: f.timestamp,
            headers: f.headers.clone(),
        };
        entry(refill, &raw)
    });
    entries.collect()
}

/// Entries as stores take them.
pub(crate) fn as_records(
    entries: &[TimedEntry],
) -> impl Iterator<Item = (&[u8], Option<&[u8]>, i64)> {
    let entries = entries.iter();
    entries.map(|((key, value), at)| (&key[..], value.as_deref(), *at))
}

/// A store that knows more than its changelog has, which must have been deleted or cut.
#[derive(Debug, thiserror::Error)]
#[error(
    "a store is ahead of its changelog, which must have been deleted or cut. task={task}, \
     store=`{store}`, position={position}, changelog_end={high}"
)]
struct Ahead {
    task: TaskId,
    store: String,
    position: i64,
    high: i64,
}

/// Whether an error says that a store's content does not fit the log, so that it must be thrown
/// away.
fn is_unusable(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<Ahead>() || source.is::<TooOld>())
}

pub(crate) fn ahead(task: TaskId, store: &str, position: i64, high: i64) -> Error {
    let store = store.to_owned();
    let ahead = Ahead {
        task,
        store,
        position,
        high,
    };
    Error::caused(ErrorKind::State, "state does not fit the log", ahead)
}
