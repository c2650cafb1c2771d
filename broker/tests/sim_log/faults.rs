//! What each fault does to the log, and to whom it is told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, Error, Event, OwnedRecord, ProducerError,
    sim::{Fault, Rates, SimConfig, SimLog},
};
use millstream_topology::Headers;

use super::{
    INSTANT, SESSION, at, join, log, log_with, poll, producer, send, transaction, values, write,
};

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
    let mut told = answers.lock().expect("one thread").clone();
    told.sort();
    assert_eq!(told, [None, Some(0)], "in any order");
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
#[should_panic(expected = "the seam has no such answer here")]
fn a_commit_that_took_place_cannot_be_said_to_be_abortable() {
    log().0.script("producer.commit.after", 1, Fault::Abortable);
}

#[test]
fn a_decided_transaction_becomes_visible_later_where_markers_are_slow() {
    let (log, client) = log();
    log.script("producer.commit.before", 1, Fault::SlowMarkers);
    transaction(&client).expect("it is committed");
    let open = log.open_transactions();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].decided, Some(true));
    assert!(values(&log).is_empty());
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 0);
    let mut heir = join(&client, "a");
    assert!(heir.committed(&[at(0)], INSTANT).is_err(), "not stable yet");
    log.advance(SimConfig::default().markers_delay);
    assert!(log.open_transactions().is_empty());
    assert_eq!(values(&log), ["a"]);
    let committed = heir.committed(&[at(0)], INSTANT).expect("committed");
    assert_eq!(committed, [Some(1)]);
}

#[test]
fn the_next_transaction_of_a_producer_begins_behind_slow_markers() {
    let (log, client) = log();
    log.script("producer.commit.before", 1, Fault::SlowMarkers);
    let mut p = producer(&client, "p");
    write(&mut *p, "a");
    p.begin().expect("begin");
    assert_eq!(values(&log), ["a"]);
    send(&mut *p, "b").expect("send");
    p.commit().expect("commit");
    let records = log.committed_records(&at(0));
    assert_eq!(values(&log), ["a", "b"]);
    let writers: Vec<_> = records.iter().flat_map(|r| r.writer.clone()).collect();
    assert_eq!((&*writers[0].id, writers[0].epoch), ("p", 1));
    assert_eq!((&*writers[1].id, writers[1].epoch), ("p", 1));
    assert!(writers[0].transaction < writers[1].transaction);
}

#[test]
fn a_coordinator_that_is_away_decides_nothing_and_drops_nobody() {
    let (log, client) = log();
    let mut member = join(&client, "a");
    poll(&mut *member);
    let mut p = producer(&client, "p");
    p.begin().expect("begin");
    send(&mut *p, "a").expect("send");
    let config = SimConfig::default();
    log.script("producer.commit.before", 1, Fault::CoordinatorAway);
    let refused = p.commit();
    assert!(
        matches!(refused, Err(ProducerError::Fatal(_))),
        "{refused:?}"
    );
    assert!(member.committed(&[at(0)], INSTANT).is_err());
    let mut other = join(&client, "b");
    assert_eq!(poll(&mut *other), Event::Records);
    assert_eq!(poll(&mut *member), Event::Records, "nobody tells it");
    // Silent for longer than a session, but not to the coordinator that comes back.
    log.advance(SESSION.max(config.coordinator_pause));
    assert_eq!(log.group("g").members.len(), 2);
    assert_eq!(poll(&mut *member), Event::Revoked { lost: false });
    producer(&client, "p");
    assert!(values(&log).is_empty());
    assert!(log.open_transactions().is_empty());
}

#[test]
fn a_clock_that_is_set_is_that_of_one_machine() {
    let (log, client) = log();
    let other = log.client("other");
    assert_eq!(client.now_ms(), log.now_ms());
    log.script("broker.reader.before", 1, Fault::ClockJump);
    client.reader().expect("reader");
    let off = client.now_ms() - log.now_ms();
    assert_ne!(off, 0);
    assert!(off.unsigned_abs() <= SimConfig::default().clock_jump.as_millis() as u64);
    assert_eq!(other.now_ms(), log.now_ms());
}

/// The order in which a number of appended records is answered.
fn answers(seed: u64, slow_answer: f64) -> (SimLog, Arc<Mutex<Vec<i64>>>) {
    let keep = Cleanup::Delete { retention_ms: None };
    let (log, client) = log_with(seed, SimConfig::default(), keep);
    log.set_rates(Rates {
        slow_answer,
        ..Rates::default()
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let appender = client.appender().expect("appender");
    for _ in 0..50 {
        let told = told.clone();
        let record = OwnedRecord {
            to: at(0),
            timestamp: 1,
            key: None,
            value: None,
            headers: Headers::default(),
        };
        let done = move |answer: Result<i64, Error>| {
            let offset = answer.expect("written");
            told.lock().expect("one thread").push(offset);
        };
        appender.append(record, Box::new(done)).expect("queued");
    }
    (log, told)
}

#[test]
fn answers_come_late_and_in_the_order_of_the_seed() {
    let list = |told: &Mutex<Vec<i64>>| told.lock().expect("one thread").clone();
    let (log, told) = answers(1, 0.5);
    log.advance(INSTANT);
    let early = list(&told).len();
    assert!(early > 0 && early < 50, "{early}");
    assert_eq!(values(&log).len(), 50, "all are written");
    log.advance(SimConfig::default().answer_delay);
    let mut all = list(&told);
    let (again, same) = answers(1, 0.5);
    again.advance(INSTANT);
    again.advance(SimConfig::default().answer_delay);
    assert_eq!(all, list(&same));
    assert!(!all.is_sorted());
    all.sort_unstable();
    assert!(all.into_iter().eq(0..50), "each is answered once");
}

#[test]
fn coverage_is_a_table() {
    let (log, client) = log();
    log.script("producer.init.after", 1, Fault::Fatal);
    let mut p = client.producer("p").expect("producer");
    assert!(p.init().is_err());
    let table = log.coverage().to_string();
    let line = table.lines().find(|l| l.starts_with("producer.init.after"));
    let cells: Vec<_> = line.expect("a line").split_whitespace().collect();
    assert_eq!(cells, ["producer.init.after", "1", "1"]);
}
