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
use millstream_runtime::{Bases, WallClock};
use millstream_state::{ByteStore, Droppable, Entries, Fault, MemoryBytes, Scan};
use millstream_topology::{Error, Result, TaskId};

use crate::chance::Chance;

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

/// Where a process dies beside the log's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskPoint {
    BeforeOpen,
    BeforeIngest,
    AfterIngest,
}

/// What goes wrong with disks: chances in a thousand, or the `nth` pass of a point.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskPlan {
    pub(crate) crash: u64,
    pub(crate) full: u64,
    pub(crate) script: Option<(DiskPoint, u64)>,
}

/// How often each point was passed, and how often the process died there.
pub(crate) type DiskPasses = BTreeMap<DiskPoint, (u64, u64)>;

pub(crate) struct DiskFaults {
    plan: DiskPlan,
    chance: Chance,
    passes: DiskPasses,
}

impl DiskFaults {
    pub(crate) fn new(seed: u64, plan: DiskPlan) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            plan,
            chance: Chance::new(seed ^ 0xd15c),
            passes: BTreeMap::new(),
        }))
    }

    pub(crate) fn stop(&mut self) {
        self.plan = DiskPlan::default();
    }

    pub(crate) fn passes(&self) -> DiskPasses {
        self.passes.clone()
    }

    /// Whether the process dies at this point.
    fn strike(&mut self, point: DiskPoint) -> bool {
        let drawn = self.chance.hits(self.plan.crash);
        let (passed, hit) = self.passes.entry(point).or_default();
        *passed += 1;
        let dies = drawn || self.plan.script == Some((point, *passed));
        *hit += u64::from(dies);
        dies
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
    pub(crate) faults: Arc<Mutex<DiskFaults>>,
}

impl Bases for Mounted {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        if self
            .faults
            .lock()
            .expect("no panic")
            .strike(DiskPoint::BeforeOpen)
        {
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
            bytes: folder.bytes.clone(),
            client: self.client.clone(),
            faults: self.faults.clone(),
        });
        folder.opened = Arc::downgrade(&file);
        Ok(file)
    }

    fn wipe(&self, task: TaskId) -> Result<()> {
        alive(&self.client)?;
        self.disk.0.lock().expect("no panic").remove(&task);
        Ok(())
    }
}

struct File {
    bytes: Arc<MemoryBytes>,
    client: SimClient,
    faults: Arc<Mutex<DiskFaults>>,
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
        let mut faults = self.faults.lock().expect("no panic");
        if faults.strike(DiskPoint::BeforeIngest) {
            self.client.kill();
        }
        alive(&self.client)?;
        let full = faults.plan.full;
        if faults.chance.hits(full) {
            return Err(failed("no space left on device"));
        }
        self.bytes.ingest(entries)?;
        if faults.strike(DiskPoint::AfterIngest) {
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
