//! A task on a base that outlives it, with a changelog that is truth: restarts and crashes by the
//! call.

use std::{collections::HashMap, sync::Arc};

use millstream_state::{
    ByteStore, FlushJob, MemoryBytes, Result, RocksBytes, RocksShared, StoreDefinition, TaskState,
};
use proptest::test_runner::Config as ProptestConfig;
use tempfile::TempDir;

/// So many cases. A case that failed is kept as a test of its own, not as a seed.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Key, value, timestamp.
type LogRecord = (Vec<u8>, Option<Vec<u8>>, i64);

enum Disk {
    Memory(Arc<MemoryBytes>),
    Rocks(TempDir, RocksShared),
}

pub(crate) struct Harness {
    definitions: Vec<Arc<dyn StoreDefinition>>,
    disk: Disk,
    log: HashMap<usize, Vec<LogRecord>>,
    state: Option<TaskState>,
    flush: Option<FlushJob>,
}

impl Harness {
    pub(crate) fn in_memory(definitions: Vec<Arc<dyn StoreDefinition>>) -> Self {
        Self::on(Disk::Memory(Arc::default()), definitions)
    }

    pub(crate) fn on_disk(definitions: Vec<Arc<dyn StoreDefinition>>) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        Self::on(
            Disk::Rocks(dir, RocksShared::new(0).expect("shared cache")),
            definitions,
        )
    }

    fn on(disk: Disk, definitions: Vec<Arc<dyn StoreDefinition>>) -> Self {
        let mut harness = Self {
            definitions,
            disk,
            log: HashMap::new(),
            state: None,
            flush: None,
        };
        harness.restart().expect("opens");
        harness
    }

    pub(crate) fn state(&mut self) -> &mut TaskState {
        self.state.as_mut().expect("the task is open")
    }

    pub(crate) fn commit(&mut self) -> Result<()> {
        let state = self.state.as_mut().expect("the task is open");
        let log = &mut self.log;
        state.write_changelog(&mut |store, key, value, timestamp| {
            let record = (key.to_vec(), value.map(<[u8]>::to_vec), timestamp);
            log.entry(store).or_default().push(record);
            Ok(())
        })?;
        let ends = log
            .iter()
            .map(|(store, records)| (*store, records.len() as i64));
        state.commit(&ends.collect::<Vec<_>>())
    }

    /// Aborts after the changelog was written, as when the log refuses the transaction.
    pub(crate) fn fail_commit(&mut self) -> Result<()> {
        self.state().write_changelog(&mut |_, _, _, _| Ok(()))?;
        self.state().abort();
        Ok(())
    }

    pub(crate) fn begin_flush(&mut self) {
        if self.flush.is_none() {
            self.flush = self.state().start_flush();
        }
    }

    pub(crate) fn end_flush(&mut self) -> Result<()> {
        self.flush
            .take()
            .map_or(Ok(()), |job| job.run().map(|_| ()))
    }

    /// The flush comes to nothing.
    pub(crate) fn lose_flush(&mut self) {
        self.flush = None;
    }

    /// As after a crash: what was not flushed comes from the changelog's tail.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.flush = None;
        self.state = None;
        let base: Arc<dyn ByteStore> = match &self.disk {
            Disk::Memory(base) => base.clone(),
            Disk::Rocks(dir, shared) => Arc::new(RocksBytes::open(dir.path(), shared)?),
        };
        let mut state = TaskState::open(base, &self.definitions)?;
        for (store, records) in &self.log {
            let from = state.position(*store).unwrap_or(0) as usize;
            let tail = records[from..]
                .iter()
                .map(|(key, value, timestamp)| (&key[..], value.as_deref(), *timestamp));
            state.restore(*store, &mut tail.into_iter(), records.len() as i64)?;
        }
        self.state = Some(state);
        Ok(())
    }
}
