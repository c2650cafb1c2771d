//! A simulated log for a test, with machines whose disks outlive their processes: time passes only
//! when the test says so.

#![allow(dead_code, reason = "hardly any test needs all of it")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Admin, Appender, Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    sim::{SimClient, SimConfig, SimLog},
};
use millstream_operators::Topology;
use millstream_runtime::{Bases, Config, Health, Part, Stepped, WallClock};
use millstream_state::{ByteStore, MemoryBytes};
use millstream_topology::{Headers, Result, TaskId, partition_for_key};

/// The application's id.
pub(crate) const APP: &str = "app";
/// Virtual time within which a condition must come true.
const DEADLINE: Duration = Duration::from_secs(600);
/// Virtual time of one turn.
const TURN: Duration = Duration::from_millis(20);

/// A log, and who writes its inputs.
pub(crate) struct Bed {
    pub(crate) log: SimLog,
    pub(crate) admin: Arc<dyn Admin>,
    feeder: Arc<dyn Appender>,
    partitions: u32,
}

/// Where an instance runs, again and again.
#[derive(Default)]
pub(crate) struct Machine {
    name: &'static str,
    disk: Disk,
    /// How far its clock is from the right time.
    pub(crate) skew_ms: Arc<AtomicI64>,
}

/// What a disk has of each task.
type Disk = Arc<Mutex<BTreeMap<TaskId, Arc<MemoryBytes>>>>;

impl Machine {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Takes away the times that stores keep, as if an earlier version had written them.
    pub(crate) fn forget_times(&self) {
        let disk = self.disk.lock().expect("no panic");
        for bytes in disk.values() {
            let times = bytes.scan(&[0, 0, 3], Some(&[0, 0, 4])).expect("reads");
            let times: Vec<Bytes> = times.map(|entry| entry.expect("reads").0).collect();
            assert!(!times.is_empty(), "there are times");
            let mut gone = times.iter().map(|key| (&key[..], None));
            bytes.ingest(&mut gone).expect("written");
        }
    }
}

impl Bed {
    pub(crate) fn new(config: SimConfig, topics: &[&str], partitions: u32) -> Self {
        let log = SimLog::new(1, config);
        let client = log.client("test");
        let admin = client.admin().expect("admin");
        let topic = |name: &&str| NewTopic {
            name: (*name).into(),
            partitions,
            cleanup: Cleanup::Delete { retention_ms: None },
        };
        let topics: Vec<NewTopic> = topics.iter().map(topic).collect();
        admin.create_topics(&topics).expect("created");
        Self {
            log,
            admin,
            feeder: client.appender().expect("appender"),
            partitions,
        }
    }

    /// Starts an instance on a machine; nothing happens before the test lets it work.
    pub(crate) fn start(
        &self,
        topology: &Topology,
        machine: &Machine,
        configure: impl FnOnce(&mut Config),
    ) -> Stepped {
        let client = self.log.client(machine.name);
        let mut config = Config::new(APP, "unused");
        config.instance_id = machine.name.to_owned();
        config.session_timeout = Duration::from_secs(6);
        configure(&mut config);
        let clock = Clock {
            log: self.log.clone(),
            client: client.clone(),
            skew_ms: machine.skew_ms.clone(),
            waited_us: AtomicU64::new(0),
        };
        let bases = Box::new(Mounted(machine.disk.clone()));
        let app = Stepped::open(topology, Arc::new(client), config, Arc::new(clock), bases);
        app.expect("opens")
    }

    /// Appends a record, which is written with the next turn.
    pub(crate) fn append(&self, topic: &str, key: &str, value: Option<&str>) {
        let partition = partition_for_key(key.as_bytes(), self.partitions);
        let record = OwnedRecord {
            to: TopicPartition::new(topic, partition),
            timestamp: 1,
            key: Some(Bytes::from(key.to_owned())),
            value: value.map(|value| Bytes::from(value.to_owned())),
            headers: Headers::default(),
        };
        let appended = Box::new(|written: millstream_broker::Result<i64>| {
            written.expect("nothing goes wrong");
        });
        self.feeder.append(record, appended).expect("queued");
    }

    /// Lets every part of each instance work once, and a little time pass.
    pub(crate) fn turn(&self, apps: &mut [&mut Stepped]) {
        for app in apps {
            let parts = [Part::Thread(0), Part::Members, Part::Standbys, Part::Flush];
            for part in parts {
                app.step(part);
            }
        }
        self.log.advance(TURN);
    }

    /// Lets instances work until something is so.
    #[track_caller]
    pub(crate) fn until(
        &self,
        apps: &mut [&mut Stepped],
        what: &str,
        mut is_so: impl FnMut(&[&mut Stepped]) -> bool,
    ) {
        let deadline = self.log.now() + DEADLINE;
        while !is_so(apps) {
            assert!(self.log.now() < deadline, "not in time: {what}");
            self.turn(apps);
        }
    }

    /// Lets instances work for so long.
    pub(crate) fn work_for(&self, time: Duration, apps: &mut [&mut Stepped]) {
        let until = self.log.now() + time;
        while self.log.now() < until {
            self.turn(apps);
        }
    }

    /// Until all of them run and have processed everything.
    #[track_caller]
    pub(crate) fn settle(&self, apps: &mut [&mut Stepped], input: &str) {
        self.turn(apps);
        self.until(apps, "all run and have read their input", |apps| {
            apps.iter().all(|app| app.health() == Health::Running) && self.lag(input) == 0
        });
    }

    /// Stops an instance in good order.
    pub(crate) fn stop(&self, mut app: Stepped) {
        app.stop();
        let deadline = self.log.now() + DEADLINE;
        while app.step(Part::Thread(0)) {
            assert!(self.log.now() < deadline, "it does not stop");
            self.log.advance(TURN);
        }
        while app.step(Part::Standbys) || app.step(Part::Flush) {}
    }

    /// How many records of a topic the application has not committed.
    pub(crate) fn lag(&self, topic: &str) -> i64 {
        let partitions = (0..self.partitions).map(|p| TopicPartition::new(topic, p as i32));
        let group = self.log.group(APP);
        let lag = partitions.map(|p| {
            let high = self.admin.watermarks(&p).expect("watermarks").high;
            high - group.offsets.get(&p).copied().unwrap_or(0)
        });
        lag.sum()
    }
}

/// The log's time, and the wrong one that a machine may have.
struct Clock {
    log: SimLog,
    client: SimClient,
    skew_ms: Arc<AtomicI64>,
    waited_us: AtomicU64,
}

impl WallClock for Clock {
    fn now_ms(&self) -> i64 {
        self.client.now_ms() + self.skew_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.log.now() + Duration::from_micros(self.waited_us.load(Ordering::Relaxed))
    }

    fn wait(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).expect("nobody waits for years");
        self.waited_us.fetch_add(us, Ordering::Relaxed);
    }
}

struct Mounted(Disk);

impl Bases for Mounted {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        let mut disk = self.0.lock().expect("no panic");
        Ok(disk.entry(task).or_default().clone())
    }

    fn wipe(&self, task: TaskId) -> Result<()> {
        self.0.lock().expect("no panic").remove(&task);
        Ok(())
    }
}
