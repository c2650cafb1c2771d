//! A sink between the embedded log and SQLite, with members that come and go.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_sinks::{
    Database, DeadLetter, DeadLetters, Message, Migration, OnConflict, Output, Projection,
    RunningSink, Sink, SinkConfig, Table, TopicDeadLetters, caught_up,
};
use millstream_topology::{BoxError, Headers};

const DEADLINE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;

static NUMBERS: Table = Table::new("numbers", &["k", "v"], 1, OnConflict::Replace);
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "numbers",
    statements: &[
        "CREATE TABLE `numbers` (`k` {id} NOT NULL PRIMARY KEY, `v` {int} NOT NULL){options}",
    ],
}];

struct Numbers;

impl Projection for Numbers {
    fn topics(&self) -> Vec<Arc<str>> {
        vec!["numbers".into()]
    }

    fn project(&self, batch: &[&Message], out: &mut Output) {
        for message in batch {
            let value = message.value.as_deref().map(serde_json::from_slice::<i64>);
            match (message.text_key(), value) {
                (Ok(key), Some(Ok(value))) => {
                    out.changes.put(&NUMBERS, [key.into(), value.into()]);
                }
                (Ok(key), None) => out.changes.clear(&NUMBERS, [key.into()]),
                (Err(error), _) => out.reject(message, error),
                (_, Some(Err(error))) => out.reject(message, error),
            }
        }
    }
}

/// For a test without dead letters.
struct NoLetters;

impl DeadLetters for NoLetters {
    fn put(
        &self,
        letter: DeadLetter,
    ) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + '_>> {
        panic!("dead letter: {letter:?}")
    }
}

struct World {
    dir: tempfile::TempDir,
    broker: Arc<EmbeddedBroker>,
    database: Database,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let broker = EmbeddedBroker::open(&dir.path().join("log"), EmbeddedConfig::default())
            .expect("opens");
        let keep = Cleanup::Delete { retention_ms: None };
        let topic = |name: &str, partitions| NewTopic {
            name: name.into(),
            partitions,
            cleanup: keep,
        };
        let topics = [
            topic("numbers", PARTITIONS as u32),
            topic("dead-letters", 1),
        ];
        broker
            .admin()
            .expect("admin")
            .create_topics(&topics)
            .expect("creates");
        let url = format!("sqlite://{}", dir.path().join("t.db").display());
        let database = Database::connect(&url).await.expect("opens");
        database
            .migrate("test", MIGRATIONS)
            .await
            .expect("migrates");
        Self {
            dir,
            broker,
            database,
        }
    }

    fn append(&self, records: impl Iterator<Item = (String, Option<String>)>) {
        let appender = self.broker.appender().expect("appender");
        let (done, acks) = mpsc::channel();
        let mut sent = 0;
        for (key, value) in records {
            let partition = key.bytes().map(i32::from).sum::<i32>() % PARTITIONS;
            let done = done.clone();
            let record = OwnedRecord {
                to: TopicPartition::new("numbers", partition),
                timestamp: 0,
                key: Some(Bytes::from(key)),
                value: value.map(Bytes::from),
                headers: Headers::default(),
            };
            let ack = Box::new(move |result| drop(done.send(result)));
            appender.append(record, ack).expect("room");
            sent += 1;
        }
        for _ in 0..sent {
            acks.recv_timeout(DEADLINE)
                .expect("an answer")
                .expect("is durable");
        }
    }

    fn sink(&self, instance: &str, letters: Arc<dyn DeadLetters>) -> RunningSink {
        let mut config = SinkConfig::new("numbers", "numbers-sink", instance);
        config.linger = Duration::from_millis(5);
        config.session_timeout = Duration::from_secs(6);
        let projections: Vec<Arc<dyn Projection>> = vec![Arc::new(Numbers)];
        let broker = self.broker.clone();
        Sink::new(config, broker, self.database.clone(), projections, letters).start()
    }

    /// Waits until everything in the log is in the database.
    async fn written(&self) {
        let began = Instant::now();
        let topics = ["numbers".into()];
        while !caught_up(self.broker.clone(), &self.database, "numbers", &topics)
            .await
            .expect("answers")
        {
            assert!(began.elapsed() < DEADLINE, "the sink is not there yet");
        }
    }

    async fn table(&self) -> BTreeMap<String, i64> {
        let sql = "SELECT `k`, `v` FROM `numbers`";
        let rows = self
            .database
            .rows(sql, &[], |row| Ok((row.text(0)?, row.int(1)?)));
        rows.await.expect("reads").into_iter().collect()
    }
}

fn numbers(range: std::ops::Range<i64>) -> impl Iterator<Item = (String, Option<String>)> {
    range.map(|n| {
        let value = if n % 11 == 0 {
            None
        } else {
            Some(n.to_string())
        };
        (format!("k{}", n % 500), value)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_come_and_go_and_the_table_equals_the_log() {
    let world = World::new().await;
    let letters: Arc<dyn DeadLetters> = Arc::new(NoLetters);
    world.append(numbers(0..5_000));
    let first = world.sink("a", letters.clone());
    world.append(numbers(5_000..10_000));
    let second = world.sink("b", letters.clone());
    world.append(numbers(10_000..20_000));
    first.stop(DEADLINE).await.expect("stops");
    world.append(numbers(20_000..25_000));
    world.written().await;
    second.stop(DEADLINE).await.expect("stops");

    let mut expected = BTreeMap::new();
    for (key, value) in numbers(0..25_000) {
        match value {
            Some(value) => drop(expected.insert(key, value.parse::<i64>().expect("a number"))),
            None => drop(expected.remove(&key)),
        }
    }
    assert_eq!(world.table().await, expected);
    drop(world.dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_does_not_decode_goes_to_the_dead_letters_with_its_origin() {
    let world = World::new().await;
    let appender = world.broker.appender().expect("appender");
    let letters = Arc::new(TopicDeadLetters::new(appender, "dead-letters", 1));
    world.append(
        [("a", "1"), ("b", "what?"), ("c", "3")]
            .map(|(k, v)| (k.into(), Some(v.into())))
            .into_iter(),
    );
    let sink = world.sink("a", letters);
    world.written().await;
    sink.stop(DEADLINE).await.expect("stops");
    assert_eq!(world.table().await.len(), 2);

    let mut reader = world.broker.reader().expect("reader");
    let partition = TopicPartition::new("dead-letters", 0);
    reader
        .assign(&[(partition, millstream_broker::Start::Earliest)])
        .expect("assigns");
    let mut found = Vec::new();
    let began = Instant::now();
    while found.is_empty() && began.elapsed() < DEADLINE {
        reader
            .poll(Duration::from_millis(50), 10, &mut found)
            .expect("polls");
    }
    let letter = found.first().expect("a letter");
    let header = |name| letter.headers.last(name).unwrap_or_default();
    assert_eq!(letter.value.as_deref(), Some(b"what?".as_slice()));
    assert_eq!(header("millstream.sink"), "numbers");
    assert_eq!(header("millstream.topic"), "numbers");
    assert_eq!(header("millstream.offset"), "0");
    assert!(!header("millstream.error").is_empty());
}
