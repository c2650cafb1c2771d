//! `bench run` on a real broker, as the comparison with Kafka Streams calls it.

use std::time::Duration;

use millstream_benches::{Workload, records};
use millstream_broker::{
    Admin, Broker, Cleanup, NewTopic, Outgoing, Start, TopicPartition,
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_tests::{Program, eventually};
use millstream_topology::{Headers, partition_for_key};

use crate::shop::binary;

const RECORDS: u64 = 20_000;
const KEYS: u64 = 100;
const PARTITIONS: u32 = 2;

fn partitions(topic: &str) -> Vec<TopicPartition> {
    (0..PARTITIONS.cast_signed())
        .map(|p| TopicPartition::new(topic, p))
        .collect()
}

/// Deletes the topics of an earlier run, and fills the input.
fn load(log: &dyn Broker, admin: &dyn Admin) {
    admin.delete_topics(&["w2-in", "w2-out"]).expect("deleted");
    let cleanup = Cleanup::Delete { retention_ms: None };
    let topic = |name: &str| NewTopic {
        name: name.into(),
        partitions: PARTITIONS,
        cleanup,
    };
    eventually(Duration::from_secs(30), "topics can be made anew", || {
        admin.create_topics(&[topic("w2-in"), topic("w2-out")]).ok()
    });
    let mut producer = log.producer("bench-test-load").expect("a client");
    producer.init().expect("it is let in");
    let (input, headers) = (producer.topic("w2-in"), Headers::default());
    producer.begin().expect("it begins");
    for record in records(Workload::Count, RECORDS, KEYS, 1) {
        let outgoing = Outgoing {
            topic: input,
            partition: partition_for_key(&record.key, PARTITIONS),
            timestamp: record.timestamp,
            key: Some(&record.key),
            value: Some(&record.value),
            headers: &headers,
        };
        producer.send(outgoing).expect("sent");
    }
    producer.drain().expect("drained");
    producer.commit().expect("committed");
}

/// The last count of each key, added up.
fn counted(log: &dyn Broker) -> u64 {
    let mut reader = log.reader().expect("a client");
    let starts: Vec<_> = partitions("w2-out")
        .into_iter()
        .map(|p| (p, Start::Earliest))
        .collect();
    reader.assign(&starts).expect("assigned");
    let (mut fetched, mut last) = (Vec::new(), std::collections::BTreeMap::new());
    eventually(Duration::from_secs(60), "all records are counted", || {
        fetched.clear();
        reader
            .poll(Duration::from_millis(100), 10_000, &mut fetched)
            .expect("polled");
        for record in fetched.drain(..) {
            let count = record
                .value
                .and_then(|value| Some(u64::from_be_bytes(value[..].try_into().ok()?)));
            last.insert(record.key, count.expect("eight bytes"));
        }
        let sum = last.values().sum::<u64>();
        (sum >= RECORDS).then_some(sum)
    })
}

#[test]
fn a_workload_counts_every_record_once_and_stops_when_told() {
    let Ok(kafka) = std::env::var("MILLSTREAM_TEST_KAFKA") else {
        assert!(
            std::env::var("CI").is_err(),
            "CI must set MILLSTREAM_TEST_KAFKA"
        );
        eprintln!("MILLSTREAM_TEST_KAFKA is not set: not tested on Kafka");
        return;
    };
    let log = KafkaBroker::new(KafkaConfig::new(&*kafka)).expect("legal");
    let admin = log.admin().expect("a client");
    load(&*log, &*admin);

    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state").display().to_string();
    let id = format!("bench-test-{}", std::process::id());
    let arguments = [
        "bench",
        "run",
        "--bootstrap-servers",
        &kafka,
        "--workload",
        "w2",
        "--application-id",
        &id,
        "--state-dir",
        &state,
        "--guarantee",
        "eos",
        "--threads",
        "1",
        "--commit-interval-ms",
        "50",
        "--memory-budget",
        "134217728",
    ];
    let errors = folder.path().join("errors");
    let mut bench = Program::start(binary(), &arguments, &errors);
    bench.line("RUNNING", Duration::from_secs(60));
    assert_eq!(counted(&*log), RECORDS);
    assert!(
        bench.terminate(Duration::from_secs(20)).success(),
        "{}",
        bench.errors()
    );

    let topics = admin.topics().expect("the broker answers");
    let changelog = format!("{id}-counts-changelog");
    assert!(
        topics.iter().any(|topic| *topic.name == *changelog),
        "{topics:?}"
    );
}
