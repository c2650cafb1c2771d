//! What was acknowledged is there after the process was killed.
//!
//! The test runs its own program again as a child, which writes and prints what was acknowledged,
//! and kills it in the middle.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write, stdout},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Error, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;

use super::{DEADLINE, KEEP, create, join, open, producer, read, send, take_assignment, texts};

/// Tells the child what to do where.
const CHILD_DIR: &str = "MILLSTREAM_TEST_CRASH_DIR";

/// Acknowledgements after which a child is killed.
const ENOUGH: usize = 300;

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts")
}

/// Runs the child until it has printed enough lines that begin with `mark`, kills it, and gives all
/// of them.
fn run_and_kill(test: &str, dir: &Path, mark: &str) -> Vec<String> {
    let mut child = child(test, dir);
    let output = child.stdout.take().expect("piped");
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.expect("text");
        // A line that was cut off by the kill has no end mark.
        let whole = line
            .strip_prefix(mark)
            .and_then(|line| line.strip_suffix('.'));
        lines.extend(whole.map(str::to_owned));
        if lines.len() == ENOUGH {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    assert!(lines.len() >= ENOUGH, "the child ended by itself");
    lines
}

#[test]
fn acknowledged_appends_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", 3, KEEP);
    drop(log);
    let mut acknowledged = HashSet::new();
    for _ in 0..3 {
        let lines = run_and_kill("crash::child_that_appends", dir.path(), "ack ");
        acknowledged.extend(lines);
        let log = open(dir.path());
        let mut stored = HashSet::new();
        for partition in 0..3 {
            let records = read(&log, &TopicPartition::new("t", partition));
            for (record, text) in records.iter().zip(texts(&records)) {
                stored.insert(format!("{partition} {} {text}", record.offset));
            }
        }
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
    }
}

#[test]
fn child_that_appends() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let log = open(Path::new(&dir));
    let appender = log.appender().expect("appender");
    let run = std::process::id();
    for i in 0.. {
        let partition = i % 3;
        let value = format!("{run}-{i}");
        let answer = {
            let value = value.clone();
            move |offset: Result<i64, Error>| {
                let offset = offset.expect("appended");
                let line = format!("ack {partition} {offset} {value}.\n");
                stdout().write_all(line.as_bytes()).expect("printed");
            }
        };
        let record = OwnedRecord {
            to: TopicPartition::new("t", partition),
            timestamp: 1,
            key: None,
            value: Some(Bytes::from(value)),
            headers: Headers::default(),
        };
        // A full queue is part of the exercise.
        match appender.append(record, Box::new(answer)) {
            Ok(()) | Err(Error::Full) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn transactions_are_whole_after_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", 2, KEEP);
    drop(log);
    let mut last = 0;
    for _ in 0..3 {
        let lines = run_and_kill("crash::child_that_commits", dir.path(), "commit ");
        let acknowledged = lines
            .last()
            .expect("lines")
            .parse::<i64>()
            .expect("a number");
        assert!(acknowledged > last);
        last = acknowledged;
        let log = open(dir.path());
        let [zero, one] = [0, 1].map(|p| TopicPartition::new("t", p));
        let admin = log.admin().expect("admin");
        let committed = admin
            .committed("g", std::slice::from_ref(&zero))
            .expect("committed");
        let committed = committed[0].expect("an offset");
        let numbers: Vec<String> = (1..=committed).map(|n| n.to_string()).collect();
        assert!(committed >= acknowledged, "{committed} < {acknowledged}");
        assert_eq!(
            texts(&read(&log, &zero)),
            numbers,
            "records and offsets agree"
        );
        assert_eq!(texts(&read(&log, &one)), numbers, "all partitions agree");
    }
}

#[test]
fn child_that_commits() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let log = open(Path::new(&dir));
    let mut member = join(&log, "m", DEADLINE * 10);
    take_assignment(&mut *member);
    let zero = TopicPartition::new("t", 0);
    let committed = member
        .committed(std::slice::from_ref(&zero), DEADLINE)
        .expect("committed");
    let mut producer = producer(&log, "p");
    for number in committed[0].unwrap_or(0) + 1.. {
        let value = number.to_string();
        producer.begin().expect("begin");
        send(
            &mut *producer,
            "t",
            &[(0, 1, "k", Some(&value)), (1, 1, "k", Some(&value))],
        );
        let proof = member.group_metadata().expect("metadata");
        producer
            .send_offsets(&[(zero.clone(), number)], &proof)
            .expect("offsets");
        producer.commit().expect("commit");
        stdout()
            .write_all(format!("commit {number}.\n").as_bytes())
            .expect("printed");
    }
}

#[test]
fn another_process_is_told_that_the_log_is_open() {
    let dir = tempfile::tempdir().expect("a folder");
    let _log = open(dir.path());
    let output = child("crash::child_that_opens", dir.path())
        .wait_with_output()
        .expect("ended");
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(output.contains("is open in another program"), "{output}");
}

#[test]
fn child_that_opens() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    match EmbeddedBroker::open(Path::new(&dir), EmbeddedConfig::default()) {
        Ok(_) => println!("opened"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn callbacks_may_drop_the_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", 1, KEEP);
    let appender = log.appender().expect("appender");
    let called = Arc::new(AtomicU64::new(0));
    let (done, is_done) = std::sync::mpsc::channel();
    let held = log.clone();
    let counted = called.clone();
    let last = Box::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = done.send(());
        drop(held);
    });
    let record = OwnedRecord {
        to: TopicPartition::new("t", 0),
        timestamp: 1,
        key: None,
        value: None,
        headers: Headers::default(),
    };
    appender.append(record, last).expect("queued");
    drop((log, appender));
    is_done.recv_timeout(DEADLINE).expect("called back");
    assert_eq!(called.load(Ordering::SeqCst), 1);
}
