//! Threads that come and go and pauses, step by step on the simulated log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use millstream_broker::{
    Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    sim::{Fault as Mishap, SimClient, SimConfig, SimLog},
};
use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation, StreamsBuilder};
use millstream_runtime::{Bases, Config, Health, Part, Stepped, WallClock};
use millstream_state::{ByteStore, Fault, MemoryBytes};
use millstream_topology::{
    Headers, KvStore, Record, Result, TaskId, Topic, partition_for_key, text, u64_be,
};

const WORDS: Topic<String, String> = Topic::new("words", text(), text());
const NOTHING: Topic<String, String> = Topic::new("nothing", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const TICKS: KvStore<String, u64> = KvStore::new("ticks", text(), u64_be());
const SESSION: Duration = Duration::from_secs(6);
/// Turns after which what has not come about does not come about any more.
const TURNS_MAX: u32 = 2000;

/// The log's time; nobody else moves while the process waits.
struct Virtual(SimLog, SimClient);

impl WallClock for Virtual {
    fn now_ms(&self) -> i64 {
        self.1.now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.0.now()
    }

    fn wait(&self, _: Duration) {}
}

/// A disk in memory on which a folder can be open only once, as on a real one.
#[derive(Default)]
struct InMemory(Mutex<BTreeMap<TaskId, Folder>>);

/// What a folder holds, and who has it open.
#[derive(Default)]
struct Folder(Arc<MemoryBytes>, Weak<Open>);

struct Open(Arc<MemoryBytes>);

impl ByteStore for Open {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Result<millstream_state::Scan<'_>> {
        self.0.scan(from, to)
    }

    fn ingest(&self, entries: &mut millstream_state::Entries<'_>) -> Result<()> {
        self.0.ingest(entries)
    }

    fn set_droppable(&self, droppable: millstream_state::Droppable) {
        self.0.set_droppable(droppable);
    }

    fn approximate_entries(&self) -> u64 {
        self.0.approximate_entries()
    }
}

impl Bases for InMemory {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        let mut folders = self.0.lock().expect("no panic");
        let Folder(bytes, opened) = folders.entry(task).or_default();
        if opened.strong_count() > 0 {
            let source = "another handle has it open".into();
            return Err(Fault::Locked { source }.into());
        }
        let open = Arc::new(Open(bytes.clone()));
        *opened = Arc::downgrade(&open);
        Ok(open)
    }

    fn wipe(&self, _: TaskId) -> Result<()> {
        panic!("nothing is damaged")
    }
}

fn instance(log: &SimLog, name: &str, build: impl FnOnce(&StreamsBuilder)) -> Stepped {
    let b = StreamsBuilder::new();
    build(&b);
    let mut config = Config::new("app", "unused");
    config.instance_id = name.to_owned();
    config.session_timeout = SESSION;
    config.commit_pause = config.commit_interval;
    let client = log.client(name);
    let clock = Arc::new(Virtual(log.clone(), client.clone()));
    let topology = b.build().expect("builds");
    let bases = Box::new(InMemory::default());
    Stepped::open(&topology, Arc::new(client), config, clock, bases).expect("opens")
}

fn count_words(b: &StreamsBuilder) {
    b.stream(WORDS).group_by_key().count(COUNTS);
}

struct Bed {
    log: SimLog,
    partitions: u32,
    app: Stepped,
}

impl Bed {
    fn new(partitions: u32, build: impl FnOnce(&StreamsBuilder)) -> Self {
        let log = SimLog::new(1, SimConfig::default());
        let topics = [WORDS.name(), NOTHING.name()].map(|name| NewTopic {
            name: name.into(),
            partitions,
            cleanup: Cleanup::Delete { retention_ms: None },
        });
        let admin = log.client("setup").admin().expect("admin");
        admin.create_topics(&topics).expect("created");
        let app = instance(&log, "a", build);
        Self {
            log,
            partitions,
            app,
        }
    }

    fn counting(partitions: u32) -> Self {
        Self::new(partitions, count_words)
    }

    fn append(&self, key: &str) {
        let partition = partition_for_key(key.as_bytes(), self.partitions);
        let record = OwnedRecord {
            to: TopicPartition::new(WORDS.name(), partition),
            timestamp: 0,
            key: Some(bytes::Bytes::from(key.to_owned())),
            value: Some("x".into()),
            headers: Headers::default(),
        };
        let appender = self.log.client("feeder").appender().expect("appender");
        let written = Box::new(|written: millstream_broker::Result<i64>| {
            assert!(written.is_ok());
        });
        appender.append(record, written).expect("appended");
        self.log.advance(Duration::from_millis(1));
    }

    /// Lets all threads work, and 10 ms pass.
    fn turn(&mut self) {
        for thread in self.app.threads().collect::<Vec<_>>() {
            self.app.step(Part::Thread(thread));
        }
        self.log.advance(Duration::from_millis(10));
    }

    fn turns(&mut self, turns: u32) {
        for _ in 0..turns {
            self.turn();
        }
    }

    #[track_caller]
    fn until(&mut self, condition: impl Fn(&Stepped) -> bool) {
        for _ in 0..TURNS_MAX {
            if condition(&self.app) {
                return;
            }
            self.turn();
        }
        panic!("the condition did not come true in time");
    }

    #[track_caller]
    fn until_running(&mut self) {
        self.until(|app| app.health() == Health::Running);
    }

    fn count(&self, key: &str) -> Option<u64> {
        count(&self.app, key)
    }

    fn members(&self) -> Vec<String> {
        self.log.group("app").members.into_keys().collect()
    }
}

fn count(app: &Stepped, key: &str) -> Option<u64> {
    let found = app.queries().get(&COUNTS, &key.to_owned());
    found.ok().flatten().map(|(count, _)| count)
}

fn tasks(app: &Stepped) -> Vec<usize> {
    app.status().threads.iter().map(|t| t.tasks.len()).collect()
}

#[test]
fn a_thread_that_cannot_join_keeps_its_counters() {
    let mut bed = Bed::counting(1);
    bed.append("a");
    bed.until(|app| app.status().threads.iter().any(|t| t.commits.count > 0));
    bed.until_running();
    bed.log.script("consumer.poll.before", 1, Mishap::Retriable);
    for nth in 1..=3 {
        bed.log
            .script("broker.consumer.before", nth, Mishap::Retriable);
    }
    bed.until(|app| {
        let threads = app.status().threads;
        threads.iter().any(|t| t.commits.rejoins == 4)
    });
    bed.until_running();
    let commits = bed.app.status().threads[0].commits.clone();
    assert_eq!((commits.count, commits.rejoins), (1, 4));
    assert!(commits.p50_us <= commits.p99_us);
}

/// The new thread is told of its tasks first, while its sibling still has them open.
#[test]
fn a_thread_that_waits_for_its_sibling_goes_on_listening_to_the_group() {
    let mut bed = Bed::counting(4);
    bed.until_running();
    assert_eq!(bed.app.add_thread().expect("added"), 1);
    // The first thread hears that it must give everything back, and then nothing for a while.
    bed.app.step(Part::Thread(1));
    bed.app.step(Part::Thread(0));
    for _ in 0..20 {
        bed.app.step(Part::Thread(1));
        bed.log.advance(Duration::from_millis(10));
    }
    let waits = bed.app.status().threads.into_iter().find(|t| t.index == 1);
    assert!(waits.is_none_or(|t| !t.joined), "it has got no task yet");
    // A third one joins: the group must not have to wait for the one that waits.
    assert_eq!(bed.app.add_thread().expect("added"), 2);
    let began = bed.log.now();
    bed.until(|app| {
        let mut tasks = tasks(app);
        tasks.sort_unstable();
        tasks == [1, 1, 2] && app.health() == Health::Running
    });
    assert!(bed.log.now() - began < SESSION / 2);
    assert!(
        bed.app
            .status()
            .threads
            .iter()
            .all(|t| t.commits.rejoins == 0)
    );
}

#[test]
fn a_thread_that_leaves_gives_its_tasks_and_its_name_back() {
    let mut bed = Bed::counting(2);
    bed.until_running();
    bed.app.add_thread().expect("added");
    bed.until(|app| tasks(app) == [1, 1] && app.health() == Health::Running);
    assert_eq!(bed.members(), ["app-a-0", "app-a-1"]);
    bed.append("k0");
    bed.append("k1");
    bed.turns(20);

    assert_eq!(bed.app.remove_thread().expect("told"), Some(1));
    let began = bed.log.now();
    bed.until(|app| tasks(app) == [2] && app.health() == Health::Running);
    assert!(bed.log.now() - began < SESSION / 2);
    assert_eq!(bed.members(), ["app-a-0"]);
    assert_eq!(bed.app.threads().collect::<Vec<_>>(), [0]);
    assert_eq!(bed.app.members().list()[0].tasks, ["0_0", "0_1"]);
    assert_eq!((bed.count("k0"), bed.count("k1")), (Some(1), Some(1)));

    assert_eq!(bed.app.add_thread().expect("added"), 1);
    bed.until(|app| tasks(app) == [1, 1] && app.health() == Health::Running);
    assert_eq!(bed.members(), ["app-a-0", "app-a-1"]);
}

#[test]
fn the_last_thread_may_leave_and_another_may_come() {
    let mut bed = Bed::counting(2);
    bed.append("a");
    bed.until_running();
    assert_eq!(bed.app.remove_thread().expect("told"), Some(0));
    assert_eq!(bed.app.remove_thread().expect("told"), None);
    bed.until(|app| app.status().threads.is_empty());
    assert_eq!(bed.app.health(), Health::Running);
    assert!(bed.members().is_empty());
    bed.append("a");
    assert_eq!(bed.app.add_thread().expect("added"), 0);
    assert_eq!(bed.app.health(), Health::Starting);
    bed.until_running();
    bed.turns(20);
    assert_eq!(bed.count("a"), Some(2));
}

#[test]
fn a_pause_commits_what_is_done_and_does_no_more() {
    let mut bed = Bed::counting(2);
    bed.append("a");
    bed.until(|app| count(app, "a") == Some(1));
    bed.append("a");
    // The last commit was a moment ago, so that the next one can wait.
    bed.app.step(Part::Thread(0));
    assert_eq!(bed.count("a"), Some(1));
    bed.app.pause();
    bed.append("a");
    bed.app.step(Part::Thread(0));
    assert_eq!(bed.count("a"), Some(2));
    bed.until(|app| app.status().threads.iter().any(|t| t.paused));
    assert_eq!(bed.app.health(), Health::Paused);
    let generation = bed.log.group("app").generation;
    let before = bed.log.now();
    while bed.log.now() - before < 3 * SESSION {
        bed.turn();
    }
    assert_eq!(
        bed.count("a"),
        Some(2),
        "queries are answered, records wait"
    );
    assert_eq!(bed.log.group("app").generation, generation);
    bed.app.resume();
    bed.turns(20);
    assert_eq!(
        (bed.count("a"), bed.app.health()),
        (Some(3), Health::Running)
    );
}

#[test]
fn tasks_that_arrive_in_a_pause_are_restored_after_it() {
    let mut bed = Bed::counting(2);
    bed.append("k0");
    bed.append("k1");
    bed.until_running();
    bed.turns(20);
    bed.app.pause();
    bed.turns(50);
    // Both threads are told of tasks in the pause. What was up to date stays so, and is served.
    bed.app.add_thread().expect("added");
    bed.until(|app| tasks(app) == [1, 1] && app.status().is_up_to_date());
    assert_eq!(bed.app.health(), Health::Paused);
    assert_eq!((bed.count("k0"), bed.count("k1")), (Some(1), Some(1)));
    bed.app.resume();
    bed.until_running();
}

#[test]
fn a_long_restore_waits_for_the_end_of_the_pause() {
    let mut bed = Bed::counting(1);
    for n in 0..1500 {
        bed.append(&format!("k{n}"));
    }
    bed.until(|app| count(app, "k1499") == Some(1));
    bed.app.stop();
    bed.turn();
    bed.app = instance(&bed.log, "b", count_words);
    bed.app.pause();
    bed.turns(100);
    assert_eq!(tasks(&bed.app), [1]);
    assert!(!bed.app.status().is_up_to_date());
    assert_eq!((bed.app.health(), bed.count("k0")), (Health::Paused, None));
    bed.app.resume();
    bed.until_running();
    assert_eq!(bed.count("k0"), Some(1));
}

struct Ticker(KvHandle<String, u64>);

impl Processor for Ticker {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn init(&mut self, cx: &mut Context<'_, '_, String, String>) -> Result<()> {
        cx.schedule(Duration::from_secs(1), Clock::Wall);
        Ok(())
    }

    fn process(
        &mut self,
        _: &mut Context<'_, '_, String, String>,
        _: Record<String, String>,
    ) -> Result<()> {
        Ok(())
    }

    fn punctuate(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        tick: Punctuation,
    ) -> Result<()> {
        let key = "all".to_owned();
        let count = cx.store(self.0).get(&key)?.unwrap_or(0);
        cx.store(self.0).put(&key, count + 1, tick.time_ms)
    }
}

#[test]
fn a_timer_that_was_missed_often_in_a_pause_fires_once_after_it() {
    let mut bed = Bed::new(1, |b| {
        b.stream(WORDS).process(TICKS, Ticker).to(NOTHING);
    });
    let ticks = |bed: &Bed| {
        let found = bed.app.queries().get(&TICKS, &"all".to_owned());
        found.ok().flatten().map_or(0, |(count, _)| count)
    };
    bed.until_running();
    bed.turns(150);
    assert_eq!(ticks(&bed), 1);
    bed.app.pause();
    bed.turns(1000);
    assert_eq!(ticks(&bed), 1);
    bed.app.resume();
    bed.turns(5);
    assert_eq!(ticks(&bed), 2);
    bed.turns(100);
    assert_eq!(ticks(&bed), 3);
}

#[test]
fn an_application_that_ends_refuses_and_says_why() {
    let mut bed = Bed::counting(1);
    bed.until_running();
    bed.app.stop();
    for refused in [bed.app.add_thread().err(), bed.app.remove_thread().err()] {
        let why = refused.expect("refused").chain();
        assert!(
            why.contains("the application stops; start it anew"),
            "{why}"
        );
    }
}

#[test]
fn threads_are_bounded() {
    let mut bed = Bed::counting(1);
    let why = loop {
        if let Err(error) = bed.app.add_thread() {
            break error.chain();
        }
    };
    assert!(
        why.contains("too many stream threads. allowed=256"),
        "{why}"
    );
    assert_eq!(bed.app.threads().count(), 256);
}
