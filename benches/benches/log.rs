//! What a record costs on the embedded log: written in transactions, and read.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_broker::{
    Broker, Cleanup, NewTopic, Outgoing, PartitionIx, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;

/// Records of one transaction, and of one reading.
const RECORDS: u64 = 10_000;
/// Bytes of a value.
const VALUE: [u8; 100] = [b'v'; 100];

fn log(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let log = EmbeddedBroker::open(folder.path(), EmbeddedConfig::default()).expect("it opens");
    let cleanup = Cleanup::Delete { retention_ms: None };
    let topic = NewTopic {
        name: "t".into(),
        partitions: 1,
        cleanup,
    };
    log.admin()
        .and_then(|admin| admin.create_topics(&[topic]))
        .expect("it is made");
    let mut producer = log.producer("bench").expect("a client");
    producer.init().expect("it is let in");
    let topic = producer.topic("t");
    let headers = Headers::default();
    let mut transaction = || {
        producer.begin()?;
        for record in 0..RECORDS {
            producer.send(Outgoing {
                topic,
                partition: 0,
                timestamp: 0,
                key: Some(&record.to_be_bytes()),
                value: Some(&VALUE),
                headers: &headers,
            })?;
        }
        producer.drain()?;
        producer.commit()
    };
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(RECORDS));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    transaction().expect("committed");
    group.bench_function("write in a transaction", |b| {
        b.iter(|| transaction().expect("committed"));
    });
    let partition = TopicPartition::new("t", 0);
    let mut reader = log.reader().expect("a client");
    let mut fetched = Vec::new();
    group.bench_function("read", |b| {
        b.iter(|| {
            reader
                .assign(&[(partition.clone(), Start::Earliest)])
                .expect("assigned");
            while reader.position(PartitionIx(0)).expect("assigned") < RECORDS as i64 {
                fetched.clear();
                reader
                    .poll(Duration::from_millis(100), 5_000, &mut fetched)
                    .expect("polled");
            }
        });
    });
    group.finish();
}

criterion_group!(benches, log);
criterion_main!(benches);
