//! Nothing grows without bound.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Error, Outgoing, OwnedRecord, PartitionIx, ProducerError, Start, TopicPartition,
    embedded::EmbeddedConfig,
};
use millstream_topology::Headers;

use super::{DEADLINE, KEEP, create, open, open_with, producer, read, send, texts, write};

fn record(partition: i32, value: &'static str) -> OwnedRecord {
    OwnedRecord {
        to: TopicPartition::new("t", partition),
        timestamp: 1,
        key: None,
        value: Some(Bytes::from(value)),
        headers: Headers::default(),
    }
}

#[test]
fn the_tail_in_memory_is_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = EmbeddedConfig {
        tail_cache_bytes: 64 << 10,
        block_bytes: 4 << 10,
        ..EmbeddedConfig::default()
    };
    let log = open_with(dir.path(), config);
    create(&log, "t", 3, KEEP);
    let value = "x".repeat(1_000);
    for round in 0..20 {
        let rows: Vec<_> = (0..30)
            .map(|i| (i % 3, round, "k", Some(&*value)))
            .collect();
        write(&log, "t", &rows);
        assert!(log.figures().tail_bytes <= 64 << 10, "{:?}", log.figures());
    }
    assert!(log.figures().bytes > 500_000, "{:?}", log.figures());
    for partition in 0..3 {
        let records = read(&log, &TopicPartition::new("t", partition));
        let offsets: Vec<_> = records.iter().map(|r| r.offset).collect();
        assert_eq!(offsets, (0..200).collect::<Vec<i64>>());
    }
}

#[test]
fn appends_beyond_the_bound_are_turned_away_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = EmbeddedConfig {
        append_queue_records: 10,
        ..EmbeddedConfig::default()
    };
    let log = open_with(dir.path(), config);
    create(&log, "t", 1, KEEP);
    let appender = log.appender().expect("appender");

    // The first callback holds up the log until the queue is full.
    let (go_on, wait) = mpsc::channel::<()>();
    let (blocked, is_blocked) = mpsc::channel();
    let holding = Box::new(move |_| {
        let _ = blocked.send(());
        let _ = wait.recv_timeout(DEADLINE);
    });
    appender
        .append(record(0, "first"), holding)
        .expect("queued");
    is_blocked.recv_timeout(DEADLINE).expect("called back");

    let (done, acknowledged) = mpsc::channel();
    for _ in 0..10 {
        let done = done.clone();
        let answer = Box::new(move |offset: Result<i64, Error>| {
            let _ = done.send(offset.expect("appended"));
        });
        appender.append(record(0, "more"), answer).expect("queued");
    }
    let refused = appender.append(record(0, "too many"), Box::new(|_| panic!("called back")));
    assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
    go_on.send(()).expect("still waiting");
    for offset in 1..=10 {
        let acknowledged = acknowledged.recv_timeout(DEADLINE);
        assert_eq!(acknowledged.expect("acknowledged"), offset);
    }
    assert_eq!(read(&log, &TopicPartition::new("t", 0)).len(), 11);
}

#[test]
fn waiting_appends_and_commits_share_a_sync() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", 2, KEEP);
    let before = log.figures().syncs;
    let appender = log.appender().expect("appender");
    let (done, acknowledged) = mpsc::channel();
    for i in 0..1_000 {
        let done = done.clone();
        let answer = Box::new(move |offset: Result<i64, Error>| {
            let _ = done.send(offset.expect("appended"));
        });
        appender.append(record(i % 2, "v"), answer).expect("queued");
    }
    for _ in 0..1_000 {
        acknowledged.recv_timeout(DEADLINE).expect("acknowledged");
    }
    let syncs = log.figures().syncs - before;
    assert!(syncs < 500, "{syncs} syncs");
}

#[test]
fn too_large_a_transaction_must_be_aborted() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = EmbeddedConfig {
        transaction_bytes: 10_000,
        record_bytes: 5_000,
        ..EmbeddedConfig::default()
    };
    let log = open_with(dir.path(), config);
    create(&log, "t", 1, KEEP);
    let mut producer = producer(&log, "p");
    let topic = producer.topic("t");
    let headers = Headers::default();
    let value = [0; 3_000];
    let outgoing = |value| Outgoing {
        topic,
        partition: 0,
        timestamp: 1,
        key: None,
        value: Some(value),
        headers: &headers,
    };
    producer.begin().expect("begin");
    let refused = (0..10).find_map(|_| producer.send(outgoing(&value)).err());
    assert!(
        matches!(refused, Some(ProducerError::Abort(_))),
        "{refused:?}"
    );
    producer.abort().expect("abort");
    producer.begin().expect("begin");
    let refused = producer.send(outgoing(&[0; 6_000]));
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    producer.abort().expect("abort");
    producer.begin().expect("begin");
    send(&mut *producer, "t", &[(0, 1, "k", Some("fits"))]);
    producer.commit().expect("commit");
    assert_eq!(texts(&read(&log, &TopicPartition::new("t", 0))), ["fits"]);
}

#[test]
fn a_waiting_reader_wakes_when_something_is_appended() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", 1, KEEP);
    let mut reader = log.reader().expect("reader");
    let at = TopicPartition::new("t", 0);
    reader.assign(&[(at, Start::Earliest)]).expect("assign");
    let (waits, is_waiting) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let mut records = Vec::new();
        for _ in 0..50 {
            waits.send(()).expect("somebody appends");
            let began = Instant::now();
            reader.poll(DEADLINE, 1, &mut records).expect("poll");
            assert!(began.elapsed() < DEADLINE / 2, "it slept on");
        }
        (records, reader.position(PartitionIx(0)).expect("position"))
    });
    let appender = log.appender().expect("appender");
    for _ in 0..50 {
        is_waiting.recv_timeout(DEADLINE).expect("it waits");
        // Also try the moment in which it is just falling asleep.
        std::thread::park_timeout(Duration::from_micros(300));
        appender
            .append(record(0, "v"), Box::new(|_| {}))
            .expect("queued");
    }
    let (records, position) = waiting.join().expect("no panic");
    assert_eq!((records.len(), position), (50, 50));
}
