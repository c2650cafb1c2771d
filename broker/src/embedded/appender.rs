//! Appending single records from outside.

use std::sync::Arc;

use super::{
    log::Running,
    queue::{AppendJob, Queue},
};
use crate::{Appended, Appender, Error, OwnedRecord, Result};

/// An appender of the embedded log.
pub(super) struct EmbeddedAppender {
    running: Arc<Running>,
}

impl EmbeddedAppender {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { running }
    }

    fn queue(&self) -> &Queue {
        &self.running.log.queue
    }
}

impl Appender for EmbeddedAppender {
    fn append(&self, record: OwnedRecord, done: Appended) -> Result<()> {
        let log = &self.running.log;
        log.check()?;
        let to = log.partition(&record.to)?;
        let len = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        let bytes = len(&record.key) + len(&record.value);
        if bytes > log.config.record_bytes {
            return Err(Error::client(
                format!("appending to `{}`", record.to),
                format!(
                    "record is too large. bytes={bytes}, max={}",
                    log.config.record_bytes
                ),
            ));
        }
        self.queue().append(AppendJob { to, record, done })
    }
}
