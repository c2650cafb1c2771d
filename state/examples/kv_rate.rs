//! Prints what the layers of state cost, in nanoseconds of processor time for each operation.
//!
//! `cargo run --release -p millstream-state --example kv_rate`

use std::{hint::black_box, sync::Arc};

use millstream_state::{
    ByteStore, KvDefinition, MemoryBytes, Result, RocksBytes, RocksShared, StoreDefinition,
    TaskState, WindowDefinition,
};
use millstream_topology::{KvStore, WindowStore, u64_be};

const COUNTS: KvStore<u64, u64> = KvStore::new("counts", u64_be(), u64_be());
const BUFFER: WindowStore<u64, u64> = WindowStore::new("buffer", u64_be(), u64_be());
const KEYS: u64 = 100_000;
const OPERATIONS: u64 = 4_000_000;
const RETENTION_MS: i64 = 100_000;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Processor time of this thread, so that other work on the machine counts little. Linux only.
fn cpu_nanos() -> u64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    spent
        .split(' ')
        .next()
        .and_then(|nanos| nanos.parse().ok())
        .unwrap_or(0)
}

#[derive(Default)]
struct Clock(u64);

impl Clock {
    fn time<R>(&mut self, run: impl FnOnce() -> Result<R>) -> Result<R> {
        let begin = cpu_nanos();
        let result = run();
        self.0 += cpu_nanos() - begin;
        result
    }

    fn print(&self, what: &str, operations: u64) {
        println!("{what:<48} {:>8.0} ns", self.0 as f64 / operations as f64);
    }
}

fn timed<R>(what: &str, operations: u64, run: impl FnOnce() -> Result<R>) -> Result<R> {
    let mut clock = Clock::default();
    let result = clock.time(run)?;
    clock.print(what, operations);
    Ok(result)
}

fn count(state: &mut TaskState, key: u64) -> Result<u64> {
    state.kv(0, &COUNTS).update(&key, |slot| {
        let count = slot.map_or(0, |(count, _)| count) + 1;
        *slot = Some((count, 0));
        Ok(count)
    })
}

fn commit(state: &mut TaskState, logged: &mut u64) -> Result {
    state.write_changelog(&mut |_, key, value, _| {
        *logged += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        Ok(())
    })?;
    state.commit(&[])
}

fn key_value(base: Arc<dyn ByteStore>, name: &str) -> Result {
    println!("-- key-value, {name}, {KEYS} keys");
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(base.clone(), &stores)?;
    let mut random = Random(88_172_645_463_325_252);
    let mut logged = 0;
    timed("first update of a key", KEYS, || {
        (0..KEYS).try_for_each(|k| count(&mut state, k).map(drop))
    })?;
    timed("update, every key dirty", OPERATIONS, || {
        (0..OPERATIONS).try_for_each(|_| count(&mut state, random.below(KEYS)).map(drop))
    })?;
    timed("write changelog and commit, first time", KEYS, || {
        commit(&mut state, &mut logged)
    })?;
    timed("update, clean keys", KEYS, || {
        (0..KEYS).try_for_each(|k| count(&mut state, k * 77_773 % KEYS).map(drop))
    })?;
    timed("write changelog, random order", KEYS, || {
        state.write_changelog(&mut |_, key, value, _| {
            logged += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            Ok(())
        })
    })?;
    timed("commit, keys committed before", KEYS, || state.commit(&[]))?;
    let mut clock = Clock::default();
    for _ in 0..40 {
        (0..5000).try_for_each(|_| count(&mut state, random.below(KEYS)).map(drop))?;
        clock.time(|| commit(&mut state, &mut logged))?;
    }
    clock.print("write changelog and commit, every 5000 keys", 40 * 5000);
    timed("update, 1000 hot keys", OPERATIONS, || {
        (0..OPERATIONS).try_for_each(|_| count(&mut state, random.below(1000)).map(drop))
    })?;
    commit(&mut state, &mut logged)?;
    if let Some(job) = state.start_flush() {
        timed("flush", KEYS, || job.run())?;
    }
    println!("   live {} KiB", state.live_bytes() >> 10);

    let mut state = TaskState::open(base, &stores)?;
    timed("first read of a key after a restart", KEYS, || {
        (0..KEYS).try_for_each(|k| {
            state.kv(0, &COUNTS).get(&(k * 77_773 % KEYS)).map(|v| {
                black_box(v);
            })
        })
    })?;
    state.shed(0);
    timed("prefix read of 8 entries, base only", 2000, || {
        (0..2000).try_for_each(|_| {
            let from = random.below(KEYS - 8);
            state
                .kv(0, &COUNTS)
                .range(Some(&from), Some(&(from + 8)), 8)
                .map(drop)
        })
    })?;
    black_box(logged);
    Ok(())
}

fn restore() -> Result {
    println!("-- restore, 5 records a key");
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(Arc::new(MemoryBytes::default()), &stores)?;
    let mut random = Random(1);
    let batches: Vec<Vec<[u8; 8]>> = (0..50)
        .map(|_| {
            (0..KEYS / 10)
                .map(|_| random.below(KEYS).to_be_bytes())
                .collect()
        })
        .collect();
    timed("restore a record", KEYS * 5, || {
        for batch in &batches {
            let mut records = batch.iter().map(|key| (&key[..], Some(&key[..]), 7));
            state.restore(0, &mut records, 1)?;
        }
        Ok(())
    })
}

fn windows(base: Arc<dyn ByteStore>, name: &str) -> Result {
    println!("-- window join step, {name}, {RETENTION_MS} live windows of {KEYS} keys");
    let buffer = WindowDefinition {
        store: BUFFER,
        retention_ms: RETENTION_MS,
        duplicates: true,
    };
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(buffer)];
    let mut state = TaskState::open(base, &stores)?;
    let mut random = Random(3);
    let (mut logged, mut matches) = (0, 0);
    let mut step = Clock::default();
    let mut commits = Clock::default();
    let mut flushes = Clock::default();
    let (batch, batches) = (10_000, 100);
    for n in 0..batches {
        step.time(|| {
            for now in n * batch..(n + 1) * batch {
                let key = random.below(KEYS);
                let mut buffer = state.window(0, &BUFFER);
                buffer.fetch(&key, now - 40_000, now, &mut |_, _, _| {
                    matches += 1;
                    Ok(())
                })?;
                buffer.add(&key, now, 1)?;
            }
            Ok(())
        })?;
        commits.time(|| commit(&mut state, &mut logged))?;
        if n % 20 == 0
            && let Some(job) = state.start_flush()
        {
            flushes.time(|| job.run())?;
        }
    }
    let records = (batch * batches) as u64;
    step.print("fetch and add", records);
    commits.print("commit every 10,000, expire", records);
    flushes.print("flush every 200,000", records);
    println!(
        "   {:.2} matches a record, live {} KiB, committed {} KiB",
        matches as f64 / records as f64,
        state.live_bytes() >> 10,
        state.committed_bytes() >> 10
    );
    Ok(())
}

fn main() -> Result {
    key_value(Arc::new(MemoryBytes::default()), "memory")?;
    let dir = std::env::temp_dir().join(format!("kv-rate-{}", std::process::id()));
    let shared = RocksShared::new(64 << 20)?;
    key_value(
        Arc::new(RocksBytes::open(&dir.join("kv"), &shared)?),
        "disk",
    )?;
    restore()?;
    windows(Arc::new(MemoryBytes::default()), "memory")?;
    windows(
        Arc::new(RocksBytes::open(&dir.join("windows"), &shared)?),
        "disk",
    )?;
    drop(std::fs::remove_dir_all(&dir));
    Ok(())
}
