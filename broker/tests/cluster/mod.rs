//! A real Kafka cluster for a test, named by `MILLSTREAM_TEST_KAFKA` as `host:port`.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test file uses a part of it"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Event, Fetched, NewTopic, Outgoing, Producer,
    ProducerError, Start, TopicIx, TopicPartition,
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_topology::Headers;

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const STEP: Duration = Duration::from_millis(20);

pub struct Cluster {
    pub broker: Arc<KafkaBroker>,
    run: String,
}

/// The cluster, with the defaults changed by `change`; `None` skips the test.
pub fn cluster(change: impl FnOnce(&mut KafkaConfig)) -> Option<Cluster> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Ok(bootstrap) = std::env::var("MILLSTREAM_TEST_KAFKA") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "MILLSTREAM_TEST_KAFKA must name a broker in CI"
        );
        println!("skipped, as MILLSTREAM_TEST_KAFKA names no broker");
        return None;
    };
    let mut config = KafkaConfig::new(bootstrap);
    change(&mut config);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    Some(Cluster {
        broker: KafkaBroker::new(config).expect("broker"),
        run: format!(
            "{}-{}",
            since.as_micros(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ),
    })
}

impl Cluster {
    pub fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    pub fn topic(&self, name: &str, partitions: u32) -> Arc<str> {
        let name: Arc<str> = self.name(name).into();
        let topic = NewTopic {
            name: name.clone(),
            partitions,
            cleanup: Cleanup::Delete { retention_ms: None },
        };
        let admin = self.broker.admin().expect("admin");
        admin.create_topics(&[topic]).expect("topic is created");
        name
    }

    pub fn producer(&self, id: &str) -> Box<dyn Producer> {
        let mut producer = self.broker.producer(&self.name(id)).expect("producer");
        producer.init().expect("init");
        producer
    }

    pub fn member(&self, group: &str, instance: &str, topic: &Arc<str>) -> Box<dyn Consumer> {
        let config = ConsumerConfig {
            group_id: self.name(group),
            instance_id: instance.to_owned(),
            topics: vec![topic.clone()],
            session_timeout: Duration::from_secs(6),
        };
        self.broker.consumer(config).expect("consumer")
    }

    /// Reads one partition from its start until `count` records were seen.
    pub fn read(&self, topic: &Arc<str>, partition: i32, count: usize) -> Vec<Fetched> {
        let mut reader = self.broker.reader().expect("reader");
        let of = TopicPartition::new(topic.clone(), partition);
        reader.assign(&[(of, Start::Earliest)]).expect("assign");
        let mut seen = Vec::new();
        wait_for("the records are read", || {
            reader.poll(STEP, 1000, &mut seen).expect("poll");
            seen.len() >= count
        });
        seen
    }
}

pub fn send(
    producer: &mut dyn Producer,
    topic: TopicIx,
    partition: i32,
    value: &str,
) -> Result<(), ProducerError> {
    producer.send(Outgoing {
        topic,
        partition,
        timestamp: 1,
        key: None,
        value: Some(value.as_bytes()),
        headers: &Headers::default(),
    })
}

pub fn text(record: &Fetched) -> String {
    let value = record.value.as_deref().expect("a value");
    String::from_utf8(value.to_vec()).expect("text")
}

/// Polls until the group assigns partitions, and returns them unanswered.
pub fn assigned(consumer: &mut dyn Consumer) -> Vec<TopicPartition> {
    let mut partitions = None;
    wait_for("partitions are assigned", || {
        let event = consumer.poll(STEP, 0, &mut Vec::new()).expect("poll");
        if let Event::Assigned(list) = event {
            partitions = Some(list);
        }
        partitions.is_some()
    });
    partitions.expect("just seen")
}

/// Answers an assignment with the oldest records.
pub fn accept(consumer: &mut dyn Consumer, partitions: &[TopicPartition]) {
    let from: Vec<_> = partitions
        .iter()
        .map(|of| (of.clone(), Start::Earliest))
        .collect();
    consumer.assign(&from).expect("assign");
}

/// Calls `ready` until it says so. `ready` itself must wait a little when there is nothing to do.
#[track_caller]
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "gave up waiting until {what}");
    }
}
