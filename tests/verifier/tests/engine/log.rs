//! A small application's log, written by hand: an input of words, an output of the same words in
//! capitals, an output of their lengths, and a store that counts them.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Event, NewTopic, Outgoing, Producer, Start,
    TopicPartition,
    sim::{SimClient, SimConfig, SimLog},
};
use millstream_topology::{Headers, partition_for_key};
use millstream_verifier::{
    Dump, Emission, Engine, Input, Made, Part, Pure, Report, State, open_transactions,
};

pub(crate) const PARTITIONS: u32 = 2;
const APPLICATION: &str = "app";
pub(crate) const INPUT: &str = "words";
pub(crate) const CAPITALS: &str = "capitals";
pub(crate) const LENGTHS: &str = "lengths";
pub(crate) const CHANGELOG: &str = "app-counts-changelog";

/// A record to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) topic: &'static str,
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) timestamp: i64,
    pub(crate) headers: Headers,
}

/// What one transaction writes, and up to where it commits its input.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) records: Vec<Entry>,
    pub(crate) offsets: Vec<(i32, i64)>,
    /// It is neither committed nor aborted.
    pub(crate) stays_open: bool,
}

/// A run of the application: its input, and a transaction for each input record, of the task of
/// partition 0 first.
pub(crate) struct Run {
    pub(crate) input: Vec<Entry>,
    pub(crate) transactions: Vec<Transaction>,
    /// What the live stores hold: by partition and key.
    pub(crate) live: BTreeMap<(i32, String), (String, i64)>,
}

impl Run {
    /// A run in which nothing goes wrong.
    pub(crate) fn correct() -> Self {
        let words = ["a b", "b", "c a", "d", "a", "c", "e e", "b"];
        let mut input = Vec::new();
        for (at, (key, word)) in ["k", "l", "m", "n"].iter().cycle().zip(words).enumerate() {
            let partition = partition_for_key(key.as_bytes(), PARTITIONS);
            input.push(entry(INPUT, partition, key, word, 100 + at as i64));
        }
        let mut run = Self {
            input,
            transactions: Vec::new(),
            live: BTreeMap::new(),
        };
        for partition in 0..PARTITIONS as i32 {
            let mut counts = BTreeMap::new();
            let input = run.input.clone();
            let own = input.iter().filter(|entry| entry.partition == partition);
            for (next, record) in (1..).zip(own) {
                let mut transaction = Transaction {
                    offsets: vec![(partition, next)],
                    ..Transaction::default()
                };
                for made in step(&mut counts, &record.key, &record.value, record.timestamp) {
                    let key = String::from_utf8(made.key.expect("a key").to_vec()).expect("text");
                    let value = made.value.expect("a value").to_vec();
                    let value = String::from_utf8(value).expect("text");
                    let to = partition_for_key(key.as_bytes(), PARTITIONS);
                    let topic = if &*made.topic == CAPITALS {
                        CAPITALS
                    } else {
                        LENGTHS
                    };
                    transaction
                        .records
                        .push(entry(topic, to, &key, &value, made.timestamp));
                }
                let (count, timestamp) = counts[&record.key];
                let (key, count) = (record.key.clone(), count.to_string());
                transaction
                    .records
                    .push(entry(CHANGELOG, partition, &key, &count, timestamp));
                run.live.insert((partition, key), (count, timestamp));
                run.transactions.push(transaction);
            }
        }
        run
    }

    /// Place of the first transaction that writes so many records to a topic.
    pub(crate) fn transaction_with(&self, topic: &str) -> usize {
        let writes = |of: &Transaction| of.records.iter().any(|entry| entry.topic == topic);
        self.transactions
            .iter()
            .position(writes)
            .expect("some writes there")
    }

    /// The first record of a topic.
    pub(crate) fn first_of(&mut self, topic: &str) -> &mut Entry {
        let at = self.transaction_with(topic);
        let mut records = self.transactions[at].records.iter_mut();
        records
            .find(|entry| entry.topic == topic)
            .expect("some is there")
    }

    /// Writes the log.
    pub(crate) fn write(&self) -> Written {
        let sim = SimLog::new(1, SimConfig::default());
        let client = sim.client("test");
        let topic = |name: &str| NewTopic {
            name: name.into(),
            partitions: PARTITIONS,
            cleanup: Cleanup::Delete { retention_ms: None },
        };
        let topics = [INPUT, CAPITALS, LENGTHS, CHANGELOG].map(topic);
        client
            .admin()
            .expect("admin")
            .create_topics(&topics)
            .expect("created");
        let mut feed = producer(&client, "feed");
        feed.begin().expect("begin");
        self.input.iter().for_each(|entry| send(&mut *feed, entry));
        feed.drain().expect("drain");
        feed.commit().expect("commit");
        let member = join(&client);
        for (number, transaction) in self.transactions.iter().enumerate() {
            let mut producer = producer(&client, &format!("p{number}"));
            producer.begin().expect("begin");
            transaction
                .records
                .iter()
                .for_each(|entry| send(&mut *producer, entry));
            producer.drain().expect("drain");
            let offsets = transaction.offsets.iter();
            let offsets: Vec<_> = offsets
                .map(|(partition, at)| (TopicPartition::new(INPUT, *partition), *at))
                .collect();
            if !offsets.is_empty() {
                let proof = member.group_metadata().expect("joined");
                producer.send_offsets(&offsets, &proof).expect("offsets");
            }
            if !transaction.stays_open {
                producer.commit().expect("commit");
            }
        }
        Written { client, _sim: sim }
    }

    /// What the verifier says about the log.
    pub(crate) fn verify(&self) -> Report {
        let log = self.write();
        let dumps = (0..PARTITIONS as i32).map(|partition| {
            let own = self
                .live
                .iter()
                .filter(move |((of, _), _)| *of == partition);
            Dump {
                store: "counts".into(),
                partition,
                entries: Box::new(own.map(|((_, key), (value, at))| {
                    (Bytes::from(key.clone()), Bytes::from(value.clone()), *at)
                })),
            }
        });
        application()
            .verify(&log.client, dumps.collect())
            .expect("verified")
    }
}

/// A log that was written, and the client that reads it.
pub(crate) struct Written {
    pub(crate) client: SimClient,
    _sim: SimLog,
}

impl Written {
    pub(crate) fn open(&self) -> millstream_verifier::Row {
        open_transactions(&self.client, std::time::Duration::ZERO).expect("looked")
    }
}

pub(crate) fn entry(
    topic: &'static str,
    partition: i32,
    key: &str,
    value: &str,
    timestamp: i64,
) -> Entry {
    Entry {
        topic,
        partition,
        key: key.to_owned(),
        value: value.to_owned(),
        timestamp,
        headers: Headers::default(),
    }
}

type Counts = BTreeMap<String, (u64, i64)>;

/// Each word in capitals, keyed by itself; its length, keyed by the key; the words of each key are
/// counted.
fn step(counts: &mut Counts, key: &str, value: &str, timestamp: i64) -> Vec<Made> {
    let mut made = Vec::new();
    for word in value.split(' ') {
        let capital = word.to_uppercase();
        made.push(Made::new(CAPITALS, word.to_owned(), capital, timestamp));
    }
    made.push(Made::new(
        LENGTHS,
        key.to_owned(),
        value.len().to_string(),
        timestamp,
    ));
    let count = counts.entry(key.to_owned()).or_default();
    *count = (count.0 + value.split(' ').count() as u64, timestamp);
    made
}

pub(crate) fn application() -> Engine<'static> {
    let text = |bytes: &Option<Bytes>| {
        String::from_utf8(bytes.as_deref().unwrap_or_default().to_vec()).expect("text")
    };
    let take = move |counts: &mut Counts, input: &Input<'_>, made: &mut Vec<Made>| {
        let (key, value) = (text(&input.record.key), text(&input.record.value));
        made.extend(step(counts, &key, &value, input.record.timestamp));
    };
    let state = |counts: &Counts| {
        let entry = |(key, (count, at)): (&String, &(u64, i64))| {
            (
                Bytes::from(key.clone()),
                (Bytes::from(count.to_string()), *at),
            )
        };
        counts.iter().map(entry).collect::<State>()
    };
    let part = Part::new(&[INPUT], move |_| {
        Pure::new(Counts::new(), take).store("counts", state)
    });
    let part = part
        .writes(CAPITALS, Emission::Every)
        .writes(LENGTHS, Emission::Every)
        .keeps("counts");
    Engine::new(APPLICATION).part(part)
}

fn producer(client: &SimClient, id: &str) -> Box<dyn Producer> {
    let mut producer = client.producer(id).expect("producer");
    producer.init().expect("init");
    producer
}

fn send(producer: &mut dyn Producer, entry: &Entry) {
    let topic = producer.topic(entry.topic);
    let sent = producer.send(Outgoing {
        topic,
        partition: entry.partition,
        timestamp: entry.timestamp,
        key: Some(entry.key.as_bytes()),
        value: Some(entry.value.as_bytes()),
        headers: &entry.headers,
    });
    sent.expect("sent");
}

fn join(client: &SimClient) -> Box<dyn Consumer> {
    let config = ConsumerConfig {
        group_id: APPLICATION.into(),
        instance_id: "a".into(),
        topics: vec![INPUT.into()],
        session_timeout: std::time::Duration::from_secs(60),
    };
    let mut consumer = client.consumer(config).expect("consumer");
    let event = consumer.poll(std::time::Duration::ZERO, 1, &mut Vec::new());
    let Event::Assigned(partitions) = event.expect("polled") else {
        panic!("the only member gets all partitions at once");
    };
    let starts: Vec<_> = partitions
        .iter()
        .map(|of| (of.clone(), Start::Earliest))
        .collect();
    consumer.assign(&starts).expect("assigned");
    consumer
}
