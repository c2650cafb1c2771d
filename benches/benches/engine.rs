//! What a record costs in the engine: a hop from operator to operator, an update of a store, a step
//! of a window store.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use millstream_operators::{KStream, StreamsBuilder};
use millstream_runtime::TestDriver;
use millstream_state::{KvDefinition, MemoryBytes, StoreDefinition, TaskState, WindowDefinition};
use millstream_topology::{KvStore, Topic, WindowStore, u64_be};

const IN: Topic<u64, u64> = Topic::new("in", u64_be(), u64_be());
const COUNTS: KvStore<u64, u64> = KvStore::new("counts", u64_be(), u64_be());
const BUFFER: WindowStore<u64, u64> = WindowStore::new("buffer", u64_be(), u64_be());

/// Operators that a record passes; what is measured is divided by their number.
const HOPS: u64 = 1_000;
/// Keys of the stores.
const KEYS: u64 = 100_000;
/// Store operations between two commits.
const STEPS: u64 = 1_000;
/// How long windows are kept.
const RETENTION_MS: i64 = 100_000;

/// A record through a long chain; reading and committing it is shared by all hops.
fn hops(c: &mut Criterion) {
    let b = StreamsBuilder::new();
    let chain = (0..HOPS).fold(b.stream(IN), |stream: KStream<u64, u64>, _| {
        stream.map_values(|_, value| value.wrapping_add(1))
    });
    chain.for_each(|key, value| {
        black_box((key, value));
    });
    let topology = b.build().expect("it builds");
    let mut driver = TestDriver::new(&topology).expect("it runs");
    let mut group = c.benchmark_group("hop");
    group.throughput(Throughput::Elements(HOPS));
    let mut timestamp = 0;
    group.bench_function("map_values", |b| {
        b.iter(|| {
            timestamp += 1;
            driver.send(IN, 1, black_box(7), timestamp)
        });
    });
    group.finish();
}

/// Keys in an order that caches cannot foresee.
fn scattered(step: u64) -> u64 {
    step.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
}

fn commit(state: &mut TaskState) {
    state
        .write_changelog(&mut |_, _, _, _| Ok(()))
        .expect("nothing fails");
    state.commit(&[]).expect("nothing fails");
}

fn key_value(c: &mut Criterion) {
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(KvDefinition(COUNTS))];
    let mut state = TaskState::open(Arc::new(MemoryBytes::default()), &stores).expect("it opens");
    let mut step = 0;
    let mut update = |state: &mut TaskState| {
        for _ in 0..STEPS {
            step += 1;
            let mut counts = state.kv(0, &COUNTS);
            let before = counts
                .get(&scattered(step))
                .expect("nothing fails")
                .unwrap_or(0);
            counts
                .put(&scattered(step), before + 1, 0)
                .expect("nothing fails");
        }
    };
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(STEPS));
    group.bench_function("get and put", |b| b.iter(|| update(&mut state)));
    commit(&mut state);
    group.bench_function("get, put and commit", |b| {
        b.iter(|| {
            update(&mut state);
            commit(&mut state);
        });
    });
    group.finish();
}

/// A step of a stream-stream join: remember one record, look at those of the other side.
fn windows(c: &mut Criterion) {
    let definition = WindowDefinition {
        store: BUFFER,
        retention_ms: RETENTION_MS,
        duplicates: true,
    };
    let stores: [Arc<dyn StoreDefinition>; 1] = [Arc::new(definition)];
    let open = || TaskState::open(Arc::new(MemoryBytes::default()), &stores).expect("it opens");
    let mut group = c.benchmark_group("window store");
    group.throughput(Throughput::Elements(STEPS));
    group.bench_function("add and fetch", |b| {
        b.iter_batched_ref(
            open,
            |state| {
                for step in 0..STEPS {
                    let (key, time) = (scattered(step), step as i64);
                    let mut buffer = state.window(0, &BUFFER);
                    buffer.add(&key, time, step).expect("nothing fails");
                    let mut see = |_, value: &u64, _| {
                        black_box(*value);
                        Ok(())
                    };
                    let fetched = buffer.fetch(&key, time - 10_000, time + 10_000, &mut see);
                    fetched.expect("nothing fails");
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(engine, hops, key_value, windows);
criterion_main!(engine);
