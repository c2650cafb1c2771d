//! Standbys on a whole log: they follow, answer stale reads, and become tasks without a replay.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Bases, Config, Health, Part, Stepped, SystemClock};
use millstream_state::{ByteStore, RocksBytes, RocksShared};
use millstream_topology::{
    Headers, KvStore, Result, TaskId, Topic, partition_for_key, text, u64_be,
};

const PARTITIONS: u32 = 3;
const RECORDS: u32 = 3000;
const KEYS: u32 = 100;
const DEADLINE: Duration = Duration::from_secs(60);
const WORDS: Topic<String, String> = Topic::new("words", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());

fn counting() -> Topology {
    let b = StreamsBuilder::new();
    b.stream(WORDS).group_by_key().count(COUNTS);
    b.build().expect("builds")
}

fn log(folder: &Path) -> Arc<dyn Broker> {
    let broker = EmbeddedBroker::open(&folder.join("log"), EmbeddedConfig::default());
    let broker: Arc<dyn Broker> = broker.expect("opens");
    let topic = NewTopic {
        name: WORDS.name().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Delete { retention_ms: None },
    };
    let admin = broker.admin().expect("admin");
    admin.create_topics(&[topic]).expect("created");
    broker
}

fn feed(broker: &dyn Broker) {
    let appender = broker.appender().expect("appender");
    let (sent, done) = std::sync::mpsc::channel();
    for n in 0..RECORDS {
        let key = format!("k{}", n % KEYS);
        let record = OwnedRecord {
            to: TopicPartition::new(WORDS.name(), partition_for_key(key.as_bytes(), PARTITIONS)),
            timestamp: i64::from(n),
            key: Some(Bytes::from(key)),
            value: Some(Bytes::from_static(b"x")),
            headers: Headers::default(),
        };
        let sent = sent.clone();
        let ack = move |result: millstream_broker::Result<i64>| {
            sent.send(result.is_ok()).expect("the test waits");
        };
        appender.append(record, Box::new(ack)).expect("appended");
    }
    drop(sent);
    assert!(done.iter().all(|ok| ok));
}

fn config(folder: &Path, instance: &str) -> Config {
    let mut config = Config::new("app", folder.join(instance));
    config.instance_id = instance.to_owned();
    config.endpoint = Some(format!("{instance}:1"));
    config.session_timeout = Duration::from_secs(6);
    config.num_standby_replicas = 1;
    config
}

/// Disk of an instance that is crashed by being dropped.
struct Folders(std::path::PathBuf, RocksShared);

impl Bases for Folders {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        let folder = self.0.join(task.to_string());
        Ok(Arc::new(RocksBytes::open(&folder, &self.1)?))
    }

    fn wipe(&self, _: TaskId) -> Result<()> {
        panic!("nothing is damaged")
    }
}

#[track_caller]
fn wait(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn tasks(app: &Application) -> usize {
    app.status().threads.iter().map(|t| t.tasks.len()).sum()
}

fn replayed(app: &Application) -> u64 {
    let threads = app.status().threads.into_iter();
    let stores = threads.flat_map(|t| t.tasks).flat_map(|t| t.stores);
    stores.map(|s| s.replayed).sum()
}

fn each_key_is_counted(get: impl Fn(&String) -> Option<u64>) -> bool {
    (0..KEYS).all(|n| get(&format!("k{n}")) == Some(u64::from(RECORDS / KEYS)))
}

#[test]
fn a_standby_answers_stale_reads_and_takes_over_without_replaying() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = log(folder.path());
    let killed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The first instance is stepped, so that it can be dropped in the midst of it all.
        let first = || {
            let root = folder.path().join("first").join("state");
            let shared = RocksShared::new(16 << 20).expect("opens");
            let config = config(folder.path(), "first");
            let clock = Arc::new(SystemClock);
            let bases = Box::new(Folders(root, shared));
            let app = Stepped::open(&counting(), broker.clone(), config, clock, bases);
            let mut app = app.expect("opens");
            while !killed.load(Ordering::Acquire) {
                for part in [Part::Thread(0), Part::Members, Part::Flush, Part::Standbys] {
                    app.step(part);
                }
            }
        };
        let first = scope.spawn(first);
        let second =
            Application::start(&counting(), broker.clone(), config(folder.path(), "second"));
        let second = second.expect("starts");
        wait("both have tasks", || {
            let mine = tasks(&second);
            mine > 0 && mine < PARTITIONS as usize && second.health() == Health::Running
        });
        let theirs = PARTITIONS as usize - tasks(&second);
        feed(&*broker);
        let queries = second.queries();
        let stale = |key: &String| {
            let found = queries.get_stale(&COUNTS, key).ok().flatten();
            found.map(|(count, _)| count)
        };
        wait("stale reads find all", || each_key_is_counted(stale));
        wait("the standbys are up to date", || {
            let standbys = second.status().standbys;
            standbys.len() == theirs && standbys.iter().all(|s| s.lag == 0)
        });
        let active = |key: &String| {
            let found = queries.get(&COUNTS, key).ok().flatten();
            found.map(|(count, _)| count)
        };
        assert!(
            !each_key_is_counted(active),
            "who does not ask for stale reads gets none"
        );
        wait("the other has standbys, too", || {
            let members = second.members().list();
            let first = members.iter().find(|m| m.instance_id == "first");
            first.is_some_and(|m| m.standbys.len() == tasks(&second))
        });

        killed.store(true, Ordering::Release);
        first.join().expect("no panic");
        wait("the second has all", || {
            tasks(&second) == PARTITIONS as usize && second.health() == Health::Running
        });
        assert_eq!(replayed(&second), 0);
        assert!(each_key_is_counted(active));
        wait("nothing is a standby any more", || {
            second.status().standbys.is_empty()
        });
        second.close().expect("closes");
    });
}

#[test]
fn a_standby_that_was_closed_goes_on_from_its_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = log(folder.path());
    feed(&*broker);
    let start = |name: &str| {
        let app = Application::start(&counting(), broker.clone(), config(folder.path(), name));
        app.expect("starts")
    };
    let first = start("first");
    wait("the first runs", || first.health() == Health::Running);
    let second = start("second");
    wait("the standbys are up to date", || {
        let standbys = second.status().standbys;
        let all = tasks(&second) + standbys.len() == PARTITIONS as usize;
        all && !standbys.is_empty() && standbys.iter().all(|s| s.lag == 0)
    });
    // Both end in good order, so that the second is left with its disk alone.
    second.close().expect("closes");
    first.close().expect("closes");
    let second = start("second");
    wait("the second has all", || {
        tasks(&second) == PARTITIONS as usize && second.health() == Health::Running
    });
    assert_eq!(replayed(&second), 0);
    second.close().expect("closes");
}
