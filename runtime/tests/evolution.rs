//! Topologies that change between runs: what fits starts, what does not is refused with a diff and
//! leaves no trace; and applications that are reset.
//!
//! Each case runs on the embedded log, and those that lean on the log on Kafka, too, when
//! `MILLSTREAM_TEST_KAFKA` names a broker.

mod log_bed;
mod wait;

use std::sync::Arc;

use log_bed::Bed;
use millstream_broker::{
    Broker, Cleanup, NewTopic,
    sim::{SimConfig, SimLog},
};
use millstream_operators::{FromTopic, StreamsBuilder, Topology};
use millstream_runtime::{Application, Bases, Reset, ResetTo, Stepped, SystemClock};
use millstream_state::{ByteStore, MemoryBytes};
use millstream_topology::{
    ErrorKind, KvStore, Result, TaskId, Topic, Tumbling, WindowStore, mins, text, u64_be,
};
use wait::wait;

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const TOTALS: KvStore<String, u64> = KvStore::new("totals", text(), u64_be());
const LOCAL: KvStore<String, u64> = KvStore::new("local", text(), u64_be()).without_changelog();
const WINDOWED: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());

type In = Topic<String, String>;

fn topic(name: &'static str) -> In {
    Topic::new(name, text(), text())
}

fn build(make: impl FnOnce(&StreamsBuilder)) -> Topology {
    let b = StreamsBuilder::new();
    make(&b);
    b.build().expect("builds")
}

fn counting(input: &'static str, store: KvStore<String, u64>) -> Topology {
    build(|b| {
        b.stream(topic(input)).group_by_key().count(store);
    })
}

/// Runs a topology until it has read everything, and closes it.
fn run(bed: &Bed, topology: &Topology, input: &'static str) {
    run_accepting(bed, topology, input, &[]);
}

fn run_accepting(bed: &Bed, topology: &Topology, input: &'static str, accepted: &[&str]) {
    let mut config = bed.config("one");
    config.accept_removed = accepted.iter().map(|&name| name.to_owned()).collect();
    let app = bed.start_with(topology, config);
    wait(|| bed.lag(input) == 0);
    app.close().expect("closes");
}

/// Starting is refused with a text that has all of these in it, and leaves no trace.
#[track_caller]
fn refused(bed: &Bed, topology: &Topology, say: &[&str]) {
    let before = bed.everything();
    let refused = Application::start(topology, bed.broker.clone(), bed.config("one"));
    let error = refused.err().expect("is refused");
    assert_eq!(error.kind(), ErrorKind::Topology, "{}", error.chain());
    for say in say {
        assert!(error.to_string().contains(say), "no `{say}` in {error}");
    }
    assert_eq!(bed.everything(), before, "something was written");
}

fn count(app: &Application, store: KvStore<String, u64>, key: &str) -> Option<u64> {
    let found = app.queries().get(&store, &key.to_owned()).expect("reads");
    found.map(|(count, _)| count)
}

fn a_topology_that_fits_goes_on(bed: &Bed) {
    let input = bed.topic("words", 2);
    bed.feed(input, 0..10, 2);
    run(bed, &counting(input, COUNTS), input);
    let again = bed.everything();
    run(bed, &counting(input, COUNTS), input);
    let name = format!("{}-topology", bed.name);
    let manifest = |all: &[(String, i64)]| all.iter().find(|(n, _)| n.starts_with(&name)).cloned();
    assert!(manifest(&again).is_some());
    assert_eq!(manifest(&bed.everything()), manifest(&again), "stored once");
    let grown = build(|b| {
        let words = b.stream(topic(input)).filter(|_, _| true);
        words.clone().group_by_key().count(COUNTS);
        words.map_values(|_, v| v).group_by_key().count(TOTALS);
    });
    bed.feed(input, 0..10, 2);
    let app = bed.start_with(&grown, bed.config("one"));
    wait(|| count(&app, COUNTS, "k0") == Some(10));
    wait(|| count(&app, TOTALS, "k0") == Some(5));
    app.close().expect("closes");
}

fn a_renamed_store_is_refused(bed: &Bed) {
    let input = bed.topic("words", 2);
    bed.feed(input, 0..10, 2);
    run(bed, &counting(input, COUNTS), input);
    let say = [
        "\n  store `counts`: before key-value with a changelog, now gone",
        "as if `counts` was renamed to `totals`",
    ];
    refused(bed, &counting(input, TOTALS), &say);
}

fn a_removal_is_accepted_by_name_and_not_undone_unseen(bed: &Bed) {
    let input = bed.topic("words", 2);
    bed.feed(input, 0..10, 2);
    run(bed, &counting(input, COUNTS), input);
    let without = build(|b| b.stream(topic(input)).for_each(|_, _| {}));
    refused(bed, &without, &["store `counts`", "`accept_removed`"]);
    run_accepting(bed, &without, input, &["counts"]);
    let say = ["store `counts`: before removed", "now back"];
    refused(bed, &counting(input, COUNTS), &say);
    let admin = bed.broker.admin().expect("admin");
    let changelog = COUNTS.changelog(&bed.name);
    admin.delete_topics(&[&changelog]).expect("deleted");
    bed.feed(input, 0..10, 2);
    let app = bed.start_with(&counting(input, COUNTS), bed.config("one"));
    wait(|| count(&app, COUNTS, "k0") == Some(5));
    app.close().expect("closes");
}

fn a_store_that_is_kept_otherwise_is_refused(bed: &Bed) {
    let input = bed.topic("words", 2);
    bed.feed(input, 0..10, 2);
    run(bed, &counting(input, COUNTS), input);
    let windowed = build(|b| {
        let words = b.stream(topic(input)).group_by_key();
        words.windowed_by(Tumbling::of(mins(1))).count(WINDOWED);
    });
    let say = "store `counts`: before key-value with a changelog, now window with a changelog";
    refused(bed, &windowed, &[say, "new name"]);
    let unlogged = counting(input, COUNTS.without_changelog());
    refused(bed, &unlogged, &["now key-value without a changelog"]);
    const NAMES: KvStore<String, String> = KvStore::new("counts", text(), text());
    let table = build(|b| {
        b.table(topic(input), FromTopic(NAMES));
    });
    refused(bed, &table, &["now key-value restored from topic"]);
}

fn other_partitions_of_an_input_are_refused_for_stores_alone(bed: &Bed) {
    let (input, other) = (bed.topic("words", 2), bed.topic("plain", 2));
    let both = build(|b| {
        b.stream(topic(input)).group_by_key().count(COUNTS);
        b.stream(topic(other)).for_each(|_, _| {});
    });
    run(bed, &both, input);
    let admin = bed.broker.admin().expect("admin");
    let anew = |name: &'static str| {
        admin.delete_topics(&[name]).expect("deleted");
        bed.topic_named(name, 4);
    };
    anew(other);
    run(bed, &both, input);
    anew(input);
    let say = "store `counts`: before 2 partitions, now 4 partitions";
    refused(bed, &both, &[say, "keys would move away"]);
}

fn a_repartition_topic_keeps_its_partitions(bed: &Bed) {
    const BY_VALUE: In = Topic::new("by-value", text(), text());
    let (small, large) = (bed.topic("small", 2), bed.topic("large", 4));
    let through = |input: &'static str| {
        build(|b| {
            b.stream(topic(input))
                .rekey(BY_VALUE, |_, v| v.clone())
                .for_each(|_, _| {});
        })
    };
    run(bed, &through(small), small);
    let say = "repartition topic `by-value`: before 2 partitions, now 4 partitions";
    refused(bed, &through(large), &[say]);
    let without = build(|b| b.stream(topic(small)).for_each(|_, _| {}));
    refused(
        bed,
        &without,
        &["repartition topic `by-value`", "now not read"],
    );
    run_accepting(bed, &without, small, &["by-value"]);
}

/// A sub-topology in front moves the numbers of those behind. Their state must not be mistaken for
/// that of others, nor be lost where no changelog has it.
fn sub_topologies_numbered_anew_keep_their_state(bed: &Bed) {
    let (input, other) = (bed.topic("words", 2), bed.topic("others", 2));
    bed.feed(input, 0..10, 2);
    bed.feed(other, 0..20, 2);
    let first = build(|b| {
        b.stream(topic(input)).group_by_key().count(LOCAL);
        b.stream(topic(other)).group_by_key().count(COUNTS);
    });
    run(bed, &first, input);
    let turned = build(|b| {
        b.stream(topic(bed.topic("front", 1))).for_each(|_, _| {});
        b.stream(topic(other)).group_by_key().count(COUNTS);
        b.stream(topic(input)).group_by_key().count(LOCAL);
    });
    let app = bed.start_with(&turned, bed.config("one"));
    assert_eq!(
        count(&app, LOCAL, "k0"),
        Some(5),
        "known on this disk alone"
    );
    assert_eq!(count(&app, COUNTS, "k0"), Some(10));
    let status = app.status();
    let tasks = status.threads.iter().flat_map(|thread| &thread.tasks);
    let replayed: u64 = tasks.flat_map(|t| &t.stores).map(|s| s.replayed).sum();
    assert_eq!(replayed, 0, "nothing is restored");
    app.close().expect("closes");
    bed.feed(input, 0..2, 2);
    run(bed, &first, input);
    let app = bed.start_with(&turned, bed.config("one"));
    assert_eq!(count(&app, LOCAL, "k0"), Some(6), "and back");
    app.close().expect("closes");
}

fn a_manifest_of_another_format_is_refused(bed: &Bed) {
    let input = bed.topic("words", 1);
    bed.broker
        .admin()
        .expect("admin")
        .create_topics(&[NewTopic {
            name: format!("{}-topology", bed.name).into(),
            partitions: 1,
            cleanup: Cleanup::Compact,
        }])
        .expect("created");
    let topology = counting(input, COUNTS);
    for (manifest, say) in [
        (r#"{"format":7,"what":"ever"}"#, "format=7, known=1"),
        ("not at all", "cannot be read"),
    ] {
        bed.append(&format!("{}-topology", bed.name), 0, "manifest", manifest);
        refused(bed, &topology, &[say, "reset the application"]);
    }
    reset(bed, &topology, ResetTo::Earliest);
    run(bed, &topology, input);
}

fn reset(bed: &Bed, topology: &Topology, to: ResetTo) -> String {
    let state = bed.state_dir("one");
    let plan = Reset::plan(&*bed.broker, topology, &bed.name, to, Some(&state)).expect("a plan");
    let text = plan.to_string();
    plan.run(&*bed.broker).expect("is reset");
    text
}

fn a_reset_application_begins_anew(bed: &Bed) {
    const BY_VALUE: In = Topic::new("by-value", text(), text());
    let input = bed.topic("words", 2);
    let topology = build(|b| {
        let words = b.stream(topic(input));
        words.clone().group_by_key().count(COUNTS);
        words.group_by(BY_VALUE, |k, _| k.clone()).count(TOTALS);
    });
    let both = |app: &Application| {
        let counts = count(app, COUNTS, "k0");
        (counts, count(app, TOTALS, "k0"))
    };
    let check = |each: u64, feed: u32| {
        bed.feed(input, 0..feed, 2);
        let app = bed.start_with(&topology, bed.config("one"));
        wait(|| both(&app) == (Some(each), Some(each)));
        app
    };
    let app = check(50, 100);
    // While somebody works, nothing is touched.
    let plan = |to| Reset::plan(&*bed.broker, &topology, &bed.name, to, None).expect("a plan");
    assert_eq!(plan(ResetTo::Earliest).members().len(), 1);
    let error = plan(ResetTo::Earliest)
        .run(&*bed.broker)
        .expect_err("alive");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("members of the application"),
        "{error}"
    );
    assert_eq!(both(&app), (Some(50), Some(50)));
    app.close().expect("closes");
    wait(|| plan(ResetTo::Earliest).members().is_empty());
    let text = reset(bed, &topology, ResetTo::Earliest);
    for say in [
        "counts-changelog",
        "by-value-repartition",
        "folder",
        "words-0: from",
    ] {
        assert!(text.contains(say), "no `{say}` in {text}");
    }
    let names = || bed.everything().into_iter().map(|(name, _)| name);
    assert!(names().all(|name| !name.contains("-changelog")));
    // From the oldest record on the same comes out again.
    check(50, 0).close().expect("closes");
    wait(|| plan(ResetTo::Latest).members().is_empty());
    reset(bed, &topology, ResetTo::Latest);
    check(10, 20).close().expect("closes");
}

/// State that another machine kept from before a reset is not taken for new, however far the new
/// changelogs have come.
fn state_from_before_a_reset_is_not_used_again(bed: &Bed) {
    let input = bed.topic("words", 1);
    let topology = counting(input, COUNTS);
    bed.feed(input, 0..10, 1);
    run(bed, &topology, input);
    let plan = || {
        let to = ResetTo::Latest;
        Reset::plan(&*bed.broker, &topology, &bed.name, to, None).expect("a plan")
    };
    wait(|| plan().members().is_empty());
    // Without the folder: that is another machine's.
    plan().run(&*bed.broker).expect("is reset");
    bed.feed(input, 0..100, 5);
    let app = bed.start_with(&topology, bed.config("two"));
    wait(|| count(&app, COUNTS, "k1") == Some(20));
    app.close().expect("closes");
    let app = bed.start_with(&topology, bed.config("one"));
    assert_eq!(count(&app, COUNTS, "k0"), Some(20));
    app.close().expect("closes");
}

/// A process ends between any two steps of a reset: the application does not start, and the same
/// reset run again leads to the end.
fn a_reset_that_was_cut_off_is_run_again(bed: &Bed) {
    let input = bed.topic("words", 1);
    let topology = counting(input, COUNTS);
    bed.feed(input, 0..10, 1);
    run(bed, &topology, input);
    let state = bed.state_dir("one");
    let plan = |state: &std::path::Path| {
        let to = ResetTo::Earliest;
        Reset::plan(&*bed.broker, &topology, &bed.name, to, Some(state)).expect("a plan")
    };
    wait(|| plan(&state).members().is_empty());
    // The folder cannot be deleted: what is no folder stands in for a disk that fails.
    let first = plan(&state);
    let folder = state.join(&bed.name);
    std::fs::remove_dir_all(&folder).expect("state is there");
    std::fs::write(&folder, "in the way").expect("written");
    assert_eq!(
        first.run(&*bed.broker).expect_err("fails").kind(),
        ErrorKind::State
    );
    refused(bed, &topology, &["a reset of the application has begun"]);
    std::fs::remove_file(&folder).expect("is there");
    plan(&state).run(&*bed.broker).expect("is reset");
    let app = bed.start_with(&topology, bed.config("one"));
    wait(|| count(&app, COUNTS, "k0") == Some(10));
    app.close().expect("closes");
}

/// Many start at once, with topologies of two kinds that do not fit each other: those of one kind
/// run, the others are refused.
fn of_many_that_start_at_once_only_fitting_ones_run(bed: &Bed) {
    let input = bed.topic("words", 2);
    let kinds = [counting(input, COUNTS), counting(input, TOTALS)];
    let started: Vec<(usize, Result<Application>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let topology = &kinds[n % 2];
                let config = bed.config(&format!("i{n}"));
                scope.spawn(move || {
                    let broker = bed.broker.clone();
                    (n % 2, Application::start(topology, broker, config))
                })
            })
            .collect();
        let joined = threads.into_iter().map(|t| t.join().expect("no panic"));
        joined.collect()
    });
    let ran = |kind: usize| {
        let of = started.iter().filter(|(k, _)| *k == kind);
        of.filter(|(_, app)| app.is_ok()).count()
    };
    assert!(
        [(3, 0), (0, 3)].contains(&(ran(0), ran(1))),
        "{:?}",
        (ran(0), ran(1))
    );
    for error in started.iter().filter_map(|(_, app)| app.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::Topology, "{}", error.chain());
    }
}

macro_rules! on {
    ($log:ident, $bed:expr; $($case:ident),+ $(,)?) => {
        mod $log {
            $(#[test] fn $case() {
                let bed: Option<super::Bed> = $bed;
                if let Some(bed) = bed { super::$case(&bed); }
            })+
        }
    };
}

on!(embedded, Some(super::Bed::embedded());
    a_topology_that_fits_goes_on,
    a_renamed_store_is_refused,
    a_removal_is_accepted_by_name_and_not_undone_unseen,
    a_store_that_is_kept_otherwise_is_refused,
    other_partitions_of_an_input_are_refused_for_stores_alone,
    a_repartition_topic_keeps_its_partitions,
    sub_topologies_numbered_anew_keep_their_state,
    a_manifest_of_another_format_is_refused,
    a_reset_application_begins_anew,
    state_from_before_a_reset_is_not_used_again,
    a_reset_that_was_cut_off_is_run_again,
    of_many_that_start_at_once_only_fitting_ones_run,
);

// What differs between logs; the comparison itself does not.
on!(kafka, super::Bed::kafka();
    a_topology_that_fits_goes_on,
    a_renamed_store_is_refused,
    a_reset_application_begins_anew,
    of_many_that_start_at_once_only_fitting_ones_run,
);

struct InMemory;

impl Bases for InMemory {
    fn open(&self, _: TaskId) -> Result<Arc<dyn ByteStore>> {
        Ok(Arc::new(MemoryBytes::default()))
    }

    fn wipe(&self, _: TaskId) -> Result<()> {
        Ok(())
    }
}

#[test]
fn the_simulated_log_keeps_manifests_too() {
    let log = SimLog::new(7, SimConfig::default());
    let client = Arc::new(log.client("a"));
    let admin = client.admin().expect("admin");
    let new = |name: &str| NewTopic {
        name: name.into(),
        partitions: 2,
        cleanup: Cleanup::Delete { retention_ms: None },
    };
    admin.create_topics(&[new("words")]).expect("created");
    let open = |topology: &Topology| {
        let config = millstream_runtime::Config::new("app", "unused");
        let clock = Arc::new(SystemClock);
        Stepped::open(topology, client.clone(), config, clock, Box::new(InMemory))
    };
    drop(open(&counting("words", COUNTS)).expect("at first"));
    let topics = admin.topics().expect("topics");
    let error = open(&counting("words", TOTALS)).err().expect("is refused");
    assert_eq!(error.kind(), ErrorKind::Topology);
    assert_eq!(admin.topics().expect("topics"), topics);
    drop(open(&counting("words", COUNTS)).expect("again"));
    let topology = counting("words", TOTALS);
    let plan = || Reset::plan(&*client, &topology, "app", ResetTo::Earliest, None);
    plan().expect("a plan").run(&*client).expect("is reset");
    drop(open(&topology).expect("anew"));
    log.check();
}
