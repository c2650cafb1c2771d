//! A disk without room: nothing committed is lost, and writing goes on when there is some again.

#![cfg(target_os = "linux")]

#[path = "../../broker/tests/small_disk/mod.rs"]
mod small_disk;

use std::{sync::Arc, time::Duration};

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
    let mut tries = 0;
    while state.committed_bytes() > 0 && !state.is_stuck() {
        tries += 1;
        assert!(tries < 30, "{:?}", state.flush_failure());
        match state.start_flush().expect("something to flush").run() {
            Ok(_) => {}
            Err(_) => std::thread::park_timeout(Duration::from_secs(1)),
        }
    }
    let is_stuck = state.is_stuck();
    assert!(
        !(is_stuck && disk.is_mounted),
        "a disk that was full is got over"
    );
    assert_eq!(state.flush_failure().is_some(), is_stuck);
    drop((state, base));
    let mut state = TaskState::open(Arc::new(RocksBytes::open(&dir, &shared)?), &stores())?;
    let position = state.position(0).expect("a position") as u64;
    assert!(is_stuck || position == 9, "{position}");
    check(&state, position)?;
    commit(&mut state, 10)?;
    state.start_flush().expect("something to flush").run()?;
    check(&state, 10)
}
