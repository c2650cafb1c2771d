//! `FlushJob`: writes the committed layer to the base, in the background.

use std::sync::Arc;

use crate::{
    Result,
    committed::{Committed, Overlay},
};

/// What a flush has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Entries written or deleted, those of the stores only.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// One flush of a task. Runs on any thread, beside the task; dropped without being run, it is as if it had
/// failed.
///
/// The job keeps the base open, so a task's directory can be opened again only when it has ended.
#[must_use = "a flush that is not run writes nothing"]
pub struct FlushJob {
    committed: Arc<Committed>,
    entries: Arc<Overlay>,
    reserved: Arc<Vec<(Vec<u8>, Vec<u8>)>>,
    done: bool,
}

impl FlushJob {
    pub(crate) fn begin(committed: &Arc<Committed>) -> Option<Self> {
        let (entries, reserved) = committed.begin_flush()?;
        Some(Self { committed: committed.clone(), entries, reserved, done: false })
    }

    /// Writes entries and changelog positions in one atomic ingest.
    ///
    /// # Errors
    /// When the base cannot be written. Nothing is lost: the next flush tries the same again.
    pub fn run(mut self) -> Result<FlushReport> {
        let mut report = FlushReport::default();
        let first_live = self.committed.first_live();
        let reserved =
            self.reserved.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        // A window that has expired on its way is never written. An older version of it that the base may
        // have is hidden by its time and dropped with time.
        let entries = self.entries.iter().filter(|(key, _)| !first_live.is_expired(key));
        let entries = entries.map(|(key, value)| {
            let value = value.as_deref();
            report.entries += 1;
            report.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            (&key[..], value)
        });
        self.committed.base().ingest(&mut reserved.chain(entries))?;
        self.done = true;
        Ok(report)
    }
}

impl Drop for FlushJob {
    fn drop(&mut self) {
        self.committed.end_flush(self.done);
    }
}
