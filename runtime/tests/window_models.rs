//! Random records through windows, sessions and suppression, against naive models: each window
//! folded from scratch out of the list of all records. Keys are few, times run ahead and fall
//! behind, keys and values are null at times, and the driver stops in the middle of every case.

use std::collections::{BTreeMap, BTreeSet};

use millstream_operators::{
    KStream, KTable, StreamsBuilder, Topology, until_time_limit, until_window_closes,
};
use millstream_runtime::TestDriver;
use millstream_topology::{
    Hopping, Record, SessionStore, Sessions, Sliding, SuppressStore, Topic, Tumbling, WindowStore,
    Windowed, millis, nullable, text, windowed,
};
use proptest::prelude::*;

const IN: Topic<Option<String>, Option<String>> =
    Topic::new("in", nullable(text()), nullable(text()));
const OUT: Topic<Windowed<String>, Option<String>> =
    Topic::new("out", windowed(text()), nullable(text()));
const HELD: Topic<Windowed<String>, Option<String>> =
    Topic::new("held", windowed(text()), nullable(text()));
const WINDOWS: WindowStore<String, String> = WindowStore::new("windows", text(), text());
const SESSIONS: SessionStore<String, String> = SessionStore::new("sessions", text(), text());
const BUFFER: SuppressStore<Windowed<String>, String> =
    SuppressStore::new("buffer", windowed(text()), text());

/// A record: key, value, time.
type Input = (Option<String>, Option<String>, i64);

/// What is seen of a table: key, window, value, timestamp.
type Seen = (String, (i64, i64), Option<String>, i64);

/// How many cases each property runs.
const CASES: u32 = 1_500;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Records whose times move on by a few milliseconds and fall behind by up to `late_max`.
fn records(late_max: i64) -> impl Strategy<Value = Vec<Input>> {
    let key = prop_oneof![9 => (0..3_u8).prop_map(Some), 1 => Just(None)];
    let value = prop_oneof![9 => (0..5_u8).prop_map(Some), 1 => Just(None)];
    let step = prop_oneof![8 => 0..6_i64, 1 => 6..60_i64];
    let late = prop_oneof![3 => Just(0), 2 => 0..=late_max];
    let record = (key, value, step, late);
    prop::collection::vec(record, 0..40).prop_map(|steps| {
        let mut now = 0;
        let name = |first: u8| move |n: u8| char::from(first + n).to_string();
        let record = |(key, value, step, late): (Option<u8>, Option<u8>, i64, i64)| {
            now += step;
            (
                key.map(name(b'a')),
                value.map(name(b'p')),
                (now - late).max(0),
            )
        };
        steps.into_iter().map(record).collect()
    })
}

fn built(make: impl FnOnce(KStream<String, String>)) -> Topology {
    let b = StreamsBuilder::new();
    make(b.stream(IN).drop_null_keys().drop_null_values());
    b.build().expect("builds")
}

fn append(_: &String, value: String, so_far: String) -> String {
    so_far + &value
}

/// Feeds the records, and stops in the middle: every other time with nothing but the changelogs
/// left. Calls `after` behind each, with what was written to both topics.
fn drive(
    topology: &Topology,
    inputs: &[Input],
    mut after: impl FnMut(usize, Vec<Seen>, Vec<Seen>),
) -> TestDriver {
    let mut driver = TestDriver::new(topology).expect("starts");
    for (at, (key, value, time)) in inputs.iter().enumerate() {
        if at == inputs.len() / 2 {
            driver.restart(at % 2 == 0).expect("restarts");
        }
        driver
            .send(IN, key.clone(), value.clone(), *time)
            .expect("processes");
        let seen = |topic| -> Vec<Seen> {
            let records = driver.read(topic).expect("decodes").into_iter();
            let seen = |Record {
                            key,
                            value,
                            timestamp,
                            ..
                        }: Record<Windowed<String>, _>| {
                (key.key, (key.start, key.end), value, timestamp)
            };
            records.map(seen).collect()
        };
        let (mut seen, mut out) = (seen, Vec::new());
        out.append(&mut seen(OUT));
        let held = seen(HELD);
        after(at, out, held);
    }
    driver
}

/// Key, value and time of a record that is folded.
fn full(input: &Input) -> Option<(&String, &String, i64)> {
    Some((input.0.as_ref()?, input.1.as_ref()?, input.2))
}

/// Tumbling and hopping windows, folded anew for every update.
fn check_frames(inputs: &[Input], size: i64, hop: i64, grace: i64) -> Result<(), TestCaseError> {
    let windows = Hopping::of(millis(size as u64)).advance_by(millis(hop as u64));
    let windows = windows.grace(millis(grace as u64));
    let topology = built(|stream| {
        let table = stream
            .group_by_key()
            .windowed_by(windows)
            .aggregate(WINDOWS, append);
        table.to_stream().to(OUT);
    });
    let mut outputs = Vec::new();
    let driver = drive(&topology, inputs, |_, out, _| outputs.push(out));

    // By key and start: the records that the window took.
    let mut taken: BTreeMap<(String, i64), Vec<(String, i64)>> = BTreeMap::new();
    let (mut now, mut dropped) = (-1, 0);
    for (input, got) in inputs.iter().zip(outputs) {
        let mut want = Vec::new();
        match full(input) {
            None => dropped += 1,
            Some((key, value, time)) => {
                now = now.max(time);
                for start in (0..=time).filter(|s| s % hop == 0 && s + size > time) {
                    if start + size <= now - grace {
                        dropped += 1;
                        continue;
                    }
                    let window = taken.entry((key.clone(), start)).or_default();
                    window.push((value.clone(), time));
                    let fold: String = window.iter().map(|(value, _)| value.as_str()).collect();
                    let newest = window.iter().map(|(_, time)| *time).max().unwrap_or(-1);
                    want.push((key.clone(), (start, start + size), Some(fold), newest));
                }
            }
        }
        prop_assert_eq!(got, want);
    }
    prop_assert_eq!(driver.dropped(), dropped);
    Ok(())
}

/// Sliding windows, whose records all come in time: the folds of all windows that there are to be.
/// The fold counts, because a window that is made of others has their records in another order.
fn check_sliding(inputs: &[Input], difference: i64) -> Result<(), TestCaseError> {
    let windows = Sliding::of(millis(difference as u64)).grace(millis(200));
    let topology = built(|stream| {
        let count = |_: &String, _: String, count: String| {
            (count.parse::<u64>().unwrap_or(0) + 1).to_string()
        };
        let table = stream
            .group_by_key()
            .windowed_by(windows)
            .aggregate(WINDOWS, count);
        table.to_stream().to(OUT);
    });
    let mut shown: BTreeMap<(String, (i64, i64)), (Option<String>, i64)> = BTreeMap::new();
    let mut twice = Vec::new();
    drive(&topology, inputs, |_, out, _| {
        let windows: BTreeSet<_> = out.iter().map(|seen| (&seen.0, seen.1)).collect();
        if windows.len() < out.iter().collect::<BTreeSet<_>>().len() {
            twice.push(out.clone());
        }
        for (key, window, value, time) in out {
            shown.insert((key, window), (value, time));
        }
    });
    prop_assert!(
        twice.is_empty(),
        "a window changes once for a record, though that may be told twice: {:?}",
        twice
    );

    let mut want = BTreeMap::new();
    let all: Vec<_> = inputs.iter().filter_map(full).collect();
    for (key, _, time) in &all {
        let inside = |start: i64| {
            let times = all
                .iter()
                .filter(|(other, ..)| other == key)
                .map(|(.., time)| *time);
            let inside: Vec<_> = times
                .filter(|time| (start..=start + difference).contains(time))
                .collect();
            let newest = inside.iter().copied().max()?;
            Some((inside.len(), newest))
        };
        for start in [(time - difference).max(0), time + 1] {
            if let Some((count, newest)) = inside(start) {
                let window = ((*key).clone(), (start, start + difference));
                want.insert(window, (Some(count.to_string()), newest));
            }
        }
    }
    prop_assert_eq!(shown, want);
    Ok(())
}

/// A session of the model.
#[derive(Clone, Debug, PartialEq)]
struct Session {
    key: String,
    start: i64,
    end: i64,
    fold: String,
}

/// Sessions in a list; those that can be touched no more stay in it.
fn check_sessions(inputs: &[Input], gap: i64, grace: i64) -> Result<(), TestCaseError> {
    let windows = Sessions::of(millis(gap as u64)).grace(millis(grace as u64));
    let topology = built(|stream| {
        let merge = |_: &String, one: String, other: String| one + &other;
        let grouped = stream.group_by_key().windowed_by(windows);
        grouped
            .aggregate(SESSIONS, append, merge)
            .to_stream()
            .to(OUT);
    });
    let mut outputs = Vec::new();
    let mut driver = drive(&topology, inputs, |_, out, _| outputs.push(out));

    let mut sessions: Vec<Session> = Vec::new();
    // Greatest time of a record, and greatest end of a session that was put.
    let (mut now, mut latest, mut dropped) = (-1, -1, 0);
    for (input, got) in inputs.iter().zip(outputs) {
        let Some((key, value, time)) = full(input) else {
            dropped += 1;
            prop_assert!(got.is_empty());
            continue;
        };
        now = now.max(time);
        let touched = |session: &Session| {
            session.key == *key
                && session.end > latest - gap - grace
                && session.end >= time - gap
                && session.start <= time + gap
        };
        let mut merged: Vec<_> = sessions.iter().filter(|s| touched(s)).cloned().collect();
        merged.sort_by_key(|session| (session.end, session.start));
        let start = merged
            .iter()
            .map(|s| s.start)
            .chain([time])
            .min()
            .unwrap_or(time);
        let end = merged
            .iter()
            .map(|s| s.end)
            .chain([time])
            .max()
            .unwrap_or(time);
        if end < now - gap - grace {
            dropped += 1;
            prop_assert!(got.is_empty());
            continue;
        }
        sessions.retain(|session| !merged.contains(session));
        let mut want: Vec<Seen> = Vec::new();
        if (start, end) != (time, time) {
            let gone = |s: &Session| (s.key.clone(), (s.start, s.end), None, s.end);
            want.extend(merged.iter().map(gone));
        }
        let fold = merged.iter().map(|s| s.fold.as_str()).collect::<String>() + value;
        want.push((key.clone(), (start, end), Some(fold.clone()), end));
        let key = key.clone();
        // One that closed at this very instant may have the same bounds.
        sessions.retain(|s| (&s.key, s.start, s.end) != (&key, start, end));
        sessions.push(Session {
            key,
            start,
            end,
            fold,
        });
        latest = latest.max(end);
        prop_assert_eq!(got, want);
    }
    prop_assert_eq!(driver.dropped(), dropped);
    let mut want: Vec<_> = sessions
        .into_iter()
        .filter(|session| session.end > latest - gap - grace)
        .map(|s| (s.key, s.start, s.end, s.fold))
        .collect();
    want.sort();
    let got = driver.session_entries(SESSIONS).expect("reads").into_iter();
    let got: Vec<_> = got.map(|(w, fold)| (w.key, w.start, w.end, fold)).collect();
    prop_assert_eq!(got, want);
    Ok(())
}

/// How a table's results are ordered when they close together.
type Order = fn(&str, (i64, i64)) -> (i64, i64, String);

fn by_start(key: &str, (start, _): (i64, i64)) -> (i64, i64, String) {
    (start, 0, key.to_owned())
}

fn by_end(key: &str, (start, end): (i64, i64)) -> (i64, i64, String) {
    (end, start, key.to_owned())
}

/// What is passed on at the close is the last of what is passed on at each update.
fn check_close(
    inputs: &[Input],
    updates: &Topology,
    closes: &Topology,
    is_closed: impl Fn((i64, i64), i64) -> bool,
    order: Order,
) -> Result<(), TestCaseError> {
    let (mut each, mut last) = (Vec::new(), Vec::new());
    drive(updates, inputs, |_, out, _| each.push(out));
    drive(closes, inputs, |_, out, _| last.push(out));
    let mut open: BTreeMap<(i64, i64, String), Seen> = BTreeMap::new();
    let mut now = -1;
    for ((input, updates), got) in inputs.iter().zip(each).zip(last) {
        now = full(input).map_or(now, |(.., time)| now.max(time));
        let closed = |seen: &Seen| is_closed(seen.1, now);
        let want: Vec<Seen> = open.values().filter(|seen| closed(seen)).cloned().collect();
        open.retain(|_, seen| !closed(seen));
        prop_assert_eq!(got, want);
        for seen in updates {
            let place = order(&seen.0, seen.1);
            match seen.2 {
                Some(_) => drop(open.insert(place, seen)),
                None => drop(open.remove(&place)),
            }
        }
    }
    Ok(())
}

/// A change that waits: what it waits for, its key, and what it is.
type Waiting = (i64, (String, (i64, i64)), (Option<String>, i64));

/// What suppress passes on, from what it is given.
fn check_suppress(
    inputs: &[Input],
    make: impl FnOnce(KStream<String, String>) -> KTable<Windowed<String>, String>,
    suppress: impl FnOnce(&KTable<Windowed<String>, String>) -> KTable<Windowed<String>, String>,
    (wait_ms, records_max, is_final): (i64, usize, bool),
) -> Result<(), TestCaseError> {
    let topology = built(|stream| {
        let table = make(stream);
        table.to_stream().to(OUT);
        suppress(&table).to_stream().to(HELD);
    });
    let mut passed = Vec::new();
    drive(&topology, inputs, |_, raw, held| passed.push((raw, held)));
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut now = -1;
    for (raw, got) in passed {
        let mut want = Vec::new();
        for (key, window, value, time) in raw {
            now = now.max(time);
            let key = (key, window);
            match waiting.iter_mut().find(|held| held.1 == key) {
                Some(held) => held.2 = (value, time),
                None => {
                    let at = if is_final { window.1 } else { time };
                    waiting.push((at, key, (value, time)));
                }
            }
            waiting.sort();
            while waiting
                .first()
                .is_some_and(|first| first.0 <= now - wait_ms)
                || waiting.len() > records_max
            {
                let (_, (key, window), (value, time)) = waiting.remove(0);
                if value.is_some() || !is_final {
                    want.push((key, window, value, time));
                }
            }
        }
        prop_assert_eq!(got, want);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn tumbling_windows_are_their_records(
        inputs in records(25), size in 1..15_i64, grace in 0..12_i64,
    ) {
        check_frames(&inputs, size, size, grace)?;
    }

    #[test]
    fn hopping_windows_are_their_records(
        inputs in records(25), size in 1..15_i64, hop in 1..15_i64, grace in 0..12_i64,
    ) {
        check_frames(&inputs, size, hop.min(size), grace)?;
    }

    #[test]
    fn sliding_windows_are_their_records(inputs in records(40), difference in 1..15_i64) {
        check_sliding(&inputs, difference)?;
    }

    #[test]
    fn sessions_are_runs_of_records(
        inputs in records(25), gap in 0..12_i64, grace in 0..12_i64,
    ) {
        check_sessions(&inputs, gap, grace)?;
    }

    #[test]
    fn windows_emit_once_when_they_close(
        inputs in records(25), size in 1..15_i64, grace in 0..12_i64,
    ) {
        let windows = Tumbling::of(millis(size as u64)).grace(millis(grace as u64));
        let topology = |on_close: bool| built(|stream| {
            let grouped = stream.group_by_key().windowed_by(windows);
            let grouped = if on_close { grouped.emit_on_close() } else { grouped };
            grouped.aggregate(WINDOWS, append).to_stream().to(OUT);
        });
        let is_closed = |(_, end): (i64, i64), now: i64| end <= now - grace;
        check_close(&inputs, &topology(false), &topology(true), is_closed, by_start)?;
    }

    #[test]
    fn sliding_windows_emit_once_when_they_close(
        inputs in records(25), difference in 1..15_i64, grace in 0..12_i64,
    ) {
        let windows = Sliding::of(millis(difference as u64)).grace(millis(grace as u64));
        let topology = |on_close: bool| built(|stream| {
            let grouped = stream.group_by_key().windowed_by(windows);
            let grouped = if on_close { grouped.emit_on_close() } else { grouped };
            grouped.aggregate(WINDOWS, append).to_stream().to(OUT);
        });
        let is_closed = |(_, end): (i64, i64), now: i64| end < now - grace;
        check_close(&inputs, &topology(false), &topology(true), is_closed, by_start)?;
    }

    #[test]
    fn sessions_emit_once_when_they_close(
        inputs in records(25), gap in 0..12_i64, grace in 0..12_i64,
    ) {
        let windows = Sessions::of(millis(gap as u64)).grace(millis(grace as u64));
        let topology = |on_close: bool| built(|stream| {
            let grouped = stream.group_by_key().windowed_by(windows);
            let grouped = if on_close { grouped.emit_on_close() } else { grouped };
            let merge = |_: &String, one: String, other: String| one + &other;
            grouped.aggregate(SESSIONS, append, merge).to_stream().to(OUT);
        });
        let is_closed = |(_, end): (i64, i64), now: i64| end < now - gap - grace;
        check_close(&inputs, &topology(false), &topology(true), is_closed, by_end)?;
    }

    #[test]
    fn suppress_holds_windows_until_they_close(
        inputs in records(25), size in 1..15_i64, grace in 0..12_i64,
    ) {
        let windows = Hopping::of(millis(size as u64)).advance_by(millis(1 + size as u64 / 2));
        let windows = windows.grace(millis(grace as u64));
        check_suppress(
            &inputs,
            |stream| stream.group_by_key().windowed_by(windows).aggregate(WINDOWS, append),
            |table| table.suppress(until_window_closes(), BUFFER),
            (grace, usize::MAX, true),
        )?;
    }

    #[test]
    fn suppress_holds_sessions_until_they_close(
        inputs in records(25), gap in 0..12_i64, grace in 0..12_i64,
    ) {
        let windows = Sessions::of(millis(gap as u64)).grace(millis(grace as u64));
        check_suppress(
            &inputs,
            |stream| {
                let merge = |_: &String, one: String, other: String| one + &other;
                stream.group_by_key().windowed_by(windows).aggregate(SESSIONS, append, merge)
            },
            |table| table.suppress(until_window_closes(), BUFFER),
            (gap + grace, usize::MAX, true),
        )?;
    }

    #[test]
    fn suppress_holds_changes_for_a_time_and_in_a_number(
        inputs in records(25), gap in 0..12_i64, limit in 0..30_i64, records_max in 0..6_usize,
    ) {
        let windows = Sessions::of(millis(gap as u64)).grace(millis(10));
        let until = until_time_limit(millis(limit as u64)).max_records(records_max);
        check_suppress(
            &inputs,
            |stream| {
                let merge = |_: &String, one: String, other: String| one + &other;
                stream.group_by_key().windowed_by(windows).aggregate(SESSIONS, append, merge)
            },
            |table| table.suppress(until, BUFFER),
            (limit, records_max, false),
        )?;
    }
}
