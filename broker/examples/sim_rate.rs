//! How many calls a second the simulated log takes on this machine: `cargo run -p millstream-broker
//! --example sim_rate`.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use millstream_broker::{
    Broker, Cleanup, ConsumerConfig, Event, NewTopic, Outgoing, Start, TopicPartition,
    sim::{Rates, SimConfig, SimLog},
};
use millstream_topology::Headers;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const LOGS: u64 = 200;
const TRANSACTIONS: u64 = 1_000;
/// Records of a transaction; each is read once.
const RECORDS: u64 = 10;
const VALUE: [u8; 64] = [b'v'; 64];

fn main() -> Outcome {
    let calm = measure(&Rates::default())?;
    println!("no faults:      {calm:.2} million calls a second");
    // Faults that only change what calls do, so that the same work gets done.
    let rates = Rates {
        short_poll: 0.2,
        slow_markers: 0.2,
        clock_jump: 0.01,
        ..Rates::default()
    };
    let stormy = measure(&rates)?;
    println!("harmless ones:  {stormy:.2} million calls a second");
    Ok(())
}

/// Copies records in transactions, a fresh log every so many; in millions of calls a second.
fn measure(rates: &Rates) -> Outcome<f64> {
    let begun = Instant::now();
    let mut calls = 0;
    for seed in 0..LOGS {
        calls += run(seed, rates)?;
    }
    Ok(calls as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

fn run(seed: u64, rates: &Rates) -> Outcome<u64> {
    let log = SimLog::new(seed, SimConfig::default());
    let client = log.client("a");
    client.admin()?.create_topics(&[NewTopic {
        name: "t".into(),
        partitions: 4,
        cleanup: Cleanup::Delete { retention_ms: None },
    }])?;
    let mut consumer = client.consumer(ConsumerConfig {
        group_id: "g".into(),
        instance_id: "a".into(),
        topics: vec!["t".into()],
        session_timeout: Duration::from_secs(6),
    })?;
    let mut producer = client.producer("a")?;
    producer.init()?;
    let topic = producer.topic("t");
    log.set_rates(rates.clone());
    let headers = Headers::default();
    let mut read = Vec::new();
    for number in 0..TRANSACTIONS {
        read.clear();
        match consumer.poll(Duration::ZERO, 100, &mut read)? {
            Event::Assigned(partitions) => {
                let from = partitions.into_iter().map(|at| (at, Start::Earliest));
                consumer.assign(&from.collect::<Vec<_>>())?;
            }
            Event::Revoked { .. } => consumer.unassign()?,
            Event::Records => {}
        }
        producer.begin()?;
        for record in 0..RECORDS {
            producer.send(Outgoing {
                topic,
                partition: (record % 4) as i32,
                timestamp: log.now_ms(),
                key: Some(&number.to_be_bytes()),
                value: Some(&VALUE),
                headers: &headers,
            })?;
        }
        producer.drain()?;
        let proof = consumer.group_metadata()?;
        producer.send_offsets(&[(TopicPartition::new("t", 0), number as i64)], &proof)?;
        producer.commit()?;
        log.advance(Duration::from_millis(10));
    }
    log.check();
    let passes = log.coverage().0;
    let before = passes
        .iter()
        .filter(|(point, _)| point.ends_with(".before"));
    Ok(before.map(|(_, count)| count.passed).sum())
}
