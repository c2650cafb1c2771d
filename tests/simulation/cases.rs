//! Small applications, each with the output that it must have, computed without the engine.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_broker::{TopicPartition, sim::Committed};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{ErrorPolicy, Policies};
use millstream_topology::{
    KvStore, Result, Topic, Tumbling, WindowStore, Windowed, millis, nullable, partition_for_key,
    text, u64_be,
};

use crate::{
    chance::Chance,
    checks::{Row, each_partition, interleaved, text as utf8},
    seeds::AS_ASKED,
    world::{Feed, Input, World},
};

/// An application and its check.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) feed: Feed,
    pub(crate) check: fn(&World<'_>) -> Result<(), String>,
    /// How long its windows are kept, if it has such stores only.
    pub(crate) retention_ms: Option<i64>,
}

/// Partitions of all topics.
pub(crate) const PARTITIONS: u32 = 3;
const IN: Topic<String, String> = Topic::new("in", text(), text());
const OUT: Topic<String, u64> = Topic::new("out", text(), u64_be());
const DEAD: &str = "dead";
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());

pub(crate) fn all() -> Vec<Case> {
    let cases = [counting(), spending(), windows(), joining(), holding()];
    cases.into()
}

fn key(chance: &mut Chance) -> String {
    format!("k{}", chance.below(12))
}

fn feed(
    topology: Result<Topology>,
    topics: &[(&'static str, bool)],
    record: fn(&mut Chance, u64) -> Input,
) -> Feed {
    Feed {
        partitions: PARTITIONS,
        topology: topology.expect("builds"),
        topics: topics.to_vec(),
        policies: Policies {
            decode: ErrorPolicy::DeadLetter,
            process: ErrorPolicy::DeadLetter,
            produce: ErrorPolicy::DeadLetter,
            dead_letter_topic: Some(DEAD),
        },
        record,
    }
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
    let topics = [(IN.name(), false), (OUT.name(), false), (DEAD, false)];
    Case {
        name: "counting",
        feed: feed(b.build(), &topics, record),
        check: check_counting,
        retention_ms: None,
    }
}

fn is_poison(written: &Committed) -> bool {
    let value = written.record.value.as_deref().unwrap_or_default();
    matches!(value, b"fails" | b"panics" | [0xff, 0xfe])
}

fn check_counting(world: &World<'_>) -> Result<(), String> {
    each_partition(world, IN.name(), OUT.name(), |records| {
        let mut counts: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        let good = records.iter().filter(|r| !is_poison(r)).map(Row::of);
        good.map(|row| {
            let (count, time) = counts.entry(row.key.clone()).or_insert((0, row.timestamp));
            *count += 1;
            *time = row.timestamp.max(*time);
            Row::new(&row.key, count.to_be_bytes().to_vec(), *time)
        })
        .collect()
    })?;
    let inputs = world.records(IN.name());
    let aside = |records: &Vec<Committed>| {
        let poison = records.iter().filter(|r| is_poison(r));
        poison.map(Row::of).collect::<Vec<_>>()
    };
    let by_task: Vec<Vec<Row>> = inputs.iter().map(aside).collect();
    for (p, got) in world.records(DEAD).iter().enumerate() {
        let of_partition = |rows: &Vec<Row>| {
            let here = |row: &&Row| partition_for_key(row.key.as_bytes(), PARTITIONS) == p as i32;
            rows.iter().filter(here).cloned().collect::<Vec<_>>()
        };
        let wanted: Vec<Vec<Row>> = by_task.iter().map(of_partition).collect();
        interleaved(&TopicPartition::new(DEAD, p as i32), got, &wanted)?;
    }
    Ok(())
}

const BY_CUSTOMER: Topic<String, u64> = Topic::new("by-customer", text(), u64_be());
const SPENT: KvStore<String, u64> = KvStore::new("spent", text(), u64_be());

/// Records go to other keys by a repartition topic, and are summed up there.
fn spending() -> Case {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .map_values(|key, value| {
            let amount = value.len() as u64 + key.len() as u64;
            (value, amount)
        })
        .map(|_, (customer, amount)| (customer, amount))
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
    let topics = [(IN.name(), false), (OUT.name(), false), (DEAD, false)];
    Case {
        name: "spending",
        feed: feed(b.build(), &topics, record),
        check: check_spending,
        retention_ms: None,
    }
}

fn check_spending(world: &World<'_>) -> Result<(), String> {
    let inputs = world.records(IN.name());
    let between = "app-by-customer-repartition";
    let of_task = |records: &Vec<Committed>| {
        let rows = records.iter().map(Row::of);
        let rows = rows.map(|row| {
            let amount = (row.value.len() + row.key.len()) as u64;
            Row::new(
                &utf8(&row.value),
                amount.to_be_bytes().to_vec(),
                row.timestamp,
            )
        });
        rows.collect::<Vec<_>>()
    };
    let sent: Vec<Vec<Row>> = inputs.iter().map(of_task).collect();
    for (p, got) in world.records(between).iter().enumerate() {
        let here = |row: &&Row| partition_for_key(row.key.as_bytes(), PARTITIONS) == p as i32;
        let wanted = sent
            .iter()
            .map(|rows| rows.iter().filter(here).cloned().collect());
        let wanted: Vec<Vec<Row>> = wanted.collect();
        interleaved(&TopicPartition::new(between, p as i32), got, &wanted)?;
    }
    each_partition(world, between, OUT.name(), |records| {
        let mut sums: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        let rows = records.iter().map(Row::of).map(|row| {
            let amount = u64::from_be_bytes(row.value[..].try_into().expect("8 bytes"));
            let (sum, time) = sums.entry(row.key.clone()).or_insert((0, row.timestamp));
            *sum += amount;
            *time = row.timestamp.max(*time);
            Row::new(&row.key, sum.to_be_bytes().to_vec(), *time)
        });
        rows.collect()
    })
}

/// Older records would be deleted from changelogs, as their windows' retention has passed.
const BEGIN_MS: i64 = 1_700_000_000_000;
const WINDOW_MS: i64 = 100;
const GRACE_MS: i64 = 50;
const PER_WINDOW: WindowStore<String, u64> = WindowStore::new("per-window", text(), u64_be());

/// Counts by window; late records are dropped by a stream time that survives whatever happens.
fn windows() -> Case {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .group_by_key()
        .windowed_by(Tumbling::of(millis(WINDOW_MS as u64)).grace(millis(GRACE_MS as u64)))
        .count(PER_WINDOW)
        .to_stream()
        .map(|window: Windowed<String>, count| {
            (
                format!("{}@{}", window.key, window.start),
                count.unwrap_or(0),
            )
        })
        .to(OUT);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: IN.name(),
        key: key(chance),
        value: Some(n.to_string().into()),
        timestamp: BEGIN_MS + n as i64 * 4 - chance.below(250) as i64,
    };
    let topics = [(IN.name(), false), (OUT.name(), false), (DEAD, false)];
    Case {
        name: "windows",
        feed: feed(b.build(), &topics, record),
        check: check_windows,
        retention_ms: Some(WINDOW_MS + GRACE_MS),
    }
}

fn check_windows(world: &World<'_>) -> Result<(), String> {
    let inputs = world.records(IN.name());
    let fold = |records: &Vec<Committed>| {
        let mut stream_time = i64::MIN;
        let mut counts: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        let rows = records.iter().map(Row::of).filter_map(|row| {
            stream_time = stream_time.max(row.timestamp);
            let start = row.timestamp / WINDOW_MS * WINDOW_MS;
            if start + WINDOW_MS + GRACE_MS <= stream_time {
                return None;
            }
            let key = format!("{}@{start}", row.key);
            let (count, time) = counts.entry(key.clone()).or_insert((0, row.timestamp));
            *count += 1;
            *time = row.timestamp.max(*time);
            Some(Row::new(&key, count.to_be_bytes().to_vec(), *time))
        });
        rows.collect::<Vec<_>>()
    };
    let by_task: Vec<Vec<Row>> = inputs.iter().map(fold).collect();
    for (p, got) in world.records(OUT.name()).iter().enumerate() {
        let here = |row: &&Row| partition_for_key(row.key.as_bytes(), PARTITIONS) == p as i32;
        let wanted = by_task
            .iter()
            .map(|rows| rows.iter().filter(here).cloned().collect());
        let wanted: Vec<Vec<Row>> = wanted.collect();
        interleaved(&TopicPartition::new(OUT.name(), p as i32), got, &wanted)?;
    }
    Ok(())
}

const LEFT: Topic<String, String> = Topic::new("left", text(), text());
const RIGHT: Topic<String, String> = Topic::new("right", text(), text());
const JOINED: Topic<String, Option<String>> = Topic::new("joined", text(), nullable(text()));
const LEFTS: KvStore<String, String> = KvStore::new("lefts", text(), text());
const RIGHTS: KvStore<String, String> = KvStore::new("rights", text(), text());

/// Two tables with deletions, joined: the last result of a key is that of its last rows.
fn joining() -> Case {
    let b = StreamsBuilder::new();
    let left = b.table(LEFT, LEFTS);
    let right = b.table(RIGHT, RIGHTS);
    left.join(&right, |l, r| format!("{l}+{r}"))
        .to_stream()
        .to(JOINED);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: if chance.hits(500) {
            LEFT.name()
        } else {
            RIGHT.name()
        },
        key: key(chance),
        value: (!chance.hits(200)).then(|| n.to_string().into()),
        timestamp: n as i64,
    };
    let topics = [
        (LEFT.name(), true),
        (RIGHT.name(), true),
        (JOINED.name(), false),
        (DEAD, false),
    ];
    Case {
        name: "joining",
        feed: feed(b.build(), &topics, record),
        check: check_joining,
        retention_ms: None,
    }
}

fn check_joining(world: &World<'_>) -> Result<(), String> {
    let last = |topic: &str, p: usize| {
        let mut rows: BTreeMap<String, String> = BTreeMap::new();
        for written in &world.records(topic)[p] {
            let Row { key, value, .. } = Row::of(written);
            match written.record.value {
                Some(_) => rows.insert(key, utf8(&value)),
                None => rows.remove(&key),
            };
        }
        rows
    };
    for p in 0..PARTITIONS as usize {
        let (left, right) = (last(LEFT.name(), p), last(RIGHT.name(), p));
        let both = left.iter().filter_map(|(key, l)| {
            let r = right.get(key)?;
            Some((key.clone(), format!("{l}+{r}")))
        });
        let (wanted, got): (BTreeMap<_, _>, _) = (both.collect(), last(JOINED.name(), p));
        if wanted != got {
            return Err(format!("joined-{p} holds {got:?}, expected {wanted:?}"));
        }
    }
    Ok(())
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
    let topics = [(IN.name(), false), (OUT.name(), false), (DEAD, false)];
    Case {
        name: "holding",
        feed: feed(b.build(), &topics, record),
        check: check_holding,
        retention_ms: None,
    }
}

fn check_holding(world: &World<'_>) -> Result<(), String> {
    let (inputs, outputs) = (world.records(IN.name()), world.records(OUT.name()));
    for p in 0..PARTITIONS as usize {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for written in &inputs[p] {
            *counts.entry(Row::of(written).key).or_default() += 1;
        }
        let mut told: BTreeMap<String, u64> = BTreeMap::new();
        for written in &outputs[p] {
            let Row { key, value, .. } = Row::of(written);
            let count = u64::from_be_bytes(value[..].try_into().expect("8 bytes"));
            if told
                .insert(key.clone(), count)
                .is_some_and(|before| before >= count)
            {
                return Err(format!(
                    "out-{p}: {key} does not rise at {}",
                    written.offset
                ));
            }
        }
        if told != counts {
            return Err(format!("out-{p} ends with {told:?}, expected {counts:?}"));
        }
    }
    Ok(())
}
