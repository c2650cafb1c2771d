//! Random work on window stores against a list.

mod harness;

use std::sync::Arc;

use harness::{Harness, cases};
use millstream_state::{StoreDefinition, WindowDefinition};
use millstream_topology::{WindowStore, text, u64_be};
use proptest::{collection::vec, prelude::*};

const SINGLE: WindowStore<String, u64> = WindowStore::new("single", text(), u64_be());
const MANY: WindowStore<String, u64> = WindowStore::new("many", text(), u64_be());
const RETENTION_MS: i64 = 100;

fn definitions() -> Vec<Arc<dyn StoreDefinition>> {
    let single = WindowDefinition {
        store: SINGLE,
        retention_ms: RETENTION_MS,
        duplicates: false,
    };
    let many = WindowDefinition {
        store: MANY,
        retention_ms: RETENTION_MS,
        duplicates: true,
    };
    vec![Arc::new(single), Arc::new(many)]
}

#[derive(Clone, Debug)]
enum Step {
    Put(String, i64, Option<u64>),
    Count(String, i64),
    Add(String, i64),
    Get(String, i64),
    Fetch(String, i64, i64),
    FetchAll(i64, i64),
    Commit,
    Abort,
    FailCommit,
    BeginFlush,
    EndFlush,
    LoseFlush,
    Shed,
    Restart,
}

fn key() -> impl Strategy<Value = String> {
    // The third is the first with the bytes of a start behind it.
    prop::sample::select(vec!["a", "ab", "a\0\0\0\0\0\0\0\u{40}", "0123456789012345"])
        .prop_map(str::to_owned)
}

/// How far a record lies behind the present of the test: mostly near, at times expired, at times
/// ahead.
fn lag() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 0..30i64, 2 => 60..130i64, 1 => -80..0i64]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), lag(), prop::option::of(0..9u64)).prop_map(|(k, s, v)| Step::Put(k, s, v)),
        6 => (key(), lag()).prop_map(|(k, s)| Step::Count(k, s)),
        8 => (key(), lag()).prop_map(|(k, s)| Step::Add(k, s)),
        3 => (key(), lag()).prop_map(|(k, s)| Step::Get(k, s)),
        6 => (key(), lag(), lag()).prop_map(|(k, a, b)| Step::Fetch(k, a, b)),
        1 => (lag(), lag()).prop_map(|(a, b)| Step::FetchAll(a, b)),
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

/// Key, start, value, timestamp, in order of arrival.
type Row = (String, i64, u64, i64);

#[derive(Clone, Debug)]
struct Model {
    rows: Vec<Row>,
    observed: i64,
}

impl Model {
    const EMPTY: Self = Self {
        rows: Vec::new(),
        observed: -1,
    };

    fn first_live(&self) -> i64 {
        (self.observed - RETENTION_MS + 1).max(0)
    }

    /// False when the window has expired.
    fn observe(&mut self, start: i64) -> bool {
        self.observed = self.observed.max(start);
        start >= self.first_live()
    }

    fn get(&self, key: &str, start: i64) -> Option<(u64, i64)> {
        let live = start >= self.first_live();
        let row = self
            .rows
            .iter()
            .find(|row| live && row.0 == key && row.1 == start)?;
        Some((row.2, row.3))
    }

    fn set(&mut self, key: &str, start: i64, value: Option<(u64, i64)>) {
        self.rows.retain(|row| row.0 != key || row.1 != start);
        if let Some((value, at)) = value {
            self.rows.push((key.to_owned(), start, value, at));
        }
    }

    fn fetch(&self, key: Option<&str>, from: i64, to: i64) -> Vec<Row> {
        let from = from.max(self.first_live());
        let inside =
            |row: &&Row| key.is_none_or(|key| row.0 == key) && (from..=to).contains(&row.1);
        let mut rows: Vec<Row> = self.rows.iter().filter(inside).cloned().collect();
        rows.sort_by_key(|row| (row.1, row.0.clone()));
        rows
    }
}

fn fetch(harness: &mut Harness, index: usize, key: &str, from: i64, to: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    let store = [SINGLE, MANY][index];
    harness
        .state()
        .window(index, &store)
        .fetch(&key.to_owned(), from, to, &mut |start, value, at| {
            rows.push((key.to_owned(), start, *value, at));
            Ok(())
        })
        .expect("fetches");
    rows
}

fn viewed(harness: &mut Harness, index: usize, key: &str, from: i64, to: i64) -> Vec<Row> {
    let view = harness.state().view(index);
    let rows = view
        .windows(key.as_bytes(), from, to, usize::MAX)
        .expect("reads");
    let decode = |value: &[u8]| u64::from_be_bytes(value.try_into().expect("eight bytes"));
    rows.into_iter()
        .map(|(start, value, at)| (key.to_owned(), start, decode(&value), at))
        .collect()
}

fn check(mut harness: Harness, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut live = [Model::EMPTY, Model::EMPTY];
    let mut committed = live.clone();
    for (n, step) in steps.into_iter().enumerate() {
        let now = 200 + 3 * n as i64;
        let state = harness.state();
        match step {
            Step::Put(key, lag, value) => {
                let start = now - lag;
                state
                    .window(0, &SINGLE)
                    .put(&key, start, value, now)
                    .expect("puts");
                if live[0].observe(start) {
                    live[0].set(&key, start, value.map(|value| (value, now)));
                }
            }
            Step::Count(key, lag) => {
                let start = (now - lag) / 10 * 10;
                let mut store = state.window(0, &SINGLE);
                let count = store.update(&key, start, |slot| {
                    let count = slot.map_or(0, |(count, _)| count) + 1;
                    *slot = Some((count, now));
                    Ok(count)
                });
                let fits = live[0].observe(start);
                let expect = live[0].get(&key, start).map_or(0, |(count, _)| count) + 1;
                prop_assert_eq!(count.expect("updates"), expect);
                if fits {
                    live[0].set(&key, start, Some((expect, now)));
                }
            }
            Step::Add(key, lag) => {
                let start = now - lag;
                state
                    .window(1, &MANY)
                    .add(&key, start, now as u64)
                    .expect("adds");
                if live[1].observe(start) {
                    live[1].rows.push((key, start, now as u64, start));
                }
            }
            Step::Get(key, lag) => {
                let found = state
                    .window(0, &SINGLE)
                    .get(&key, now - lag)
                    .expect("reads");
                prop_assert_eq!(found, live[0].get(&key, now - lag));
            }
            Step::Fetch(key, from, to) => {
                for index in 0..2 {
                    let (from, to) = (now - from, now - to);
                    let found = fetch(&mut harness, index, &key, from, to);
                    prop_assert_eq!(found, live[index].fetch(Some(&key), from, to));
                    let seen = viewed(&mut harness, index, &key, from, to);
                    prop_assert_eq!(seen, committed[index].fetch(Some(&key), from, to));
                }
            }
            Step::FetchAll(from, to) => {
                let (from, to) = (now - from, now - to);
                let found = state.window(1, &MANY).fetch_all(from, to).expect("reads");
                prop_assert_eq!(found, live[1].fetch(None, from, to));
            }
            Step::Commit => {
                harness.commit().expect("commits");
                committed = live.clone();
            }
            Step::Abort => {
                state.abort();
                live = committed.clone();
            }
            Step::FailCommit => {
                harness.fail_commit().expect("aborts");
                live = committed.clone();
            }
            Step::BeginFlush => harness.begin_flush(),
            Step::EndFlush => harness.end_flush().expect("flushes"),
            Step::LoseFlush => harness.lose_flush(),
            Step::Shed => state.shed(400),
            Step::Restart => {
                harness.restart().expect("opens again");
                live = committed.clone();
                // A put that expires or removes nothing moves the time without a changelog record:
                // after a crash the time may lie a little further back.
                for (index, store) in [SINGLE, MANY].iter().enumerate() {
                    let observed = harness.state().window(index, store).observed_time();
                    prop_assert!(observed <= live[index].observed);
                    live[index].observed = observed;
                }
                committed = live.clone();
            }
        }
        for (index, store) in [SINGLE, MANY].iter().enumerate() {
            let observed = harness.state().window(index, store).observed_time();
            prop_assert_eq!(observed, live[index].observed);
        }
    }
    Ok(())
}

#[test]
fn a_step_ahead_that_is_aborted_expires_nothing() {
    let old = "ab".to_owned();
    let steps = vec![
        Step::Put(old.clone(), 60, Some(1)),
        Step::Commit,
        Step::Restart,
        Step::Count("a".to_owned(), -79),
        Step::FailCommit,
        Step::Fetch(old, 100, 0),
    ];
    check(Harness::in_memory(definitions()), steps).expect("as the model");
}

proptest! {
    #![proptest_config(cases(400))]
    #[test]
    fn in_memory_windows_are_kept_for_their_retention(steps in vec(step(), 0..150)) {
        check(Harness::in_memory(definitions()), steps)?;
    }
}

proptest! {
    #![proptest_config(cases(24))]
    #[test]
    fn on_disk_windows_are_kept_for_their_retention(steps in vec(step(), 0..150)) {
        check(Harness::on_disk(definitions()), steps)?;
    }
}
