//! What the simulated log does beyond the contract: virtual time, fencing, faults and seeds.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Error, Event, NewTopic, Outgoing, OwnedRecord,
    PartitionIx, Producer, ProducerError, Start, TopicPartition,
    sim::{Coverage, Fault, Rates, SimClient, SimConfig, SimLog},
};
use millstream_topology::Headers;

const SESSION: Duration = Duration::from_secs(6);
const INSTANT: Duration = Duration::ZERO;

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn log_with(seed: u64, config: SimConfig, cleanup: Cleanup) -> (SimLog, SimClient) {
    let log = SimLog::new(seed, config);
    let client = log.client("setup");
    let topic = NewTopic {
        name: "t".into(),
        partitions: 2,
        cleanup,
    };
    let admin = client.admin().expect("admin");
    admin.create_topics(&[topic]).expect("created");
    (log, client)
}

fn log() -> (SimLog, SimClient) {
    let keep = Cleanup::Delete { retention_ms: None };
    log_with(1, SimConfig::default(), keep)
}

fn producer(client: &SimClient, id: &str) -> Box<dyn Producer> {
    let mut producer = client.producer(id).expect("producer");
    producer.init().expect("init");
    producer
}

fn send(producer: &mut dyn Producer, value: &str) -> Result<(), ProducerError> {
    let topic = producer.topic("t");
    producer.send(Outgoing {
        topic,
        partition: 0,
        timestamp: 1,
        key: Some(b"k"),
        value: (!value.is_empty()).then_some(value.as_bytes()),
        headers: &Headers::default(),
    })
}

fn write(producer: &mut dyn Producer, value: &str) {
    producer.begin().expect("begin");
    send(producer, value).expect("send");
    producer.drain().expect("drain");
    producer.commit().expect("commit");
}

fn values(log: &SimLog) -> Vec<String> {
    log.check();
    let records = log.committed_records(&at(0));
    let text = |value: &Option<Bytes>| {
        let value = value.as_deref().unwrap_or_default();
        String::from_utf8(value.to_vec()).expect("text")
    };
    records.iter().map(|(_, r)| text(&r.value)).collect()
}

fn join(client: &SimClient, instance: &str) -> Box<dyn Consumer> {
    let config = ConsumerConfig {
        group_id: "g".into(),
        instance_id: instance.into(),
        topics: vec!["t".into()],
        session_timeout: SESSION,
    };
    client.consumer(config).expect("consumer")
}

fn poll(consumer: &mut dyn Consumer) -> Event {
    let event = consumer.poll(INSTANT, 100, &mut Vec::new()).expect("poll");
    match &event {
        Event::Records => {}
        Event::Assigned(partitions) => {
            let from: Vec<_> = partitions
                .iter()
                .map(|p| (p.clone(), Start::Earliest))
                .collect();
            consumer.assign(&from).expect("assign");
        }
        Event::Revoked { .. } => consumer.unassign().expect("unassign"),
    }
    event
}

#[test]
fn a_newer_epoch_fences_every_call_of_the_older() {
    type Try = fn(&mut dyn Producer) -> Result<(), ProducerError>;
    let tries: [Try; 4] = [
        |p| send(p, "late"),
        |p| p.drain(),
        |p| p.commit(),
        |p| p.abort(),
    ];
    for attempt in tries {
        let (log, client) = log();
        let mut old = producer(&client, "p");
        old.begin().expect("begin");
        send(&mut *old, "open").expect("send");
        let _new = producer(&client, "p");
        let refused = attempt(&mut *old);
        assert!(
            matches!(refused, Err(ProducerError::Fenced(_))),
            "{refused:?}"
        );
        assert!(values(&log).is_empty());
        assert!(log.open_transactions().is_empty());
    }
}

#[test]
fn an_older_generation_cannot_commit_offsets() {
    let (log, client) = log();
    let mut first = join(&client, "a");
    assert_eq!(poll(&mut *first), Event::Assigned(vec![at(0), at(1)]));
    let stale = first.group_metadata().expect("metadata");
    let mut second = join(&client, "b");
    assert_eq!(poll(&mut *first), Event::Revoked { lost: false });
    assert_eq!(poll(&mut *second), Event::Assigned(vec![at(1)]));
    assert_eq!(poll(&mut *first), Event::Assigned(vec![at(0)]));
    assert_eq!(log.group("g").generation, 2);

    let mut p = producer(&client, "p");
    p.begin().expect("begin");
    let refused = p.send_offsets(&[(at(0), 5)], &stale);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    p.abort().expect("abort");
    let fresh = first.group_metadata().expect("metadata");
    p.begin().expect("begin");
    p.send_offsets(&[(at(0), 6)], &fresh).expect("send_offsets");
    let pending = first.committed(&[at(0)], INSTANT);
    assert!(pending.is_err(), "an open transaction has others");
    p.commit().expect("commit");
    let committed = first.committed(&[at(0)], INSTANT).expect("committed");
    assert_eq!(committed, [Some(6)]);
}

#[test]
fn a_silent_member_loses_its_partitions_and_learns_of_it() {
    let (log, client) = log();
    let mut silent = join(&client, "a");
    poll(&mut *silent);
    let mut other = join(&client, "b");
    log.advance(SESSION / 2);
    poll(&mut *other);
    log.advance(SESSION / 2);
    assert_eq!(poll(&mut *other), Event::Assigned(vec![at(0), at(1)]));
    assert_eq!(poll(&mut *silent), Event::Revoked { lost: true });
    assert_eq!(poll(&mut *other), Event::Revoked { lost: false });
    assert_eq!(poll(&mut *silent), Event::Assigned(vec![at(0)]));
}

#[test]
fn an_expired_transaction_is_aborted_and_its_producer_fenced() {
    let (log, client) = log();
    let mut p = producer(&client, "p");
    p.begin().expect("begin");
    send(&mut *p, "slow").expect("send");
    log.advance(SimConfig::default().transaction_timeout - Duration::from_millis(1));
    assert_eq!(log.open_transactions().len(), 1);
    log.advance(Duration::from_millis(1));
    assert!(log.open_transactions().is_empty());
    let refused = p.commit();
    assert!(
        matches!(refused, Err(ProducerError::Fenced(_))),
        "{refused:?}"
    );
    assert!(values(&log).is_empty());
}

#[test]
fn an_open_transaction_holds_back_what_was_committed_behind_it() {
    let (log, client) = log();
    let mut slow = producer(&client, "slow");
    slow.begin().expect("begin");
    send(&mut *slow, "first").expect("send");
    write(&mut *producer(&client, "quick"), "second");
    let mut reader = client.reader().expect("reader");
    reader.assign(&[(at(0), Start::Earliest)]).expect("assign");
    let mut read = Vec::new();
    reader.poll(INSTANT, 10, &mut read).expect("poll");
    assert!(read.is_empty());
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 0);
    slow.abort().expect("abort");
    reader.poll(INSTANT, 10, &mut read).expect("poll");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].offset, 1);
    assert_eq!(reader.position(PartitionIx(0)).expect("position"), 4);
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 4);
}

/// One transaction with a record and an offset.
fn transaction(client: &SimClient) -> Result<(), ProducerError> {
    let broker = |error: Error| ProducerError::Fatal(error.into());
    let mut consumer = join(client, "a");
    poll(&mut *consumer);
    let proof = consumer.group_metadata().map_err(broker)?;
    let mut p = client.producer("p").map_err(broker)?;
    p.init()?;
    p.begin()?;
    send(&mut *p, "a")?;
    p.drain()?;
    p.send_offsets(&[(at(0), 1)], &proof)?;
    p.commit()
}

#[test]
fn a_crash_around_any_producer_call_leaves_all_or_nothing() {
    let calls = ["init", "begin", "send", "drain", "send_offsets", "commit"];
    for (ix, call) in calls.iter().enumerate() {
        for phase in ["before", "after"] {
            let point = format!("producer.{call}.{phase}");
            let (log, _) = log();
            let client = log.client("victim");
            log.script(&point, 1, Fault::Crash);
            assert!(transaction(&client).is_err(), "{point}");
            assert!(!client.lives(), "{point}");
            assert_eq!(log.coverage().0[&*point].hit, 1);
            let done = point == "producer.commit.after";
            let sent = ix > 2 || point == "producer.send.after";
            let open = log.open_transactions().len();
            assert_eq!(open, usize::from(sent && !done), "{point}");

            // Its heir ends what was open and does the work if it was not done.
            let heir = log.client("heir");
            let mut p = producer(&heir, "p");
            assert!(log.open_transactions().is_empty(), "{point}");
            let offset = log.group("g").offsets.get(&at(0)).copied();
            assert_eq!(offset, done.then_some(1), "{point}");
            if offset.is_none() {
                write(&mut *p, "a");
            }
            assert_eq!(values(&log), ["a"], "{point}");
        }
    }
}

#[test]
fn an_indeterminate_commit_took_place_or_not() {
    for applied in [true, false] {
        let (log, client) = log();
        log.script(
            "producer.commit.before",
            1,
            Fault::Indeterminate { applied },
        );
        let answer = transaction(&client);
        assert!(matches!(answer, Err(ProducerError::Fatal(_))), "{answer:?}");
        producer(&client, "p");
        assert_eq!(values(&log).len(), usize::from(applied));
        let offsets = log.group("g").offsets;
        assert_eq!(offsets.len(), usize::from(applied));
    }
}

#[test]
fn a_killed_client_has_no_effect_any_more() {
    let (log, setup) = log();
    let client = log.client("victim");
    let consumer = join(&client, "a");
    let mut p = producer(&client, "p");
    let appender = client.appender().expect("appender");
    write(&mut *p, "before");
    p.begin().expect("begin");
    send(&mut *p, "open").expect("send");
    client.kill();
    assert!(send(&mut *p, "late").is_err());
    assert!(p.commit().is_err());
    assert!(p.init().is_err());
    consumer.close(false);
    assert!(client.admin().is_err());
    let record = OwnedRecord {
        to: at(0),
        timestamp: 1,
        key: None,
        value: None,
        headers: Headers::default(),
    };
    let refused = appender.append(record, Box::new(|_| panic!("nobody is told")));
    assert!(refused.is_err());
    assert_eq!(log.group("g").members.len(), 1, "its place is kept");
    log.advance(SESSION);
    assert!(log.group("g").members.is_empty());
    producer(&setup, "p");
    assert_eq!(values(&log), ["before"]);
}

#[test]
fn appended_records_are_answered_when_time_moves() {
    let (log, client) = log();
    let appender = client.appender().expect("appender");
    let answers = Arc::new(Mutex::new(Vec::new()));
    let append = || {
        let answers = answers.clone();
        let record = OwnedRecord {
            to: at(0),
            timestamp: 1,
            key: None,
            value: Some(Bytes::from("v")),
            headers: Headers::default(),
        };
        let done = move |answer: Result<i64, Error>| {
            answers.lock().expect("one thread").push(answer.ok());
        };
        appender.append(record, Box::new(done))
    };
    log.script("appender.append.before", 2, Fault::Full);
    log.script(
        "appender.append.before",
        3,
        Fault::Indeterminate { applied: true },
    );
    append().expect("queued");
    assert!(matches!(append(), Err(Error::Full)));
    append().expect("queued");
    assert!(answers.lock().expect("one thread").is_empty());
    log.advance(INSTANT);
    assert_eq!(*answers.lock().expect("one thread"), [Some(0), None]);
    assert_eq!(values(&log), ["v", "v"]);
}

/// Aborts a transaction behind a commit whose first request is late.
fn late_end_txn(config: SimConfig, init_between: bool) -> Vec<String> {
    let keep = Cleanup::Delete { retention_ms: None };
    let (log, client) = log_with(1, config, keep);
    let mut p = producer(&client, "p");
    write(&mut *p, "good");
    if init_between {
        p.init().expect("init");
    }
    p.begin().expect("begin");
    send(&mut *p, "bad").expect("send");
    p.drain().expect("drain");
    p.abort().expect("abort");
    values(&log)
}

#[test]
fn a_late_end_of_a_transaction_harms_the_next_one_unless_init_came_between() {
    let late = SimConfig {
        late_end_txn: true,
        ..SimConfig::default()
    };
    let noticed = SimConfig {
        init_after_late_end: true,
        ..late.clone()
    };
    assert_eq!(late_end_txn(SimConfig::default(), false), ["good"]);
    assert_eq!(late_end_txn(late.clone(), false), ["good", "bad"]);
    assert_eq!(late_end_txn(late, true), ["good"]);
    assert_eq!(late_end_txn(noticed, false), ["good"]);
}

#[test]
fn compaction_keeps_the_newest_committed_record_of_a_key() {
    let (log, client) = log_with(1, SimConfig::default(), Cleanup::Compact);
    let mut p = producer(&client, "p");
    write(&mut *p, "a");
    write(&mut *p, "b");
    p.begin().expect("begin");
    send(&mut *p, "aborted").expect("send");
    p.abort().expect("abort");
    log.compact();
    assert_eq!(values(&log), ["b"]);
    assert_eq!(log.committed_records(&at(0))[0].0, 2);
    write(&mut *p, "");
    log.compact();
    assert_eq!(values(&log), [""], "a null value stays for a while");
    log.advance(SimConfig::default().tombstones);
    log.compact();
    assert!(values(&log).is_empty());
}

#[test]
fn retention_deletes_old_records() {
    let retention_ms = Some(1_000);
    let (log, client) = log_with(1, SimConfig::default(), Cleanup::Delete { retention_ms });
    write(&mut *producer(&client, "p"), "old");
    log.compact();
    assert!(values(&log).is_empty());
    let admin = client.admin().expect("admin");
    let marks = admin.watermarks(&at(0)).expect("watermarks");
    assert_eq!((marks.low, marks.high), (2, 2));
}

/// A life full of faults: what it left, and what it met.
fn run(seed: u64) -> (Vec<(i64, OwnedRecord)>, Vec<String>, Coverage) {
    let rates = Rates {
        crash: 0.01,
        retriable: 0.02,
        abortable: 0.03,
        fatal: 0.01,
        fenced: 0.01,
        indeterminate: 0.05,
        rebalance: 0.02,
        short_poll: 0.1,
        full: 0.0,
        late_end_txn: 0.0,
    };
    let keep = Cleanup::Delete { retention_ms: None };
    let (log, _) = log_with(seed, SimConfig::default(), keep);
    log.set_rates(rates);
    let mut met = Vec::new();
    for round in 0..200 {
        let client = log.client("a");
        let Ok(mut p) = client.producer("p") else {
            continue;
        };
        let mut work = || {
            p.init()?;
            for step in 0..5 {
                p.begin()?;
                send(&mut *p, &format!("{round}.{step}"))?;
                p.drain()?;
                p.commit()?;
            }
            Ok::<_, ProducerError>(())
        };
        met.extend(work().err().map(|error| format!("{error:?}")));
        log.advance(Duration::from_secs(1));
        log.check();
    }
    (log.committed_records(&at(0)), met, log.coverage())
}

#[test]
fn the_seed_decides_everything() {
    let (records, met, mut coverage) = run(42);
    assert_eq!((records.clone(), met.clone(), coverage.clone()), run(42));
    assert!(records.len() > 100, "some work was done: {}", records.len());
    assert!(met.len() > 50, "some faults were met: {}", met.len());
    let other = run(43);
    assert_ne!(records, other.0);
    let before = coverage.0["producer.commit.before"];
    coverage.merge(&other.2);
    let more = other.2.0["producer.commit.before"];
    let after = coverage.0["producer.commit.before"];
    assert!(before.hit > 0 && before.passed > before.hit);
    assert_eq!(after.passed, before.passed + more.passed);
    assert_eq!(after.hit, before.hit + more.hit);
}

#[test]
#[should_panic(expected = "the seam has no such answer here")]
fn a_commit_that_took_place_cannot_be_said_to_be_abortable() {
    log().0.script("producer.commit.after", 1, Fault::Abortable);
}
