//! Threads that come and go, and pauses, under load.
//!
//! Each case runs on the embedded log, and on Kafka when `MILLSTREAM_TEST_KAFKA` names a broker.

mod log_bed;
mod wait;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use millstream_broker::Fetched;
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Health};
use millstream_topology::{KvStore, Topic, text, u64_be};
use wait::{DEADLINE, wait};

const PARTITIONS: u32 = 4;
const KEYS: u32 = 50;
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
/// The shortest that Kafka allows.
const SESSION: Duration = Duration::from_secs(6);

/// A log, with the input and output of one test.
struct Bed {
    log: log_bed::Bed,
    input: &'static str,
    output: &'static str,
    fed: AtomicU32,
}

impl Bed {
    fn of(log: log_bed::Bed) -> Self {
        Self {
            input: log.topic("words", PARTITIONS),
            output: log.topic("counts", PARTITIONS),
            log,
            fed: AtomicU32::new(0),
        }
    }

    fn embedded() -> Self {
        Self::of(log_bed::Bed::embedded())
    }

    fn kafka() -> Option<Self> {
        log_bed::Bed::kafka().map(Self::of)
    }

    /// Counts its input by key; `meanwhile` sees each value.
    fn counting(&self, meanwhile: impl Fn(&str) + Send + Sync + 'static) -> Topology {
        let b = StreamsBuilder::new();
        b.stream(Topic::new(self.input, text::<String>(), text::<String>()))
            .map_values(move |_, value| {
                meanwhile(&value);
                value
            })
            .group_by_key()
            .count(COUNTS)
            .to_stream()
            .map_values(|_, n| n.unwrap_or(0))
            .to(Topic::new(self.output, text(), u64_be()));
        b.build().expect("builds")
    }

    fn start(&self, topology: &Topology, instance: &str) -> Application {
        let mut config = self.log.config(instance);
        config.session_timeout = SESSION;
        config.buffered_records_max = 100;
        self.log.start_with(topology, config)
    }

    /// Appends so many records more, with all keys in turn.
    fn feed(&self, count: u32) {
        let from = self.fed.fetch_add(count, Ordering::Relaxed);
        self.log.feed(self.input, from..from + count, KEYS);
    }

    /// Runs `work` while records are appended all the time.
    fn under_load<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    self.feed(KEYS * 4);
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            done.store(true, Ordering::Release);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// All committed records of the output, by partition and offset.
    fn written(&self) -> Vec<Fetched> {
        self.log.read(self.output)
    }

    /// Waits until as much is written as was fed, and checks that every key was counted 1, 2, 3, …
    /// without hole or repetition: nothing lost, nothing twice.
    #[track_caller]
    fn finish(&self) {
        let fed = self.fed.load(Ordering::Relaxed);
        wait(|| self.written().len() >= fed as usize);
        let counts = self.log.counts(self.output);
        assert_eq!(counts.len(), KEYS as usize);
        for (key, values) in counts {
            let each = u64::from(fed / KEYS);
            assert!(values.iter().copied().eq(1..=each), "{key:?}: {values:?}");
        }
    }

    /// The members of the group, by name.
    fn members(&self) -> Vec<String> {
        let admin = self.log.broker.admin().expect("admin");
        let groups = admin.groups().unwrap_or_default();
        let group = groups.into_iter().find(|(name, _)| *name == self.log.name);
        let mut members = group.map_or(Vec::new(), |(_, members)| members);
        members.sort();
        members
    }
}

fn tasks(app: &Application) -> Vec<usize> {
    app.status().threads.iter().map(|t| t.tasks.len()).collect()
}

fn runs(app: &Application, tasks_of_threads: &[usize]) -> bool {
    tasks(app) == tasks_of_threads && app.health() == Health::Running
}

fn a_thread_that_comes_takes_its_share_and_one_that_goes_gives_it_back(bed: &Bed) {
    let app = bed.start(&bed.counting(|_| {}), "one");
    wait(|| runs(&app, &[4]));
    let took = bed.under_load(|| {
        assert_eq!(app.add_thread().expect("added"), 1);
        wait(|| runs(&app, &[2, 2]));
        let began = Instant::now();
        assert_eq!(app.remove_thread().expect("told"), Some(1));
        wait(|| runs(&app, &[4]));
        began.elapsed()
    });
    println!("tasks came back after {took:?}");
    assert!(
        took < SESSION * 2 / 3,
        "as if it had not said goodbye: {took:?}"
    );
    let others = bed.members();
    assert_eq!(others, [format!("{}-one-0", bed.log.name)]);
    bed.finish();
    app.close().expect("closes");
}

fn a_thread_gets_the_name_of_one_that_has_gone(bed: &Bed) {
    let app = bed.start(&bed.counting(|_| {}), "one");
    let named = |index: usize| format!("{}-one-{index}", bed.log.name);
    bed.under_load(|| {
        for _ in 0..2 {
            assert_eq!(app.add_thread().expect("added"), 1);
            assert_eq!(app.add_thread().expect("added"), 2);
            wait(|| runs(&app, &[2, 1, 1]));
            assert_eq!(bed.members(), [named(0), named(1), named(2)]);
            assert_eq!(app.remove_thread().expect("told"), Some(2));
            assert_eq!(app.remove_thread().expect("told"), Some(1));
            wait(|| runs(&app, &[4]));
        }
    });
    let status = app.status();
    assert_eq!((status.threads.len(), status.threads_wanted), (1, 1));
    assert_eq!(app.members().list()[0].tasks.len(), 4);
    bed.finish();
    app.close().expect("closes");
}

fn the_last_thread_leaves_its_tasks_to_another_instance(bed: &Bed) {
    let topology = bed.counting(|_| {});
    let one = bed.start(&topology, "one");
    let two = bed.start(&topology, "two");
    wait(|| runs(&one, &[2]) && runs(&two, &[2]));
    bed.under_load(|| {
        assert_eq!(one.remove_thread().expect("told"), Some(0));
        assert_eq!(one.remove_thread().expect("told"), None);
        wait(|| runs(&one, &[]) && runs(&two, &[4]));
        assert_eq!(one.add_thread().expect("added"), 0);
        wait(|| runs(&one, &[2]) && runs(&two, &[2]));
    });
    bed.finish();
    one.close().expect("closes");
    two.close().expect("closes");
}

fn a_function_of_the_topology_moves_threads(bed: &Bed) {
    let app: Arc<Mutex<Weak<Application>>> = Arc::default();
    let called = app.clone();
    let done: Mutex<BTreeSet<String>> = Mutex::default();
    let topology = bed.counting(move |value| {
        let adds = ["100", "110"].contains(&value);
        let removes = ["120", "130", "140"].contains(&value);
        // A record may be processed again, and is to act once.
        if !(adds || removes) || !done.lock().expect("no panic").insert(value.to_owned()) {
            return;
        }
        let app = called.lock().expect("no panic").upgrade();
        let app = app.expect("the test holds it");
        match adds {
            true => drop(app.add_thread().expect("added")),
            false => drop(app.remove_thread().expect("told")),
        }
    });
    let running = Arc::new(bed.start(&topology, "one"));
    *app.lock().expect("no panic") = Arc::downgrade(&running);
    bed.feed(100);
    bed.feed(20);
    wait(|| running.status().threads_wanted == 3);
    bed.feed(30);
    wait(|| running.status().threads.is_empty());
    assert_eq!(running.add_thread().expect("added"), 0);
    wait(|| runs(&running, &[4]));
    bed.finish();
    let running = Arc::into_inner(running).expect("nobody else holds it");
    running.close().expect("closes");
}

fn a_pause_lasts_longer_than_sessions_and_moves_nothing(bed: &Bed) {
    let topology = bed.counting(|_| {});
    let one = bed.start(&topology, "one");
    let two = bed.start(&topology, "two");
    wait(|| runs(&one, &[2]) && runs(&two, &[2]));
    bed.feed(KEYS * 10);
    wait(|| bed.written().len() == KEYS as usize * 10);
    for app in [&one, &two] {
        app.pause();
        assert!(app.is_paused());
        wait(|| app.status().threads.iter().all(|thread| thread.paused));
        assert_eq!(app.health(), Health::Paused);
    }
    bed.feed(KEYS * 600);
    let began = Instant::now();
    wait(|| {
        assert_eq!((tasks(&one), tasks(&two)), (vec![2], vec![2]));
        began.elapsed() > SESSION + SESSION / 2
    });
    assert_eq!(bed.written().len(), KEYS as usize * 10);
    for app in [&one, &two] {
        let thread = &app.status().threads[0];
        assert_eq!((thread.commits.rejoins, thread.joined), (0, true));
        // A partition is polled up to 100 records, and a poll brings 5000 at most.
        for task in &thread.tasks {
            let buffered = task.buffered;
            assert!((101..=5100).contains(&buffered), "buffered={buffered}");
        }
    }
    let read = |n: u32| {
        let key = format!("k{n}");
        let found = [&one, &two].map(|app| app.queries().get(&COUNTS, &key).ok().flatten());
        found.into_iter().flatten().next().map(|(count, _)| count)
    };
    assert!((0..KEYS).all(|n| read(n) == Some(10)));
    one.resume();
    two.resume();
    bed.finish();
    one.close().expect("closes");
    two.close().expect("closes");
}

#[test]
fn an_application_that_has_failed_refuses_threads_and_says_why() {
    let bed = Bed::embedded();
    let b = StreamsBuilder::new();
    b.stream(Topic::new(bed.input, text::<String>(), text::<String>()))
        .try_map_values(|_, _| Err::<String, _>("as the test asked"))
        .to(Topic::new(bed.output, text(), text()));
    let app = bed.start(&b.build().expect("builds"), "one");
    bed.feed(1);
    wait(|| matches!(app.health(), Health::Failed(_)));
    for refused in [app.add_thread().err(), app.remove_thread().err()] {
        let why = refused.expect("refused").chain();
        assert!(why.contains("start it anew"), "{why}");
        assert!(why.contains("as the test asked"), "{why}");
    }
    app.close().expect_err("it failed");
}

#[test]
fn a_function_that_lets_the_application_go_last_does_not_wait_for_itself() {
    let bed = Bed::embedded();
    let app: Arc<Mutex<Weak<Application>>> = Arc::default();
    let (holds, is_held) = channel();
    let (let_go, is_let_go) = channel();
    let (ends, has_ended) = channel();
    let called = app.clone();
    let is_let_go = Mutex::new(is_let_go);
    let topology = bed.counting(move |_| {
        let app = called.lock().expect("no panic").upgrade();
        holds.send(()).expect("the test waits");
        let go = is_let_go.lock().expect("no panic").recv();
        go.expect("the test lets it go");
        drop(app.expect("the test held it"));
        ends.send(()).expect("the test waits");
    });
    let running = Arc::new(bed.start(&topology, "one"));
    *app.lock().expect("no panic") = Arc::downgrade(&running);
    bed.feed(1);
    is_held.recv_timeout(DEADLINE).expect("it is held");
    drop(running);
    let_go.send(()).expect("the function waits");
    has_ended.recv_timeout(DEADLINE).expect("it ends");
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
    a_thread_that_comes_takes_its_share_and_one_that_goes_gives_it_back,
    a_thread_gets_the_name_of_one_that_has_gone,
    the_last_thread_leaves_its_tasks_to_another_instance,
    a_function_of_the_topology_moves_threads,
    a_pause_lasts_longer_than_sessions_and_moves_nothing,
);
