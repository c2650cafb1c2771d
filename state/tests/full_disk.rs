//! A disk without room: nothing committed is lost, and writing goes on when there is some again.

#![cfg(target_os = "linux")]

#[path = "../../broker/tests/small_disk/mod.rs"]
mod small_disk;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_state::{
    Fault, KvDefinition, Result, RocksBytes, RocksShared, StoreDefinition, TaskState,
};
use millstream_topology::{KvStore, text, u64_be};
use small_disk::child_disk;

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const KEYS: u64 = 2000;

fn stores() -> [Arc<dyn StoreDefinition>; 1] {
    [Arc::new(KvDefinition(COUNTS))]
}

fn commit(state: &mut TaskState, round: u64) -> Result {
    for n in 0..KEYS {
        state
            .kv(0, &COUNTS)
            .put(&format!("key {n}"), n * round, 0)?;
    }
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[(0, round as i64)])
}

fn check(state: &TaskState, round: u64) -> Result {
    let rows = state.view(0).range(None, None, usize::MAX)?;
    assert!(!rows.is_empty());
    for n in 0..KEYS {
        let found = state.view(0).get_typed(&COUNTS, &format!("key {n}"))?;
        assert_eq!(found, Some((n * round, 0)));
    }
    Ok(())
}

#[test]
fn a_flush_onto_a_full_disk_loses_nothing_and_goes_on_when_there_is_room() -> Result {
    let test = "a_flush_onto_a_full_disk_loses_nothing_and_goes_on_when_there_is_room";
    let Some(disk) = child_disk(test, 8) else {
        return Ok(());
    };
    let shared = RocksShared::new(0)?;
    let dir = disk.dir.join("task");
    let base = Arc::new(RocksBytes::open(&dir, &shared)?);
    let mut state = TaskState::open(base.clone(), &stores())?;
    for round in 1..4 {
        commit(&mut state, round)?;
        state.start_flush().expect("something to flush").run()?;
    }
    disk.fill();
    for round in 4..10 {
        commit(&mut state, round)?;
        let failed = state.start_flush().expect("something to flush").run();
        let error = failed.expect_err("the disk is full");
        assert!(
            matches!(Fault::of(&error), Some(Fault::Full { .. })),
            "{}",
            error.chain()
        );
        assert!(state.flush_failure().is_some());
        assert_eq!(state.damage(), None);
        check(&state, round)?;
    }
    let refused = RocksBytes::open(&disk.dir.join("another"), &shared).err();
    let error = refused.expect("the disk is full");
    assert!(
        matches!(Fault::of(&error), Some(Fault::Full { .. })),
        "{}",
        error.chain()
    );
    // What a compaction makes of it must not stay either.
    base.compact();
    disk.free();
    let until = Instant::now() + Duration::from_secs(30);
    while state.committed_bytes() > 0 {
        assert!(Instant::now() < until, "{:?}", state.flush_failure());
        match state.start_flush().expect("something to flush").run() {
            Ok(_) => {}
            Err(_) => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
    assert_eq!(state.flush_failure(), None);
    drop((state, base));
    let mut state = TaskState::open(Arc::new(RocksBytes::open(&dir, &shared)?), &stores())?;
    assert_eq!(state.position(0), Some(9));
    check(&state, 9)?;
    commit(&mut state, 10)?;
    state.start_flush().expect("something to flush").run()?;
    check(&state, 10)
}
