//! Damage: whatever happens to the files of a task's folder, what is read is what was committed at
//! the position that is told, or it is an error that asks for the task to be built anew.

mod damaged;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use damaged::{Damage, Random, files_of};
use millstream_state::{
    ByteStore, Fault, KvDefinition, MemoryBytes, Result, RocksBytes, RocksShared, StoreDefinition,
    TaskState,
};
use millstream_topology::{KvStore, text, u64_be};

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const TOTALS: KvStore<String, u64> = KvStore::new("totals", text(), u64_be());

const ROUNDS: u64 = 12;
const KEYS: u64 = 300;

fn stores() -> [Arc<dyn StoreDefinition>; 2] {
    [
        Arc::new(KvDefinition(COUNTS)),
        Arc::new(KvDefinition(TOTALS)),
    ]
}

/// What the stores hold, in their order.
type Content = [BTreeMap<String, u64>; 2];

/// What was committed, by the position that was committed with it.
type History = BTreeMap<Option<i64>, Content>;

/// Rounds of changes, each flushed to a file of its own; half-way all files are merged.
fn written(dir: &Path, shared: &RocksShared) -> Result<History> {
    let base = Arc::new(RocksBytes::open(dir, shared)?);
    let mut state = TaskState::open(base.clone(), &stores())?;
    let mut content = Content::default();
    let mut history = History::from([(None, content.clone())]);
    for round in 0..ROUNDS {
        for n in (round..KEYS).step_by(1 + round as usize % 5) {
            let key = format!("key {n:04}");
            if (n + round).is_multiple_of(7) {
                state.kv(0, &COUNTS).delete(&key, 0)?;
                content[0].remove(&key);
            } else {
                state.kv(0, &COUNTS).put(&key, n * 1000 + round, 0)?;
                content[0].insert(key.clone(), n * 1000 + round);
            }
            state.kv(1, &TOTALS).put(&key, round, 0)?;
            content[1].insert(key, round);
        }
        let position = round as i64 + 1;
        state.write_changelog(&mut |_, _, _, _| Ok(()))?;
        state.commit(&[(0, position), (1, position)])?;
        state.start_flush().expect("something to flush").run()?;
        history.insert(Some(position), content.clone());
        if round == ROUNDS / 2 {
            base.compact();
        }
    }
    Ok(history)
}

/// Opens the folder and reads all of it, once in order and once key by key.
fn read(dir: &Path, shared: &RocksShared) -> Result<([Option<i64>; 2], Content)> {
    let base = Arc::new(RocksBytes::open(dir, shared)?);
    let mut state = TaskState::open(base.clone(), &stores())?;
    let positions = [state.position(0), state.position(1)];
    let content = [
        ranged(&mut state, 0, &COUNTS)?,
        ranged(&mut state, 1, &TOTALS)?,
    ];
    // Another handle of the same folder's stores, which has nothing in memory.
    let mut state = TaskState::open(base.clone(), &stores())?;
    for n in 0..KEYS {
        let key = format!("key {n:04}");
        assert_eq!(
            state.kv(0, &COUNTS).get(&key)?,
            content[0].get(&key).copied()
        );
        assert_eq!(
            state.kv(1, &TOTALS).get(&key)?,
            content[1].get(&key).copied()
        );
    }
    // Whoever went on writing would meet damage that no read has met.
    state.kv(0, &COUNTS).put(&"more".into(), 1, 0)?;
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[])?;
    state.start_flush().expect("something to flush").run()?;
    Ok((positions, content))
}

fn ranged(
    state: &mut TaskState,
    index: usize,
    store: &KvStore<String, u64>,
) -> Result<BTreeMap<String, u64>> {
    let entries = state.kv(index, store).range(None, None, usize::MAX)?;
    Ok(entries.into_iter().map(|(key, n, _)| (key, n)).collect())
}

#[derive(Default, Debug)]
struct Seen {
    whole: u32,
    older: u32,
    found: u32,
}

/// What a damaged folder tells must have been true once, or be told as damage.
fn check(dir: &Path, shared: &RocksShared, history: &History, what: &str, seen: &mut Seen) {
    match read(dir, shared) {
        Ok((positions, content)) => {
            assert_eq!(positions[0], positions[1], "{what}: torn");
            let known = history.get(&positions[0]);
            let known = known.unwrap_or_else(|| panic!("{what}: positions={positions:?}"));
            assert!(*known == content, "{what}: position={:?}", positions[0]);
            let newest = positions[0] == Some(ROUNDS as i64);
            *(if newest {
                &mut seen.whole
            } else {
                &mut seen.older
            }) += 1;
        }
        Err(error) => {
            let fault = Fault::of(&error);
            assert!(
                fault.is_some_and(Fault::means_rebuild),
                "{what}: {}",
                error.chain()
            );
            seen.found += 1;
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("reads directory") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(fs::copy(&path, &target).expect("copied")),
        }
    }
}

fn is_data(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    name.ends_with(".sst") || name.starts_with("MANIFEST") || name == "CURRENT"
}

#[test]
fn damaged_files_are_found_or_tell_what_was_true_before() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shared = RocksShared::new(0)?;
    let origin = dir.path().join("origin");
    let history = written(&origin, &shared)?;
    let mut seen = Seen::default();
    let mut cases = 0;
    for file in files_of(&origin.join("db"))
        .into_iter()
        .filter(|f| is_data(f))
    {
        let name = file.strip_prefix(&origin).expect("inside").to_owned();
        for damage in Damage::all(&mut Random::new(cases), 12) {
            cases += 1;
            let copy = dir.path().join("copy");
            copy_folder(&origin, &copy);
            damage.apply(&copy.join(&name));
            let what = format!("{damage:?} of {}", name.display());
            check(&copy, &shared, &history, &what, &mut seen);
            fs::remove_dir_all(&copy).expect("removed");
        }
    }
    // Most damage is found. What lies in no block that is read may stay, and a manifest that ends
    // early tells what was true before.
    assert!(
        seen.found > cases as u32 / 2 && seen.whole > 0,
        "{seen:?}, cases={cases}"
    );
    Ok(())
}

#[test]
fn a_check_of_damage_sees_wrong_content() {
    let history = History::from([(Some(ROUNDS as i64), Content::default())]);
    let shared = RocksShared::new(0).expect("shared");
    let dir = tempfile::tempdir().expect("temporary directory");
    written(dir.path(), &shared).expect("written");
    let mut seen = Seen::default();
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check(dir.path(), &shared, &history, "other history", &mut seen);
    }));
    assert!(checked.is_err());
}

const MANY: u64 = 5000;

fn one_store() -> [Arc<dyn StoreDefinition>; 1] {
    [Arc::new(KvDefinition(COUNTS))]
}

fn commit_and_flush(state: &mut TaskState, position: i64) -> Result {
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[(0, position)])?;
    state.start_flush().expect("something to flush").run()?;
    Ok(())
}

/// A store of two tables, in each of which some blocks are damaged that opening does not read.
fn damaged_inside(dir: &Path, shared: &RocksShared) -> Result<(Arc<RocksBytes>, TaskState)> {
    let mut state = TaskState::open(Arc::new(RocksBytes::open(dir, shared)?), &one_store())?;
    for round in 0..2 {
        for n in 0..MANY {
            let key = format!("key {n:04}");
            state.kv(0, &COUNTS).put(&key, n * n + round, 0)?;
        }
        commit_and_flush(&mut state, round as i64 + 1)?;
    }
    drop(state);
    let files = files_of(&dir.join("db"));
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "sst"))
    {
        let mut bytes = fs::read(file).expect("read");
        let blocks = bytes.len() / 4..bytes.len() / 2;
        bytes[blocks]
            .iter_mut()
            .step_by(64)
            .for_each(|byte| *byte ^= 1);
        fs::write(file, bytes).expect("written");
    }
    let base = Arc::new(RocksBytes::open(dir, shared)?);
    let state = TaskState::open(base.clone(), &one_store())?;
    assert_eq!(state.damage(), None);
    Ok((base, state))
}

#[test]
fn damage_that_a_query_meets_is_told_to_the_owner() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shared = RocksShared::new(0)?;
    let (_, state) = damaged_inside(dir.path(), &shared)?;
    let view = state.view(0);
    let mut keys = (0..MANY).map(|n| format!("key {n:04}"));
    let failed = keys.find_map(|key| view.get_typed(&COUNTS, &key).err());
    let failed = failed.expect("a query meets damage");
    assert!(Fault::of(&failed).is_some_and(Fault::means_rebuild));
    assert!(
        state
            .damage()
            .is_some_and(|found| found.contains("checksum"))
    );
    Ok(())
}

#[test]
fn damage_that_a_compaction_meets_is_told_to_the_owner() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shared = RocksShared::new(0)?;
    let (base, mut state) = damaged_inside(dir.path(), &shared)?;
    base.compact();
    // The next flush is refused, and says why.
    state.kv(0, &COUNTS).put(&"more".into(), 1, 0)?;
    let refused = commit_and_flush(&mut state, 3).expect_err("damaged");
    assert!(Fault::of(&refused).is_some_and(Fault::means_rebuild));
    assert!(state.damage().is_some());
    assert!(state.flush_failure().is_some());
    Ok(())
}

#[test]
fn a_folder_that_goes_away_is_damage() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shared = RocksShared::new(0)?;
    let folder = dir.path().join("task");
    let base = Arc::new(RocksBytes::open(&folder, &shared)?);
    let mut state = TaskState::open(base, &stores())?;
    fs::remove_dir_all(&folder).expect("removed");
    state.kv(0, &COUNTS).put(&"a".into(), 1, 0)?;
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[(0, 1)])?;
    let failed = state.start_flush().expect("something to flush").run();
    assert!(Fault::of(&failed.expect_err("gone")).is_some_and(Fault::means_rebuild));
    assert!(state.damage().is_some());
    Ok(())
}

/// Opens what a base has become after the key of which `wanted` holds is gone.
fn without(wanted: impl Fn(&[u8]) -> bool) -> Result {
    let base = Arc::new(MemoryBytes::default());
    let mut state = TaskState::open(base.clone(), &stores())?;
    state.kv(0, &COUNTS).put(&"a".into(), 1, 0)?;
    state.kv(1, &TOTALS).put(&"a".into(), 1, 0)?;
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[(0, 1), (1, 1)])?;
    state.start_flush().expect("something to flush").run()?;
    let keys: Vec<_> = base.scan(&[], None)?.collect::<Result<_>>()?;
    let (key, _) = keys.iter().find(|(key, _)| wanted(key)).expect("present");
    base.ingest(&mut [(&key[..], None)].into_iter())?;
    TaskState::open(base, &stores()).map(drop)
}

#[test]
fn entries_without_version_name_or_position_are_damage() {
    let reserved = |kind: u8, rest: &'static [u8]| {
        move |key: &[u8]| key.starts_with(&[0, 0, kind]) && key.ends_with(rest)
    };
    for (kind, rest) in [
        (0, &[][..]),
        (1, b"counts"),
        (1, b"totals"),
        (2, &[0, 1]),
        (2, &[0, 2]),
    ] {
        let opened = without(reserved(kind, rest));
        let error = opened.expect_err("damaged");
        let fault = Fault::of(&error);
        assert!(fault.is_some_and(Fault::means_rebuild), "{}", error.chain());
    }
}
