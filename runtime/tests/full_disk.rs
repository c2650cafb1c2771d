//! A disk without room, under the state or under the log: the application says so, loses nothing,
//! stays within its memory, and goes on by itself when there is room.

#![cfg(target_os = "linux")]

#[path = "../../broker/tests/small_disk/mod.rs"]
mod small_disk;
mod wait;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, Health, TaskStatus};
use millstream_topology::{Headers, KvStore, Topic, text};
use small_disk::child_disk;
use wait::{DEADLINE, wait};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const LATEST: KvStore<String, String> = KvStore::new("latest", text(), text());
/// What a task may hold unwritten, and what one transaction may add.
const UNWRITTEN_BYTES: usize = (64 << 20) + 20_000 * 1200;

fn open(dir: &Path) -> Arc<EmbeddedBroker> {
    let broker = EmbeddedBroker::open(dir, EmbeddedConfig::default()).expect("opens");
    let cleanup = Cleanup::Delete { retention_ms: None };
    let topic = NewTopic {
        name: "in".into(),
        partitions: 1,
        cleanup,
    };
    broker
        .admin()
        .expect("admin")
        .create_topics(&[topic])
        .expect("created");
    broker
}

/// Keeps the latest value of each key.
fn latest() -> Topology {
    let b = StreamsBuilder::new();
    b.stream(IN).group_by_key().reduce(LATEST, |_, new| new);
    b.build().expect("builds")
}

fn start(broker: &Arc<EmbeddedBroker>, state: &Path) -> Application {
    let mut config = Config::new("app", state);
    config.flush_interval = Duration::from_millis(100);
    Application::start(&latest(), broker.clone(), config).expect("starts")
}

/// Appends until `from..to` are acknowledged, whatever fails in between.
fn feed(broker: &EmbeddedBroker, from: u64, to: u64, letters: usize) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + DEADLINE;
    let appender = broker.appender().expect("appender");
    let tail = "x".repeat(letters);
    for n in from..to {
        let record = || OwnedRecord {
            to: TopicPartition::new("in", 0),
            timestamp: 0,
            key: Some(Bytes::from(format!("key {n}"))),
            value: Some(Bytes::from(format!("{n} {tail}"))),
            headers: Headers::default(),
        };
        let acknowledged = acknowledged.clone();
        let count = move |result: millstream_broker::Result<i64>| {
            acknowledged.fetch_add(u64::from(result.is_ok()), Ordering::SeqCst);
        };
        while appender.append(record(), Box::new(count.clone())).is_err() {
            assert!(Instant::now() < until, "the log takes nothing");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    wait(|| acknowledged.load(Ordering::SeqCst) == to - from);
}

fn task(app: &Application) -> TaskStatus {
    let threads = app.status().threads;
    let mut tasks = threads.iter().flat_map(|thread| &thread.tasks);
    tasks.next().cloned().unwrap_or_default()
}

fn check(app: &Application, keys: u64) {
    wait(|| app.health() == Health::Running);
    let value = |n: u64| {
        app.queries()
            .get(&LATEST, &format!("key {n}"))
            .ok()
            .flatten()
    };
    wait(|| value(keys - 1).is_some());
    for n in 0..keys {
        let (value, _) = value(n).unwrap_or_else(|| panic!("key {n} is lost"));
        assert!(value.starts_with(&format!("{n} ")));
    }
}

#[test]
fn a_full_state_disk_stalls_within_a_bound_and_is_survived() {
    let test = "a_full_state_disk_stalls_within_a_bound_and_is_survived";
    let Some(disk) = child_disk(test, 96) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let broker = open(&folder.path().join("log"));
    let app = start(&broker, &disk.dir);
    feed(&broker, 0, 1000, 1000);
    check(&app, 1000);
    wait(|| task(&app).unwritten_bytes == 0);
    if !disk.is_mounted {
        // Without a disk of its own the state cannot be full alone.
        return app.close().expect("closes");
    }
    disk.fill();
    feed(&broker, 1000, 150_000, 1000);
    wait(|| matches!(app.health(), Health::Stalled(why) if why.contains("No space left")));
    wait(|| task(&app).unwritten_bytes > 64 << 20);
    // What was taken before is still committed.
    std::thread::park_timeout(Duration::from_millis(500));
    let before = task(&app);
    assert!(
        before.unwritten_bytes < UNWRITTEN_BYTES,
        "{}",
        before.unwritten_bytes
    );
    std::thread::park_timeout(Duration::from_millis(500));
    let after = task(&app);
    assert!(after.records < 150_000, "it takes no more records");
    assert_eq!(
        (after.records, after.unwritten_bytes),
        (before.records, before.unwritten_bytes)
    );
    // What is committed can be read all the while.
    assert!(
        app.queries()
            .get(&LATEST, &"key 7".to_owned())
            .expect("reads")
            .is_some()
    );

    disk.free();
    check(&app, 150_000);
    wait(|| task(&app).unwritten_bytes == 0);
    app.close().expect("closes");
    let app = start(&broker, &disk.dir);
    check(&app, 150_000);
    let replayed: u64 = task(&app).stores.iter().map(|store| store.replayed).sum();
    assert_eq!(replayed, 0, "all of it was on disk");
}

#[test]
fn an_application_that_finds_its_state_disk_full_waits_for_room() {
    let test = "an_application_that_finds_its_state_disk_full_waits_for_room";
    let Some(disk) = child_disk(test, 8) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let broker = open(&folder.path().join("log"));
    feed(&broker, 0, 1000, 10);
    if !disk.is_mounted {
        // The log would be full, too, and it is the log that the start creates topics in.
        let app = start(&broker, &disk.dir);
        check(&app, 1000);
        return app.close().expect("closes");
    }
    disk.fill();
    let app = start(&broker, &disk.dir);
    // Longer than failures of another kind are forgiven.
    std::thread::park_timeout(Duration::from_secs(5));
    let health = app.health();
    assert!(matches!(health, Health::Stalled(_)), "{health:?}");
    disk.free();
    check(&app, 1000);
    app.close().expect("closes");
}

#[test]
fn a_full_disk_under_log_and_state_is_survived() {
    let test = "a_full_disk_under_log_and_state_is_survived";
    let Some(disk) = child_disk(test, 64) else {
        return;
    };
    let broker = open(&disk.dir.join("log"));
    let app = start(&broker, &disk.dir.join("state"));
    feed(&broker, 0, 2000, 100);
    check(&app, 2000);
    for round in 1..3 {
        disk.fill();
        let from = round * 2000;
        std::thread::scope(|scope| {
            let feeding = scope.spawn(|| {
                feed_through(&broker, from, from + 2000);
            });
            wait(|| app.health() != Health::Running);
            disk.free();
            feeding
                .join()
                .expect("everything is acknowledged in the end");
        });
        check(&app, from + 2000);
    }
    app.close().expect("closes");
    let app = start(&broker, &disk.dir.join("state"));
    check(&app, 6000);
}

/// Appends each record until it is acknowledged.
fn feed_through(broker: &EmbeddedBroker, from: u64, to: u64) {
    let appender = broker.appender().expect("appender");
    let until = Instant::now() + DEADLINE;
    for n in from..to {
        let is_done = || {
            let (sent, answer) = std::sync::mpsc::channel();
            let record = OwnedRecord {
                to: TopicPartition::new("in", 0),
                timestamp: 0,
                key: Some(Bytes::from(format!("key {n}"))),
                value: Some(Bytes::from(format!("{n} x"))),
                headers: Headers::default(),
            };
            let done = Box::new(move |result: millstream_broker::Result<i64>| {
                sent.send(result.is_ok()).expect("somebody waits");
            });
            appender.append(record, done).is_ok() && answer.recv().expect("an answer")
        };
        while !is_done() {
            assert!(Instant::now() < until, "the log takes nothing");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
