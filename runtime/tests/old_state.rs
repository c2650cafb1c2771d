//! Disks that were away for longer than their changelogs keep tombstones: what was deleted
//! meanwhile stays deleted.

mod sim_bed;

use std::{collections::BTreeMap, time::Duration};

use millstream_broker::{TopicPartition, sim::SimConfig};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::Stepped;
use millstream_topology::{KvStore, Topic, text};
use sim_bed::{APP, Bed, Machine};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const ROWS: KvStore<String, String> = KvStore::new("rows", text(), text());
const PARTITIONS: u32 = 2;
const KEYS: u32 = 10;
/// How long tombstones stay.
const KEPT: Duration = Duration::from_secs(1000);
/// The time after which a store is not trusted any more: a quarter of it is not counted on.
const TRUSTED: Duration = Duration::from_secs(750);

fn table() -> Topology {
    let b = StreamsBuilder::new();
    b.table(IN, ROWS);
    b.build().expect("builds")
}

fn bed() -> Bed {
    let config = SimConfig {
        tombstones: KEPT,
        ..SimConfig::default()
    };
    Bed::new(config, &[IN.name()], PARTITIONS)
}

fn key(n: u32) -> String {
    format!("k{n}")
}

/// Runs an instance alone until it has written some rows and processed them, then stops it.
fn run(bed: &Bed, machine: &Machine, rows: &[(u32, Option<&str>)]) -> Run {
    let mut app = bed.start(&table(), machine, |_| ());
    bed.settle(&mut [&mut app], IN.name());
    for (n, value) in rows {
        bed.append(IN.name(), &key(*n), *value);
    }
    bed.settle(&mut [&mut app], IN.name());
    let run = Run::of(&app);
    bed.stop(app);
    run
}

/// What is known of an instance.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    rows: BTreeMap<u32, String>,
    rebuilds: BTreeMap<String, u64>,
    restored: u64,
}

impl Run {
    fn of(app: &Stepped) -> Self {
        let queries = app.queries();
        let value = |n| queries.get(&ROWS, &key(n)).expect("reads");
        let rows = (0..=KEYS).filter_map(|n| Some((n, value(n)?.0)));
        let status = app.status();
        Self {
            rows: rows.collect(),
            rebuilds: status.rebuilds,
            restored: status.restored.records,
        }
    }
}

fn all_rows() -> Vec<(u32, Option<&'static str>)> {
    (0..KEYS).map(|n| (n, Some("old"))).collect()
}

/// One machine writes all rows, another one deletes some while the first is away for so long, and
/// the log is compacted at the end. Then the first comes back.
fn after(away: Duration, machine: &Machine) -> (Run, bool) {
    let bed = bed();
    run(&bed, machine, &all_rows());
    let deletions: Vec<_> = (0..KEYS / 2).map(|n| (n, None)).collect();
    let other = run(&bed, &Machine::new("other"), &deletions);
    assert_eq!(other.rows.len(), KEYS as usize / 2);
    bed.log.advance(away);
    bed.log.compact();
    let forgotten = tombstones(&bed) == 0;
    let run = run(&bed, machine, &[(KEYS, Some("new"))]);
    let mut wanted = other.rows;
    wanted.insert(KEYS, "new".to_owned());
    assert_eq!(run.rows, wanted, "what was deleted stays deleted");
    (run, forgotten)
}

/// How many there are in the changelog.
fn tombstones(bed: &Bed) -> usize {
    let partitions = 0..PARTITIONS as i32;
    let records = partitions.flat_map(|p| {
        let at = TopicPartition::new(ROWS.changelog(APP), p);
        bed.log.committed_records(&at)
    });
    records.filter(|r| r.record.value.is_none()).count()
}

fn each_task_once() -> BTreeMap<String, u64> {
    (0..PARTITIONS).map(|p| (format!("0_{p}"), 1)).collect()
}

#[test]
fn deletions_that_the_log_has_forgotten_do_not_come_back() {
    let (run, forgotten) = after(KEPT * 2, &Machine::new("one"));
    assert!(forgotten, "the case is the one that it should be");
    assert_eq!(run.rebuilds, each_task_once());
}

#[test]
fn a_store_is_not_trusted_when_tombstones_may_soon_be_gone() {
    let (run, forgotten) = after(TRUSTED + Duration::from_secs(60), &Machine::new("one"));
    assert!(!forgotten);
    assert_eq!(run.rebuilds, each_task_once());
}

#[test]
fn a_store_that_was_not_away_for_long_replays_the_rest() {
    let (run, forgotten) = after(TRUSTED - Duration::from_secs(60), &Machine::new("one"));
    assert!(!forgotten);
    assert_eq!(run.rebuilds, BTreeMap::new());
    assert_eq!(
        run.restored,
        u64::from(KEYS / 2),
        "the deletions, and nothing else"
    );
}

#[test]
fn a_store_without_a_time_is_trusted_only_where_nothing_is_left_to_read() {
    let bed = bed();
    let machine = Machine::new("one");
    run(&bed, &machine, &all_rows());
    machine.forget_times();
    let again = run(&bed, &machine, &[]);
    assert_eq!((again.rebuilds, again.restored), (BTreeMap::new(), 0));
    machine.forget_times();
    run(&bed, &Machine::new("other"), &all_rows());
    assert_eq!(run(&bed, &machine, &[]).rebuilds, each_task_once());
}

#[test]
fn a_time_in_the_future_is_not_trusted() {
    let machine = Machine::new("one");
    let bed = bed();
    machine
        .skew_ms
        .store(3_600_000, std::sync::atomic::Ordering::Relaxed);
    run(&bed, &machine, &all_rows());
    run(&bed, &Machine::new("other"), &[(0, None)]);
    machine
        .skew_ms
        .store(0, std::sync::atomic::Ordering::Relaxed);
    let run = run(&bed, &machine, &[]);
    let task = |(id, rebuilds): (&String, &u64)| (id.len(), *rebuilds);
    assert_eq!(run.rebuilds.iter().map(task).collect::<Vec<_>>(), [(3, 1)]);
    assert!(!run.rows.contains_key(&0));
}

#[test]
fn a_store_that_nothing_was_written_to_is_kept_however_long_it_was_away() {
    let bed = bed();
    let machine = Machine::new("one");
    let first = run(&bed, &machine, &all_rows());
    for _ in 0..3 {
        bed.log.advance(KEPT * 100);
        bed.log.compact();
        let again = run(&bed, &machine, &[]);
        assert_eq!(again.rows, first.rows);
        assert_eq!((again.rebuilds, again.restored), (BTreeMap::new(), 0));
    }
}

#[test]
fn a_store_that_is_idle_beside_one_that_works_does_not_grow_old() {
    let bed = bed();
    let machine = Machine::new("one");
    run(&bed, &machine, &all_rows());
    let mut app = bed.start(&table(), &machine, |_| ());
    bed.settle(&mut [&mut app], IN.name());
    // One key is of one partition: the other task has nothing to do.
    for n in 0..40 {
        bed.append(IN.name(), &key(0), Some(&n.to_string()));
        bed.settle(&mut [&mut app], IN.name());
        bed.log.advance(KEPT / 10);
    }
    bed.append(IN.name(), &key(0), Some("last"));
    bed.settle(&mut [&mut app], IN.name());
    bed.stop(app);
    run(&bed, &Machine::new("other"), &all_rows());
    let run = run(&bed, &machine, &[]);
    assert_eq!(run.rebuilds, BTreeMap::new());
    assert_eq!(run.restored, u64::from(KEYS));
}

#[test]
fn a_standby_that_was_away_for_too_long_is_rebuilt() {
    let bed = bed();
    let (one, two) = (Machine::new("one"), Machine::new("two"));
    let start = |machine| bed.start(&table(), machine, |config| config.num_standby_replicas = 1);
    let standby = |app: &Stepped| {
        let standbys = app.status().standbys;
        standbys.len() == 1
            && standbys
                .iter()
                .all(|s| s.lag == 0 && !s.positions.is_empty())
    };
    let (mut first, mut second) = (start(&one), start(&two));
    bed.settle(&mut [&mut first, &mut second], IN.name());
    for (n, value) in all_rows() {
        bed.append(IN.name(), &key(n), value);
    }
    bed.settle(&mut [&mut first, &mut second], IN.name());
    let mut apps = [&mut first, &mut second];
    bed.until(&mut apps, "standbys are level", |apps| {
        apps.iter().all(|a| standby(a))
    });
    // While it follows it does not grow old.
    bed.work_for(Duration::from_secs(5), &mut apps);
    bed.stop(second);
    bed.settle(&mut [&mut first], IN.name());
    for n in 0..KEYS / 2 {
        bed.append(IN.name(), &key(n), None);
    }
    bed.settle(&mut [&mut first], IN.name());
    bed.work_for(KEPT * 2, &mut [&mut first]);
    bed.log.compact();
    assert_eq!(tombstones(&bed), 0);
    let mut second = start(&two);
    bed.settle(&mut [&mut first, &mut second], IN.name());
    let mut apps = [&mut first, &mut second];
    bed.until(&mut apps, "standbys are level", |apps| {
        apps.iter().all(|a| standby(a))
    });
    // One as a standby, one as a task.
    assert_eq!(second.status().rebuilds, each_task_once());
    assert_eq!(first.status().rebuilds, BTreeMap::new());
    let stale = |n| second.queries().get_stale(&ROWS, &key(n)).expect("reads");
    let found: Vec<u32> = (0..KEYS).filter(|n| stale(*n).is_some()).collect();
    assert_eq!(found, (KEYS / 2..KEYS).collect::<Vec<_>>());
}
