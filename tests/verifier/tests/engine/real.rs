//! A real application on the embedded log holds, and a fresh run of its operators sees what was
//! added to its output.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use millstream_broker::{
    Appender, Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, Policies, StateKind};
use millstream_topology::{Headers, KvStore, Topic, partition_for_key, text, u64_be};
use millstream_verifier::{Dump, Engine, Report, promises};

const LINES: Topic<String, String> = Topic::new("lines", text(), text());
const WORDS: Topic<String, String> = Topic::new("words", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const TOTALS: Topic<String, u64> = Topic::new("totals", text(), u64_be());

const PARTITIONS: u32 = 3;
const LINES_SENT: usize = 3_000;
const WORDS_OF_A_LINE: usize = 2;
const DEADLINE: Duration = Duration::from_secs(60);

fn topology() -> Topology {
    let b = StreamsBuilder::new();
    let lines = b.stream(LINES);
    let words = lines
        .flat_map_values(|_, line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let by_word = words.rekey(WORDS, |_, word| word.clone());
    let counts = by_word.group_by_key().count(COUNTS);
    counts
        .to_stream()
        .map_values(|_, n| n.unwrap_or_default())
        .to(TOTALS);
    b.build().expect("built")
}

fn append(log: &dyn Appender, to: TopicPartition, key: &str, value: &[u8], timestamp: i64) {
    let (done, answer) = mpsc::channel();
    let record = OwnedRecord {
        to,
        timestamp,
        key: Some(key.to_owned().into()),
        value: Some(value.to_vec().into()),
        headers: Headers::default(),
    };
    let told = Box::new(move |outcome| done.send(outcome).expect("somebody listens"));
    log.append(record, told).expect("queued");
    answer.recv().expect("answered").expect("written");
}

fn feed(log: &dyn Broker) {
    let appender = log.appender().expect("appender");
    let (done, answers) = mpsc::channel();
    for n in 0..LINES_SENT {
        let key = format!("line-{}", n % 40);
        let to = partition_for_key(key.as_bytes(), PARTITIONS);
        let record = OwnedRecord {
            to: TopicPartition::new(LINES.name(), to),
            timestamp: n as i64,
            key: Some(key.into()),
            value: Some(format!("w{} w{}", n % 17, n % 23).into()),
            headers: Headers::default(),
        };
        let done = done.clone();
        let told = Box::new(move |outcome| done.send(outcome).expect("somebody listens"));
        appender.append(record, told).expect("queued");
    }
    for _ in 0..LINES_SENT {
        answers.recv().expect("answered").expect("written");
    }
}

fn verify(topology: &Topology, log: &dyn Broker, dumps: Vec<Dump<'_>>) -> Report {
    let all_read = (LINES_SENT + LINES_SENT * WORDS_OF_A_LINE) as u64;
    let engine = Engine::of(topology, "real", Policies::default());
    let engine = engine
        .within(Duration::from_millis(200))
        .has_read_all(all_read);
    engine.verify(log, dumps).expect("verified")
}

#[test]
fn a_real_application_holds_until_somebody_adds_to_its_output() {
    let dir = tempfile::tempdir().expect("a folder");
    let log: Arc<dyn Broker> =
        EmbeddedBroker::open(dir.path(), EmbeddedConfig::default()).expect("opened");
    let keep = Cleanup::Delete { retention_ms: None };
    let topic = |name: &str| NewTopic {
        name: name.into(),
        partitions: PARTITIONS,
        cleanup: keep,
    };
    let admin = log.admin().expect("admin");
    admin
        .create_topics(&[topic(LINES.name()), topic(TOTALS.name())])
        .expect("created");
    feed(&*log);
    let config = Config {
        threads: 2,
        state: StateKind::Memory,
        ..Config::new("real", dir.path())
    };
    let topology = topology();
    let running = Application::start(&topology, log.clone(), config).expect("started");
    let until = Instant::now() + DEADLINE;
    let mut report;
    loop {
        report = verify(
            &topology,
            &*log,
            Dump::all(&running.queries()).expect("read"),
        );
        if report.holds() || Instant::now() >= until {
            break;
        }
        std::thread::yield_now();
    }
    assert!(report.holds(), "{report}");
    assert!(
        report.rows.iter().all(|row| row.bounded.is_none()),
        "{report}"
    );
    let rows: Vec<_> = report.rows.iter().map(|row| row.promise).collect();
    let promised = [
        promises::TRANSACTIONS,
        promises::OUTPUT,
        promises::CHANGELOG,
        promises::STORES,
        promises::LAG,
        promises::WORK,
    ];
    assert_eq!(rows, promised);
    running.close().expect("closed");

    let appender = log.appender().expect("appender");
    append(
        &*appender,
        TopicPartition::new(TOTALS.name(), 1),
        "w1",
        &[0; 8],
        1,
    );
    let report = verify(&topology, &*log, Vec::new());
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promises::OUTPUT], "{report}");
    assert!(
        report.rows[1].examples[0].contains("partition=`totals-1`"),
        "{report}"
    );
}
