//! What an instance's machine has: a clock, and a disk that outlives its processes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::sim::{SimClient, SimLog};
use millstream_runtime::{Bases, Moment, Stage, WallClock};
use millstream_state::{ByteStore, Droppable, Entries, Fault, MemoryBytes, Scan};
use millstream_topology::{Error, Result, TaskId};

use crate::spots::{Act, Watch};

/// The log's time, and what the process has waited beyond it: nobody else moves while it waits.
pub(crate) struct Clock {
    log: SimLog,
    client: SimClient,
    waited_us: AtomicU64,
    stands_at_ms: Option<i64>,
}

impl Clock {
    pub(crate) fn new(log: &SimLog, client: &SimClient) -> Self {
        Self {
            log: log.clone(),
            client: client.clone(),
            waited_us: AtomicU64::new(0),
            stands_at_ms: None,
        }
    }

    /// A clock on which no timer is ever due.
    pub(crate) fn standing(log: &SimLog, client: &SimClient) -> Self {
        Self {
            stands_at_ms: Some(log.now_ms()),
            ..Self::new(log, client)
        }
    }
}

impl WallClock for Clock {
    fn now_ms(&self) -> i64 {
        self.stands_at_ms.unwrap_or_else(|| self.client.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.log.now() + Duration::from_micros(self.waited_us.load(Ordering::Relaxed))
    }

    fn wait(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).expect("nobody waits for years");
        self.waited_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// What a disk has of a task, and who has it open.
#[derive(Default)]
struct Folder {
    bytes: Arc<MemoryBytes>,
    opened: Weak<File>,
}

/// A disk: what was ingested stays, whoever dies.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<BTreeMap<TaskId, Folder>>>);

impl Disk {
    pub(crate) fn of(&self, task: TaskId) -> Option<Arc<MemoryBytes>> {
        let folders = self.0.lock().expect("no panic");
        folders.get(&task).map(|folder| folder.bytes.clone())
    }
}

/// The disk as one process sees it: a dead one writes nothing any more.
pub(crate) struct Mounted {
    pub(crate) disk: Disk,
    pub(crate) client: SimClient,
    pub(crate) watch: Watch,
}

impl Bases for Mounted {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        if self.watch.disk(Act::Open, Moment::Before, task) {
            self.client.kill();
        }
        alive(&self.client)?;
        let mut folders = self.disk.0.lock().expect("no panic");
        let folder = folders.entry(task).or_default();
        if folder.opened.strong_count() > 0 {
            let source = "another handle has it open".into();
            return Err(Fault::Locked { source }.into());
        }
        let file = Arc::new(File {
            task,
            bytes: folder.bytes.clone(),
            client: self.client.clone(),
            watch: self.watch.clone(),
        });
        folder.opened = Arc::downgrade(&file);
        self.watch.opened(task);
        Ok(file)
    }

    fn wipe(&self, task: TaskId) -> Result<()> {
        alive(&self.client)?;
        self.disk.0.lock().expect("no panic").remove(&task);
        Ok(())
    }

    fn passes(&self, stage: Stage, moment: Moment, task: Option<TaskId>) {
        // The dead do nothing that counts.
        if self.client.lives() && self.watch.stage(stage, moment, task) {
            self.client.kill();
        }
    }
}

struct File {
    task: TaskId,
    bytes: Arc<MemoryBytes>,
    client: SimClient,
    watch: Watch,
}

fn failed(why: &str) -> Error {
    let source = why.into();
    Fault::Io { source }.into()
}

fn alive(client: &SimClient) -> Result<()> {
    match client.lives() {
        true => Ok(()),
        false => Err(failed("the process is dead")),
    }
}

impl ByteStore for File {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.bytes.get(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Result<Scan<'_>> {
        self.bytes.scan(from, to)
    }

    fn ingest(&self, entries: &mut Entries<'_>) -> Result<()> {
        if self.watch.disk(Act::Write, Moment::Before, self.task) {
            self.client.kill();
        }
        alive(&self.client)?;
        if self.watch.disk_is_full() {
            return Err(failed("no space left on device"));
        }
        self.bytes.ingest(entries)?;
        if self.watch.disk(Act::Write, Moment::After, self.task) {
            self.client.kill();
        }
        Ok(())
    }

    fn set_droppable(&self, droppable: Droppable) {
        self.bytes.set_droppable(droppable);
    }

    fn approximate_entries(&self) -> u64 {
        self.bytes.approximate_entries()
    }
}
