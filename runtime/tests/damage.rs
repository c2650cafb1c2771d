//! Damaged state: found whenever it is met, rebuilt for that task alone, counted, and never seen in
//! a result.

#[path = "../../state/tests/damaged/mod.rs"]
mod damaged;
mod wait;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use damaged::{Damage, Random, files_of};
use millstream_broker::{
    Broker, Cleanup, NewTopic, OwnedRecord, PartitionIx, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, Health};
use millstream_topology::{Headers, KvStore, Topic, nullable, partition_for_key, text, u64_be};
use wait::wait;

const PARTITIONS: u32 = 3;
const IN: Topic<String, String> = Topic::new("in", text(), text());
const OUT: Topic<String, Option<u64>> = Topic::new("out", text(), nullable(u64_be()));
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
/// So many that a store has many blocks, of which opening reads the first.
const KEYS: u32 = 12_000;
/// The task whose state is damaged.
const VICTIM: &str = "0_1";

struct Bed {
    broker: Arc<EmbeddedBroker>,
    folder: tempfile::TempDir,
    rounds: u64,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = EmbeddedConfig::default();
        let broker = EmbeddedBroker::open(&folder.path().join("log"), config).expect("opens");
        let cleanup = Cleanup::Delete { retention_ms: None };
        let topic = |name: &str| NewTopic {
            name: name.into(),
            partitions: PARTITIONS,
            cleanup,
        };
        let admin = broker.admin().expect("admin");
        let topics = [topic("in"), topic("out")];
        admin.create_topics(&topics).expect("created");
        Self {
            broker,
            folder,
            rounds: 0,
        }
    }

    fn start(&self) -> Application {
        let mut config = Config::new("app", self.folder.path().join("state"));
        config.flush_interval = Duration::from_millis(100);
        let broker = self.broker.clone();
        let app = Application::start(&counting(), broker, config).expect("starts");
        wait(|| app.health() == Health::Running);
        app
    }

    /// One more record of each key.
    fn feed(&mut self) {
        let appender = self.broker.appender().expect("appender");
        for n in 0..KEYS {
            let key = format!("key {n:05}");
            let partition = partition_for_key(key.as_bytes(), PARTITIONS);
            let record = || OwnedRecord {
                to: TopicPartition::new("in", partition),
                timestamp: 0,
                key: Some(Bytes::from(key.clone())),
                value: Some(Bytes::from_static(b"x")),
                headers: Headers::default(),
            };
            let appended = |result: millstream_broker::Result<i64>| {
                result.expect("appended");
            };
            while appender.append(record(), Box::new(appended)).is_err() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        self.rounds += 1;
    }

    /// Waits until everything fed was counted, each record once and in order.
    fn check(&self) {
        let admin = self.broker.admin().expect("admin");
        let partitions = (0..PARTITIONS as i32).map(|p| TopicPartition::new("out", p));
        let partitions: Vec<_> = partitions.collect();
        let ends = || {
            let ends = partitions
                .iter()
                .map(|p| admin.watermarks(p).expect("watermarks").high);
            ends.sum::<i64>() as u64
        };
        let due = self.rounds * u64::from(KEYS);
        wait(|| ends() >= due);
        let mut reader = self.broker.reader().expect("reader");
        let starts: Vec<_> = partitions
            .iter()
            .map(|p| (p.clone(), Start::Earliest))
            .collect();
        reader.assign(&starts).expect("assigned");
        let mut records = Vec::new();
        for (ix, partition) in partitions.iter().enumerate() {
            let high = admin.watermarks(partition).expect("watermarks").high;
            while reader.position(PartitionIx(ix as u32)).expect("position") < high {
                reader
                    .poll(Duration::from_millis(50), 5000, &mut records)
                    .expect("polls");
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        let mut counts: BTreeMap<Bytes, u64> = BTreeMap::new();
        for record in records {
            let count = counts.entry(record.key.expect("a key")).or_default();
            *count += 1;
            assert_eq!(record.value.as_deref(), Some(&count.to_be_bytes()[..]));
        }
        assert_eq!(counts.len(), KEYS as usize);
        assert!(counts.values().all(|count| *count == self.rounds));
    }

    fn folder_of(&self, task: &str) -> PathBuf {
        self.folder.path().join("state/app").join(task)
    }

    fn tables_of(&self, task: &str) -> Vec<PathBuf> {
        let files = files_of(&self.folder_of(task).join("db"));
        let tables = files
            .into_iter()
            .filter(|f| f.extension().is_some_and(|e| e == "sst"));
        tables.collect()
    }

    /// Flips bits of the blocks in the middle of the largest table, which no opening reads.
    fn damage_inside(&self) {
        let tables = self.tables_of(VICTIM);
        let len = |table: &&PathBuf| fs::metadata(table).expect("metadata").len();
        let table = tables.iter().max_by_key(len).expect("a table");
        let mut bytes = fs::read(table).expect("read");
        let blocks = bytes.len() / 3..bytes.len() * 2 / 3;
        let bits = bytes[blocks].iter_mut().step_by(64);
        bits.for_each(|byte| *byte ^= 1);
        fs::write(table, bytes).expect("written");
    }
}

fn counting() -> Topology {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .group_by_key()
        .count(COUNTS)
        .to_stream()
        .to(OUT);
    b.build().expect("builds")
}

/// The victim was rebuilt once, the others not at all.
fn assert_rebuilt_alone(app: &Application) {
    let replayed = || -> BTreeMap<String, u64> {
        let threads = app.status().threads;
        let tasks = threads.iter().flat_map(|t| &t.tasks);
        let replayed = tasks.map(|t| (t.id.clone(), t.stores.iter().map(|s| s.replayed).sum()));
        replayed.collect()
    };
    wait(|| app.health() == Health::Running && replayed().get(VICTIM).is_some_and(|n| *n > 0));
    let rebuilds = app.status().rebuilds;
    assert_eq!(rebuilds, BTreeMap::from([(VICTIM.to_owned(), 1)]));
    for (task, replayed) in replayed() {
        assert_eq!(replayed > 0, task == VICTIM, "{task}: {replayed}");
    }
}

#[test]
fn damage_that_the_start_finds_costs_one_task_its_state() {
    let mut bed = Bed::new();
    let app = bed.start();
    bed.feed();
    bed.check();
    app.close().expect("closes");
    let current = |bed: &Bed| bed.folder_of(VICTIM).join("db/CURRENT");
    let table = |bed: &Bed| bed.tables_of(VICTIM).remove(0);
    let manifest = |bed: &Bed| {
        let files = files_of(&bed.folder_of(VICTIM).join("db"));
        let manifest = files
            .into_iter()
            .find(|f| f.to_string_lossy().contains("MANIFEST"));
        manifest.expect("a manifest")
    };
    let half = 32768;
    type Pick<'a> = &'a dyn Fn(&Bed) -> PathBuf;
    let cases: [(Damage, Pick<'_>); 5] = [
        (Damage::Remove, &current),
        (Damage::Flip { at: 0, bit: 0 }, &current),
        (Damage::Truncate { at: half }, &table),
        (Damage::Remove, &table),
        (Damage::Flip { at: 500, bit: 3 }, &manifest),
    ];
    for (damage, pick) in cases {
        println!("{damage:?}");
        damage.apply(&pick(&bed));
        let app = bed.start();
        assert_rebuilt_alone(&app);
        bed.feed();
        bed.check();
        app.close().expect("closes");
    }
}

#[test]
fn damage_that_a_record_meets_is_mended_without_a_wrong_result() {
    let mut bed = Bed::new();
    let app = bed.start();
    bed.feed();
    bed.check();
    app.close().expect("closes");
    bed.damage_inside();
    let app = bed.start();
    assert!(app.status().rebuilds.is_empty(), "nothing has met it yet");
    bed.feed();
    bed.check();
    assert_rebuilt_alone(&app);
    assert_eq!(
        app.status().threads[0].commits.rejoins,
        0,
        "the member stays"
    );
    bed.feed();
    bed.check();
    app.close().expect("closes");
}

#[test]
fn damage_that_a_query_meets_is_mended() {
    let mut bed = Bed::new();
    let app = bed.start();
    bed.feed();
    bed.check();
    app.close().expect("closes");
    bed.damage_inside();
    let app = bed.start();
    let keys: Vec<String> = (0..KEYS).map(|n| format!("key {n:05}")).collect();
    for key in &keys {
        // Another answer is damage, or a task that is being rebuilt.
        if let Ok(found) = app.queries().get(&COUNTS, key) {
            assert_eq!(found.map(|(count, _)| count), Some(1));
        }
    }
    wait(|| !app.status().rebuilds.is_empty());
    assert_rebuilt_alone(&app);
    keys.iter().for_each(|key| {
        let found = app.queries().get(&COUNTS, key).expect("whole");
        assert_eq!(found.map(|(count, _)| count), Some(1));
    });
    bed.feed();
    bed.check();
    app.close().expect("closes");
}

#[test]
fn a_folder_that_is_deleted_under_a_running_task_is_made_again() {
    let mut bed = Bed::new();
    let app = bed.start();
    bed.feed();
    bed.check();
    fs::remove_dir_all(bed.folder_of(VICTIM)).expect("removed");
    bed.feed();
    bed.check();
    wait(|| !app.status().rebuilds.is_empty());
    assert_rebuilt_alone(&app);
    app.close().expect("closes");
    let app = bed.start();
    assert!(app.status().rebuilds.is_empty());
    bed.feed();
    bed.check();
}

#[test]
fn random_damage_to_any_file_never_changes_a_result() {
    let mut bed = Bed::new();
    let app = bed.start();
    bed.feed();
    bed.check();
    app.close().expect("closes");
    let mut random = Random::new(7);
    for _ in 0..6 {
        let mut files = files_of(&bed.folder_of(VICTIM).join("db"));
        files.retain(|file| fs::metadata(file).is_ok_and(|data| data.len() > 0));
        let file = &files[random.next() as usize % files.len()];
        let all = Damage::all(&mut random, 2);
        all[random.next() as usize % all.len()].apply(file);
        let app = bed.start();
        bed.feed();
        bed.check();
        let rebuilds = app.status().rebuilds;
        assert!(rebuilds.keys().all(|task| task == VICTIM), "{rebuilds:?}");
        app.close().expect("closes");
    }
}
