//! Instances of one application on a simulated log, stepped by the test: time moves, and parts
//! work, only when it says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Appender, Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    sim::{SimClient, SimConfig, SimLog},
};
use millstream_operators::Topology;
use millstream_runtime::{Bases, Config, Health, Part, Stepped, WallClock};
use millstream_state::{ByteStore, MemoryBytes};
use millstream_topology::{Headers, Result, TaskId, partition_for_key};

pub(crate) const PARTITIONS: u32 = 2;
pub(crate) const APP: &str = "app";
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// More than anything here takes.
const TICKS_MAX: u32 = 5_000;

/// The log's time.
struct Clock(SimLog, SimClient);

impl WallClock for Clock {
    fn now_ms(&self) -> i64 {
        self.1.now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.0.now()
    }

    fn wait(&self, _: Duration) {}
}

/// A disk in memory.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<BTreeMap<TaskId, Arc<MemoryBytes>>>>);

/// What a disk has, by task.
pub(crate) type Content = BTreeMap<TaskId, Vec<(Bytes, Bytes)>>;

/// Where a base keeps when its stores were level with their changelogs.
const LEVELS: &[u8] = &[0, 0, 3];

impl Disk {
    /// All that it has, but the times at which stores were level with their changelogs, which are
    /// each machine's own.
    pub(crate) fn content(&self) -> Content {
        let bases = self.0.lock().expect("no panic");
        let all = |base: &MemoryBytes| {
            let entries = base.scan(&[], None).expect("memory is read");
            entries
                .map(|entry| entry.expect("memory is read"))
                .filter(|(key, _)| !key.starts_with(LEVELS))
                .collect()
        };
        bases.iter().map(|(id, base)| (*id, all(base))).collect()
    }
}

impl Bases for Disk {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        let mut bases = self.0.lock().expect("no panic");
        Ok(bases.entry(task).or_default().clone())
    }

    fn wipe(&self, task: TaskId) -> Result<()> {
        panic!("nothing is damaged. task={task}")
    }
}

pub(crate) struct Instance {
    pub(crate) app: Stepped,
    pub(crate) disk: Disk,
    client: SimClient,
    /// Its standbys do not work.
    pub(crate) is_held: bool,
    /// It does not process.
    pub(crate) is_paused: bool,
}

pub(crate) struct Instances {
    pub(crate) log: SimLog,
    pub(crate) all: Vec<Instance>,
    appender: Arc<dyn Appender>,
}

impl Instances {
    /// Starts two of them, which have a standby of each other's tasks.
    pub(crate) fn start(topology: &Topology, topics: &[&str]) -> Self {
        let log = SimLog::new(1, SimConfig::default());
        let outside = log.client("outside");
        let topic = |name: &&str| NewTopic {
            name: (*name).into(),
            partitions: PARTITIONS,
            cleanup: Cleanup::Delete { retention_ms: None },
        };
        let topics: Vec<NewTopic> = topics.iter().map(topic).collect();
        let admin = outside.admin().expect("admin");
        admin.create_topics(&topics).expect("created");
        let all = ["first", "second"].map(|name| {
            let client = log.client(name);
            let mut config = Config::new(APP, "unused");
            config.instance_id = name.to_owned();
            config.endpoint = Some(format!("{name}:1"));
            config.num_standby_replicas = 1;
            let clock = Arc::new(Clock(log.clone(), client.clone()));
            let broker = Arc::new(client.clone());
            let disk = Disk::default();
            let bases = Box::new(disk.clone());
            Instance {
                app: Stepped::open(topology, broker, config, clock, bases).expect("opens"),
                disk,
                client,
                is_held: false,
                is_paused: false,
            }
        });
        Self {
            all: all.into(),
            appender: outside.appender().expect("appender"),
            log,
        }
    }

    /// Appends a record; it is there after the next tick.
    pub(crate) fn append(&self, topic: &str, key: &str, value: &[u8]) {
        let partition = partition_for_key(key.as_bytes(), PARTITIONS);
        let record = OwnedRecord {
            to: TopicPartition::new(topic, partition),
            timestamp: self.log.now_ms(),
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value)),
            headers: Headers::default(),
        };
        let done = Box::new(|written: millstream_broker::Result<i64>| {
            written.expect("written");
        });
        self.appender.append(record, done).expect("room");
    }

    /// Lets everything work once, first the tasks, then the standbys, and moves the time.
    pub(crate) fn tick(&mut self) {
        for instance in self.all.iter_mut().filter(|i| !i.is_paused) {
            instance.app.step(Part::Thread(0));
            instance.app.step(Part::Flush);
        }
        for instance in &mut self.all {
            instance.app.step(Part::Members);
            if !instance.is_held {
                instance.app.step(Part::Standbys);
            }
        }
        self.log.advance(TICK);
    }

    /// Goes on until something is so.
    #[track_caller]
    pub(crate) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..TICKS_MAX {
            if is_so(self) {
                return;
            }
            self.tick();
        }
        panic!("it does not come to be so");
    }

    /// Both have tasks, and standbys that are level.
    pub(crate) fn are_settled(&self) -> bool {
        self.all.iter().all(|instance| {
            let status = instance.app.status();
            let tasks = status.threads.iter().map(|t| t.tasks.len()).sum::<usize>();
            let standbys = &status.standbys;
            instance.app.health() == Health::Running
                && tasks > 0
                && standbys.len() == tasks
                && standbys.iter().all(|s| s.lag == 0 && s.stale_ms.is_some())
        })
    }

    /// The first one dies.
    pub(crate) fn kill_first(&mut self) {
        let first = self.all.remove(0);
        first.client.kill();
        drop(first.app);
    }
}
