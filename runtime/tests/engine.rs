//! The engine on a whole log: exactly-once over stops, panics, poison and moves between instances.
//!
//! Each case runs on the embedded log, and on Kafka when `MILLSTREAM_TEST_KAFKA` names a broker.

mod log_bed;
mod wait;

use std::{collections::BTreeMap, time::Duration};

use log_bed::Bed;
use millstream_operators::{FromTopic, StreamsBuilder, Topology};
use millstream_runtime::{Application, ErrorPolicy, Health, Policies};
use millstream_topology::{KvStore, Topic, nullable, text, u64_be};
use wait::wait;

const PARTITIONS: u32 = 4;
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());

fn counting(input: &'static str, output: &'static str) -> Topology {
    let b = StreamsBuilder::new();
    b.stream(Topic::new(input, text::<String>(), text::<String>()))
        .group_by_key()
        .count(COUNTS)
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0))
        .to(Topic::new(output, text(), u64_be()));
    b.build().expect("builds")
}

/// Every key counted 1, 2, 3, … without hole or repetition: nothing lost, nothing twice.
#[track_caller]
fn assert_exact(counts: &BTreeMap<String, Vec<u64>>, keys: u32, each: u64) {
    assert_eq!(counts.len(), keys as usize);
    for (key, values) in counts {
        assert!(values.iter().copied().eq(1..=each), "{key}: {values:?}");
    }
}

fn total(bed: &Bed, topic: &'static str) -> usize {
    bed.read(topic).len()
}

fn counts_are_exact_over_restarts(bed: &Bed) {
    let (input, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("counts", PARTITIONS),
    );
    let topology = counting(input, output);
    for round in 0..3 {
        bed.feed(input, round * 2000..(round + 1) * 2000, 100);
        let app = bed.start(&topology, "one", 2);
        let enough = (round as usize + 1) * 2000 - 500;
        wait(|| total(bed, output) >= enough);
        app.close().expect("closes");
    }
    let app = bed.start(&topology, "one", 1);
    wait(|| total(bed, output) >= 6000);
    let queries = app.queries();
    assert_eq!(
        queries
            .get(&COUNTS, &"k7".to_owned())
            .expect("reads")
            .map(|(n, _)| n),
        Some(60)
    );
    let replayed: u64 = app
        .status()
        .threads
        .iter()
        .flat_map(|t| &t.tasks)
        .flat_map(|t| &t.stores)
        .map(|s| s.replayed)
        .sum();
    assert_eq!(replayed, 0, "a clean stop leaves nothing to replay");
    app.close().expect("closes");
    assert_exact(&bed.counts(output), 100, 60);
}

fn lost_state_comes_back_from_the_changelog(bed: &Bed) {
    let (input, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("counts", PARTITIONS),
    );
    let topology = counting(input, output);
    bed.feed(input, 0..1000, 50);
    let app = bed.start(&topology, "first", 1);
    wait(|| total(bed, output) >= 1000);
    app.close().expect("closes");
    bed.feed(input, 1000..2000, 50);
    // Another instance has another folder, so it knows nothing but the changelog.
    let app = bed.start(&topology, "second", 1);
    wait(|| total(bed, output) >= 2000);
    app.close().expect("closes");
    assert_exact(&bed.counts(output), 50, 40);
}

fn panics_and_failures_set_one_record_aside(bed: &Bed) {
    let (input, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("counts", PARTITIONS),
    );
    let dead = bed.topic("dead", PARTITIONS);
    let b = StreamsBuilder::new();
    b.stream(Topic::new(input, text::<String>(), text::<String>()))
        .try_map_values(|_, v| match v.as_str() {
            "500" => panic!("as the test asked"),
            "700" => Err("as the test asked"),
            _ => Ok(v),
        })
        .group_by_key()
        .count(COUNTS)
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0))
        .to(Topic::new(output, text(), u64_be()));
    let topology = b.build().expect("builds");
    bed.feed(input, 0..1000, 10);
    let mut config = bed.config("one");
    config.policies = Policies {
        decode: ErrorPolicy::DeadLetter,
        process: ErrorPolicy::DeadLetter,
        produce: ErrorPolicy::DeadLetter,
        dead_letter_topic: Some(dead),
    };
    let app = bed.start_with(&topology, config);
    wait(|| total(bed, output) >= 998);
    app.close().expect("closes");
    let counts = bed.counts(output);
    assert!(
        counts["k0"].iter().copied().eq(1..=98),
        "{:?}",
        counts["k0"]
    );
    assert!(counts["k1"].iter().copied().eq(1..=100));
    let mut aside: Vec<_> = bed.read(dead).into_iter().filter_map(|r| r.value).collect();
    aside.sort();
    assert_eq!(aside, ["500", "700"]);
}

fn a_failing_record_stops_the_application_when_the_policy_says_so(bed: &Bed) {
    let (input, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("counts", PARTITIONS),
    );
    let b = StreamsBuilder::new();
    b.stream(Topic::new(input, text::<String>(), text::<String>()))
        .try_map_values(|_, v| match v.as_str() {
            "5" => Err("as the test asked"),
            _ => Ok(v),
        })
        .to(Topic::new(output, text(), text()));
    let topology = b.build().expect("builds");
    bed.feed(input, 0..10, 10);
    let config = bed.config("one");
    let app = Application::start(&topology, bed.broker.clone(), config).expect("starts");
    wait(|| matches!(app.health(), Health::Failed(_)));
    let error = app.close().expect_err("it failed");
    assert!(
        error.chain().contains("as the test asked"),
        "{}",
        error.chain()
    );
    assert!(error.chain().contains("offset="), "{}", error.chain());
}

fn two_instances_share_the_work_and_one_takes_over(bed: &Bed) {
    let (input, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("counts", PARTITIONS),
    );
    let topology = counting(input, output);
    let one = bed.start(&topology, "one", 1);
    let two = bed.start(&topology, "two", 1);
    let tasks =
        |app: &Application| -> usize { app.status().threads.iter().map(|t| t.tasks.len()).sum() };
    wait(|| tasks(&one) == 2 && tasks(&two) == 2);
    wait(|| one.health() == Health::Running && two.health() == Health::Running);
    bed.feed(input, 0..2000, 100);
    wait(|| total(bed, output) >= 1500);
    one.close().expect("closes");
    bed.feed(input, 2000..4000, 100);
    wait(|| tasks(&two) == 4 && total(bed, output) >= 4000);
    two.close().expect("closes");
    assert_exact(&bed.counts(output), 100, 40);
}

fn a_repartition_topic_connects_two_tasks(bed: &Bed) {
    let (input, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("counts", PARTITIONS),
    );
    const BY_VALUE: Topic<String, String> = Topic::new("by-last-digit", text(), text());
    let b = StreamsBuilder::new();
    b.stream(Topic::new(input, text::<String>(), text::<String>()))
        .group_by(BY_VALUE, |_, v| v[v.len() - 1..].to_owned())
        .count(COUNTS)
        .emit_on_commit()
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0))
        .to(Topic::new(output, text(), u64_be()));
    let topology = b.build().expect("builds");
    bed.feed(input, 0..3000, 100);
    let mut config = bed.config("one");
    config.threads = 2;
    config.purge_interval = Duration::from_millis(50);
    let app = bed.start_with(&topology, config);
    wait(|| {
        let counts = bed.counts(output);
        counts.len() == 10 && counts.values().all(|v| v.last() == Some(&300))
    });
    app.close().expect("closes");
}

fn a_table_comes_back_from_its_own_topic(bed: &Bed) {
    const ROWS: KvStore<String, String> = KvStore::new("rows", text(), text());
    let (input, output) = (
        bed.topic("rows", PARTITIONS),
        bed.topic("changes", PARTITIONS),
    );
    let b = StreamsBuilder::new();
    b.table(
        Topic::new(input, text::<String>(), text::<String>()),
        FromTopic(ROWS),
    )
    .to_stream()
    .to(Topic::new(output, text(), nullable(text())));
    let topology = b.build().expect("builds");
    let newest = |app: &Application| {
        let value = |n: u32| app.queries().get(&ROWS, &format!("k{n}")).expect("reads");
        (0..10)
            .map(|n| value(n).map(|(value, _)| value))
            .collect::<Vec<_>>()
    };
    let last = |count: u32| {
        (count - 10..count)
            .map(|n| Some(n.to_string()))
            .collect::<Vec<_>>()
    };
    bed.feed(input, 0..500, 10);
    let app = bed.start(&topology, "one", 2);
    wait(|| total(bed, output) == 500);
    app.close().expect("closes");
    bed.feed(input, 500..600, 10);
    std::fs::remove_dir_all(bed.state_dir("one")).expect("state is there");
    let app = bed.start(&topology, "one", 1);
    wait(|| total(bed, output) == 600);
    wait(|| newest(&app) == last(600));
    app.close().expect("closes");
    let topics = bed.broker.admin().expect("admin").topics().expect("topics");
    let changelog = ROWS.changelog(&bed.name);
    assert!(topics.iter().all(|topic| *topic.name != *changelog));
}

fn a_copy_of_a_table_from_its_own_topic_takes_over(bed: &Bed) {
    const ROWS: KvStore<String, String> = KvStore::new("rows", text(), text());
    let (input, output) = (
        bed.topic("rows", PARTITIONS),
        bed.topic("changes", PARTITIONS),
    );
    let b = StreamsBuilder::new();
    let rows = Topic::new(input, text::<String>(), text::<String>());
    b.table(rows, FromTopic(ROWS))
        .to_stream()
        .to(Topic::new(output, text(), nullable(text())));
    let topology = b.build().expect("builds");
    let start = |instance: &str| {
        let mut config = bed.config(instance);
        config.num_standby_replicas = 1;
        bed.start_with(&topology, config)
    };
    let tasks = |app: &Application| -> Vec<_> {
        let threads = app.status().threads;
        threads.into_iter().flat_map(|t| t.tasks).collect()
    };
    let (first, second) = (start("first"), start("second"));
    let both = || {
        let all = [&first, &second].map(|app| tasks(app).len());
        all.iter().sum::<usize>() == PARTITIONS as usize && !all.contains(&0)
    };
    wait(|| both() && second.health() == Health::Running);
    // In two parts, so that the standbys read on from where they had to stop.
    for part in 0..2 {
        bed.feed(input, part * 250..(part + 1) * 250, 10);
        wait(|| total(bed, output) == 250 * (part as usize + 1));
        let read = || {
            let positions = |app: &Application| -> Vec<i64> {
                let standbys = app.status().standbys;
                standbys.iter().map(|s| s.positions["rows"]).collect()
            };
            let read = [positions(&first), positions(&second)].concat();
            read.len() == PARTITIONS as usize
                && read.iter().sum::<i64>() == 250 * (i64::from(part) + 1)
        };
        wait(read);
    }
    first.close().expect("closes");
    wait(|| tasks(&second).len() == PARTITIONS as usize && second.health() == Health::Running);
    let stores = tasks(&second).into_iter().flat_map(|task| task.stores);
    assert_eq!(stores.map(|store| store.replayed).sum::<u64>(), 0);
    bed.feed(input, 500..600, 10);
    wait(|| total(bed, output) == 600);
    for n in 0..10 {
        let found = second
            .queries()
            .get(&ROWS, &format!("k{n}"))
            .expect("reads");
        assert_eq!(found.map(|(value, _)| value), Some((590 + n).to_string()));
    }
    second.close().expect("closes");
}

fn a_table_from_a_topic_may_have_fewer_partitions_than_its_tasks(bed: &Bed) {
    const ROWS: KvStore<String, String> = KvStore::new("rows", text(), text());
    let (words, output) = (
        bed.topic("words", PARTITIONS),
        bed.topic("changes", PARTITIONS),
    );
    let few = bed.topic("few", PARTITIONS / 2);
    let b = StreamsBuilder::new();
    let rows = b.table(
        Topic::new(few, text::<String>(), text::<String>()),
        FromTopic(ROWS),
    );
    let words_in = Topic::new(words, text::<String>(), text::<String>());
    let all = b.stream(words_in).map_values(|_, word| Some(word));
    all.merge(rows.to_stream())
        .to(Topic::new(output, text(), nullable(text())));
    let topology = b.build().expect("builds");
    bed.feed(words, 0..100, 10);
    let app = bed.start(&topology, "one", 1);
    wait(|| total(bed, output) == 100);
    app.close().expect("closes");
}

macro_rules! on_both_logs {
    ($($case:ident),+ $(,)?) => {
        mod embedded {
            $(#[test] fn $case() { super::$case(&super::Bed::embedded()); })+
        }
        mod kafka {
            $(#[test] fn $case() {
                if let Some(bed) = super::Bed::kafka() { super::$case(&bed); }
            })+
        }
    };
}

on_both_logs!(
    counts_are_exact_over_restarts,
    lost_state_comes_back_from_the_changelog,
    panics_and_failures_set_one_record_aside,
    a_failing_record_stops_the_application_when_the_policy_says_so,
    two_instances_share_the_work_and_one_takes_over,
    a_repartition_topic_connects_two_tasks,
    a_table_comes_back_from_its_own_topic,
    a_copy_of_a_table_from_its_own_topic_takes_over,
    a_table_from_a_topic_may_have_fewer_partitions_than_its_tasks,
);
