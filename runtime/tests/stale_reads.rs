//! Standbys on a simulated log: reads of them are as old as they say, and no older, and go on while
//! tasks move; and what they keep is what a task would have restored.

mod instances;

use std::{collections::BTreeMap, time::Duration};

use instances::{APP, Instances, TICK};
use millstream_broker::TopicPartition;
use millstream_operators::{FromTopic, StreamsBuilder, Topology};
use millstream_runtime::{Health, Part, StaleView};
use millstream_topology::{KvStore, Topic, text, u64_be};

const WORDS: Topic<String, u64> = Topic::new("words", text(), u64_be());
const ROWS: Topic<String, u64> = Topic::new("rows", text(), u64_be());
const CHANGES: Topic<String, u64> = Topic::new("changes", text(), u64_be());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const NEWEST: KvStore<String, u64> = KvStore::new("newest", text(), u64_be());
const TOPICS: [&str; 3] = ["words", "rows", "changes"];
const KEYS: u64 = 6;

/// Counts words, and keeps rows that are restored from their own topic.
fn topology() -> Topology {
    let b = StreamsBuilder::new();
    b.stream(WORDS).group_by_key().count(COUNTS);
    b.table(ROWS, FromTopic(NEWEST))
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0))
        .to(CHANGES);
    b.build().expect("builds")
}

fn key(n: u64) -> String {
    format!("k{}", n % KEYS)
}

/// The n-th word of a key raises its count by one, and its n-th row is n.
fn append(instances: &Instances, n: u64) {
    let value = (n / KEYS + 1).to_be_bytes();
    instances.append("words", &key(n), &value);
    instances.append("rows", &key(n), &value);
}

/// What the tasks tell of each key of both stores: 0 of one that is not there.
fn active(instances: &Instances) -> BTreeMap<(&'static str, String), u64> {
    let mut told = BTreeMap::new();
    for store in [COUNTS, NEWEST] {
        for n in 0..KEYS {
            let mut all = instances.all.iter();
            let found = all.find_map(|i| i.app.queries().get(&store, &key(n)).ok());
            let value = found.expect("its task runs").map_or(0, |(value, _)| value);
            told.insert((store.name(), key(n)), value);
        }
    }
    told
}

fn value_of(copy: &StaleView, key: &str) -> Option<u64> {
    let found = copy.view.get(key.as_bytes()).expect("is read");
    found.map(|(value, _)| {
        let bytes = value[..].try_into().expect("eight bytes");
        u64::from_be_bytes(bytes)
    })
}

/// What the tasks told at the end of each tick, with its time.
type History = Vec<(Duration, BTreeMap<(&'static str, String), u64>)>;

/// Each copy holds at least what was committed when it says that it was level, and nothing that is
/// not committed yet. Returns the greatest age.
fn check_copies(instances: &Instances, now: Duration, history: &History) -> Duration {
    let (_, newest) = history.last().expect("begun");
    let mut oldest = Duration::ZERO;
    for (instance, store) in instances
        .all
        .iter()
        .flat_map(|instance| [(instance, COUNTS), (instance, NEWEST)])
    {
        let copies = instance.app.queries().copies(store.name()).expect("known");
        assert!(!copies.is_empty());
        for copy in copies {
            // Ages are counted on from the end of the tick, as the time has moved since.
            let age = copy.age.expect("it was level once");
            oldest = oldest.max(age);
            let level = instances.log.now() - age;
            let then = history.iter().rfind(|(at, _)| *at <= level);
            let (_, then) = then.expect("the history begins before");
            for n in 0..KEYS {
                let at = (store.name(), key(n));
                let Some(value) = value_of(&copy, &at.1) else {
                    continue;
                };
                let (at_least, at_most) = (then[&at], newest[&at]);
                assert!(
                    (at_least..=at_most).contains(&value),
                    "{at:?}: {value} is not within {at_least}..={at_most} at {now:?}, {age:?} old"
                );
            }
        }
    }
    oldest
}

#[test]
fn what_a_standby_tells_is_no_older_than_it_says() {
    let mut instances = Instances::start(&topology(), &TOPICS);
    (0..KEYS).for_each(|n| append(&instances, n));
    instances.until(Instances::are_settled);
    let mut history = History::new();
    let mut oldest = BTreeMap::new();
    for (phase, ticks) in [("before", 300), ("held", 200), ("after", 300)] {
        for tick in 0..ticks {
            instances.all[1].is_held = phase == "held";
            if tick % 3 == 0 {
                append(&instances, KEYS + history.len() as u64);
            }
            let now = instances.log.now();
            instances.tick();
            history.push((now, active(&instances)));
            // It takes a moment until the first ages lie within the history.
            if phase != "before" || tick > 200 {
                let age = check_copies(&instances, now, &history);
                oldest.insert(phase, age);
            }
        }
    }
    let held = TICK * 200;
    assert!(oldest["held"] >= held, "{oldest:?}");
    assert!(oldest["before"] < Duration::from_secs(3), "{oldest:?}");
    assert!(oldest["after"] < Duration::from_secs(3), "{oldest:?}");
    let moved = history.last().expect("begun").1.values().sum::<u64>();
    assert!(moved > 2 * KEYS, "nothing came that a standby could miss");
}

#[test]
fn stale_reads_go_on_while_a_task_moves() {
    let mut instances = Instances::start(&topology(), &TOPICS);
    (0..5 * KEYS).for_each(|n| append(&instances, n));
    instances.until(|all| all.are_settled() && active(all).values().all(|n| *n == 5));
    instances.until(Instances::are_settled);
    instances.kill_first();
    let read = |all: &Instances| {
        let queries = all.all[0].app.queries();
        for n in 0..KEYS {
            for store in [COUNTS, NEWEST] {
                let found = queries.get_stale(&store, &key(n)).expect("is served");
                assert_eq!(found.map(|(value, _)| value), Some(5));
            }
        }
        let serves = |n| queries.get(&COUNTS, &key(n)).is_ok();
        (0..KEYS).all(serves) && all.all[0].app.health() == Health::Running
    };
    assert!(!read(&instances), "the tasks are not here yet");
    instances.until(read);
    let copies = |store: &str| instances.all[0].app.queries().copies(store);
    assert!(copies(COUNTS.name()).expect("known").is_empty());
    assert!(copies(NEWEST.name()).expect("known").is_empty());
}

/// The records of a topic, all partitions.
fn records(instances: &Instances, topic: &str) -> usize {
    let partitions = 0..instances::PARTITIONS as i32;
    let of = |p| {
        instances
            .log
            .committed_records(&TopicPartition::new(topic, p))
    };
    partitions.map(|p| of(p).len()).sum()
}

/// Changelog or input records that were read again when tasks were opened here, by store.
fn replayed(instances: &Instances, store: &str) -> u64 {
    let status = instances.all[0].app.status();
    let tasks = status.threads.into_iter().flat_map(|t| t.tasks);
    let stores = tasks.flat_map(|t| t.stores).filter(|s| s.name == store);
    stores.map(|s| s.replayed).sum()
}

#[test]
fn a_store_from_a_topic_is_followed_up_to_the_committed_offset() {
    let mut instances = Instances::start(&topology(), &TOPICS);
    (0..4 * KEYS).for_each(|n| append(&instances, n));
    instances.until(|all| all.are_settled() && records(all, "changes") == 4 * KEYS as usize);
    instances.until(Instances::are_settled);
    // What nobody has processed, no standby shows.
    instances.all[0].is_paused = true;
    (4 * KEYS..6 * KEYS).for_each(|n| append(&instances, n));
    let seen = |all: &Instances| {
        let copies = all.all[1].app.queries().copies(NEWEST.name());
        let copies = copies.expect("known").into_iter();
        let values = copies.flat_map(|copy| {
            let keys = (0..KEYS).map(key);
            keys.filter_map(|key| value_of(&copy, &key))
                .collect::<Vec<_>>()
        });
        values.collect::<Vec<_>>()
    };
    for _ in 0..100 {
        instances.tick();
        let seen = seen(&instances);
        assert!(!seen.is_empty() && seen.iter().all(|n| *n == 4), "{seen:?}");
    }
    // What is processed, they do.
    instances.all[0].is_paused = false;
    instances.until(|all| seen(all).iter().all(|n| *n == 6));
    // What they miss is all that is read when they become tasks.
    instances.all[1].is_held = true;
    let before = seen(&instances).len();
    (6 * KEYS..7 * KEYS).for_each(|n| append(&instances, n));
    instances.until(|all| records(all, "changes") == 7 * KEYS as usize);
    instances.kill_first();
    let input: Vec<i64> = (0..instances::PARTITIONS as i32)
        .map(|p| {
            let at = TopicPartition::new("rows", p);
            instances.log.group(APP).offsets[&at]
        })
        .collect();
    assert_eq!(input.iter().sum::<i64>(), 7 * KEYS as i64);
    instances.until(|all| {
        let queries = all.all[0].app.queries();
        (0..KEYS).all(|n| queries.get(&NEWEST, &key(n)).is_ok())
    });
    assert_eq!(replayed(&instances, NEWEST.name()), before as u64);
    // The task goes on behind the committed offset: nothing twice, nothing left out.
    (7 * KEYS..8 * KEYS).for_each(|n| append(&instances, n));
    instances.until(|all| records(all, "changes") >= 8 * KEYS as usize);
    for _ in 0..50 {
        instances.tick();
    }
    assert_eq!(records(&instances, "changes"), 8 * KEYS as usize);
    assert!(active(&instances).values().all(|n| *n == 8));
}

#[test]
fn a_store_from_a_topic_that_was_followed_replays_nothing() {
    let mut instances = Instances::start(&topology(), &TOPICS);
    (0..4 * KEYS).for_each(|n| append(&instances, n));
    instances.until(|all| all.are_settled() && records(all, "changes") == 4 * KEYS as usize);
    for _ in 0..200 {
        instances.tick();
    }
    assert!(instances.are_settled());
    instances.kill_first();
    instances.until(|all| {
        let queries = all.all[0].app.queries();
        (0..KEYS).all(|n| queries.get(&NEWEST, &key(n)).is_ok())
    });
    assert_eq!(replayed(&instances, NEWEST.name()), 0);
    assert_eq!(replayed(&instances, COUNTS.name()), 0);
}

#[test]
fn a_standby_that_had_nothing_to_read_leaves_the_disk_of_a_restored_store() {
    let mut instances = Instances::start(&topology(), &TOPICS);
    instances.until(Instances::are_settled);
    instances.tick();
    for instance in &instances.all {
        let standbys = instance.app.status().standbys;
        for (task, content) in instance.disk.content() {
            let is_standby = standbys.iter().any(|s| s.id == task.to_string());
            assert_eq!(
                !content.is_empty(),
                is_standby,
                "{task}: tasks write at the end"
            );
        }
    }
    for instance in &mut instances.all {
        instance.app.stop();
        while instance.app.step(Part::Thread(0)) {}
        while instance.app.step(Part::Standbys) {}
    }
    let [one, other] = [0, 1].map(|at: usize| instances.all[at].disk.content());
    assert_eq!(one.len(), 2 * instances::PARTITIONS as usize);
    assert_eq!(one, other);
}
