//! State after the power was lost: older, or damaged and said so, never wrong.

#![cfg(target_os = "linux")]

#[path = "../../broker/tests/power_loss/power.rs"]
mod power;

use std::{
    io::{Write, stdout},
    path::Path,
    sync::Arc,
};

use millstream_state::{
    Fault, KvDefinition, Result, RocksBytes, RocksShared, StoreDefinition, TaskState,
};
use millstream_topology::{KvStore, text, u64_be};
use power::{CHILD_DIR, CHILD_SEED, Random, folder, run_and_cut};

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const SEEDS: u64 = 30;
const KEYS: u64 = 500;

fn stores() -> [Arc<dyn StoreDefinition>; 1] {
    [Arc::new(KvDefinition(COUNTS))]
}

/// The changes of a round, which everybody knows: key and value, or that it goes.
fn changes(round: u64) -> impl Iterator<Item = (String, Option<u64>)> {
    let mut random = Random::new(round);
    (0..50).map(move |_| {
        let key = format!("key {}", random.below(KEYS));
        let value = (random.below(5) > 0).then_some(round);
        (key, value)
    })
}

fn commit(state: &mut TaskState, round: u64) -> Result {
    for (key, value) in changes(round) {
        match value {
            Some(value) => state.kv(0, &COUNTS).put(&key, value, 0)?,
            None => drop(state.kv(0, &COUNTS).delete(&key, 0)?),
        }
    }
    state.write_changelog(&mut |_, _, _, _| Ok(()))?;
    state.commit(&[(0, round as i64)])
}

/// Checks what is there against what its position says, and tells the position.
fn check(dir: &Path, shared: &RocksShared, seed: u64) -> Result<u64> {
    let base = Arc::new(RocksBytes::open(dir, shared)?);
    let state = TaskState::open(base, &stores())?;
    let position = state.position(0).unwrap_or(0) as u64;
    let mut wanted = std::collections::BTreeMap::new();
    for (key, value) in (1..=position).flat_map(changes) {
        match value {
            Some(value) => wanted.insert(key, value),
            None => wanted.remove(&key),
        };
    }
    for n in 0..KEYS {
        let key = format!("key {n}");
        let found = state.view(0).get_typed(&COUNTS, &key)?;
        let found = found.map(|(value, _)| value);
        assert_eq!(
            found,
            wanted.get(&key).copied(),
            "seed={seed}, position={position}"
        );
    }
    Ok(position)
}

#[test]
fn state_is_what_its_position_says_after_power_loss() -> Result {
    let shared = RocksShared::new(0)?;
    let mut rebuilt = 0;
    for seed in 0..SEEDS {
        let root = folder();
        let mut random = Random::new(seed);
        for cut in 0..2 {
            let run = seed * 2 + cut;
            let enough = 1 + random.below(60) as usize;
            let lines = run_and_cut("child_that_flushes", root.path(), run, enough);
            let live = root.path().join("live");
            match check(&live, &shared, seed) {
                Ok(position) => {
                    // A flush that ended is on disk: only what came later is read again.
                    let mut flushed = lines
                        .iter()
                        .filter_map(|line| Some(line.split_once("flushed ")?.1));
                    let flushed = flushed
                        .next_back()
                        .expect("a line")
                        .parse()
                        .expect("a number");
                    assert!(position >= flushed, "{position} < {flushed}. seed={seed}");
                }
                Err(error) => {
                    let fault = Fault::of(&error);
                    assert!(fault.is_some_and(Fault::means_rebuild), "{}", error.chain());
                    std::fs::remove_dir_all(&live).expect("wiped");
                    rebuilt += 1;
                }
            }
        }
    }
    println!("{rebuilt} of {} were rebuilt", SEEDS * 2);
    Ok(())
}

#[test]
fn child_that_flushes() -> Result {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return Ok(());
    };
    let seed: u64 = std::env::var(CHILD_SEED)
        .expect("a seed")
        .parse()
        .expect("a number");
    let mut random = Random::new(seed + 1000);
    let base = Arc::new(RocksBytes::open(Path::new(&dir), &RocksShared::new(0)?)?);
    let mut state = TaskState::open(base.clone(), &stores())?;
    for round in state.position(0).unwrap_or(0) as u64 + 1.. {
        commit(&mut state, round)?;
        if random.below(3) > 0 {
            state.start_flush().expect("something to flush").run()?;
            let line = format!("flushed {round}.\n");
            stdout().write_all(line.as_bytes()).expect("printed");
        }
        if random.below(20) == 0 {
            base.compact();
        }
    }
    Ok(())
}
