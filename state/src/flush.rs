//! `FlushJob`: writes the committed layer to the base, in the background.

use std::sync::Arc;

use crate::{
    Result,
    committed::{Batch, Committed},
};

/// What a flush has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Entries written or deleted, those of the stores only.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// One flush of a task. Runs on any thread, beside the task; dropped without being run, it is as if
/// it had failed.
///
/// The job keeps the base open, so a task's directory can be opened again only when it has ended.
#[must_use = "a flush that is not run writes nothing"]
pub struct FlushJob {
    committed: Arc<Committed>,
    batch: Arc<Batch>,
    done: bool,
}

impl FlushJob {
    pub(crate) fn begin(committed: &Arc<Committed>) -> Option<Self> {
        let batch = committed.begin_flush()?;
        Some(Self {
            committed: committed.clone(),
            batch,
            done: false,
        })
    }

    /// True when the flush before it failed.
    pub fn is_retry(&self) -> bool {
        self.committed.flush_failure().is_some()
    }

    /// Writes entries and changelog positions in one atomic ingest.
    ///
    /// # Errors
    /// When the base cannot be written. Nothing is lost: the next flush tries the same again.
    pub fn run(mut self) -> Result<FlushReport> {
        let mut report = FlushReport::default();
        let Batch {
            entries,
            reserved,
            first_kept,
        } = &*self.batch;
        let reserved = reserved
            .iter()
            .map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        // A window that expires by the time this very ingest carries is not written. An older
        // version of it that the base may have is hidden by that time too, and the base drops it
        // sooner or later.
        let entries = entries
            .iter()
            .filter(|(key, _)| !first_kept.is_expired(key));
        let entries = entries.map(|(key, value)| {
            let value = value.as_deref();
            report.entries += 1;
            report.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            (&key[..], value)
        });
        let written = self.committed.base().ingest(&mut reserved.chain(entries));
        let failure = written.as_ref().err().map(|error| error.chain().into());
        self.committed.set_flush_failure(failure);
        written?;
        self.done = true;
        Ok(report)
    }
}

impl Drop for FlushJob {
    fn drop(&mut self) {
        self.committed.end_flush(self.done);
    }
}
