//! Random work on key-value stores against a map.

mod harness;

use std::{collections::BTreeMap, sync::Arc};

use harness::{Harness, cases};
use millstream_state::{KvDefinition, StoreDefinition};
use millstream_topology::{KvStore, bytes, i64_be, u64_be};
use proptest::{collection::vec, prelude::*};

type Key = ::bytes::Bytes;
const FIRST: KvStore<Key, u64> = KvStore::new("first", bytes(), u64_be());
const SECOND: KvStore<Key, i64> = KvStore::new("second", bytes(), i64_be());

fn definitions() -> Vec<Arc<dyn StoreDefinition>> {
    vec![
        Arc::new(KvDefinition(FIRST)),
        Arc::new(KvDefinition(SECOND)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Put(Key, u64),
    Add(Key, u64),
    FailingAdd(Key),
    Delete(Key),
    Get(Key),
    Range(Option<Key>, Option<Key>, usize),
    Prefix(Key, usize),
    Commit,
    Abort,
    FailCommit,
    BeginFlush,
    EndFlush,
    LoseFlush,
    Shed,
    Restart,
}

/// Few keys, many of them prefixes of others, some too long to lie in the entry itself.
fn key() -> impl Strategy<Value = Key> {
    let part = prop::sample::select(vec![&b"a"[..], b"b", b"\0", b"\xff", b"0123456789abcdef"]);
    vec(part, 0..3).prop_map(|parts| parts.concat().into())
}

fn step() -> impl Strategy<Value = Step> {
    let bound = || prop::option::of(key());
    prop_oneof![
        8 => (key(), any::<u64>()).prop_map(|(k, v)| Step::Put(k, v)),
        6 => (key(), 0..9u64).prop_map(|(k, v)| Step::Add(k, v)),
        1 => key().prop_map(Step::FailingAdd),
        4 => key().prop_map(Step::Delete),
        6 => key().prop_map(Step::Get),
        3 => (bound(), bound(), 1..9usize).prop_map(|(a, b, n)| Step::Range(a, b, n)),
        2 => (key(), 1..9usize).prop_map(|(k, n)| Step::Prefix(k, n)),
        4 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => Just(Step::FailCommit),
        2 => Just(Step::BeginFlush),
        2 => Just(Step::EndFlush),
        1 => Just(Step::LoseFlush),
        1 => Just(Step::Shed),
        1 => Just(Step::Restart),
    ]
}

type Model = BTreeMap<Key, (u64, i64)>;

fn slice(model: &Model, keep: impl Fn(&Key) -> bool, limit: usize) -> Vec<(Key, u64, i64)> {
    let kept = model.iter().filter(|(key, _)| keep(key));
    kept.map(|(key, (value, at))| (key.clone(), *value, *at))
        .take(limit)
        .collect()
}

fn check(mut harness: Harness, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut live, mut committed) = (Model::new(), Model::new());
    for (at, step) in steps.into_iter().enumerate() {
        let at = at as i64;
        let mut store = harness.state().kv(0, &FIRST);
        match step {
            Step::Put(key, value) => {
                store.put(&key, value, at).expect("puts");
                harness
                    .state()
                    .kv(1, &SECOND)
                    .put(&key, at, at)
                    .expect("puts");
                harness.state().set_time(0, at);
                live.insert(key, (value, at));
            }
            Step::Add(key, value) => {
                let before = store
                    .update(&key, |slot| {
                        let before = *slot;
                        let sum = before.map_or(0, |(sum, _)| sum).wrapping_add(value);
                        *slot = (!sum.is_multiple_of(3)).then_some((sum, at));
                        Ok(before)
                    })
                    .expect("updates");
                prop_assert_eq!(before, live.get(&key).copied());
                let sum = before.map_or(0, |(sum, _)| sum).wrapping_add(value);
                match sum.is_multiple_of(3) {
                    true => live.remove(&key),
                    false => live.insert(key, (sum, at)),
                };
            }
            Step::FailingAdd(key) => {
                let failed = store.update(&key, |_| -> millstream_state::Result {
                    Err(millstream_topology::Error::new(
                        millstream_topology::ErrorKind::User,
                        "no",
                    ))
                });
                prop_assert!(failed.is_err());
            }
            Step::Delete(key) => {
                store.delete(&key, at).expect("deletes");
                live.remove(&key);
            }
            Step::Get(key) => {
                let found = store.get_with_timestamp(&key).expect("reads");
                prop_assert_eq!(found, live.get(&key).copied());
            }
            Step::Range(from, to, limit) => {
                let found = store
                    .range(from.as_ref(), to.as_ref(), limit)
                    .expect("reads");
                let inside = |key: &Key| {
                    from.as_ref().is_none_or(|from| key >= from)
                        && to.as_ref().is_none_or(|to| key < to)
                };
                prop_assert_eq!(found, slice(&live, inside, limit));
                let view = harness.state().view(0);
                let seen = view
                    .range(from.as_deref(), to.as_deref(), limit)
                    .expect("reads");
                let expect = slice(&committed, inside, limit).into_iter();
                let expect =
                    expect.map(|(k, v, at)| (k, Key::copy_from_slice(&v.to_be_bytes()), at));
                prop_assert_eq!(seen, expect.collect::<Vec<_>>());
            }
            Step::Prefix(prefix, limit) => {
                let found = store.prefix(&prefix, limit).expect("reads");
                prop_assert_eq!(found, slice(&live, |key| key.starts_with(&prefix), limit));
            }
            Step::Commit => {
                harness.commit().expect("commits");
                committed = live.clone();
            }
            Step::Abort => {
                harness.state().abort();
                live = committed.clone();
            }
            Step::FailCommit => {
                harness.fail_commit().expect("aborts");
                live = committed.clone();
            }
            Step::BeginFlush => harness.begin_flush(),
            Step::EndFlush => harness.end_flush().expect("flushes"),
            Step::LoseFlush => harness.lose_flush(),
            Step::Shed => harness.state().shed(300),
            Step::Restart => {
                harness.restart().expect("opens again");
                live = committed.clone();
            }
        }
        let dirty = harness.state().is_dirty();
        prop_assert!(dirty || live == committed, "a change makes the task dirty");
    }
    let all = harness
        .state()
        .kv(0, &FIRST)
        .range(None, None, usize::MAX)
        .expect("reads");
    prop_assert_eq!(all, slice(&live, |_| true, usize::MAX));
    harness.state().abort();
    let view = harness.state().view(0);
    prop_assert_eq!(view.approximate_entries(), committed.len() as u64);
    for (key, expect) in &committed {
        prop_assert_eq!(view.get_typed(&FIRST, key).expect("reads"), Some(*expect));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(400))]
    #[test]
    fn in_memory_a_store_is_a_map_with_transactions(steps in vec(step(), 0..120)) {
        check(Harness::in_memory(definitions()), steps)?;
    }
}

proptest! {
    #![proptest_config(cases(24))]
    #[test]
    fn on_disk_a_store_is_a_map_with_transactions(steps in vec(step(), 0..120)) {
        check(Harness::on_disk(definitions()), steps)?;
    }
}
