//! What the embedded log promises beyond the contract of all logs.

mod bounds;
mod compaction;
mod crash;
#[cfg(target_os = "linux")]
mod full_disk;
mod membership;
mod pipeline;
#[cfg(target_os = "linux")]
#[path = "../small_disk/mod.rs"]
mod small_disk;
mod storage;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Error, Event, Fetched, NewTopic, Outgoing,
    PartitionIx, Producer, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;

/// How long anything may take before a test gives up.
const DEADLINE: Duration = Duration::from_secs(30);

const KEEP: Cleanup = Cleanup::Delete { retention_ms: None };

fn open(dir: &Path) -> Arc<EmbeddedBroker> {
    open_with(dir, EmbeddedConfig::default())
}

fn open_with(dir: &Path, config: EmbeddedConfig) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(dir, config).expect("the log opens")
}

fn create(log: &EmbeddedBroker, name: &str, partitions: u32, cleanup: Cleanup) {
    let topic = NewTopic {
        name: name.into(),
        partitions,
        cleanup,
    };
    let admin = log.admin().expect("admin");
    admin.create_topics(&[topic]).expect("created");
}

fn producer(log: &EmbeddedBroker, id: &str) -> Box<dyn Producer> {
    let mut producer = log.producer(id).expect("producer");
    producer.init().expect("init");
    producer
}

/// A record of a transaction: partition, time, key, value.
type Row<'a> = (i32, i64, &'a str, Option<&'a str>);

fn send(producer: &mut dyn Producer, topic: &str, rows: &[Row<'_>]) {
    let topic = producer.topic(topic);
    let headers = Headers::default();
    for &(partition, timestamp, key, value) in rows {
        producer
            .send(Outgoing {
                topic,
                partition,
                timestamp,
                key: Some(key.as_bytes()),
                value: value.map(str::as_bytes),
                headers: &headers,
            })
            .expect("send");
    }
}

/// One committed transaction.
fn write(log: &EmbeddedBroker, topic: &str, rows: &[Row<'_>]) {
    let mut producer = producer(log, "writer");
    producer.begin().expect("begin");
    send(&mut *producer, topic, rows);
    producer.drain().expect("drain");
    producer.commit().expect("commit");
}

/// Reads a partition to its end.
fn read_from(
    log: &EmbeddedBroker,
    at: &TopicPartition,
    start: Start,
) -> Result<Vec<Fetched>, Error> {
    let high = log.admin()?.watermarks(at)?.high;
    let mut reader = log.reader()?;
    reader.assign(&[(at.clone(), start)])?;
    let mut records = Vec::new();
    while reader.position(PartitionIx(0))? < high {
        reader.poll(Duration::ZERO, 7, &mut records)?;
    }
    Ok(records)
}

fn read(log: &EmbeddedBroker, at: &TopicPartition) -> Vec<Fetched> {
    read_from(log, at, Start::Earliest).expect("the partition is read")
}

fn texts(records: &[Fetched]) -> Vec<String> {
    let text = |record: &Fetched| {
        let value = record.value.as_deref().expect("a value");
        String::from_utf8(value.to_vec()).expect("text")
    };
    records.iter().map(text).collect()
}

fn join(log: &EmbeddedBroker, instance: &str, session: Duration) -> Box<dyn Consumer> {
    log.consumer(ConsumerConfig {
        group_id: "g".to_owned(),
        instance_id: instance.to_owned(),
        topics: vec!["t".into()],
        session_timeout: session,
    })
    .expect("consumer")
}

/// Polls for the next event; records are dropped.
fn next_event(consumer: &mut dyn Consumer) -> Event {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        let step = Duration::from_millis(20);
        match consumer.poll(step, 100, &mut Vec::new()).expect("poll") {
            Event::Records => {}
            event => return event,
        }
    }
    panic!("no event came");
}

/// Polls for an assignment, takes it from the committed offsets on, and tells the partition
/// numbers.
fn take_assignment(consumer: &mut dyn Consumer) -> Vec<i32> {
    let event = next_event(consumer);
    let Event::Assigned(partitions) = event else {
        panic!("{event:?}");
    };
    let committed = consumer
        .committed(&partitions, DEADLINE)
        .expect("committed");
    let from: Vec<_> = partitions
        .iter()
        .zip(committed)
        .map(|(p, at)| (p.clone(), at.map_or(Start::Earliest, Start::Offset)))
        .collect();
    consumer.assign(&from).expect("assign");
    partitions.iter().map(|p| p.partition).collect()
}
