//! Compaction keeps the newest record of every key, whatever happens around it.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use millstream_broker::{
    Broker, Cleanup, Error, PartitionIx, Start, TopicPartition,
    embedded::{Clock, EmbeddedBroker, EmbeddedConfig},
};
use proptest::prelude::*;

use super::{KEEP, create, open, open_with, read, read_from, texts, write};

/// After so long a tombstone that compaction has seen may go.
const TOMBSTONES: Duration = Duration::from_secs(3600);

/// What may happen to a compacted partition.
#[derive(Clone, Debug)]
enum Step {
    /// One transaction: keys, and values or tombstones.
    Write(Vec<(u8, Option<u8>)>),
    Compact,
    Later,
    /// Deletes so many percent of what is there.
    Delete(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0..12_u8, prop::option::weighted(0.8, any::<u8>()));
    prop_oneof![
        6 => prop::collection::vec(row, 1..20).prop_map(Step::Write),
        3 => Just(Step::Compact),
        1 => Just(Step::Later),
        1 => (0..=100_u8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ]
}

type Written = BTreeMap<i64, (String, Option<String>)>;

/// The table that these records come to.
fn fold(records: &Written) -> BTreeMap<&str, &str> {
    let mut table = BTreeMap::new();
    for (key, value) in records.values() {
        match value {
            Some(value) => table.insert(key.as_str(), value.as_str()),
            None => table.remove(key.as_str()),
        };
    }
    table
}

fn stored(log: &EmbeddedBroker, at: &TopicPartition, start: Start) -> Written {
    let records = read_from(log, at, start).expect("the partition is read");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let row = |record: &millstream_broker::Fetched| {
        let key = text(record.key.as_deref().expect("a key"));
        (record.offset, (key, record.value.as_deref().map(text)))
    };
    let count = records.len();
    assert!(
        records.is_sorted_by(|a, b| a.offset < b.offset),
        "offsets grow"
    );
    let rows: Written = records.iter().map(row).collect();
    assert_eq!(rows.len(), count);
    rows
}

/// Small enough that a few records make many blocks, and compaction goes in several turns.
fn config(clock: &Clock, tail_cache_bytes: usize) -> EmbeddedConfig {
    EmbeddedConfig {
        block_bytes: 120,
        tail_cache_bytes,
        read_ahead_bytes: 300,
        compaction_spared_blocks: 2,
        compaction_memory_bytes: 300,
        tombstone_retention: TOMBSTONES,
        clock: clock.clone(),
        ..EmbeddedConfig::default()
    }
}

fn run(steps: &[Step], tail_cache_bytes: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Clock::default();
    let open = |dir: &Path| open_with(dir, config(&clock, tail_cache_bytes));
    let at = TopicPartition::new("t", 0);
    let mut log: Option<Arc<EmbeddedBroker>> = Some(open(dir.path()));
    create(log.as_ref().expect("open"), "t", 1, Cleanup::Compact);
    let mut written = Written::new();
    let mut low = 0;
    for step in steps {
        let now = log.as_ref().expect("open");
        match step {
            Step::Write(rows) => {
                let rows: Vec<(String, Option<String>)> = rows
                    .iter()
                    .map(|(key, value)| (format!("k{key}"), value.map(|v| format!("v{v}"))))
                    .collect();
                let borrowed: Vec<_> = rows
                    .iter()
                    .map(|(key, value)| (0, 1, key.as_str(), value.as_deref()))
                    .collect();
                write(now, "t", &borrowed);
                let next = written.last_key_value().map_or(0, |(offset, _)| offset + 1);
                written.extend((next..).zip(rows));
            }
            Step::Compact => {
                let compacted = now.compact_now(&at).expect("compact");
                // Blocks in memory may still have what is gone from the disk.
                if tail_cache_bytes == 0 {
                    check_compacted(&stored(now, &at, Start::Earliest), compacted.offset);
                }
            }
            Step::Later => clock.advance(TOMBSTONES * 2),
            Step::Delete(percent) => {
                let admin = now.admin().expect("admin");
                let high = admin.watermarks(&at).expect("watermarks").high;
                low += (high - low) * i64::from(*percent) / 100;
                admin.delete_records(&[(at.clone(), low)]).expect("delete");
            }
            Step::Reopen => {
                drop(log.take());
                log = Some(open(dir.path()));
            }
        }
        check(log.as_ref().expect("open"), &at, &written, low);
    }
}

/// Below the compacted offset every key is there once at most.
fn check_compacted(stored: &Written, offset: i64) {
    let mut seen = BTreeMap::new();
    for (at, (key, _)) in stored.range(..offset) {
        let before = seen.insert(key, at);
        assert_eq!(before, None, "{key} is there twice, again at {at}");
    }
}

fn check(log: &EmbeddedBroker, at: &TopicPartition, written: &Written, low: i64) {
    let stored_now = stored(log, at, Start::Earliest);
    for (offset, row) in &stored_now {
        assert!(*offset >= low, "a deleted record came back");
        assert_eq!(written.get(offset), Some(row), "a record changed");
    }
    let kept: Written = written
        .range(low..)
        .map(|(o, row)| (*o, row.clone()))
        .collect();
    assert_eq!(fold(&stored_now), fold(&kept));
    let high = log
        .admin()
        .expect("admin")
        .watermarks(at)
        .expect("watermarks")
        .high;
    for start in [low, low + (high - low) / 3, low + (high - low) / 2, high] {
        let from_there = stored(log, at, Start::Offset(start));
        let wanted: Written = stored_now
            .range(start..)
            .map(|(o, r)| (*o, r.clone()))
            .collect();
        // In memory and on disk there may be different records of the same table.
        assert_eq!(fold(&from_there), fold(&wanted), "from {start}");
        assert!(from_there.keys().all(|offset| *offset >= start));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_table_stays_the_same(
        steps in prop::collection::vec(step(), 1..30),
        tail_cache_bytes in prop::sample::select(vec![0, 2_000]),
    ) {
        run(&steps, tail_cache_bytes);
    }
}

#[test]
fn tombstones_go_after_their_retention_and_not_before() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Clock::default();
    let log = open_with(dir.path(), config(&clock, 0));
    let at = TopicPartition::new("t", 0);
    create(&log, "t", 1, Cleanup::Compact);
    write(
        &log,
        "t",
        &[(0, 1, "k", Some("v")), (0, 1, "other", Some("v"))],
    );
    write(&log, "t", &[(0, 1, "k", None)]);
    for _ in 0..2 {
        write(&log, "t", &[(0, 1, "spared", Some("v"))]);
    }
    // The time counts from the first compaction that sees it.
    clock.advance(TOMBSTONES * 2);
    let compacted = log.compact_now(&at).expect("compact");
    assert_eq!(
        (compacted.removed, compacted.kept, compacted.offset),
        (1, 2, 3)
    );
    assert_eq!(log.compact_now(&at).expect("compact").removed, 0);
    clock.advance(TOMBSTONES);
    assert_eq!(log.compact_now(&at).expect("compact").removed, 1);
    let left: Vec<i64> = stored(&log, &at, Start::Earliest).into_keys().collect();
    assert_eq!(left, [1, 3, 4]);
}

#[test]
fn a_slow_reader_loses_nothing_to_compaction() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_with(dir.path(), config(&Clock::default(), 0));
    let at = TopicPartition::new("t", 0);
    create(&log, "t", 1, Cleanup::Compact);
    let mut reader = log.reader().expect("reader");
    reader
        .assign(&[(at.clone(), Start::Earliest)])
        .expect("assign");
    let mut records = Vec::new();
    let mut written = Written::new();
    for round in 0..40_i64 {
        let rows: Vec<(String, Option<String>)> = (0..10)
            .map(|i| {
                let key = format!("k{}", (round * 7 + i * 3) % 17);
                (key, ((round + i) % 5 > 0).then(|| format!("v{round}")))
            })
            .collect();
        let borrowed: Vec<_> = rows
            .iter()
            .map(|(key, value)| (0, 1, key.as_str(), value.as_deref()))
            .collect();
        write(&log, "t", &borrowed);
        written.extend((round * 10..).zip(rows));
        if round % 3 == 2 {
            log.compact_now(&at).expect("compact");
        }
        reader.poll(Duration::ZERO, 5, &mut records).expect("poll");
    }
    while reader.position(PartitionIx(0)).expect("position") < 400 {
        reader.poll(Duration::ZERO, 50, &mut records).expect("poll");
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let seen: Written = records
        .iter()
        .map(|r| {
            let key = text(r.key.as_deref().expect("a key"));
            (r.offset, (key, r.value.as_deref().map(text)))
        })
        .collect();
    assert_eq!(fold(&seen), fold(&written));
    assert!(
        seen.len() < 400,
        "something was compacted before it was read"
    );
}

#[test]
fn only_compacted_topics_are_compacted() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    create(&log, "t", 1, KEEP);
    let refused = log.compact_now(&TopicPartition::new("t", 0));
    assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
}

#[test]
fn compaction_begins_by_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = EmbeddedConfig {
        cleanup_interval: Duration::from_millis(5),
        compaction_dirty_records: 20,
        ..config(&Clock::default(), 0)
    };
    let log = open_with(dir.path(), config);
    create(&log, "t", 1, Cleanup::Compact);
    let at = TopicPartition::new("t", 0);
    let end = std::time::Instant::now() + super::DEADLINE;
    loop {
        for _ in 0..10 {
            write(
                &log,
                "t",
                &[(
                    0,
                    1,
                    "k",
                    Some("a long value that fills a block of its own"),
                )],
            );
        }
        let high = log
            .admin()
            .expect("admin")
            .watermarks(&at)
            .expect("watermarks")
            .high;
        let left = read(&log, &at);
        if (left.len() as i64) < high / 2 {
            assert_eq!(texts(&left[left.len() - 1..]).len(), 1);
            return;
        }
        assert!(std::time::Instant::now() < end, "nothing was compacted");
    }
}
