//! Transactions that nobody ends, on a changelog or on the group's offsets (F16): a restore waits
//! for them and says for which, and goes on when they end.

mod log_bed;
mod sim_bed;
mod wait;

use std::time::{Duration, Instant};

use millstream_broker::{
    Broker, Consumer, ConsumerConfig, Event, Outgoing, Producer, TopicPartition,
    kafka::{KafkaBroker, KafkaConfig},
    sim::SimConfig,
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Health, Status, TaskPhase};
use millstream_topology::{Headers, KvStore, Topic, text, u64_be};
use sim_bed::{APP, Machine};
use wait::wait;

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
/// After so long a wait must be told.
const TOLD_AFTER: Duration = Duration::from_secs(30);

fn counting(input: &'static str) -> Topology {
    let b = StreamsBuilder::new();
    let words: Topic<String, String> = Topic::new(input, text(), text());
    b.stream(words).group_by_key().count(COUNTS);
    b.build().expect("builds")
}

/// A transaction of somebody else that is open on a partition.
fn hang(broker: &dyn Broker, on: &TopicPartition) -> Box<dyn Producer> {
    let mut producer = broker.producer("somebody else").expect("a producer");
    producer.init().expect("ready");
    producer.begin().expect("begun");
    let topic = producer.topic(&on.topic);
    let record = Outgoing {
        topic,
        partition: on.partition,
        timestamp: 1,
        key: Some(b"foreign"),
        value: Some(&7_u64.to_be_bytes()),
        headers: &Headers::default(),
    };
    producer.send(record).expect("sent");
    producer.drain().expect("written");
    producer
}

/// What tasks say that they are stuck on.
fn stuck(status: &Status) -> Vec<String> {
    let tasks = status.threads.iter().flat_map(|t| &t.tasks);
    let restoring = tasks.filter(|t| t.phase == TaskPhase::Restoring);
    let stuck = restoring.flat_map(|t| t.restore_stuck.clone());
    stuck.collect()
}

/// How a transaction that hangs comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Timeout,
    Abort,
    Commit,
}

/// On the simulated log. `offset` in the changelog is where the transaction begins.
fn check(end: End) {
    let config = SimConfig {
        transaction_timeout: Duration::from_secs(100),
        ..SimConfig::default()
    };
    let bed = sim_bed::Bed::new(config, &["words"], 2);
    let topology = counting("words");
    let machine = Machine::new("one");
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let mut app = bed.start(&topology, &machine, |_| ());
    for key in &keys {
        bed.append("words", key, Some("x"));
    }
    bed.settle(&mut [&mut app], "words");
    bed.stop(app);

    let changelog = TopicPartition::new(COUNTS.changelog(APP), 1);
    let begins = bed.admin.watermarks(&changelog).expect("watermarks").high;
    let mut foreign = hang(&bed.log.client("foreign"), &changelog);
    let hangs_since = bed.log.now();
    // A fresh disk, so that the other changelogs are really read meanwhile.
    let mut app = bed.start(&topology, &Machine::new("two"), |_| ());
    let mut apps = [&mut app];
    bed.until(&mut apps, "tasks are there", |apps| {
        let threads = apps[0].status().threads;
        threads.iter().any(|thread| thread.tasks.len() == 2)
    });
    let began = bed.log.now();
    bed.work_for(TOLD_AFTER - Duration::from_secs(1), &mut apps);
    assert_eq!(stuck(&apps[0].status()), [""; 0], "not before its time");
    assert_eq!(apps[0].health(), Health::Starting);
    bed.until(&mut apps, "it is told", |apps| {
        !stuck(&apps[0].status()).is_empty()
    });
    let told_after = bed.log.now() - began;
    assert!(
        told_after < TOLD_AFTER + Duration::from_secs(1),
        "{told_after:?}"
    );
    let wanted = format!("{changelog} at {begins} of {}", begins + 1);
    assert_eq!(stuck(&apps[0].status()), [wanted]);

    bed.work_for(Duration::from_secs(20), &mut apps);
    assert_eq!(apps[0].health(), Health::Starting, "it waits");
    match end {
        End::Timeout => {}
        End::Abort => foreign.abort().expect("aborted"),
        End::Commit => foreign.commit().expect("committed"),
    }
    bed.until(&mut apps, "it runs", |apps| {
        apps[0].health() == Health::Running
    });
    assert_eq!(stuck(&apps[0].status()), [""; 0]);
    let hung = bed.log.now() - hangs_since;
    assert_eq!(
        hung >= Duration::from_secs(100),
        end == End::Timeout,
        "{hung:?}"
    );
    let get = |key: &str| {
        let found = apps[0].queries().get(&COUNTS, &key.to_owned());
        found.ok().flatten().map(|(count, _)| count)
    };
    assert!(keys.iter().all(|key| get(key) == Some(1)));
    let committed = bed.log.committed_records(&changelog);
    let is_there = committed
        .iter()
        .any(|r| r.record.key.as_deref() == Some(b"foreign"));
    assert_eq!(is_there, end == End::Commit, "what is committed counts");
}

#[test]
fn a_restore_goes_on_when_a_hanging_transaction_times_out() {
    check(End::Timeout);
}

#[test]
fn a_restore_goes_on_when_a_hanging_transaction_is_aborted() {
    check(End::Abort);
}

#[test]
fn a_restore_goes_on_when_a_hanging_transaction_commits() {
    check(End::Commit);
}

/// Waits until an application says what is expected of it, and tells how long that took.
#[track_caller]
fn told(app: &Application, is_told: impl Fn(&Status) -> bool) -> Duration {
    let began = Instant::now();
    wait(|| is_told(&app.status()));
    began.elapsed()
}

#[test]
fn on_kafka_a_hanging_transaction_on_a_changelog_is_told_and_waited_for() {
    let Some(bed) = log_bed::Bed::kafka() else {
        return;
    };
    let input = bed.topic("words", 2);
    let topology = counting(input);
    bed.feed(input, 0..200, 20);
    let app = bed.start_with(&topology, bed.config("one"));
    wait(|| bed.lag(input) == 0);
    app.close().expect("closes");

    let changelog = TopicPartition::new(COUNTS.changelog(&bed.name), 1);
    let mut config = KafkaConfig::new(std::env::var("MILLSTREAM_TEST_KAFKA").expect("checked"));
    config.transaction_timeout = Duration::from_secs(40);
    let broker = KafkaBroker::new(config).expect("broker");
    let _foreign = hang(&*broker, &changelog);
    let app = Application::start(&topology, bed.broker.clone(), bed.config("two")).expect("starts");
    let told_after = told(&app, |status| {
        stuck(status)
            .iter()
            .any(|what| what.starts_with(&changelog.to_string()))
    });
    assert!(told_after >= TOLD_AFTER, "{told_after:?}");
    assert!(
        told_after < TOLD_AFTER + Duration::from_secs(8),
        "{told_after:?}"
    );
    assert_eq!(app.health(), Health::Starting);
    // The brokers look for transactions that have timed out every ten seconds.
    let ran_after = told_after + told(&app, |status| stuck(status).is_empty());
    wait(|| app.health() == Health::Running);
    println!("told after {told_after:.1?}, ran after {ran_after:.1?}");
    let found = app.queries().get(&COUNTS, &"k7".to_owned()).expect("reads");
    assert_eq!(found.map(|(count, _)| count), Some(10));
    app.close().expect("closes");
}

#[test]
fn on_kafka_offsets_that_a_transaction_holds_are_told_and_waited_for() {
    let Some(bed) = log_bed::Bed::kafka() else {
        return;
    };
    let input = bed.topic("words", 2);
    let topology = counting(input);
    bed.feed(input, 0..200, 20);
    let app = bed.start_with(&topology, bed.config("one"));
    wait(|| bed.lag(input) == 0);
    app.close().expect("closes");

    // An owner that dies between its offsets and its commit.
    let mut owner = bed
        .broker
        .consumer(ConsumerConfig {
            group_id: bed.name.clone(),
            instance_id: "dead".to_owned(),
            topics: vec![input.into()],
            session_timeout: Duration::from_secs(6),
        })
        .expect("a member");
    let owned = assigned(&mut *owner);
    let mut config = KafkaConfig::new(std::env::var("MILLSTREAM_TEST_KAFKA").expect("checked"));
    config.transaction_timeout = Duration::from_secs(60);
    let broker = KafkaBroker::new(config).expect("broker");
    let mut producer = broker.producer("dead").expect("a producer");
    producer.init().expect("ready");
    producer.begin().expect("begun");
    let offsets: Vec<_> = owned.iter().map(|of| (of.clone(), 1)).collect();
    let group = owner.group_metadata().expect("a member");
    producer.send_offsets(&offsets, &group).expect("sent");
    owner.close(false);

    let app = Application::start(&topology, bed.broker.clone(), bed.config("two")).expect("starts");
    let waits = |status: &Status| {
        let mut waits = status.threads.iter().filter_map(|t| t.waits_for.clone());
        waits.next()
    };
    let told_after = told(&app, |status| waits(status).is_some());
    println!("told after {told_after:.1?}");
    let why = waits(&app.status()).expect("told");
    assert!(
        why.contains("a transaction of an earlier owner is still open"),
        "{why}"
    );
    assert_eq!(app.health(), Health::Starting);
    producer.abort().expect("aborted");
    wait(|| app.health() == Health::Running);
    assert_eq!(waits(&app.status()), None);
    let found = app.queries().get(&COUNTS, &"k7".to_owned()).expect("reads");
    assert_eq!(
        found.map(|(count, _)| count),
        Some(10),
        "nothing is counted twice"
    );
    app.close().expect("closes");
}

/// Joins, and takes what the group gives.
fn assigned(consumer: &mut dyn Consumer) -> Vec<TopicPartition> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < until, "nothing was assigned");
        let event = consumer.poll(Duration::from_millis(100), 1, &mut Vec::new());
        if let Event::Assigned(partitions) = event.expect("polls") {
            return partitions;
        }
    }
}
