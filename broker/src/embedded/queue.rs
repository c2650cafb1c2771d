//! What waits for the log's writer.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use crossbeam_channel::Sender;

use super::{
    block::{Block, Draft},
    group::{CommitPass, Group},
    layout::Cleaned,
    partition::{Partition, lock},
};
use crate::{Appended, Error, NewTopic, OwnedRecord, Result};

/// Jobs are taken until they come to so many bytes, then they are written.
const BATCH_BYTES: usize = 16 << 20;

/// Something to write.
pub(super) enum Job {
    Append(AppendJob),
    Commit(CommitJob),
    Edit(Edit, Sender<Result<()>>),
}

/// One record from outside.
pub(super) struct AppendJob {
    pub to: Arc<Partition>,
    pub record: OwnedRecord,
    pub done: Appended,
}

/// A whole transaction.
pub(super) struct CommitJob {
    /// In the order of their offsets within a partition.
    pub drafts: Vec<(Arc<Partition>, Draft)>,
    pub offsets: Option<OffsetsJob>,
    /// Gets the end offset behind each draft.
    pub done: Sender<Result<Vec<i64>>>,
}

/// Offsets of a group. The pass keeps the group from answering with older ones meanwhile.
pub(super) struct OffsetsJob {
    pub group: Arc<Group>,
    pub offsets: Vec<(Arc<Partition>, i64)>,
    pub pass: CommitPass,
}

/// A change of anything but the ends of partitions.
pub(super) enum Edit {
    CreateTopics(Vec<NewTopic>),
    DeleteTopics(Vec<String>),
    /// Moves the low watermark up.
    DeleteBefore(Arc<Partition>, i64),
    /// What compaction made of some blocks: only valid as long as the low watermark is `low`.
    Replace {
        partition: Arc<Partition>,
        low: i64,
        remove: Vec<i64>,
        insert: Vec<Block>,
    },
    Cleaned(Arc<Partition>, Cleaned),
}

impl Job {
    fn len(&self) -> usize {
        match self {
            Job::Append(job) => job.len(),
            Job::Commit(job) => job.drafts.iter().map(|(_, draft)| draft.len()).sum(),
            Job::Edit(Edit::Replace { insert, .. }, _) => {
                insert.iter().map(|block| block.bytes.len()).sum()
            }
            Job::Edit(..) => 0,
        }
    }

    /// Answers that it was not done.
    pub(super) fn fail(self, error: Error) {
        match self {
            Job::Append(job) => (job.done)(Err(error)),
            Job::Commit(job) => drop(job.done.send(Err(error))),
            Job::Edit(_, done) => drop(done.send(Err(error))),
        }
    }
}

impl AppendJob {
    /// About how much memory it takes while it waits.
    fn len(&self) -> usize {
        let len = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        let headers: usize = self
            .record
            .headers
            .iter()
            .map(|header| header.name.len() + len(&header.value))
            .sum();
        size_of::<Self>() + len(&self.record.key) + len(&self.record.value) + headers
    }
}

/// The queue between all clients and the writer.
///
/// Appends are bounded by number and bytes. Commits and edits need no bound: each comes from a
/// client that waits for the answer, and holds memory that is bounded there.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    append_records_max: usize,
    append_bytes_max: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    append_records: usize,
    append_bytes: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(append_records_max: usize, append_bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            append_records_max,
            append_bytes_max,
        }
    }

    /// Adds an append, or says at once that there are too many.
    pub(super) fn append(&self, job: AppendJob) -> Result<()> {
        let bytes = job.len();
        let mut state = lock(&self.state);
        let full = state.append_records >= self.append_records_max
            || (state.append_bytes + bytes > self.append_bytes_max && state.append_records > 0);
        if full {
            return Err(Error::Full);
        }
        if state.closed {
            return Err(closed());
        }
        state.append_records += 1;
        state.append_bytes += bytes;
        self.push(state, Job::Append(job));
        Ok(())
    }

    /// Adds a job of a client that waits for its answer.
    pub(super) fn submit(&self, job: Job) -> Result<()> {
        let state = lock(&self.state);
        if state.closed {
            return Err(closed());
        }
        self.push(state, job);
        Ok(())
    }

    fn push(&self, mut state: std::sync::MutexGuard<'_, State>, job: Job) {
        let was_empty = state.jobs.is_empty();
        state.jobs.push_back(job);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Waits for jobs, at most so long, and moves a batch of them over. False when the queue is
    /// closed and empty.
    pub(super) fn take(&self, wait: Option<Duration>, into: &mut Vec<Job>) -> bool {
        let state = lock(&self.state);
        let nothing = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let mut state = match wait {
            None => {
                let waited = self.filled.wait_while(state, nothing);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
            Some(wait) => {
                let waited = self.filled.wait_timeout_while(state, wait, nothing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some(job) = state.jobs.pop_front() else {
                break;
            };
            let len = job.len();
            if let Job::Append(_) = &job {
                state.append_records -= 1;
                state.append_bytes -= len;
            }
            bytes += len;
            into.push(job);
        }
        !into.is_empty() || !state.closed
    }

    /// Takes no more jobs; those that wait are still done.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_all();
    }
}

fn closed() -> Error {
    Error::client("writing", "the log is closed")
}
