//! What was acknowledged is there after the power was lost, and nothing half.

#![cfg(target_os = "linux")]

mod power;

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Error, Event, Fetched, NewTopic, Outgoing,
    OwnedRecord, PartitionIx, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;
use power::{CHILD_DIR, CHILD_SEED, Disk, Random, folder, run_and_cut, run_on_and_cut};

const SEEDS: u64 = 50;
const CUTS: u64 = 2;
const DEADLINE: Duration = Duration::from_secs(30);
const KEEP: Cleanup = Cleanup::Delete { retention_ms: None };

/// Small buffers, so that files are written, merged and deleted all the time.
fn open(dir: &Path) -> Result<Arc<EmbeddedBroker>, Error> {
    let config = EmbeddedConfig {
        write_buffer_bytes: 64 << 10,
        block_bytes: 32 << 10,
        ..EmbeddedConfig::default()
    };
    EmbeddedBroker::open(dir, config)
}

fn read(log: &EmbeddedBroker, at: &TopicPartition) -> Vec<Fetched> {
    let high = log
        .admin()
        .expect("admin")
        .watermarks(at)
        .expect("watermarks")
        .high;
    let mut reader = log.reader().expect("reader");
    reader
        .assign(&[(at.clone(), Start::Earliest)])
        .expect("assigned");
    let mut records = Vec::new();
    while reader.position(PartitionIx(0)).expect("position") < high {
        reader
            .poll(Duration::ZERO, 1000, &mut records)
            .expect("polls");
    }
    records
}

fn text(record: &Fetched) -> String {
    let value = record.value.as_deref().expect("a value");
    let text = String::from_utf8(value.to_vec()).expect("text");
    let (head, rest) = text.split_once(' ').expect("a number, then letters");
    assert!(rest.bytes().all(|byte| byte == b'x'), "the value is whole");
    head.to_owned()
}

/// A value that begins with `head`; some are so large that they lie in files of their own.
fn value(head: impl std::fmt::Display, random: &mut Random) -> String {
    let letters = match random.below(10) {
        0 => 20_000 + random.below(150_000),
        1..4 => random.below(5_000),
        _ => random.below(50),
    };
    format!("{head} {}", "x".repeat(letters as usize))
}

/// What the children have been told, over all cuts.
#[derive(Default)]
struct Told {
    commit: i64,
    appends: BTreeMap<i64, String>,
}

impl Told {
    fn add(&mut self, lines: &[String]) {
        for line in lines {
            // The test runner's own words come before the first line.
            let line = line.rsplit("... ").next().unwrap_or(line);
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["commit", number] => self.commit = number.parse().expect("a number"),
                ["append", offset, head] => {
                    let offset = offset.parse().expect("a number");
                    self.appends.insert(offset, head.to_owned());
                }
                _ => {}
            }
        }
    }

    fn check(&self, log: &EmbeddedBroker, seed: u64) {
        let stored: BTreeMap<i64, String> = read(log, &TopicPartition::new("a", 0))
            .iter()
            .map(|record| (record.offset, text(record)))
            .collect();
        for (offset, head) in &self.appends {
            assert_eq!(
                stored.get(offset),
                Some(head),
                "append {offset}. seed={seed}"
            );
        }
        let [zero, one] = [0, 1].map(|partition| TopicPartition::new("t", partition));
        let admin = log.admin().expect("admin");
        let committed = admin
            .committed("g", std::slice::from_ref(&zero))
            .expect("committed")[0];
        let committed = committed.unwrap_or(0);
        assert!(
            committed >= self.commit,
            "{committed} < {}. seed={seed}",
            self.commit
        );
        let numbers: Vec<String> = (1..=committed).map(|number| number.to_string()).collect();
        for partition in [zero, one] {
            let texts: Vec<String> = read(log, &partition).iter().map(text).collect();
            assert_eq!(texts, numbers, "{partition}. seed={seed}");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_power_loss() {
    for seed in 0..SEEDS {
        let root = folder();
        let mut random = Random::new(seed);
        let mut told = Told::default();
        for cut in 0..CUTS {
            let enough = 1 + random.below(150) as usize;
            let run = seed * CUTS + cut;
            let lines = run_and_cut("child_that_writes", root.path(), run, enough);
            told.add(&lines);
            match open(&root.path().join("live")) {
                Ok(log) => told.check(&log, seed),
                Err(error) => panic!("{error}. seed={seed}"),
            }
        }
    }
}

#[test]
fn a_disk_that_forgets_what_it_has_synced_is_seen() {
    let root = folder();
    let lines = run_on_and_cut(Disk::Lying, "child_that_writes", root.path(), 3, 60);
    let mut told = Told::default();
    told.add(&lines);
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let log = open(&root.path().join("live")).expect("opens");
        told.check(&log, 3);
    }));
    assert!(checked.is_err());
}

#[test]
fn the_check_sees_what_is_lost() {
    let root = folder();
    let lines = run_and_cut("child_that_writes", root.path(), 1, 60);
    let log = open(&root.path().join("live")).expect("opens");
    let mut told = Told::default();
    told.add(&lines);
    told.check(&log, 1);
    let sees = |told: Told| {
        let checked = std::panic::AssertUnwindSafe(|| told.check(&log, 1));
        std::panic::catch_unwind(checked).is_err()
    };
    let appends = BTreeMap::from([(1_000_000, "lost".to_owned())]);
    assert!(sees(Told { commit: 0, appends }));
    let commit = 1_000_000;
    let appends = BTreeMap::new();
    assert!(sees(Told { commit, appends }));
}

fn tell(line: &str) {
    stdout().write_all(line.as_bytes()).expect("printed");
}

fn join(log: &EmbeddedBroker) -> Box<dyn Consumer> {
    let mut member = log
        .consumer(ConsumerConfig {
            group_id: "g".to_owned(),
            instance_id: "m".to_owned(),
            topics: vec!["t".into()],
            session_timeout: DEADLINE * 10,
        })
        .expect("consumer");
    loop {
        let event = member.poll(DEADLINE, 1, &mut Vec::new()).expect("polls");
        if let Event::Assigned(partitions) = event {
            let starts: Vec<_> = partitions.into_iter().map(|p| (p, Start::Latest)).collect();
            member.assign(&starts).expect("assigned");
            return member;
        }
    }
}

#[test]
fn child_that_writes() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let seed: u64 = std::env::var(CHILD_SEED)
        .expect("a seed")
        .parse()
        .expect("a number");
    let mut random = Random::new(seed + 1000);
    let log = open(Path::new(&dir)).expect("opens");
    let topic = |name: &str, partitions| NewTopic {
        name: name.into(),
        partitions,
        cleanup: KEEP,
    };
    let admin = log.admin().expect("admin");
    admin
        .create_topics(&[topic("t", 2), topic("a", 1)])
        .expect("created");
    let mut member = join(&log);
    let zero = TopicPartition::new("t", 0);
    let committed = member
        .committed(std::slice::from_ref(&zero), DEADLINE)
        .expect("committed");
    let mut producer = log.producer("p").expect("producer");
    producer.init().expect("init");
    let appender = log.appender().expect("appender");
    let to = producer.topic("t");
    let headers = Headers::default();
    for number in committed[0].unwrap_or(0) + 1.. {
        for _ in 0..random.below(4) {
            let head = format!("{seed}-{number}-{}", random.below(1_000_000));
            let record = OwnedRecord {
                to: TopicPartition::new("a", 0),
                timestamp: 1,
                key: None,
                value: Some(Bytes::from(value(&head, &mut random))),
                headers: Headers::default(),
            };
            let answer = move |offset: Result<i64, Error>| {
                tell(&format!("append {} {head}.\n", offset.expect("appended")));
            };
            match appender.append(record, Box::new(answer)) {
                Ok(()) | Err(Error::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
        producer.begin().expect("begin");
        for partition in 0..2 {
            let value = value(number, &mut random);
            producer
                .send(Outgoing {
                    topic: to,
                    partition,
                    timestamp: 1,
                    key: Some(b"k"),
                    value: Some(value.as_bytes()),
                    headers: &headers,
                })
                .expect("send");
        }
        let proof = member.group_metadata().expect("metadata");
        producer
            .send_offsets(&[(zero.clone(), number)], &proof)
            .expect("offsets");
        producer.commit().expect("commit");
        tell(&format!("commit {number}.\n"));
        if random.below(20) == 0 {
            let name = format!("passing-{number}");
            admin.create_topics(&[topic(&name, 1)]).expect("created");
            admin.delete_topics(&[&name]).expect("deleted");
        }
    }
}
