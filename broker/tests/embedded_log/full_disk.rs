//! A disk without room: writes fail and say so, what was acknowledged stays, and the log goes on by
//! itself when there is room again.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Error, OwnedRecord, Producer, ProducerError, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;

use super::{DEADLINE, KEEP, create, open_with, producer, read, send, texts};
use crate::small_disk::{SmallDisk, child_disk};

fn open(disk: &SmallDisk) -> std::sync::Arc<EmbeddedBroker> {
    let config = EmbeddedConfig {
        write_buffer_bytes: 1 << 20,
        ..EmbeddedConfig::default()
    };
    open_with(&disk.dir.join("log"), config)
}

fn commit(producer: &mut dyn Producer, number: usize) -> Result<(), ProducerError> {
    let text = number.to_string();
    producer.begin()?;
    send(
        producer,
        "t",
        &[(0, 1, "k", Some(&text)), (1, 1, "k", Some(&text))],
    );
    producer.commit()
}

/// As a program does after a failure: with a producer of its own.
fn commit_anew(log: &EmbeddedBroker, number: usize) -> bool {
    let Ok(mut producer) = log.producer("writer") else {
        return false;
    };
    producer.init().is_ok() && commit(&mut *producer, number).is_ok()
}

fn append(log: &EmbeddedBroker, number: usize) -> Result<i64, Error> {
    let (sent, answer) = mpsc::channel();
    let record = OwnedRecord {
        to: TopicPartition::new("a", 0),
        timestamp: 1,
        key: None,
        value: Some(Bytes::from(number.to_string())),
        headers: Headers::default(),
    };
    let done = Box::new(move |offset| sent.send(offset).expect("somebody waits"));
    log.appender()?.append(record, done)?;
    answer.recv_timeout(DEADLINE).expect("an answer")
}

/// What was acknowledged, in order; what failed may be there once, between.
fn check(log: &EmbeddedBroker, topic: &str, partition: i32, acknowledged: &[usize]) {
    let stored = texts(&read(log, &TopicPartition::new(topic, partition)));
    let mut stored = stored
        .iter()
        .map(|text| text.parse::<usize>().expect("a number"));
    for number in acknowledged {
        let next = stored.find(|stored| stored >= number);
        assert_eq!(next, Some(*number), "{topic}-{partition}");
    }
}

#[test]
fn a_full_disk_fails_writes_keeps_what_was_acknowledged_and_is_survived() {
    let test = "full_disk::a_full_disk_fails_writes_keeps_what_was_acknowledged_and_is_survived";
    let Some(disk) = child_disk(test, 24) else {
        return;
    };
    let log = open(&disk);
    create(&log, "t", 2, KEEP);
    create(&log, "a", 1, KEEP);
    let (mut committed, mut appended) = (Vec::new(), Vec::new());
    let mut number = 0;
    for _ in 0..3 {
        let mut writer = producer(&log, "writer");
        for _ in 0..20 {
            number += 1;
            commit(&mut *writer, number).expect("committed");
            committed.push(number);
            append(&log, number).expect("appended");
            appended.push(number);
        }
        disk.fill();
        // What is left of the last page may still take some.
        let until = Instant::now() + DEADLINE;
        let failed = loop {
            assert!(
                Instant::now() < until,
                "the disk is full, and nothing fails"
            );
            number += 1;
            match commit(&mut *writer, number) {
                Ok(()) => committed.push(number),
                Err(error) => break error,
            }
        };
        let ProducerError::Fatal(why) = failed else {
            panic!("{failed:?}");
        };
        let why = millstream_topology::Error::caused(
            millstream_topology::ErrorKind::Broker,
            "commit",
            why,
        );
        let is_clear = ["No space left", "File too large"]
            .iter()
            .any(|w| why.chain().contains(w));
        assert!(is_clear, "{}", why.chain());
        let refused = append(&log, number).expect_err("the log has stopped");
        assert!(matches!(refused, Error::Client { .. }), "{refused}");
        // Opening it again may find a little room, so some may be taken before the next failure.
        let until = Instant::now() + Duration::from_millis(2500);
        while Instant::now() < until {
            number += 1;
            if commit_anew(&log, number) {
                committed.push(number);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        disk.free();
        let until = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < until, "the log does not go on");
            number += 1;
            if commit_anew(&log, number) {
                committed.push(number);
                break;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        number += 1;
        assert!(
            commit(&mut *writer, number).is_err(),
            "an old producer has lost its transaction"
        );
        (0..2).for_each(|partition| check(&log, "t", partition, &committed));
        check(&log, "a", 0, &appended);
    }
    let ends = [0, 1].map(|p| read(&log, &TopicPartition::new("t", p)).len());
    assert_eq!(ends[0], ends[1], "no half transaction");
    drop(log);
    let log = open(&disk);
    (0..2).for_each(|partition| check(&log, "t", partition, &committed));
    check(&log, "a", 0, &appended);
}
