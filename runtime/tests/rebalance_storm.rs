//! Members that come and go all the time (F22): tasks that stay read nothing again, and those that
//! move read what was written while they were elsewhere, not the store.
//!
//! What all restores of a storm may read is bounded. Two machines stay and one comes and goes, so a
//! task has two homes and moves between them. A disk knows what its own machine has written, and
//! reads each record that the other home wrote once: all of it together is at most what was written
//! meanwhile. A member that is killed loses in addition what it had not flushed, which the next
//! owner does not notice and its own next start reads again: [`TAIL`] records at most.

mod log_bed;
mod sim_bed;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use millstream_broker::{TopicPartition, sim::SimConfig};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Health, Queries, Status, Stepped};
use millstream_topology::{KvStore, Topic, text, u64_be};
use sim_bed::{APP, Machine};
use wait::wait;

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const PARTITIONS: u32 = 6;
const KEYS: u32 = 3000;

fn counting(input: &'static str) -> Topology {
    let b = StreamsBuilder::new();
    let words: Topic<String, String> = Topic::new(input, text(), text());
    b.stream(words).group_by_key().count(COUNTS);
    b.build().expect("builds")
}

/// What a task has replayed since it was opened here, by task.
fn replayed(status: &Status) -> BTreeMap<String, u64> {
    let tasks = status.threads.iter().flat_map(|t| &t.tasks);
    let replayed = tasks.map(|t| (t.id.clone(), t.stores.iter().map(|s| s.replayed).sum()));
    replayed.collect()
}

/// The tasks that a member has had at every look, with what they had replayed at the first.
struct Kept(BTreeMap<String, u64>);

impl Kept {
    fn of(status: &Status) -> Self {
        Self(replayed(status))
    }

    /// Some tasks never left, and none of them has read anything.
    #[track_caller]
    fn look(&mut self, status: &Status) {
        let now = replayed(status);
        self.0.retain(|task, _| now.contains_key(task));
        assert!(!self.0.is_empty(), "some tasks stay");
        for (task, before) in &self.0 {
            assert_eq!(
                now[task], *before,
                "{task} stayed and has read its changelog"
            );
        }
    }
}

/// Records of a turn of a simulated storm.
const A_TURN: u32 = 3;
/// How often state is flushed there.
const FLUSH: Duration = Duration::from_millis(500);
/// Records that are fed between two flushes of it, and while one is on its way.
const TAIL: u64 = 2 * (500 / 20) * A_TURN as u64;
/// How often a member comes and goes.
const CYCLES: u32 = 20;

struct Storm {
    bed: sim_bed::Bed,
    topology: Topology,
    fed: u32,
}

impl Storm {
    fn start(&self, machine: &Machine) -> Stepped {
        self.bed.start(&self.topology, machine, |config| {
            config.flush_interval = FLUSH;
        })
    }

    fn feed(&mut self, records: u32) {
        for n in self.fed..self.fed + records {
            self.bed
                .append("words", &format!("k{}", n % KEYS), Some("x"));
        }
        self.fed += records;
    }

    /// Works under load for so many turns, and then until the members share the tasks.
    fn work(&mut self, turns: u32, apps: &mut [&mut Stepped]) {
        for _ in 0..turns {
            self.feed(A_TURN);
            self.bed.turn(apps);
        }
        let tasks = |app: &Stepped| match app.health() {
            Health::Running => replayed(&app.status()).len(),
            _ => 0,
        };
        let share = PARTITIONS as usize / apps.len();
        let deadline = self.bed.log.now() + Duration::from_secs(60);
        while !apps.iter().all(|app| tasks(app) == share) {
            assert!(self.bed.log.now() < deadline, "the tasks are not shared");
            self.feed(A_TURN);
            self.bed.turn(apps);
        }
    }

    /// Records of all changelogs.
    fn written(&self) -> u64 {
        let partitions = 0..PARTITIONS as i32;
        let records = partitions.map(|p| {
            let at = TopicPartition::new(COUNTS.changelog(APP), p);
            self.bed.log.committed_records(&at).len() as u64
        });
        records.sum()
    }

    /// All that was fed is counted once.
    fn check(&self, apps: &mut [&mut Stepped]) {
        self.bed.settle(apps, "words");
        let queries: Vec<Queries> = apps.iter().map(|app| app.queries()).collect();
        let count = |n: u32| {
            let key = format!("k{n}");
            let mut found = queries.iter().map(|q| q.get(&COUNTS, &key));
            let found = found.find_map(|found| found.ok().flatten());
            found.map_or(0, |(count, _)| count)
        };
        let counted: u64 = (0..KEYS).map(count).sum();
        assert_eq!(
            counted,
            u64::from(self.fed),
            "nothing is lost, nothing counts twice"
        );
    }
}

/// `is_killed` says which members that come are killed.
fn check(is_killed: impl Fn(u32) -> bool) {
    let mut storm = Storm {
        bed: sim_bed::Bed::new(SimConfig::default(), &["words"], PARTITIONS),
        topology: counting("words"),
        fed: 0,
    };
    let (one, two, three) = (Machine::new("a"), Machine::new("b"), Machine::new("c"));
    let (mut first, mut second) = (storm.start(&one), storm.start(&two));
    // Every disk has had every task that comes to it once, before anything is counted.
    storm.feed(KEYS);
    storm.work(100, &mut [&mut first, &mut second]);
    let mut third = storm.start(&three);
    storm.work(100, &mut [&mut first, &mut second, &mut third]);
    storm.bed.stop(third);
    storm.work(100, &mut [&mut first, &mut second]);

    let before = storm.written();
    let restored = |apps: [&Stepped; 2]| -> u64 {
        let stats = apps.map(|app| app.status().restored.records);
        stats.iter().sum()
    };
    let restored_before = restored([&first, &second]);
    let mut kept = [Kept::of(&first.status()), Kept::of(&second.status())];
    let (mut by_third, mut kills) = (0, 0);
    for cycle in 0..CYCLES {
        let mut third = storm.start(&three);
        storm.work(50, &mut [&mut first, &mut second, &mut third]);
        kept[0].look(&first.status());
        kept[1].look(&second.status());
        by_third += third.status().restored.records;
        if is_killed(cycle) {
            kills += 1;
            drop(third);
        } else {
            storm.bed.stop(third);
        }
        storm.work(50, &mut [&mut first, &mut second]);
        kept[0].look(&first.status());
        kept[1].look(&second.status());
    }
    let written = storm.written() - before;
    let read = restored([&first, &second]) - restored_before + by_third;
    let bound = written + kills * TAIL;
    let in_full = u64::from(CYCLES) * storm.written();
    println!(
        "cycles={CYCLES} kills={kills} written={written} restored={read} bound={bound} \
         in_full={in_full}"
    );
    assert!(read > 0, "tasks have moved");
    assert!(read <= bound, "restored={read} bound={bound}");
    storm.check(&mut [&mut first, &mut second]);
}

#[test]
fn members_that_come_and_go_read_no_record_twice() {
    check(|_| false);
}

#[test]
fn members_that_are_killed_read_their_tail_again_and_no_more() {
    check(|_| true);
}

#[test]
fn members_that_are_killed_now_and_then_read_no_more() {
    check(|cycle| cycle % 3 == 1);
}

/// How often a member comes and goes on a log that is not simulated.
const REAL_CYCLES: u32 = 6;

fn a_storm_under_load(bed: &log_bed::Bed) {
    let input = bed.topic("words", PARTITIONS);
    let topology = counting(input);
    let start = |name: &str| {
        Application::start(&topology, bed.broker.clone(), bed.config(name)).expect("starts")
    };
    let tasks = |app: &Application| match app.health() {
        Health::Running => replayed(&app.status()).len(),
        _ => 0,
    };
    let shared = |apps: &[&Application]| {
        wait(|| {
            apps.iter()
                .all(|app| tasks(app) == PARTITIONS as usize / apps.len())
        });
    };
    let ends = || -> u64 {
        let partitions = bed.partitions_of(&COUNTS.changelog(&bed.name));
        let admin = bed.broker.admin().expect("admin");
        let high = partitions
            .iter()
            .map(|p| admin.watermarks(p).expect("watermarks").high);
        high.sum::<i64>() as u64
    };
    let (first, second) = (start("a"), start("b"));
    shared(&[&first, &second]);
    bed.feed(input, 0..KEYS, KEYS);
    let third = start("c");
    shared(&[&first, &second, &third]);
    third.close().expect("closes");
    shared(&[&first, &second]);
    wait(|| bed.lag(input) == 0);

    let (before, fed, over) = (ends(), AtomicU32::new(KEYS), AtomicBool::new(false));
    let restored_before: Vec<_> = [&first, &second].map(|app| app.status().restored).into();
    let mut kept = [Kept::of(&first.status()), Kept::of(&second.status())];
    let mut all: BTreeSet<String> = BTreeSet::new();
    let (mut records, mut bytes) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let from = fed.fetch_add(100, Ordering::Relaxed);
                bed.feed(input, from..from + 100, KEYS);
            }
        });
        for _ in 0..REAL_CYCLES {
            let third = start("c");
            shared(&[&first, &second, &third]);
            kept[0].look(&first.status());
            kept[1].look(&second.status());
            let status = third.status();
            records += status.restored.records;
            bytes += status.restored.bytes;
            all.extend(replayed(&status).into_keys());
            third.close().expect("closes");
            shared(&[&first, &second]);
            kept[0].look(&first.status());
            kept[1].look(&second.status());
        }
        over.store(true, Ordering::Release);
    });
    wait(|| bed.lag(input) == 0);
    for (app, before) in [&first, &second].into_iter().zip(restored_before) {
        records += app.status().restored.records - before.records;
        bytes += app.status().restored.bytes - before.bytes;
    }
    let (written, fed) = (ends() - before, fed.into_inner());
    println!("cycles={REAL_CYCLES} fed={fed} written={written} restored={records} bytes={bytes}");
    assert!(
        !all.is_empty() && records > 0,
        "tasks have moved under load"
    );
    assert!(records <= written, "restored={records} written={written}");
    let count = |n: u32| {
        let mut found = [&first, &second].into_iter().map(|app| {
            let found = app.queries().get(&COUNTS, &format!("k{n}"));
            found.ok().flatten()
        });
        found.find_map(|found| found).map_or(0, |(count, _)| count)
    };
    assert_eq!((0..KEYS).map(count).sum::<u64>(), u64::from(fed));
    first.close().expect("closes");
    second.close().expect("closes");
}

#[test]
fn a_storm_under_load_on_the_embedded_log() {
    a_storm_under_load(&log_bed::Bed::embedded());
}

#[test]
fn a_storm_under_load_on_kafka() {
    if let Some(bed) = log_bed::Bed::kafka() {
        a_storm_under_load(&bed);
    }
}
