//! Opening: what is found again, and what is refused.

use std::{fs, path::Path, sync::Arc};

use millstream_state::{
    ByteStore, Fault, KvDefinition, MemoryBytes, Result, RocksBytes, RocksShared, StoreDefinition,
    TaskState, WindowDefinition,
};
use millstream_topology::{ErrorKind, KvStore, StoreKind, WindowStore, json, text, u64_be};

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const NAMES: KvStore<u64, String> = KvStore::new("names", u64_be(), json());
const LOCAL: KvStore<String, u64> = KvStore::new("local", text(), u64_be()).without_changelog();
const HOURLY: WindowStore<String, u64> = WindowStore::new("hourly", text(), u64_be());

type LogRecord = (&'static [u8], Option<&'static [u8]>, i64);

fn counts() -> Arc<dyn StoreDefinition> {
    Arc::new(KvDefinition(COUNTS))
}

fn names() -> Arc<dyn StoreDefinition> {
    Arc::new(KvDefinition(NAMES))
}

fn hourly(retention_ms: i64) -> Arc<dyn StoreDefinition> {
    Arc::new(WindowDefinition {
        store: HOURLY,
        retention_ms,
        duplicates: false,
    })
}

fn commit(state: &mut TaskState, positions: &[(usize, i64)]) -> Result {
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(positions)
}

fn flush(state: &mut TaskState) -> Result {
    state
        .start_flush()
        .expect("there is something to flush")
        .run()
        .map(drop)
}

#[test]
fn a_store_is_found_by_its_name_whatever_the_order() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let mut state = TaskState::open(base.clone(), &[counts(), names()])?;
    state.kv(0, &COUNTS).put(&"a".into(), 1, 5)?;
    state.kv(1, &NAMES).put(&7, "seven".into(), 6)?;
    commit(&mut state, &[(0, 10), (1, 20)])?;
    flush(&mut state)?;

    let mut state = TaskState::open(base, &[hourly(10), names(), counts()])?;
    assert_eq!(
        state.kv(2, &COUNTS).get_with_timestamp(&"a".into())?,
        Some((1, 5))
    );
    assert_eq!(state.kv(1, &NAMES).get(&7)?, Some("seven".into()));
    let positions: Vec<_> = (0..3).map(|index| state.position(index)).collect();
    assert_eq!(positions, [None, Some(20), Some(10)]);
    Ok(())
}

#[test]
fn times_are_committed_with_the_entries() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let mut state = TaskState::open(base.clone(), &[hourly(10)])?;
    assert_eq!(
        (state.time(0), state.window(0, &HOURLY).observed_time()),
        (-1, -1)
    );
    state.set_time(0, 50);
    state.window(0, &HOURLY).put(&"a".into(), 40, Some(1), 50)?;
    assert!(state.is_dirty());
    commit(&mut state, &[])?;
    assert!(!state.is_dirty());
    state.set_time(0, 90);
    assert!(state.is_dirty());
    state.abort();
    assert_eq!(state.time(0), 50);
    flush(&mut state)?;

    let mut state = TaskState::open(base, &[hourly(10)])?;
    assert_eq!(
        (state.time(0), state.window(0, &HOURLY).observed_time()),
        (50, 40)
    );
    assert_eq!(
        state.window(0, &HOURLY).get(&"a".into(), 40)?,
        Some((1, 50))
    );
    Ok(())
}

#[test]
fn a_restored_store_tells_at_least_the_time_of_its_records() -> Result {
    let mut state = TaskState::open(Arc::new(MemoryBytes::default()), &[counts()])?;
    let records: [LogRecord; 2] = [
        (b"a", Some(&[0, 0, 0, 0, 0, 0, 0, 1]), 30),
        (b"b", None, 20),
    ];
    state.restore(0, &mut records.into_iter(), 2)?;
    assert_eq!((state.time(0), state.position(0)), (30, Some(2)));
    assert_eq!(
        state.kv(0, &COUNTS).get_with_timestamp(&"a".into())?,
        Some((1, 30))
    );
    Ok(())
}

#[test]
fn a_store_without_changelog_lives_in_the_base() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let local: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(LOCAL))];
    let mut state = TaskState::open(base.clone(), &local)?;
    state.kv(0, &LOCAL).put(&"a".into(), 1, 5)?;
    state.write_changelog(&mut |_, _, _, _| panic!("the store has no changelog"))?;
    state.commit(&[])?;
    flush(&mut state)?;
    let mut state = TaskState::open(base, &local)?;
    assert_eq!(state.kv(0, &LOCAL).get(&"a".into())?, Some(1));
    Ok(())
}

#[test]
fn another_format_is_refused() {
    for version in [Some(9), None] {
        let base = Arc::new(MemoryBytes::default());
        let entry = match version {
            Some(version) => (vec![0, 0, 0], vec![version]),
            None => (vec![7], vec![]),
        };
        let mut entries = [(&entry.0[..], Some(&entry.1[..]))].into_iter();
        base.ingest(&mut entries).expect("writes");
        let error = TaskState::open(base, &[counts()]).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::State);
        let found = match Fault::of(&error) {
            Some(Fault::Format { found, .. }) => *found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found, version);
        assert!(Fault::of(&error).is_some_and(Fault::means_rebuild));
    }
}

#[test]
fn a_store_that_changes_its_kind_is_refused() -> Result {
    const AS_WINDOW: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let mut state = TaskState::open(base.clone(), &[counts()])?;
    state.set_time(0, 1);
    commit(&mut state, &[])?;
    flush(&mut state)?;
    let window = WindowDefinition {
        store: AS_WINDOW,
        retention_ms: 1,
        duplicates: false,
    };
    let error = TaskState::open(base, &[Arc::new(window)])
        .err()
        .expect("refused");
    assert!(matches!(Fault::of(&error), Some(Fault::KindChanged { store }) if store == "counts"));
    Ok(())
}

#[test]
fn a_directory_has_one_owner() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shared = RocksShared::new(0)?;
    let owner = RocksBytes::open(dir.path(), &shared)?;
    let error = RocksBytes::open(dir.path(), &shared)
        .err()
        .expect("refused");
    assert!(
        matches!(Fault::of(&error), Some(Fault::Locked { .. })),
        "{error:?}"
    );
    drop(owner);
    RocksBytes::open(dir.path(), &shared).map(drop)
}

fn files(dir: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).expect("reads directory");
    let paths = entries.map(|entry| entry.expect("reads entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect()
}

#[test]
fn damage_is_told_from_other_failures() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shared = RocksShared::new(0)?;
    let mut state = TaskState::open(
        Arc::new(RocksBytes::open(dir.path(), &shared)?),
        &[counts()],
    )?;
    for n in 0..1000 {
        state.kv(0, &COUNTS).put(&format!("key {n}"), n, 0)?;
    }
    commit(&mut state, &[(0, 1000)])?;
    flush(&mut state)?;
    assert!(
        files(&dir.path().join("ingest"), "sst").is_empty(),
        "ingested files are moved"
    );
    drop(state);

    let tables = files(&dir.path().join("db"), "sst");
    assert_eq!(tables.len(), 1);
    let mut bytes = fs::read(&tables[0]).expect("reads");
    bytes[40..3000].fill(7);
    fs::write(&tables[0], bytes).expect("writes");

    let read = || -> Result {
        let base = RocksBytes::open(dir.path(), &shared)?;
        let mut state = TaskState::open(Arc::new(base), &[counts()])?;
        (0..1000).try_for_each(|n| state.kv(0, &COUNTS).get(&format!("key {n}")).map(drop))
    };
    let error = read().expect_err("damaged");
    assert!(
        Fault::of(&error).is_some_and(Fault::means_rebuild),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn people_can_read_keys_and_values() -> Result {
    let mut state = TaskState::open(Arc::new(MemoryBytes::default()), &[names(), hourly(9)])?;
    state.kv(0, &NAMES).put(&7, "seven".into(), 6)?;
    state.window(1, &HOURLY).put(&"ada".into(), 5, Some(3), 8)?;
    commit(&mut state, &[])?;

    let view = state.view(0);
    let key = view.definition().parse_key("7")?;
    let (value, timestamp) = view.get(&key)?.expect("present");
    assert_eq!(view.definition().value_json(&value)?, "seven");
    assert_eq!(view.definition().key_json(&key)?, 7);
    assert_eq!(
        (timestamp, view.name(), view.kind()),
        (6, "names", StoreKind::KeyValue)
    );
    let error = view.definition().parse_key("seven").expect_err("no number");
    assert_eq!(error.kind(), ErrorKind::Data);

    let view = state.view(1);
    let rows = view.range(None, None, 10)?;
    let (key, start, _) = millstream_state::split_window_key(&rows[0].0).expect("a window");
    assert_eq!((view.definition().key_json(key)?, start), ("ada".into(), 5));
    assert_eq!(view.definition().value_json(&rows[0].1)?, 3);
    Ok(())
}

#[test]
fn the_time_at_which_a_store_was_level_is_kept() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let open = || TaskState::open(base.clone(), &[counts(), names()]);
    let mut state = open()?;
    assert_eq!(state.level_ms(0), None);
    state.kv(0, &COUNTS).put(&"a".into(), 1, 5)?;
    commit(&mut state, &[(0, 10)])?;
    state.set_all_level(1_000_000);
    state.set_level(0, 1_000_001);
    flush(&mut state)?;
    let mut state = open()?;
    let levels = |state: &TaskState| (state.level_ms(0), state.level_ms(1));
    assert_eq!(levels(&state), (Some(1_000_001), Some(1_000_000)));
    assert_eq!((state.position(0), state.position(1)), (Some(10), None));

    // A small step alone is no reason to write, a large one is, and one into the past.
    state.set_all_level(1_059_999);
    assert!(state.start_flush().is_none());
    assert_eq!(levels(&state), (Some(1_000_001), Some(1_000_000)));
    state.set_level(1, 1_060_000);
    flush(&mut state)?;
    let mut state = open()?;
    assert_eq!(levels(&state), (Some(1_000_001), Some(1_060_000)));
    state.set_level(1, 5);
    flush(&mut state)?;
    assert_eq!(levels(&open()?), (Some(1_000_001), Some(5)));
    Ok(())
}

#[test]
fn a_base_without_the_times_of_its_stores_is_read() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let mut state = TaskState::open(base.clone(), &[counts()])?;
    state.kv(0, &COUNTS).put(&"a".into(), 1, 5)?;
    commit(&mut state, &[(0, 10)])?;
    state.set_level(0, 7);
    flush(&mut state)?;
    // As earlier versions have written it.
    let key = [0, 0, 3, 0, 1];
    assert!(base.get(&key)?.is_some());
    base.ingest(&mut std::iter::once((&key[..], None)))?;
    let mut state = TaskState::open(base, &[counts()])?;
    assert_eq!((state.position(0), state.level_ms(0)), (Some(10), None));
    assert_eq!(state.kv(0, &COUNTS).get(&"a".into())?, Some(1));
    Ok(())
}
