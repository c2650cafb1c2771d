//! Processes that have the same name, one after the other or at once, and processes that freeze.
//!
//! Cases with processes of their own run on Kafka, when `MILLSTREAM_TEST_KAFKA` names a broker:
//! they are this test's own program, started again.

mod log_bed;
mod wait;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use log_bed::Bed;
use millstream_broker::{
    Fetched, OwnedRecord, Start, TopicPartition,
    kafka::{GroupProtocol, KafkaBroker, KafkaConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, Health};
use millstream_topology::{Headers, KvStore, Topic, partition_for_key, text, u64_be};
use wait::wait;

const PARTITIONS: u32 = 4;
const KEYS: u32 = 20;
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
/// A silent process keeps its tasks for so long; the shortest that brokers take by default.
const SESSION: Duration = Duration::from_secs(6);

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

/// An application that counts words, on a log of its own.
struct Counting {
    bed: Bed,
    input: &'static str,
    output: &'static str,
    fed: u32,
}

impl Counting {
    fn new(bed: Bed) -> Self {
        let input = bed.topic("words", PARTITIONS);
        let output = bed.topic("counts", PARTITIONS);
        Self {
            bed,
            input,
            output,
            fed: 0,
        }
    }

    fn feed(&mut self) {
        const MORE: u32 = 10;
        let appender = self.bed.broker.appender().expect("appender");
        let (sent, done) = std::sync::mpsc::channel();
        for n in 0..MORE * KEYS {
            let key = format!("k{}", n % KEYS);
            let partition = partition_for_key(key.as_bytes(), PARTITIONS);
            let record = OwnedRecord {
                to: TopicPartition::new(self.input, partition),
                timestamp: 1,
                key: Some(key.into()),
                value: Some("word".into()),
                headers: Headers::default(),
            };
            let sent = sent.clone();
            let ack = move |result| sent.send(result).expect("the test waits");
            appender.append(record, Box::new(ack)).expect("queued");
        }
        drop(sent);
        assert!(done.iter().all(|written| written.is_ok()));
        self.fed += MORE;
    }

    fn start(&self, instance: &str, folder: &str) -> Application {
        let mut config = self.bed.config(instance);
        config.state = millstream_runtime::StateKind::Disk(self.bed.state_dir(folder));
        let topology = counting(self.input, self.output);
        Application::start(&topology, self.bed.broker.clone(), config).expect("starts")
    }

    fn spawn(&self, instance: &str, folder: &str, protocol: GroupProtocol) -> Process {
        let folder = self.bed.state_dir(folder);
        Process::spawn(
            &self.bed.name,
            instance,
            &folder,
            [self.input, self.output],
            protocol,
        )
    }

    /// All that was fed so far is counted once.
    #[track_caller]
    fn check(&self) {
        let done = (self.fed * KEYS) as usize;
        wait(|| read(&self.bed, self.output).len() >= done);
        let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in read(&self.bed, self.output) {
            let key = String::from_utf8(record.key.expect("key").to_vec()).expect("text");
            let value = record.value.expect("value")[..]
                .try_into()
                .expect("8 bytes");
            counts
                .entry(key)
                .or_default()
                .push(u64::from_be_bytes(value));
        }
        assert_eq!(counts.len(), KEYS as usize);
        for (key, values) in counts {
            assert!(
                values.iter().copied().eq(1..=u64::from(self.fed)),
                "{key}: {values:?}"
            );
        }
    }
}

/// The committed records of a topic.
fn read(bed: &Bed, topic: &str) -> Vec<Fetched> {
    let admin = bed.broker.admin().expect("admin");
    let mut reader = bed.broker.reader().expect("reader");
    let at = |p: u32| TopicPartition::new(topic, p as i32);
    let starts: Vec<_> = (0..PARTITIONS).map(|p| (at(p), Start::Earliest)).collect();
    reader.assign(&starts).expect("assigned");
    let records = Mutex::new((reader, Vec::new()));
    for p in 0..PARTITIONS {
        let high = admin.watermarks(&at(p)).expect("watermarks").high;
        wait(|| {
            let (reader, records) = &mut *records.lock().expect("no panic");
            reader
                .poll(Duration::from_millis(50), 1000, records)
                .expect("polls");
            reader
                .position(millstream_broker::PartitionIx(p))
                .expect("position")
                >= high
        });
    }
    let (_, mut records) = records.into_inner().expect("no panic");
    records.sort_by_key(|r| (r.partition, r.offset));
    records
}

/// An instance in a process of its own, which says how it is.
struct Process {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

const CHILD: &str = "MILLSTREAM_TEST_INSTANCE";

impl Process {
    fn spawn(
        application: &str,
        instance: &str,
        folder: &Path,
        topics: [&str; 2],
        protocol: GroupProtocol,
    ) -> Self {
        let folder = folder.to_str().expect("text");
        let what = [
            application,
            instance,
            folder,
            topics[0],
            topics[1],
            &format!("{protocol:?}"),
        ];
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "an_instance_of_its_own", "--nocapture"])
            .env(CHILD, what.join("|"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = said.clone();
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                hears.lock().expect("no panic").push(line);
            }
        });
        Self { child, said }
    }

    fn says(&self, what: &str) -> bool {
        let said = self.said.lock().expect("no panic");
        said.iter().any(|line| line.contains(what))
    }

    /// What it was at last.
    fn is(&self, what: &str) -> bool {
        let said = self.said.lock().expect("no panic");
        let mut healths = said.iter().filter_map(|line| line.strip_prefix("health "));
        healths
            .next_back()
            .is_some_and(|health| health.starts_with(what))
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("runs").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().expect("can be killed");
        self.child.wait().expect("ends");
    }
}

/// What a [`Process`] runs; a test that has nothing to do when it was not started as one.
#[test]
fn an_instance_of_its_own() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let [application, instance, folder, input, output, protocol] =
        what.split('|').collect::<Vec<_>>()[..]
    else {
        panic!("not started by a test: {what}");
    };
    let leak = |name: &str| -> &'static str { name.to_owned().leak() };
    let mut config = Config::new(application, folder);
    config.instance_id = instance.to_owned();
    config.session_timeout = SESSION;
    let kafka = std::env::var("MILLSTREAM_TEST_KAFKA").expect("a broker");
    let mut broker = KafkaConfig::new(kafka);
    if protocol == "Consumer" {
        broker.group_protocol = GroupProtocol::Consumer;
    }
    let broker = KafkaBroker::new(broker).expect("broker");
    let topology = counting(leak(input), leak(output));
    let app = Application::start(&topology, broker, config).expect("starts");
    // It ends with the test that started it, whatever becomes of that one.
    std::thread::spawn(|| {
        let ended = std::io::stdin().read_line(&mut String::new());
        std::process::exit(i32::from(ended.is_err()));
    });
    let mut before = None;
    loop {
        let tasks = app
            .status()
            .threads
            .iter()
            .map(|t| t.tasks.len())
            .sum::<usize>();
        let now = (app.health(), tasks);
        if before.as_ref() != Some(&now) {
            println!("\nhealth {:?} tasks={tasks}", now.0);
            before = Some(now);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn failed_for_its_name(app: &Application) -> bool {
    match app.health() {
        Health::Failed(why) => {
            assert!(
                why.contains("another process runs under this instance id"),
                "{why}"
            );
            assert!(why.contains("instance_id=`one`"), "{why}");
            true
        }
        Health::Starting
        | Health::Running
        | Health::Paused
        | Health::Stalled(_)
        | Health::Stopping => false,
    }
}

fn of_two_processes_of_one_name_the_older_ends(bed: Bed) {
    let mut counting = Counting::new(bed);
    counting.feed();
    let older = counting.start("one", "a");
    wait(|| older.health() == Health::Running);
    let newer = counting.start("one", "b");
    wait(|| failed_for_its_name(&older));
    counting.feed();
    wait(|| newer.health() == Health::Running);
    counting.check();
    assert_eq!(newer.health(), Health::Running);
    let rejoins: u64 = newer
        .status()
        .threads
        .iter()
        .map(|t| t.commits.rejoins)
        .sum();
    assert_eq!(rejoins, 0, "the older one did not fight back");
    let error = older.close().expect_err("it has failed");
    assert_eq!(error.kind(), millstream_topology::ErrorKind::Fenced);
    newer.close().expect("closes");
}

#[test]
fn of_two_processes_of_one_name_the_older_ends_on_the_embedded_log() {
    of_two_processes_of_one_name_the_older_ends(Bed::embedded());
}

#[test]
fn of_two_processes_of_one_name_the_older_ends_on_kafka() {
    if let Some(bed) = Bed::kafka() {
        of_two_processes_of_one_name_the_older_ends(bed);
    }
}

/// Freezes a process until the group has given its tasks to others.
fn freeze(process: &Process, other: &Application) {
    process.signal("-STOP");
    wait(|| tasks(other) == 4);
}

fn tasks(app: &Application) -> usize {
    let threads = app.status().threads;
    threads.iter().map(|t| t.tasks.len()).sum()
}

fn a_frozen_process_comes_back(protocol: GroupProtocol) {
    let Some(bed) = Bed::kafka_with(|config| config.group_protocol = protocol) else {
        return;
    };
    let mut counting = Counting::new(bed);
    let other = counting.start("other", "other");
    let process = counting.spawn("one", "one", protocol);
    wait(|| tasks(&other) == 2 && process.is("Running tasks=2"));
    counting.feed();
    freeze(&process, &other);
    counting.feed();
    process.signal("-CONT");
    wait(|| tasks(&other) == 2);
    counting.feed();
    counting.check();
    wait(|| process.is("Running tasks=2"));
    assert!(!process.says("Failed"), "nobody has taken its place");
    assert_eq!(other.health(), Health::Running);
    other.close().expect("closes");
}

#[test]
fn a_frozen_process_comes_back_when_nobody_has_its_place() {
    a_frozen_process_comes_back(GroupProtocol::Classic);
}

#[test]
fn a_frozen_process_comes_back_under_the_new_protocol() {
    a_frozen_process_comes_back(GroupProtocol::Consumer);
}

#[test]
fn a_frozen_process_whose_place_was_taken_ends() {
    let Some(bed) = Bed::kafka() else {
        return;
    };
    let mut counting = Counting::new(bed);
    let other = counting.start("other", "other");
    let process = counting.spawn("one", "one", GroupProtocol::Classic);
    wait(|| tasks(&other) == 2 && process.is("Running tasks=2"));
    counting.feed();
    freeze(&process, &other);
    // As when what watches over it starts it again.
    let heir = counting.start("one", "heir");
    wait(|| tasks(&heir) == 2);
    counting.feed();
    process.signal("-CONT");
    wait(|| process.is("Failed"));
    assert!(process.says("another process runs under this instance id"));
    counting.feed();
    counting.check();
    assert_eq!(tasks(&heir), 2);
    assert_eq!(heir.health(), Health::Running);
    heir.close().expect("closes");
    other.close().expect("closes");
}

#[test]
fn counts_are_exact_while_members_of_the_new_protocol_come_and_go() {
    let protocol = GroupProtocol::Consumer;
    let Some(bed) = Bed::kafka_with(|config| config.group_protocol = protocol) else {
        return;
    };
    let mut counting = Counting::new(bed);
    counting.feed();
    let first = counting.start("first", "first");
    wait(|| tasks(&first) == 4);
    counting.feed();
    let second = counting.start("second", "second");
    wait(|| tasks(&first) == 2 && tasks(&second) == 2);
    counting.feed();
    second.close().expect("closes");
    wait(|| tasks(&first) == 4);
    counting.feed();
    let process = counting.spawn("third", "third", protocol);
    wait(|| tasks(&first) == 2 && process.is("Running tasks=2"));
    counting.feed();
    process.signal("-KILL");
    counting.feed();
    // Another one of its name, on another disk, has to wait for the end of its session.
    let third = counting.start("third", "fourth");
    counting.feed();
    wait(|| tasks(&first) == 2 && tasks(&third) == 2);
    counting.feed();
    counting.check();
    for app in [first, third] {
        assert_eq!(app.health(), Health::Running);
        app.close().expect("closes");
    }
}

#[test]
fn under_the_new_protocol_the_newer_of_two_processes_of_one_name_ends() {
    let Some(bed) = Bed::kafka_with(|config| {
        config.group_protocol = GroupProtocol::Consumer;
        config.release_wait = Duration::from_secs(3);
    }) else {
        return;
    };
    let mut counting = Counting::new(bed);
    counting.feed();
    let older = counting.start("one", "a");
    wait(|| older.health() == Health::Running);
    let newer = counting.start("one", "b");
    wait(|| failed_for_its_name(&newer));
    counting.feed();
    counting.check();
    assert_eq!(older.health(), Health::Running);
    let rejoins: u64 = older
        .status()
        .threads
        .iter()
        .map(|t| t.commits.rejoins)
        .sum();
    assert_eq!(rejoins, 0, "it noticed nothing");
    older.close().expect("closes");
}
