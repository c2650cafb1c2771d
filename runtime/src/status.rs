//! What an application tells about itself: threads, tasks, stores, commits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// An application at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Its stream threads.
    pub threads: Vec<ThreadStatus>,
    /// How many stream threads there should be, those that leave not counted.
    pub threads_wanted: usize,
    /// True when it was told to pause. Each thread says when it does.
    pub paused: bool,
    /// How many records each node has taken since the start, by node name.
    pub nodes: BTreeMap<String, u64>,
    /// How often the state of a task was found damaged and was rebuilt from its changelogs, by
    /// task; those to which it happened.
    pub rebuilds: BTreeMap<String, u64>,
    /// What all restores here have read since the start.
    pub restored: RestoreStats,
    /// The tasks of other instances whose stores this one keeps a copy of.
    pub standbys: Vec<StandbyStatus>,
}

impl Status {
    /// Whether all threads that should be there have joined the group, and the stores of all their
    /// tasks are up to date.
    pub fn is_up_to_date(&self) -> bool {
        let staying = || self.threads.iter().filter(|thread| !thread.leaving);
        let running = |thread: &ThreadStatus| {
            let mut tasks = thread.tasks.iter();
            thread.joined && tasks.all(|task| task.phase == TaskPhase::Running)
        };
        staying().count() == self.threads_wanted && staying().all(running)
    }
}

/// What restores have read to bring the stores of tasks up to date, standbys left aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreStats {
    /// Changelog records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// A standby at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StandbyStatus {
    /// The task, as `<sub-topology>_<partition>`.
    pub id: String,
    /// Changelog records that it is behind, aborted ones and markers included.
    pub lag: i64,
    /// How long ago it was level with the task, in milliseconds: it holds at least all that was
    /// committed then. `None` when it never was since it was opened.
    pub stale_ms: Option<u64>,
    /// How far each store's changelog is read.
    pub positions: BTreeMap<String, i64>,
}

/// A stream thread at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ThreadStatus {
    /// Its index.
    pub index: usize,
    /// True once it has joined the group and runs, or restores, what it was given.
    pub joined: bool,
    /// True when it was told to leave: it is about to commit, close its tasks and end.
    pub leaving: bool,
    /// True while it is paused, and all that it has processed is committed.
    pub paused: bool,
    /// Its tasks.
    pub tasks: Vec<TaskStatus>,
    /// Its commits.
    pub commits: CommitStats,
    /// Why it cannot open its tasks, while the disk has no room.
    pub stalled: Option<String>,
    /// What it waits for before its tasks can be restored, when that takes long.
    pub waits_for: Option<String>,
}

impl ThreadStatus {
    /// Why state cannot be written, of the thread or one of its tasks.
    pub(crate) fn stalled_by(&self) -> Option<&str> {
        let tasks = self.tasks.iter().find_map(|task| task.stalled.as_deref());
        self.stalled.as_deref().or(tasks)
    }
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskPhase {
    /// Its stores are being brought up to date.
    #[default]
    Restoring,
    /// It processes records.
    Running,
}

/// A task at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TaskStatus {
    /// `<sub-topology>_<partition>`.
    pub id: String,
    /// What it is doing.
    pub phase: TaskPhase,
    /// Changelog records that are still to be read before it can run.
    pub restore_remaining: i64,
    /// Changelogs of which nothing has come for 30 s although records are left, with how far they
    /// are read and where they end. A transaction is probably open on them, and is waited for.
    pub restore_stuck: Vec<String>,
    /// Records processed since it was opened.
    pub records: u64,
    /// Records that operators had to drop.
    pub dropped: u64,
    /// Records that wait in memory.
    pub buffered: usize,
    /// Greatest event time seen, in milliseconds; -1 before the first record.
    pub stream_time_ms: i64,
    /// Input partitions with the offset of the next record to process.
    pub positions: BTreeMap<String, i64>,
    /// Bytes of committed changes that are not on disk yet.
    pub unwritten_bytes: usize,
    /// Why they could not be written, while that is so. It is tried again; above a bound the task
    /// takes no more records meanwhile.
    pub stalled: Option<String>,
    /// Its stores.
    pub stores: Vec<StoreStatus>,
}

/// A store of a task at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreStatus {
    /// Its name.
    pub name: String,
    /// Changelog offset that its committed content reflects.
    pub position: Option<i64>,
    /// Changelog records that were replayed since the task was opened here.
    pub replayed: u64,
}

/// The commits of a thread since it started.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CommitStats {
    /// How many.
    pub count: u64,
    /// How many transactions were aborted.
    pub aborts: u64,
    /// How often the thread had to join anew.
    pub rejoins: u64,
    /// Records that were set aside or skipped by policy.
    pub failed_records: u64,
    /// Median time of a commit, in microseconds.
    pub p50_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
    /// Sum of all, in microseconds.
    pub sum_us: u64,
}

/// Longest commit that is told apart: ten minutes.
const COMMIT_US_MAX: u64 = 600_000_000;

/// Where a thread counts its commits.
pub(crate) struct CommitTimes {
    histogram: Histogram<u64>,
    pub(crate) stats: CommitStats,
}

impl CommitTimes {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_max(COMMIT_US_MAX, 2).expect("bounds are legal");
        Self {
            histogram,
            stats: CommitStats::default(),
        }
    }

    pub(crate) fn record(&mut self, took: std::time::Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(us);
        self.stats.count += 1;
        self.stats.sum_us += us;
    }

    pub(crate) fn snapshot(&self) -> CommitStats {
        CommitStats {
            p50_us: self.histogram.value_at_quantile(0.5),
            p99_us: self.histogram.value_at_quantile(0.99),
            ..self.stats.clone()
        }
    }
}

/// Where threads publish and others read.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Published>>);

#[derive(Default)]
struct Published {
    threads: BTreeMap<usize, (ThreadStatus, BTreeMap<String, u64>)>,
    standbys: Vec<StandbyStatus>,
}

impl Board {
    pub(crate) fn publish(&self, status: ThreadStatus, nodes: BTreeMap<String, u64>) {
        let mut board = self.0.lock().expect("publishing does not panic");
        board.threads.insert(status.index, (status, nodes));
    }

    /// A thread is gone.
    pub(crate) fn retire(&self, thread: usize) {
        let mut board = self.0.lock().expect("publishing does not panic");
        board.threads.remove(&thread);
    }

    pub(crate) fn publish_standbys(&self, standbys: Vec<StandbyStatus>) {
        self.0.lock().expect("publishing does not panic").standbys = standbys;
    }

    pub(crate) fn read(&self) -> Status {
        let board = self.0.lock().expect("publishing does not panic");
        let mut status = Status {
            standbys: board.standbys.clone(),
            ..Status::default()
        };
        for (thread, nodes) in board.threads.values() {
            status.threads.push(thread.clone());
            for (node, records) in nodes {
                *status.nodes.entry(node.clone()).or_default() += records;
            }
        }
        status
    }
}
