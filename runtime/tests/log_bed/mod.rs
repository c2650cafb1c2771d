//! A log for a test, with names of its own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Admin, Broker, Cleanup, Fetched, NewTopic, OwnedRecord, PartitionIx, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_operators::Topology;
use millstream_runtime::{Application, Config, Health};
use millstream_topology::{Headers, partition_for_key};

use crate::wait::{DEADLINE, wait};

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
            "runtime-{}-{}",
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
        wait(|| admin.create_topics(std::slice::from_ref(&topic)).is_ok());
    }

    /// The partitions of a topic.
    pub(crate) fn partitions_of(&self, topic: &str) -> Vec<TopicPartition> {
        let topics = self.admin().topics().expect("topics");
        let topic = topics.iter().find(|t| *t.name == *topic).expect("is there");
        let at = |p: u32| TopicPartition::new(topic.name.clone(), p as i32);
        (0..topic.partitions).map(at).collect()
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

    pub(crate) fn start(&self, topology: &Topology, instance: &str, threads: usize) -> Application {
        let mut config = self.config(instance);
        config.threads = threads;
        self.start_with(topology, config)
    }

    pub(crate) fn start_with(&self, topology: &Topology, config: Config) -> Application {
        let app = Application::start(topology, self.broker.clone(), config).expect("starts");
        wait(|| app.health() == Health::Running);
        app
    }

    /// Appends these numbers, with keys `k0` to `k{keys}` in turn.
    pub(crate) fn feed(&self, topic: &str, numbers: Range<u32>, keys: u32) {
        let partitions = self.partitions_of(topic);
        let appender = self.broker.appender().expect("appender");
        let (sent, done) = std::sync::mpsc::channel();
        for n in numbers {
            let key = format!("k{}", n % keys);
            let partition = partition_for_key(key.as_bytes(), partitions.len() as u32);
            let record = || OwnedRecord {
                to: partitions[partition as usize].clone(),
                timestamp: i64::from(n),
                key: Some(Bytes::from(key.clone())),
                value: Some(Bytes::from(n.to_string())),
                headers: Headers::default(),
            };
            loop {
                let sent = sent.clone();
                let ack = move |result| sent.send(result).expect("the test waits");
                match appender.append(record(), Box::new(ack)) {
                    Ok(()) => break,
                    Err(millstream_broker::Error::Full) => {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                    Err(error) => panic!("append failed: {error}"),
                }
            }
        }
        drop(sent);
        assert!(
            done.iter()
                .all(|r: millstream_broker::Result<i64>| r.is_ok())
        );
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
        let partitions = self.partitions_of(topic);
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

    /// All committed records of a topic, by partition and offset.
    pub(crate) fn read(&self, topic: &str) -> Vec<Fetched> {
        let admin = self.broker.admin().expect("admin");
        let mut reader = self.broker.reader().expect("reader");
        let partitions = self.partitions_of(topic);
        let starts: Vec<_> = partitions
            .iter()
            .map(|p| (p.clone(), Start::Earliest))
            .collect();
        reader.assign(&starts).expect("assigned");
        let mut records = Vec::new();
        for (at, partition) in partitions.iter().enumerate() {
            let high = admin.watermarks(partition).expect("watermarks").high;
            let ix = PartitionIx(at as u32);
            let until = Instant::now() + DEADLINE;
            while reader.position(ix).expect("position") < high {
                assert!(
                    Instant::now() < until,
                    "the end of {partition} is not reached"
                );
                reader
                    .poll(Duration::from_millis(50), 1000, &mut records)
                    .expect("polls");
            }
        }
        records.sort_by_key(|r| (r.partition, r.offset));
        records
    }

    /// The values that each key had in a topic of big-endian counts, in order.
    pub(crate) fn counts(&self, topic: &str) -> BTreeMap<String, Vec<u64>> {
        let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in self.read(topic) {
            let key = String::from_utf8(record.key.expect("key").to_vec()).expect("text");
            let value = record.value.expect("value")[..]
                .try_into()
                .expect("8 bytes");
            counts
                .entry(key)
                .or_default()
                .push(u64::from_be_bytes(value));
        }
        counts
    }
}
