//! Stores that are too large to be held in memory as a whole after a restart.

use std::sync::Arc;

use millstream_state::{
    ByteStore, KvDefinition, MemoryBytes, Result, StoreDefinition, TaskState, WindowDefinition,
};
use millstream_topology::{KvStore, WindowStore, u64_be};

const COUNTS: KvStore<u64, u64> = KvStore::new("counts", u64_be(), u64_be());
const BUFFER: WindowStore<u64, u64> = WindowStore::new("buffer", u64_be(), u64_be());
const KEYS: u64 = 70_000;
const WINDOWS: i64 = 270_000;

fn commit_and_flush(state: &mut TaskState) -> Result {
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[])?;
    state
        .start_flush()
        .expect("something to flush")
        .run()
        .map(drop)
}

#[test]
fn ranges_of_a_large_store_merge_what_is_cached_with_the_base() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(base.clone(), &stores)?;
    (0..KEYS).try_for_each(|key| state.kv(0, &COUNTS).put(&(2 * key), key, 0))?;
    commit_and_flush(&mut state)?;

    let mut state = TaskState::open(base, &stores)?;
    let mut store = state.kv(0, &COUNTS);
    let near_the_end = 2 * KEYS - 10;
    store.put(&(near_the_end + 1), 7, 1)?;
    store.delete(&(near_the_end + 4), 1)?;
    let found = store.range(Some(&near_the_end), None, 4)?;
    let keys: Vec<u64> = found.iter().map(|(key, ..)| key - near_the_end).collect();
    assert_eq!(keys, [0, 1, 2, 6]);
    assert_eq!(store.range(None, None, usize::MAX)?.len() as u64, KEYS);
    assert_eq!(store.get(&(2 * KEYS - 2))?, Some(KEYS - 1));
    assert_eq!(store.get(&1)?, None);

    let before = state.live_bytes();
    state.abort();
    state.shed(before / 4);
    assert!(state.live_bytes() <= before / 4);
    let mut store = state.kv(0, &COUNTS);
    assert_eq!(store.range(None, None, usize::MAX)?.len() as u64, KEYS);
    Ok(())
}

#[test]
fn windows_of_a_large_store_are_read_key_by_key() -> Result {
    let base: Arc<dyn ByteStore> = Arc::new(MemoryBytes::default());
    let definition = WindowDefinition {
        store: BUFFER,
        retention_ms: WINDOWS,
        duplicates: true,
    };
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(definition)];
    let mut state = TaskState::open(base.clone(), &stores)?;
    for start in 0..WINDOWS {
        state
            .window(0, &BUFFER)
            .add(&(start as u64 % 90_000), start, 1)?;
    }
    commit_and_flush(&mut state)?;

    let starts = |state: &mut TaskState, key: u64| -> Result<Vec<i64>> {
        let mut starts = Vec::new();
        state
            .window(0, &BUFFER)
            .fetch(&key, 0, i64::MAX, &mut |start, _, _| {
                starts.push(start);
                Ok(())
            })?;
        Ok(starts)
    };
    let mut state = TaskState::open(base, &stores)?;
    assert_eq!(starts(&mut state, 7)?, [7, 90_007, 180_007]);
    assert!(starts(&mut state, 90_000)?.is_empty());
    state.window(0, &BUFFER).add(&8, 90_008, 2)?;
    state.window(0, &BUFFER).add(&90_000, WINDOWS + 50, 2)?;
    assert_eq!(starts(&mut state, 7)?, [90_007, 180_007]);
    assert_eq!(starts(&mut state, 8)?, [90_008, 90_008, 180_008]);
    assert_eq!(
        state
            .window(0, &BUFFER)
            .fetch_all(WINDOWS - 1, i64::MAX)?
            .len(),
        2
    );
    commit_and_flush(&mut state)?;
    assert_eq!(starts(&mut state, 60)?, [60, 90_060, 180_060]);

    // Once all windows from before the restart have expired, memory knows all that there are.
    state.window(0, &BUFFER).add(&1, 2 * WINDOWS + 100, 1)?;
    commit_and_flush(&mut state)?;
    assert_eq!(starts(&mut state, 1)?, [2 * WINDOWS + 100]);
    assert!(starts(&mut state, 8)?.is_empty());
    assert!(state.live_bytes() < 4096, "bytes={}", state.live_bytes());
    Ok(())
}
