//! Flushes: failures lose nothing, expired windows leave the disk, readers see no difference.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use millstream_state::{
    ByteStore, Entries, Fault, KvDefinition, MemoryBytes, Result, RocksBytes, RocksShared, Scan,
    StoreDefinition, TaskState, WindowDefinition,
};
use millstream_topology::{KvStore, WindowStore, text, u64_be};

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const RECENT: WindowStore<String, u64> = WindowStore::new("recent", text(), u64_be());

fn commit(state: &mut TaskState, position: i64) -> Result {
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[(0, position)])
}

/// A base whose disk is full at times.
#[derive(Default)]
struct Failing {
    base: MemoryBytes,
    full: AtomicBool,
}

impl ByteStore for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.base.get(key)
    }
    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Result<Scan<'_>> {
        self.base.scan(from, to)
    }
    fn ingest(&self, entries: &mut Entries<'_>) -> Result<()> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(Fault::Io {
                source: "disk is full".into(),
            }
            .into()),
            false => self.base.ingest(entries),
        }
    }
    fn approximate_entries(&self) -> u64 {
        self.base.approximate_entries()
    }
}

#[test]
fn a_failed_flush_loses_nothing_and_is_tried_again() -> Result {
    let base = Arc::new(Failing::default());
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(base.clone(), &stores)?;
    let put = |state: &mut TaskState, n: u64| {
        state.kv(0, &COUNTS).put(&"a".into(), n, 0)?;
        commit(state, n as i64)
    };
    put(&mut state, 1)?;
    base.full.store(true, Ordering::Relaxed);
    assert!(
        state
            .start_flush()
            .expect("something to flush")
            .run()
            .is_err()
    );
    assert!(
        state
            .flush_failure()
            .is_some_and(|why| why.contains("disk is full"))
    );
    put(&mut state, 2)?;
    let unflushed = state.committed_bytes();
    base.full.store(false, Ordering::Relaxed);

    let job = state.start_flush().expect("the failed one again");
    assert!(state.start_flush().is_none(), "one at a time");
    assert!(job.is_retry());
    assert_eq!(job.run()?.entries, 1);
    assert_eq!(state.flush_failure(), None);
    assert!(state.committed_bytes() < unflushed);
    assert_eq!(TaskState::open(base.clone(), &stores)?.position(0), Some(1));
    assert_eq!(state.view(0).get_typed(&COUNTS, &"a".into())?, Some((2, 0)));

    state.start_flush().expect("the second commit").run()?;
    assert!(state.start_flush().is_none(), "nothing is left");
    assert_eq!(state.committed_bytes(), 0);
    assert_eq!(TaskState::open(base, &stores)?.position(0), Some(2));
    Ok(())
}

#[test]
fn an_aborted_change_never_reaches_the_base() -> Result {
    let base = Arc::new(MemoryBytes::default());
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(base.clone(), &stores)?;
    state.kv(0, &COUNTS).put(&"a".into(), 1, 0)?;
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    assert!(state.start_flush().is_none());
    state.abort();
    assert!(state.start_flush().is_none());
    assert!(base.is_empty()?);
    Ok(())
}

#[test]
fn a_refused_changelog_record_aborts_cleanly() -> Result {
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(Arc::new(MemoryBytes::default()), &stores)?;
    state.kv(0, &COUNTS).put(&"a".into(), 1, 0)?;
    commit(&mut state, 1)?;
    for key in ["a", "b", "c"] {
        state.kv(0, &COUNTS).put(&key.into(), 2, 0)?;
    }
    let mut left = 2;
    let refused = state.write_changelog(&mut |_, _, _, _| {
        left -= 1;
        match left {
            0 => Err(Fault::Io {
                source: "queue is full".into(),
            }
            .into()),
            _ => Ok(()),
        }
    });
    assert!(refused.is_err());
    state.abort();
    assert!(!state.is_dirty());
    let mut store = state.kv(0, &COUNTS);
    assert_eq!(store.range(None, None, 9)?, [("a".to_owned(), 1, 0)]);
    Ok(())
}

fn recent() -> [Arc<dyn StoreDefinition>; 1] {
    [Arc::new(WindowDefinition {
        store: RECENT,
        retention_ms: 10,
        duplicates: true,
    })]
}

#[test]
fn windows_that_expire_before_the_flush_are_never_written() -> Result {
    let mut state = TaskState::open(Arc::new(MemoryBytes::default()), &recent())?;
    for start in 0..1000 {
        state.window(0, &RECENT).add(&"a".into(), start, 1)?;
        commit(&mut state, start + 1)?;
    }
    let report = state.start_flush().expect("something to flush").run()?;
    assert_eq!(report.entries, 10);
    Ok(())
}

#[test]
fn expired_windows_leave_memory_and_disk() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = Arc::new(RocksBytes::open(dir.path(), &RocksShared::new(0)?)?);
    let mut state = TaskState::open(base.clone(), &recent())?;
    let mut most = 0;
    for round in 0..50 {
        for start in round * 10..round * 10 + 10 {
            state
                .window(0, &RECENT)
                .add(&format!("key {start}"), start, 1)?;
        }
        commit(&mut state, round + 1)?;
        most = most.max(state.live_bytes());
        state.start_flush().expect("something to flush").run()?;
    }
    base.compact();
    let stored = base.scan(&[0, 1], None)?.count();
    assert!((10..30).contains(&stored), "stored={stored}");
    assert!(
        state.live_bytes() <= most && most < 50 * 1024,
        "most={most}"
    );
    assert_eq!(state.view(0).range(None, None, 1000)?.len(), 10);
    assert_eq!(state.view(0).approximate_entries(), 10);
    Ok(())
}

#[test]
fn memory_forgets_expired_windows_too() -> Result {
    let base = Arc::new(MemoryBytes::default());
    let mut state = TaskState::open(base.clone(), &recent())?;
    for start in 0..500 {
        state.window(0, &RECENT).add(&"a".into(), start, 1)?;
        commit(&mut state, start + 1)?;
        state.start_flush().expect("something to flush").run()?;
    }
    assert!(base.approximate_entries() < 60, "{base:?}");
    Ok(())
}

#[test]
fn queries_run_beside_commits_and_flushes() -> Result {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = Arc::new(RocksBytes::open(dir.path(), &RocksShared::new(0)?)?);
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(base, &stores)?;
    let keys: Vec<String> = (0..100).map(|n| format!("key {n:03}")).collect();
    let view = state.view(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Every commit sets all keys to one number, so a page of one moment has one number in it.
        let reader = scope.spawn(|| -> Result<u64> {
            let mut pages = 0;
            while !done.load(Ordering::Relaxed) {
                let page = view.range(None, None, 1000)?;
                assert!(page.len() == keys.len() || page.is_empty());
                assert!(page.iter().all(|(_, value, _)| *value == page[0].1));
                pages += 1;
            }
            Ok(pages)
        });
        for round in 0..200 {
            for key in &keys {
                state.kv(0, &COUNTS).put(key, round, 0)?;
            }
            commit(&mut state, round as i64)?;
            if let Some(job) = state.start_flush() {
                scope.spawn(move || job.run().expect("flushes"));
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("no panic")? > 0);
        Ok(())
    })
}
