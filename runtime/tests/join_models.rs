//! Joins against naive models: random keys, times out of order, nulls, a restart in the middle.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use millstream_operators::{ForeignKey, JoinWindow, KStream, KTable, StreamsBuilder, Topology};
use millstream_runtime::TestDriver;
use millstream_topology::{KvStore, Topic, WindowStore, bytes, nullable, text, u64_be};
use proptest::prelude::*;

const CASES: u32 = 3_000;
const KEYS: [&str; 3] = ["a", "b", "c"];
const TIMES: i64 = 60;
/// Later than all else, so that every window has closed.
const END: i64 = 1_000_000;
const WINDOW_MS: i64 = 10;

type Text = Option<String>;

const LEFT_ROWS: Topic<String, String> = Topic::new("left", text(), text());
const RIGHT_ROWS: Topic<String, String> = Topic::new("right", text(), text());
const LEFT_TABLE: KvStore<String, String> = KvStore::new("left-rows", text(), text());
const RIGHT_TABLE: KvStore<String, String> = KvStore::new("right-rows", text(), text());
const JOINED: KvStore<String, String> = KvStore::new("joined", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const BY_VALUE: Topic<String, String> = Topic::new("by-value", text(), text());
const FOREIGN: ForeignKey<String, String, String, String> = ForeignKey::new(
    Topic::new("asking", text(), text()),
    Topic::new("answering", text(), text()),
    KvStore::new("subscriptions", bytes(), bytes()),
);

const LEFT: Topic<Text, Text> = Topic::new("left", nullable(text()), nullable(text()));
const RIGHT: Topic<Text, Text> = Topic::new("right", nullable(text()), nullable(text()));
const OUT: Topic<Text, String> = Topic::new("out", nullable(text()), text());
const LEFT_BUFFER: WindowStore<String, String> = WindowStore::new("left-buffer", text(), text());
const RIGHT_BUFFER: WindowStore<String, String> = WindowStore::new("right-buffer", text(), text());
const ALONE: KvStore<Bytes, Bytes> = KvStore::new("alone", bytes(), bytes());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
    Outer,
}

const KINDS: [Kind; 3] = [Kind::Inner, Kind::Left, Kind::Outer];

/// One record: on the left or on the right, key, value, time. `None` is null.
type Step = (bool, Text, Text, i64);

fn text_of(choices: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(choices).prop_map(str::to_owned)
}

fn steps(null_keys: bool) -> impl Strategy<Value = Vec<Step>> {
    let key = (text_of(&KEYS), 0..10).prop_map(move |(key, dice)| {
        let is_null = null_keys && dice == 0;
        (!is_null).then_some(key)
    });
    let value = prop::option::weighted(0.8, text_of(&["a", "b", "c", "", "z"]));
    prop::collection::vec((any::<bool>(), key, value, 0..TIMES), 0..25)
}

fn bytes_of(text: &Text) -> Option<Bytes> {
    text.as_ref()
        .map(|text| Bytes::copy_from_slice(text.as_bytes()))
}

fn send(driver: &mut TestDriver, (left, key, value, timestamp): &Step) {
    let raw = millstream_operators::RawRecord {
        key: bytes_of(key),
        value: bytes_of(value),
        timestamp: *timestamp,
        ..Default::default()
    };
    let topic = if *left { "left" } else { "right" };
    driver.send_raw(topic, raw).expect("processes");
}

fn shown(left: Option<&String>, right: Option<&String>) -> String {
    let text = |side: Option<&String>| side.map_or("null", String::as_str).to_owned();
    format!("{}-{}", text(left), text(right))
}

/// Both tables of a test.
type Tables = (KTable<String, String>, KTable<String, String>);

fn over_tables(join: impl FnOnce(Tables)) -> Topology {
    let b = StreamsBuilder::new();
    let tables = (
        b.table(LEFT_ROWS, LEFT_TABLE),
        b.table(RIGHT_ROWS, RIGHT_TABLE),
    );
    join(tables);
    b.build().expect("builds")
}

/// Feeds the steps, restarts in the middle, and compares the result after each with what `model`
/// makes of both tables.
fn check_tables<V: Clone + std::fmt::Debug + PartialEq>(
    topology: &Topology,
    steps: &[Step],
    store: KvStore<String, V>,
    model: impl Fn(&Rows, &Rows) -> BTreeMap<String, V>,
) -> Result<(), TestCaseError> {
    let mut driver = TestDriver::new(topology).expect("starts");
    let (mut left, mut right) = (Rows::new(), Rows::new());
    for (at, step) in steps.iter().enumerate() {
        if at == steps.len() / 2 {
            driver.restart(false).expect("restarts");
        }
        send(&mut driver, step);
        let (is_left, key, value, _) = step.clone();
        let rows = if is_left { &mut left } else { &mut right };
        let key = key.expect("tables have keys");
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
        let entries = driver.entries(store).expect("reads").into_iter();
        let got: BTreeMap<String, V> = entries.map(|(key, value, _)| (key, value)).collect();
        prop_assert_eq!(got, model(&left, &right), "after step {}", at);
    }
    Ok(())
}

type Rows = BTreeMap<String, String>;

fn joined_rows(kind: Kind, left: &Rows, right: &Rows) -> Rows {
    let pair = |key: &&str| {
        let (l, r) = (left.get(*key), right.get(*key));
        let is_there = match kind {
            Kind::Inner => l.is_some() && r.is_some(),
            Kind::Left => l.is_some(),
            Kind::Outer => l.is_some() || r.is_some(),
        };
        is_there.then(|| ((*key).to_owned(), shown(l, r)))
    };
    KEYS.iter().filter_map(pair).collect()
}

/// The foreign key of a row is its value; `z` and the empty text are none.
fn foreign_key(value: &str) -> Option<String> {
    Some(value.to_owned()).filter(|value| !value.is_empty() && value != "z")
}

fn foreign_rows(kind: Kind, left: &Rows, right: &Rows) -> Rows {
    let pair = |(key, value): (&String, &String)| {
        let partner = foreign_key(value).and_then(|key| right.get(&key));
        let is_there = kind != Kind::Inner || partner.is_some();
        is_there.then(|| (key.clone(), shown(Some(value), partner)))
    };
    left.iter().filter_map(pair).collect()
}

/// The pairs of records that meet, and those that are left alone, as text, sorted.
fn joined_records(kind: Kind, steps: &[Step]) -> Vec<String> {
    let side = |wanted: bool| {
        let of_side = move |step: &&Step| step.0 == wanted;
        steps.iter().filter(of_side).collect::<Vec<_>>()
    };
    let (lefts, rights) = (side(true), side(false));
    let meet = |l: &Step, r: &Step| {
        l.1.is_some() && l.1 == r.1 && r.2.is_some() && (l.3 - r.3).abs() <= WINDOW_MS
    };
    let line = |key: &Text, text: String, at: i64| format!("{key:?}:{text}@{at}");
    let mut all = Vec::new();
    for l in lefts.iter().filter(|l| l.2.is_some()) {
        let met: Vec<_> = rights.iter().filter(|r| meet(l, r)).collect();
        for r in &met {
            all.push(line(&l.1, shown(l.2.as_ref(), r.2.as_ref()), l.3.max(r.3)));
        }
        if met.is_empty() && kind != Kind::Inner {
            all.push(line(&l.1, shown(l.2.as_ref(), None), l.3));
        }
    }
    for r in rights.iter().filter(|r| r.2.is_some()) {
        let alone = !lefts.iter().any(|l| l.2.is_some() && meet(l, r));
        if alone && kind == Kind::Outer {
            all.push(line(&r.1, shown(None, r.2.as_ref()), r.3));
        }
    }
    all.sort();
    all
}

fn over_streams(kind: Kind) -> Topology {
    let b = StreamsBuilder::new();
    // With so long a grace nothing is late, so that the order of arrival does not matter.
    let window = JoinWindow::of(Duration::from_millis(WINDOW_MS as u64))
        .grace(Duration::from_millis(TIMES as u64));
    let right = b.stream(RIGHT).within(window, LEFT_BUFFER, RIGHT_BUFFER);
    let left = b.stream(LEFT);
    let joined: KStream<Text, String> = match kind {
        Kind::Inner => left
            .join(right, |l, r| shown(Some(l), Some(r)))
            .map(|key, value| (Some(key), value)),
        Kind::Left => left.left_join(right.unmatched(ALONE), |l, r| shown(Some(l), r)),
        Kind::Outer => left.outer_join(right.unmatched(ALONE), shown),
    };
    joined.to(OUT);
    b.build().expect("builds")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_join_of_tables_holds_what_both_hold(
        kind in prop::sample::select(&KINDS[..]),
        steps in steps(false),
    ) {
        let topology = over_tables(|(left, right)| {
            let joined = match kind {
                Kind::Inner => left.join(&right, |l, r| shown(Some(l), Some(r))),
                Kind::Left => left.left_join(&right, |l, r| shown(Some(l), r)),
                Kind::Outer => left.outer_join(&right, shown),
            };
            joined.materialize(JOINED);
        });
        let model = |left: &Rows, right: &Rows| joined_rows(kind, left, right);
        check_tables(&topology, &steps, JOINED, model)?;
    }

    #[test]
    fn a_join_by_foreign_key_holds_each_row_with_its_partner(
        kind in prop::sample::select(&KINDS[..2]),
        steps in steps(false),
    ) {
        let topology = over_tables(|(left, right)| {
            let key = |_: &String, value: &String| foreign_key(value);
            match kind {
                Kind::Inner => left.join_foreign(&right, FOREIGN, JOINED, key, |l, r| {
                    shown(Some(l), Some(r))
                }),
                Kind::Left | Kind::Outer => {
                    left.left_join_foreign(&right, FOREIGN, JOINED, key, |l, r| shown(Some(l), r))
                }
            };
        });
        let model = |left: &Rows, right: &Rows| foreign_rows(kind, left, right);
        check_tables(&topology, &steps, JOINED, model)?;
    }

    #[test]
    fn a_count_of_groups_follows_the_rows(steps in steps(false)) {
        let topology = over_tables(|(left, _)| {
            let grouped = left.group_by(BY_VALUE, |key, value| (value.clone(), key.clone()));
            grouped.aggregate_or_delete(
                COUNTS,
                |_, _, count| Some(count.unwrap_or(0) + 1),
                |_, _, count| Some(count - 1).filter(|left| *left > 0),
            );
        });
        let model = |left: &Rows, _: &Rows| {
            let mut counts = BTreeMap::new();
            for value in left.values() {
                *counts.entry(value.clone()).or_insert(0_u64) += 1;
            }
            counts
        };
        check_tables(&topology, &steps, COUNTS, model)?;
    }

    #[test]
    fn a_join_of_streams_pairs_what_is_close_and_leaves_the_rest_alone(
        kind in prop::sample::select(&KINDS[..]),
        steps in steps(true),
    ) {
        let mut driver = TestDriver::new(&over_streams(kind)).expect("starts");
        for (at, step) in steps.iter().enumerate() {
            if at == steps.len() / 2 {
                driver.restart(false).expect("restarts");
            }
            send(&mut driver, step);
        }
        let closing = |left| (left, Some("end".to_owned()), Some("end".to_owned()), END);
        send(&mut driver, &closing(true));
        let records = driver.read(OUT).expect("decodes").into_iter();
        let mut got: Vec<String> = records
            .map(|r| format!("{:?}:{}@{}", r.key, r.value, r.timestamp))
            .collect();
        got.sort();
        prop_assert_eq!(got, joined_records(kind, &steps));
    }
}
