//! A log for a test, with names of its own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Admin, Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_operators::Topology;
use millstream_runtime::{Application, Config, Health};
use millstream_topology::{Headers, partition_for_key};

const DEADLINE: Duration = Duration::from_secs(60);

/// A log, with topic names of one test.
pub(crate) struct Bed {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) name: String,
    folder: tempfile::TempDir,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Bed {
    pub(crate) fn embedded() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = EmbeddedBroker::open(&folder.path().join("log"), EmbeddedConfig::default());
        Self {
            broker: broker.expect("opens"),
            name: "t".to_owned(),
            folder,
        }
    }

    pub(crate) fn kafka() -> Option<Self> {
        Self::kafka_with(|_| {})
    }

    /// A log on Kafka, with the defaults changed by `change`.
    pub(crate) fn kafka_with(change: impl FnOnce(&mut KafkaConfig)) -> Option<Self> {
        let Ok(servers) = std::env::var("MILLSTREAM_TEST_KAFKA") else {
            let ci = std::env::var_os("CI").is_some();
            assert!(!ci, "MILLSTREAM_TEST_KAFKA must name a broker in CI");
            println!("skipped, as MILLSTREAM_TEST_KAFKA names no broker");
            return None;
        };
        let name = format!(
            "evolution-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut config = KafkaConfig::new(servers);
        change(&mut config);
        Some(Self {
            broker: KafkaBroker::new(config).expect("broker"),
            name,
            folder: tempfile::tempdir().expect("a folder"),
        })
    }

    fn admin(&self) -> Arc<dyn Admin> {
        self.broker.admin().expect("admin")
    }

    /// Topic names are part of descriptors and so live for ever; a test makes a handful.
    pub(crate) fn topic(&self, name: &str, partitions: u32) -> &'static str {
        let full: &'static str = format!("{}.{name}", self.name).leak();
        self.topic_named(full, partitions);
        full
    }

    /// Creates a topic, also one that was just deleted and whose name is still taken.
    pub(crate) fn topic_named(&self, name: &str, partitions: u32) {
        let topic = NewTopic {
            name: name.into(),
            partitions,
            cleanup: Cleanup::Delete { retention_ms: None },
        };
        let admin = self.admin();
        wait("the topic is created", || {
            admin.create_topics(std::slice::from_ref(&topic)).is_ok()
        });
    }

    pub(crate) fn state_dir(&self, instance: &str) -> PathBuf {
        self.folder.path().join(instance)
    }

    pub(crate) fn config(&self, instance: &str) -> Config {
        let mut config = Config::new(&self.name, self.state_dir(instance));
        config.instance_id = instance.to_owned();
        config.session_timeout = Duration::from_secs(6);
        config.flush_interval = Duration::from_millis(200);
        config
    }

    pub(crate) fn start_with(&self, topology: &Topology, config: Config) -> Application {
        let app = Application::start(topology, self.broker.clone(), config).expect("starts");
        wait("it runs", || app.health() == Health::Running);
        app
    }

    /// Appends `count` records with keys `k0` to `k{keys}` in turn.
    pub(crate) fn feed(&self, topic: &str, count: u32, keys: u32) {
        let topics = self.admin().topics().expect("topics");
        let topic = topics.iter().find(|t| *t.name == *topic).expect("is there");
        for n in 0..count {
            let key = format!("k{}", n % keys);
            let partition = partition_for_key(key.as_bytes(), topic.partitions);
            self.append(&topic.name, partition, &key, &n.to_string());
        }
    }

    pub(crate) fn append(&self, topic: &str, partition: i32, key: &str, value: &str) {
        let (sent, done) = std::sync::mpsc::channel();
        let record = OwnedRecord {
            to: TopicPartition::new(topic, partition),
            timestamp: 1,
            key: Some(Bytes::from(key.to_owned())),
            value: Some(Bytes::from(value.to_owned())),
            headers: Headers::default(),
        };
        let ack = move |result| sent.send(result).expect("the test waits");
        let appender = self.broker.appender().expect("appender");
        appender.append(record, Box::new(ack)).expect("queued");
        done.recv().expect("answered").expect("appended");
    }

    /// How many records of a topic the application has not committed.
    pub(crate) fn lag(&self, topic: &str) -> i64 {
        let admin = self.admin();
        let topics = admin.topics().expect("topics");
        let topic = topics.iter().find(|t| *t.name == *topic).expect("is there");
        let at = |p: u32| TopicPartition::new(topic.name.clone(), p as i32);
        let partitions: Vec<_> = (0..topic.partitions).map(at).collect();
        let committed = admin.committed(&self.name, &partitions).expect("committed");
        let pairs = partitions.iter().zip(committed);
        let lag = pairs.map(|(partition, committed)| {
            let ends = admin.watermarks(partition).expect("watermarks");
            ends.high - committed.unwrap_or(ends.low)
        });
        lag.sum()
    }

    /// All partitions of this test's topics, with their ends, but those of the members, who may
    /// still be saying goodbye.
    pub(crate) fn everything(&self) -> Vec<(String, i64)> {
        let admin = self.admin();
        let mut all = Vec::new();
        for topic in admin.topics().expect("topics") {
            if !topic.name.starts_with(&self.name) || topic.name.ends_with("-members") {
                continue;
            }
            for p in 0..topic.partitions as i32 {
                let at = TopicPartition::new(topic.name.clone(), p);
                let ends = admin.watermarks(&at).expect("watermarks");
                all.push((at.to_string(), ends.high));
            }
        }
        all
    }
}

#[track_caller]
pub(crate) fn wait(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "gave up waiting until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
