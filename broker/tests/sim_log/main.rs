//! What the simulated log does beyond the contract: virtual time, fencing, faults and seeds.

mod compaction;
mod copying;
mod crashes;
mod faults;
mod fencing;
mod outside;
mod seeds;

use std::time::Duration;

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Error, Event, NewTopic, Outgoing, Producer,
    ProducerError, Start, TopicPartition,
    sim::{SimClient, SimConfig, SimLog},
};
use millstream_topology::Headers;

const SESSION: Duration = Duration::from_secs(6);
const INSTANT: Duration = Duration::ZERO;

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn log_with(seed: u64, config: SimConfig, cleanup: Cleanup) -> (SimLog, SimClient) {
    let log = SimLog::new(seed, config);
    let client = log.client("setup");
    let topic = NewTopic {
        name: "t".into(),
        partitions: 2,
        cleanup,
    };
    let admin = client.admin().expect("admin");
    admin.create_topics(&[topic]).expect("created");
    (log, client)
}

fn log() -> (SimLog, SimClient) {
    let keep = Cleanup::Delete { retention_ms: None };
    log_with(1, SimConfig::default(), keep)
}

fn producer(client: &SimClient, id: &str) -> Box<dyn Producer> {
    let mut producer = client.producer(id).expect("producer");
    producer.init().expect("init");
    producer
}

fn send(producer: &mut dyn Producer, value: &str) -> Result<(), ProducerError> {
    let topic = producer.topic("t");
    producer.send(Outgoing {
        topic,
        partition: 0,
        timestamp: 1,
        key: Some(b"k"),
        value: (!value.is_empty()).then_some(value.as_bytes()),
        headers: &Headers::default(),
    })
}

fn write(producer: &mut dyn Producer, value: &str) {
    producer.begin().expect("begin");
    send(producer, value).expect("send");
    producer.drain().expect("drain");
    producer.commit().expect("commit");
}

fn values(log: &SimLog) -> Vec<String> {
    log.check();
    let records = log.committed_records(&at(0));
    let text = |value: &Option<Bytes>| {
        let value = value.as_deref().unwrap_or_default();
        String::from_utf8(value.to_vec()).expect("text")
    };
    let texts = records.iter().map(|written| text(&written.record.value));
    texts.collect()
}

fn join(client: &SimClient, instance: &str) -> Box<dyn Consumer> {
    let config = ConsumerConfig {
        group_id: "g".into(),
        instance_id: instance.into(),
        topics: vec!["t".into()],
        session_timeout: SESSION,
    };
    client.consumer(config).expect("consumer")
}

fn poll(consumer: &mut dyn Consumer) -> Event {
    let event = consumer.poll(INSTANT, 100, &mut Vec::new()).expect("poll");
    match &event {
        Event::Records => {}
        Event::Assigned(partitions) => {
            let from: Vec<_> = partitions
                .iter()
                .map(|p| (p.clone(), Start::Earliest))
                .collect();
            consumer.assign(&from).expect("assign");
        }
        Event::Revoked { .. } => consumer.unassign().expect("unassign"),
    }
    event
}

/// One transaction with a record and an offset.
fn transaction(client: &SimClient) -> Result<(), ProducerError> {
    let broker = |error: Error| ProducerError::Fatal(error.into());
    let mut consumer = join(client, "a");
    poll(&mut *consumer);
    let proof = consumer.group_metadata().map_err(broker)?;
    let mut p = client.producer("p").map_err(broker)?;
    p.init()?;
    p.begin()?;
    send(&mut *p, "a")?;
    p.drain()?;
    p.send_offsets(&[(at(0), 1)], &proof)?;
    p.commit()
}
