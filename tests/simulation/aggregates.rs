//! Applications that count and sum up.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_operators::{KTable, StreamsBuilder, until_window_closes};
use millstream_topology::{
    Headers, KvStore, SuppressStore, Topic, Tumbling, WindowStore, Windowed, millis, text, u64_be,
    windowed,
};
use millstream_verifier::{Emission, Input as Taken, Made, Part};

use crate::{
    cases::{
        BEGIN_MS, Case, DEAD, Figures, IN, OUT, add, feed, key, nothing, pure, stored, texts, told,
    },
    chance::Chance,
    checks::Row,
    seeds::AS_ASKED,
    world::{Input, World},
};

const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const TOPICS: [(&str, bool); 2] = [(IN.name(), false), (OUT.name(), false)];

pub(crate) fn all() -> [Case; 6] {
    [
        counting(),
        spending(false),
        spending(true),
        windows(),
        closing(),
        holding(),
    ]
}

/// Counts by key; some records fail, some make the function panic, some do not decode: those are
/// set aside, once each.
fn counting() -> Case {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .try_map_values(|_, value| match value.as_str() {
            "fails" => Err("as the test asked"),
            "panics" => panic!("{}", AS_ASKED),
            _ => Ok(value),
        })
        .named("picky")
        .group_by_key()
        .count(COUNTS)
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0))
        .to(OUT);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: IN.name(),
        key: key(chance),
        value: Some(match chance.below(60) {
            0 => "fails".into(),
            1 => "panics".into(),
            2 => Bytes::from_static(&[0xff, 0xfe]),
            _ => n.to_string().into(),
        }),
        timestamp: chance.below(1000) as i64,
    };
    let part = || {
        let part = Part::new(&[IN.name()], |_| pure(count).store("counts", stored));
        let part = part.writes(OUT.name(), Emission::Every);
        vec![part.writes(DEAD, Emission::Every).keeps("counts")]
    };
    Case {
        name: "counting",
        feed: feed(b.build(), &TOPICS, record),
        parts: part,
        besides: nothing,
    }
}

fn count(counts: &mut Figures, taken: &Taken<'_>, made: &mut Vec<Made>) {
    let record = taken.record;
    let failed = match record.value.as_deref().unwrap_or_default() {
        b"fails" => Some((
            "User",
            "a function failed on a record, node=`picky`: as the test asked",
        )),
        b"panics" => Some(("User", "a function panicked on this record")),
        [0xff, 0xfe] => Some((
            "Data",
            "value of a record does not decode: invalid utf-8 sequence of 1 bytes from index 0",
        )),
        _ => None,
    };
    let (key, _) = texts(taken);
    let Some((kind, message)) = failed else {
        let figure = add(counts, &key, 1, record.timestamp);
        return made.push(told(&key, figure));
    };
    let mut headers = Headers::default();
    let at = taken.from;
    for (name, value) in [
        ("__streams.errors.exception", kind.to_owned()),
        ("__streams.errors.message", message.to_owned()),
        ("__streams.errors.topic", at.topic.to_string()),
        ("__streams.errors.partition", at.partition.to_string()),
        ("__streams.errors.offset", record.offset.to_string()),
    ] {
        headers.push(name, Some(value.into()));
    }
    made.push(Made {
        value: record.value.clone(),
        headers,
        ..Made::new(DEAD, key, "", record.timestamp)
    });
}

const BY_CUSTOMER: Topic<String, u64> = Topic::new("by-customer", text(), u64_be());
const BETWEEN: &str = "app-by-customer-repartition";
const SPENT: KvStore<String, u64> = KvStore::new("spent", text(), u64_be());

/// Records go to other keys by a repartition topic, and are summed up there. Where that topic is
/// purged, what it held is known from its input alone.
fn spending(purges: bool) -> Case {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .map(|order, customer| (customer.clone(), amount_of(&order, &customer)))
        .repartition(BY_CUSTOMER)
        .group_by_key()
        .aggregate(SPENT, |_, amount, sum: u64| sum + amount)
        .to_stream()
        .map_values(|_, sum| sum.unwrap_or(0))
        .to(OUT);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: IN.name(),
        key: format!("order-{n}"),
        value: Some(format!("c{}", chance.below(9)).into()),
        timestamp: n as i64,
    };
    let whole = || {
        let send = Part::new(&[IN.name()], |_| pure(send_on));
        let sum = Part::new(&[BETWEEN], |_| pure(sum_up).store("spent", stored));
        let sum = sum.writes(OUT.name(), Emission::Every).keeps("spent");
        vec![send.writes(BETWEEN, Emission::Every), sum]
    };
    let mut feed = feed(b.build(), &TOPICS, record);
    feed.purges = purges;
    Case {
        name: if purges { "purging" } else { "spending" },
        feed,
        parts: if purges { Vec::new } else { whole },
        besides: if purges { check_sums } else { nothing },
    }
}

fn amount_of(order: &str, customer: &str) -> u64 {
    (order.len() + customer.len()) as u64
}

fn send_on((): &mut (), taken: &Taken<'_>, made: &mut Vec<Made>) {
    let (order, customer) = texts(taken);
    let amount = amount_of(&order, &customer).to_be_bytes().to_vec();
    made.push(Made::new(BETWEEN, customer, amount, taken.record.timestamp));
}

fn sum_up(sums: &mut Figures, taken: &Taken<'_>, made: &mut Vec<Made>) {
    let (customer, _) = texts(taken);
    let amount = taken.record.value.as_deref().unwrap_or_default();
    let amount = u64::from_be_bytes(amount.try_into().expect("8 bytes"));
    let sum = add(sums, &customer, amount, taken.record.timestamp);
    made.push(told(&customer, sum));
}

/// The steps of each customer's sum are the amounts of the input, in whatever order.
fn check_sums(world: &World<'_>) -> Result<(), String> {
    let mut due: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for written in world.records(IN.name()).iter().flatten() {
        let Row { key, value, .. } = Row::of(written);
        let customer = String::from_utf8_lossy(&value).into_owned();
        let amount = amount_of(&key, &customer);
        due.entry(customer).or_default().push(amount);
    }
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut got: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for written in world.records(OUT.name()).iter().flatten() {
        let Row { key, value, .. } = Row::of(written);
        let sum = u64::from_be_bytes(value[..].try_into().expect("8 bytes"));
        let before = sums.insert(key.clone(), sum).unwrap_or(0);
        let Some(step) = sum.checked_sub(before) else {
            return Err(format!("the sum of {key} falls from {before} to {sum}"));
        };
        got.entry(key).or_default().push(step);
    }
    due.values_mut()
        .chain(got.values_mut())
        .for_each(|steps| steps.sort_unstable());
    match due == got {
        true => Ok(()),
        false => Err(format!("sums grow by {got:?}, not by {due:?}")),
    }
}

const WINDOW_MS: i64 = 100;
const GRACE_MS: i64 = 50;
const PER_WINDOW: WindowStore<String, u64> = WindowStore::new("per-window", text(), u64_be());
const OPEN: SuppressStore<Windowed<String>, u64> =
    SuppressStore::new("open", windowed(text()), u64_be());

fn scattered(chance: &mut Chance, n: u64) -> Input {
    Input {
        topic: IN.name(),
        key: key(chance),
        value: Some(n.to_string().into()),
        timestamp: BEGIN_MS + n as i64 * 4 - chance.below(250) as i64,
    }
}

fn counted(b: &StreamsBuilder) -> KTable<Windowed<String>, u64> {
    b.stream(IN)
        .group_by_key()
        .windowed_by(Tumbling::of(millis(WINDOW_MS as u64)).grace(millis(GRACE_MS as u64)))
        .count(PER_WINDOW)
}

fn write_out(counts: KTable<Windowed<String>, u64>) {
    let name = |window: Windowed<String>| format!("{}@{}", window.key, window.start);
    counts
        .to_stream()
        .map(move |window, count| (name(window), count.unwrap_or(0)))
        .to(OUT);
}

/// Counts by window; late records are dropped by a stream time that survives whatever happens.
fn windows() -> Case {
    let b = StreamsBuilder::new();
    write_out(counted(&b));
    Case {
        name: "windows",
        feed: feed(b.build(), &TOPICS, scattered),
        parts: || {
            let part = Part::new(&[IN.name()], |_| pure(count_window));
            vec![part.writes(OUT.name(), Emission::Every)]
        },
        besides: nothing,
    }
}

/// The counts of windows, by the names that they go out with.
#[derive(Default)]
struct Windows {
    now: i64,
    counts: Figures,
    /// Windows that are held back: start and key.
    held: BTreeSet<(i64, String)>,
    /// The latest time of what was held back.
    held_now: i64,
}

impl Windows {
    /// Counts a record, and tells the start of its window and the count; `None` when it is late.
    fn count(&mut self, taken: &Taken<'_>) -> Option<(i64, (u64, i64))> {
        let timestamp = taken.record.timestamp;
        self.now = self.now.max(timestamp);
        let start = timestamp / WINDOW_MS * WINDOW_MS;
        if start + WINDOW_MS + GRACE_MS <= self.now {
            return None;
        }
        let figure = add(&mut self.counts, &name(taken, start), 1, timestamp);
        Some((start, figure))
    }
}

fn name(taken: &Taken<'_>, start: i64) -> String {
    format!("{}@{start}", texts(taken).0)
}

fn count_window(windows: &mut Windows, taken: &Taken<'_>, made: &mut Vec<Made>) {
    let counted = windows.count(taken);
    made.extend(counted.map(|(start, figure)| told(&name(taken, start), figure)));
}

/// Counts by window that are told when the window has closed, once.
fn closing() -> Case {
    let b = StreamsBuilder::new();
    write_out(counted(&b).suppress(until_window_closes(), OPEN));
    Case {
        name: "closing",
        feed: feed(b.build(), &TOPICS, scattered),
        parts: || {
            let part = Part::new(&[IN.name()], |_| pure(close_windows));
            vec![part.writes(OUT.name(), Emission::Every)]
        },
        besides: nothing,
    }
}

fn close_windows(windows: &mut Windows, taken: &Taken<'_>, made: &mut Vec<Made>) {
    let Some((start, (_, time))) = windows.count(taken) else {
        return;
    };
    windows.held.insert((start, texts(taken).0));
    windows.held_now = windows.held_now.max(time);
    while let Some((start, key)) = windows.held.first() {
        if start + WINDOW_MS + GRACE_MS > windows.held_now {
            return;
        }
        let name = format!("{key}@{start}");
        made.push(told(&name, windows.counts[&name]));
        windows.held.pop_first();
    }
}

/// Counts that go on once for each commit: some of the counts, rising, and the last one.
fn holding() -> Case {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .group_by_key()
        .count(COUNTS)
        .emit_on_commit()
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0))
        .to(OUT);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: IN.name(),
        key: key(chance),
        value: Some(n.to_string().into()),
        timestamp: n as i64,
    };
    Case {
        name: "holding",
        feed: feed(b.build(), &TOPICS, record),
        parts: || {
            let part = Part::new(&[IN.name()], |_| pure(count).store("counts", stored));
            vec![part.writes(OUT.name(), Emission::Latest).keeps("counts")]
        },
        besides: nothing,
    }
}
