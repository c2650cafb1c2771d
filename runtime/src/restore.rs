//! Restoring: bringing the stores of newly given tasks up to their changelogs before the first
//! record.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millstream_broker::{Admin, Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_operators::{Entry, RawRecord, Refill};
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{info, warn};

use crate::{internal_topics::changelog_name, task::Task};

/// Records read in one go.
pub(crate) const BATCH_RECORDS: usize = 20_000;
/// How long one step waits for records.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// A restore that reads nothing for this long, with records left, says so.
const STALLED_AFTER: Duration = Duration::from_secs(30);

struct Item {
    task: TaskId,
    /// How records become entries, of a store that is restored from an input.
    refill: Option<Refill>,
    store: usize,
    name: String,
    partition: TopicPartition,
    position: i64,
    target: i64,
    replayed: u64,
    done: bool,
}

/// The restore of one or more tasks, all their changelogs read at once.
pub(crate) struct Restoration {
    reader: Box<dyn Reader>,
    items: Vec<Item>,
    started: Duration,
    progress: Duration,
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
        now: Duration,
    ) -> Result<Self> {
        let mut items = Vec::new();
        for task in ids.iter().filter_map(|id| tasks.get(id)) {
            for (store, name) in task.logged_stores().enumerate() {
                let Some(name) = name else { continue };
                let topic = changelog_name(application_id, name);
                let partition = TopicPartition::new(topic, task.id.partition);
                let stored = task.state.position(store);
                let (position, target) = begins_at(admin, &partition, task.id, name, stored)?;
                items.push(Item {
                    task: task.id,
                    refill: None,
                    store,
                    name: name.to_owned(),
                    partition,
                    position,
                    target,
                    replayed: 0,
                    done: false,
                });
            }
            for item in Self::from_inputs(admin, task)? {
                items.push(item);
            }
        }
        let starts: Vec<(TopicPartition, Start)> = items
            .iter()
            .map(|i| (i.partition.clone(), Start::Offset(i.position)))
            .collect();
        reader.assign(&starts)?;
        Ok(Self {
            reader,
            items,
            started: now,
            progress: now,
            fetched: Vec::new(),
        })
    }

    /// The stores of a task that are restored from its inputs. What lies behind the committed
    /// offset is still to be processed, so the restore ends there.
    fn from_inputs(admin: &dyn Admin, task: &Task) -> Result<Vec<Item>> {
        let names: Vec<String> = task.store_names().map(str::to_owned).collect();
        let mut items = Vec::new();
        for (store, refill, queue) in task.refills() {
            let partition = TopicPartition::new(queue.topic.clone(), queue.partition);
            let ends = admin.watermarks(&partition)?;
            let target = queue.committed_offset().unwrap_or(0).min(ends.high);
            let stored = task.state.position(store);
            if let Some(at) = stored.filter(|at| *at > target) {
                return Err(ahead(task.id, &names[store], at, target));
            }
            items.push(Item {
                task: task.id,
                refill: Some(refill.clone()),
                store,
                name: names[store].clone(),
                partition,
                position: stored.unwrap_or(0).max(ends.low),
                target,
                replayed: 0,
                done: false,
            });
        }
        Ok(items)
    }

    /// Reads and applies a batch.
    pub(crate) fn step(&mut self, tasks: &mut BTreeMap<TaskId, Task>, now: Duration) -> Result<()> {
        if self.items.iter().any(|i| !i.done && i.position < i.target) {
            self.fetched.clear();
            self.reader
                .poll(POLL_WAIT, BATCH_RECORDS, &mut self.fetched)?;
            self.apply(tasks, now)?;
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
                self.progress = now;
            }
            item.position = position.max(item.position);
            if item.position >= item.target {
                item.done = true;
                let task = tasks.get_mut(&item.task).expect("a restoring task is open");
                task.state
                    .restore(item.store, &mut std::iter::empty(), item.position)?;
                task.replayed.insert(item.name.clone(), item.replayed);
                info!(
                    task = %item.task, store = item.name, replayed = item.replayed,
                    position = item.position, took_ms = (now - self.started).as_millis() as u64,
                    "store is up to date"
                );
            }
        }
        if now - self.progress > STALLED_AFTER && !self.is_done() {
            self.progress = now;
            let stuck: Vec<String> = self
                .items
                .iter()
                .filter(|i| !i.done)
                .map(|i| format!("{} at {} of {}", i.partition, i.position, i.target))
                .collect();
            warn!(
                changelogs = stuck.join(", "),
                "restore makes no progress; is a transaction open on these changelogs?"
            );
        }
        Ok(())
    }

    fn apply(&mut self, tasks: &mut BTreeMap<TaskId, Task>, now: Duration) -> Result<()> {
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
            item.position = item.position.max(next);
            self.progress = now;
        }
        Ok(())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.items.iter().all(|i| i.done)
    }

    /// Changelog records that a task still has to read.
    pub(crate) fn remaining(&self, task: TaskId) -> i64 {
        let of_task = self.items.iter().filter(|i| i.task == task);
        of_task.map(|i| (i.target - i.position).max(0)).sum()
    }
}

/// Where reading a changelog begins for a store that stands at `stored`, and where the changelog
/// ends now.
pub(crate) fn begins_at(
    admin: &dyn Admin,
    partition: &TopicPartition,
    task: TaskId,
    store: &str,
    stored: Option<i64>,
) -> Result<(i64, i64)> {
    let ends = admin.watermarks(partition)?;
    if let Some(at) = stored.filter(|at| *at > ends.high) {
        return Err(ahead(task, store, at, ends.high));
    }
    // What lies before the oldest record has expired, so nothing is missed.
    Ok((stored.unwrap_or(0).max(ends.low), ends.high))
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
pub(crate) struct Ahead {
    pub(crate) task: TaskId,
    store: String,
    position: i64,
    high: i64,
}

impl Ahead {
    /// The one that an error of [`Restoration::begin`] was made of.
    pub(crate) fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error).and_then(|source| source.downcast_ref())
    }
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
