//! Members that come and go copy every record exactly once and in order.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use millstream_broker::{
    Broker, Consumer, Event, Fetched, Outgoing, Producer, ProducerError, Start, TopicPartition,
    embedded::EmbeddedBroker,
};

use super::{DEADLINE, KEEP, create, join, open, producer, read, texts, write};

const PARTITIONS: i32 = 4;
const RECORDS: usize = 20_000;
const WORKERS: usize = 3;

/// One life of a worker: copies from `t` to `out` until it has done `commits` or is told to end.
fn live(log: &EmbeddedBroker, name: &str, commits: usize, ends: &Ends, done: &AtomicBool) {
    let mut consumer = join(log, name, DEADLINE);
    let mut producer = producer(log, name);
    let mut owned: Vec<TopicPartition> = Vec::new();
    let mut batch = Vec::new();
    let mut committed = 0;
    while committed < commits && !done.load(Ordering::Relaxed) {
        batch.clear();
        let step = Duration::from_millis(5);
        match consumer.poll(step, 50, &mut batch).expect("poll") {
            Event::Records if batch.is_empty() => {}
            Event::Records => {
                match copy(&mut *consumer, &mut *producer, &owned, &batch) {
                    Ok(()) => committed += 1,
                    // Its partitions are gone or going; the next poll tells.
                    Err(ProducerError::Abort(_)) => producer.abort().expect("abort"),
                    Err(other) => panic!("{other}"),
                }
            }
            Event::Assigned(partitions) => {
                let from: Vec<_> = consumer
                    .committed(&partitions, DEADLINE)
                    .expect("committed")
                    .into_iter()
                    .zip(&partitions)
                    .map(|(at, p)| (p.clone(), at.map_or(Start::Earliest, Start::Offset)))
                    .collect();
                consumer.assign(&from).expect("assign");
                owned = partitions;
            }
            Event::Revoked { .. } => {
                consumer.unassign().expect("unassign");
                owned.clear();
            }
        }
    }
    // Lives end in every way there is, also with a transaction open.
    match ends.next() {
        0 => consumer.close(false),
        1 => consumer.close(true),
        _ => {
            producer.begin().expect("begin");
            drop(consumer);
        }
    }
}

struct Ends(AtomicUsize);

impl Ends {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) % 3
    }
}

fn copy(
    consumer: &mut dyn Consumer,
    producer: &mut dyn Producer,
    owned: &[TopicPartition],
    batch: &[Fetched],
) -> Result<(), ProducerError> {
    producer.begin()?;
    let out = producer.topic("out");
    let mut offsets: Vec<(TopicPartition, i64)> = Vec::new();
    for record in batch {
        let from = &owned[record.partition.0 as usize];
        producer.send(Outgoing {
            topic: out,
            partition: from.partition,
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        })?;
        offsets.retain(|(at, _)| at != from);
        offsets.push((from.clone(), record.offset + 1));
    }
    producer.drain()?;
    let proof = consumer
        .group_metadata()
        .map_err(|e| ProducerError::Abort(e.into()))?;
    producer.send_offsets(&offsets, &proof)?;
    producer.commit()
}

#[test]
fn records_are_copied_exactly_once_while_members_come_and_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", PARTITIONS as u32, KEEP);
    create(&log, "out", PARTITIONS as u32, KEEP);
    let numbers: Vec<String> = (0..RECORDS).map(|n| n.to_string()).collect();
    let rows: Vec<_> = numbers
        .iter()
        .enumerate()
        .map(|(n, text)| (n as i32 % PARTITIONS, 1, "k", Some(text.as_str())))
        .collect();
    write(&log, "t", &rows);

    let done = AtomicBool::new(false);
    let ends = Ends(AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (log, ends, done) = (&*log, &ends, &done);
            scope.spawn(move || {
                for life in 0_usize.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    live(log, &format!("w{worker}"), 10 + life % 7, ends, done);
                }
            });
        }
        let admin = log.admin().expect("admin");
        let until = Instant::now() + DEADLINE;
        loop {
            let copied: i64 = (0..PARTITIONS)
                .map(|p| TopicPartition::new("out", p))
                .map(|at| admin.watermarks(&at).expect("watermarks").high)
                .sum();
            let late = Instant::now() > until;
            if copied as usize >= RECORDS || late {
                done.store(true, Ordering::Relaxed);
                assert!(!late, "only {copied} were copied");
                break;
            }
            thread::park_timeout(Duration::from_millis(2));
        }
    });
    for partition in 0..PARTITIONS {
        let input = read(&log, &TopicPartition::new("t", partition));
        let output = read(&log, &TopicPartition::new("out", partition));
        assert!(
            texts(&input) == texts(&output),
            "partition {partition} differs"
        );
    }
}
