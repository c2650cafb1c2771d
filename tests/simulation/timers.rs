//! Applications whose timers decide when something comes out.

use std::{collections::BTreeMap, time::Duration};

use millstream_broker::{TopicPartition, sim::Committed};
use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation, StreamsBuilder};
use millstream_topology::{Error, ErrorKind, KvStore, Record, Result as Done, Topic, text};
use millstream_verifier::{Input as Taken, Made, Part};

use crate::{
    cases::{BEGIN_MS, Case, IN, PARTITIONS, feed, key, pure},
    chance::Chance,
    checks::{Row, text as utf8},
    world::{APP, Input, World},
};

const WAITING: KvStore<String, String> = KvStore::new("waiting", text(), text());
const PASSED: Topic<String, String> = Topic::new("passed", text(), text());
/// How far apart the ticks of a timer are.
const EVERY_MS: i64 = 50;

pub(crate) fn all() -> [Case; 2] {
    let part = || vec![Part::new(&[IN.name()], |_| pure(nothing_known))];
    [
        Case {
            name: "stream timers",
            feed: waiting(Clock::Stream),
            parts: part,
            besides: check_stream_timers,
        },
        Case {
            name: "wall timers",
            feed: waiting(Clock::Wall),
            parts: part,
            besides: check_wall_timers,
        },
    ]
}

fn nothing_known((): &mut (), _: &Taken<'_>, _: &mut Vec<Made>) {}

/// Keeps records until the clock ticks, and passes all on then. It knows how many they are, so that
/// it fails if it lives on when its store goes back.
struct Wait {
    waiting: KvHandle<String, String>,
    clock: Clock,
    known: usize,
}

impl Processor for Wait {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn init(&mut self, cx: &mut Context<'_, '_, String, String>) -> Done<()> {
        cx.schedule(Duration::from_millis(EVERY_MS as u64), self.clock);
        let waiting = cx.store(self.waiting).range(None, None, usize::MAX)?;
        self.known = waiting.len();
        Ok(())
    }

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Done<()> {
        self.known += 1;
        let mut waiting = cx.store(self.waiting);
        waiting.put(&record.value, record.key, record.timestamp)
    }

    fn punctuate(&mut self, cx: &mut Context<'_, '_, String, String>, _: Punctuation) -> Done<()> {
        let waiting = cx.store(self.waiting).range(None, None, usize::MAX)?;
        if waiting.len() != std::mem::take(&mut self.known) {
            let what = "a processor outlives what it did";
            return Err(Error::new(ErrorKind::User, what));
        }
        for (n, key, at) in waiting {
            cx.store(self.waiting).delete(&n, at)?;
            cx.forward(Record::new(key, n, at))?;
        }
        Ok(())
    }
}

fn waiting(clock: Clock) -> crate::world::Feed {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .process(WAITING, move |waiting| Wait {
            waiting,
            clock,
            known: 0,
        })
        .to(PASSED);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: IN.name(),
        key: key(chance),
        // Ordered as they come.
        value: Some(format!("{n:05}").into()),
        timestamp: BEGIN_MS + n as i64 * 4 - chance.below(20) as i64,
    };
    let topics = [(IN.name(), false), (PASSED.name(), false)];
    feed(b.build(), &topics, record)
}

/// What a task has passed on are its first records, in their order; the others still wait, as its
/// changelog says. Returns those that wait, with all of each task.
fn check_waiting(world: &World<'_>) -> Result<Vec<(Vec<Row>, usize)>, String> {
    let passed = world.records(PASSED.name());
    let passed: Vec<Vec<Row>> = passed
        .iter()
        .map(|records| records.iter().map(Row::of).collect())
        .collect();
    let mut tasks = Vec::new();
    for (p, records) in world.records(IN.name()).iter().enumerate() {
        let due: Vec<Row> = records.iter().map(Row::of).collect();
        // Keys stay where they are.
        let got = &passed[p];
        if !due.starts_with(got) {
            let first = got.iter().zip(&due).position(|(got, due)| got != due);
            return Err(format!(
                "passed-{p} differs from record {first:?} on: {} of {} records",
                got.len(),
                due.len()
            ));
        }
        let wanted: BTreeMap<String, (String, i64)> = due[got.len()..]
            .iter()
            .map(|row| (utf8(&row.value), (row.key.clone(), row.timestamp)))
            .collect();
        let changelog = TopicPartition::new(format!("{APP}-waiting-changelog"), p as i32);
        let found = left_by(&world.log.committed_records(&changelog));
        if wanted != found {
            return Err(format!("{changelog} holds {found:?}, expected {wanted:?}"));
        }
        tasks.push((due, got.len()));
    }
    assert_eq!(tasks.len(), PARTITIONS as usize);
    Ok(tasks)
}

fn left_by(changes: &[Committed]) -> BTreeMap<String, (String, i64)> {
    let mut left = BTreeMap::new();
    for change in changes {
        let Row {
            key,
            value,
            timestamp,
        } = Row::of(change);
        match change.record.value {
            Some(_) => left.insert(key, (utf8(&value), timestamp)),
            None => left.remove(&key),
        };
    }
    left
}

/// Nothing waits for longer than two ticks are apart.
fn check_stream_timers(world: &World<'_>) -> Result<(), String> {
    for (due, passed) in check_waiting(world)? {
        let now = due.iter().map(|row| row.timestamp).max().unwrap_or(0);
        let mut when = 0;
        for (at, row) in due.iter().enumerate() {
            when = row.timestamp.max(when);
            if at >= passed && now - when >= EVERY_MS {
                return Err(format!("{row:?} waits since {when}, and it is {now}"));
            }
        }
    }
    Ok(())
}

/// Where clocks are right, timers fire.
fn check_wall_timers(world: &World<'_>) -> Result<(), String> {
    let tasks = check_waiting(world)?;
    let records: usize = tasks.iter().map(|(due, _)| due.len()).sum();
    let passed: usize = tasks.iter().map(|(_, passed)| passed).sum();
    match world.has_right_clocks() && records > 0 && passed == 0 {
        true => Err(format!("none of {records} records has been passed on")),
        false => Ok(()),
    }
}
