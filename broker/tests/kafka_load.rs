//! A million records through a real Kafka broker; the figures are printed, not judged.

mod cluster;

use std::time::Instant;

use cluster::{STEP, cluster, wait_for};
use millstream_broker::{Broker, Outgoing, Start, TopicPartition};
use millstream_topology::Headers;

const PARTITIONS: i32 = 4;
const COUNT: usize = 1_000_000;
const PER_TRANSACTION: usize = 100_000;

#[test]
fn a_million_records_go_in_and_come_out() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("t", PARTITIONS as u32);
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&topic);
    let headers = Headers::default();
    let value = [7_u8; 100];
    let start = Instant::now();
    for first in (0..COUNT).step_by(PER_TRANSACTION) {
        producer.begin().expect("begin");
        for n in first..first + PER_TRANSACTION {
            producer
                .send(Outgoing {
                    topic: ix,
                    partition: n as i32 % PARTITIONS,
                    timestamp: 1,
                    key: Some(&n.to_be_bytes()),
                    value: Some(&value),
                    headers: &headers,
                })
                .expect("send");
        }
        producer.drain().expect("drain");
        producer.commit().expect("commit");
    }
    println!("written in {:?}", start.elapsed());

    let mut reader = cluster.broker.reader().expect("reader");
    let from: Vec<_> = (0..PARTITIONS)
        .map(|n| (TopicPartition::new(topic.clone(), n), Start::Earliest))
        .collect();
    let start = Instant::now();
    reader.assign(&from).expect("assign");
    let mut batch = Vec::with_capacity(1000);
    let mut count = 0;
    let mut bytes = 0;
    wait_for("all are read", || {
        batch.clear();
        reader.poll(STEP, 1000, &mut batch).expect("poll");
        count += batch.len();
        bytes += batch
            .iter()
            .filter_map(|r| r.value.as_ref())
            .map(|v| v.len())
            .sum::<usize>();
        count == COUNT
    });
    println!("read in {:?}", start.elapsed());
    assert_eq!(bytes, COUNT * value.len());
}
