//! What a sink has done and how far it is behind, as plain counters.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

/// Counters of one sink since its start. Read them at any time.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Records whose rows are committed.
    pub records: AtomicU64,
    /// Rows written and deletions made, committed ones.
    pub rows: AtomicU64,
    /// Transactions committed.
    pub batches: AtomicU64,
    /// Transactions tried again.
    pub retries: AtomicU64,
    /// Records set aside.
    pub dead_letters: AtomicU64,
    /// Times that another writer had taken over.
    pub fenced: AtomicU64,
    /// Partitions that this sink writes now.
    pub partitions: AtomicU64,
    /// Records read from the log and not yet written. They are in memory, so reading stops when
    /// they are too many.
    pub waiting: AtomicU64,
    /// Offsets between progress and the end of the log, over all partitions, as last seen. Kafka's
    /// transaction markers take offsets too, so an idle sink may show one for each partition.
    pub lag: AtomicI64,
    /// Records that one transaction takes at most, as adapted last.
    pub batch_records: AtomicU64,
    /// How long the last transaction took, in microseconds.
    pub commit_us: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Metrics {
    /// What went wrong last; nothing when the last transaction was committed.
    pub fn last_error(&self) -> Option<String> {
        let guard = self.last_error.lock();
        guard.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn failed(&self, error: Option<String>) {
        let guard = self.last_error.lock();
        *guard.unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(crate) fn committed(&self, records: usize, rows: usize, commit_us: Option<u64>) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        if let Some(commit_us) = commit_us {
            self.commit_us.store(commit_us, Ordering::Relaxed);
        }
        self.failed(None);
    }
}
