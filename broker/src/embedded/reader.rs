//! Reading outside any group.

use std::{sync::Arc, time::Duration};

use super::{
    fetcher::{Fetcher, OutOfRange},
    log::Running,
    signal::Signal,
};
use crate::{Fetched, PartitionIx, Reader, Result, Start, TopicPartition};

/// How long a reader waits at most before it looks whether its log still works.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A reader of the embedded log.
pub(super) struct EmbeddedReader {
    running: Arc<Running>,
    signal: Arc<Signal>,
    fetcher: Fetcher,
}

impl EmbeddedReader {
    pub(super) fn new(running: Arc<Running>) -> Self {
        let signal = Arc::new(Signal::default());
        Self {
            fetcher: Fetcher::new(OutOfRange::Fail, signal.clone()),
            running,
            signal,
        }
    }
}

impl Reader for EmbeddedReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        self.running.log.check()?;
        self.fetcher.assign(&self.running.log, partitions)
    }

    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<()> {
        let clock = self.running.log.config.clock.clone();
        let began = clock.instant();
        let before = into.len();
        loop {
            self.running.log.check()?;
            self.signal.silence();
            self.fetcher.fetch(&self.running.log, limit, into)?;
            let left = wait.saturating_sub(clock.instant() - began);
            if into.len() > before || left.is_zero() {
                return Ok(());
            }
            self.signal.wait(left.min(WAIT_MAX));
        }
    }

    fn position(&mut self, partition: PartitionIx) -> Result<i64> {
        self.fetcher.position(partition)
    }
}
