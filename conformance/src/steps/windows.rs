//! Windowed aggregations: one function for each kind of window.

use std::time::Duration;

use millstream_operators::{Grouped, SessionGrouped, WindowedGrouped};
use millstream_topology::{
    Hopping, SessionStore, Sessions, Sliding, Tumbling, Unlimited, WindowStore, Windowed, text,
};
use serde::Deserialize;

use super::aggregate::{AggregateStep, Fold};
use crate::{
    interpreter::{
        Applied, Entry, Interpreter, Stop, StoreField, Stream, Table, duration, unnamed,
    },
    text::{Key, KeyCodec, Text, intern},
};

/// The `window` of a step; times in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the format")]
pub enum WindowField {
    /// Windows that follow each other.
    Tumbling { size: i64, grace: i64 },
    /// Windows that overlap.
    Hopping { size: i64, advance: i64, grace: i64 },
    /// Windows around each record.
    Sliding { diff: i64, grace: i64 },
    /// Windows that end when a key falls silent.
    Session { gap: i64, grace: i64 },
    /// One window without an end.
    Unlimited { start: i64 },
}

/// Windows as the library names them.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the variants are the windows of that name")]
pub enum KnownWindows {
    Tumbling(Tumbling),
    Hopping(Hopping),
    Sliding(Sliding),
    Sessions(Sessions),
    Unlimited(Unlimited),
}

impl WindowField {
    /// The windows.
    ///
    /// # Errors
    /// When a time is negative, which a `Duration` cannot be.
    pub fn known(&self) -> Applied<KnownWindows> {
        Ok(match *self {
            Self::Tumbling { size, grace } => {
                KnownWindows::Tumbling(Tumbling::of(duration(size)?).grace(duration(grace)?))
            }
            Self::Hopping {
                size,
                advance,
                grace,
            } => {
                let windows = Hopping::of(duration(size)?).advance_by(duration(advance)?);
                KnownWindows::Hopping(windows.grace(duration(grace)?))
            }
            Self::Sliding { diff, grace } => {
                KnownWindows::Sliding(Sliding::of(duration(diff)?).grace(duration(grace)?))
            }
            Self::Session { gap, grace } => {
                KnownWindows::Sessions(Sessions::of(duration(gap)?).grace(duration(grace)?))
            }
            Self::Unlimited { start } => KnownWindows::Unlimited(Unlimited::since(start)),
        })
    }

    /// The end of a window that starts at that time; of sessions, which have no such end, the
    /// start.
    pub fn end_of(&self, start: i64) -> i64 {
        match *self {
            Self::Tumbling { size, .. } | Self::Hopping { size, .. } => start + size,
            Self::Sliding { diff, .. } => start + diff,
            Self::Session { .. } => start,
            Self::Unlimited { .. } => Unlimited::END_MS,
        }
    }

    /// The aggregation of a stream in such windows. Keys and values of `stream` may be null: null
    /// keys are dropped, null values by sliding windows alone.
    ///
    /// # Errors
    /// Why it could not be built.
    pub fn aggregate(
        &self,
        at: &mut Interpreter,
        step: &AggregateStep,
        stream: Stream,
    ) -> Applied<Table> {
        let stream = stream.drop_null_keys();
        let grouped = |stream: millstream_operators::KStream<Key, Option<Text>>| -> Grouped<_, _> {
            stream.group_by_key()
        };
        match self.known()? {
            KnownWindows::Tumbling(windows) => {
                self.framed(at, step, grouped(stream).windowed_by(windows))
            }
            KnownWindows::Hopping(windows) => {
                self.framed(at, step, grouped(stream).windowed_by(windows))
            }
            KnownWindows::Unlimited(windows) => {
                self.framed(at, step, grouped(stream).windowed_by(windows))
            }
            KnownWindows::Sliding(windows) => {
                let grouped = stream.drop_null_values().group_by_key();
                self.framed(at, step, grouped.windowed_by(windows))
            }
            KnownWindows::Sessions(windows) => {
                sessions(at, step, grouped(stream).windowed_by(windows))
            }
        }
    }

    fn framed<V: Into<Option<Text>> + Clone + 'static>(
        &self,
        at: &mut Interpreter,
        step: &AggregateStep,
        mut grouped: WindowedGrouped<Key, V>,
    ) -> Applied<Table> {
        let store = window_store(at, &step.id, &step.store, *self)?;
        if let Some(retention) = retention(at, &step.store)? {
            grouped = grouped.retain(retention);
        }
        if step.emit.is_some() {
            grouped = grouped.emit_on_close();
        }
        let fold = step.agg.fold()?;
        Ok(Table::Windowed(
            grouped.aggregate_or_delete(store, move |key, value, so_far| {
                fold.step(key, value.into(), so_far)
            }),
        ))
    }
}

fn sessions(
    at: &mut Interpreter,
    step: &AggregateStep,
    mut grouped: SessionGrouped<Key, Option<Text>>,
) -> Applied<Table> {
    let store = session_store(at, &step.id, &step.store)?;
    if let Some(retention) = retention(at, &step.store)? {
        grouped = grouped.retain(retention);
    }
    if step.emit.is_some() {
        grouped = grouped.emit_on_close();
    }
    let (fold, merger) = (step.agg.fold()?, step.agg.fold()?);
    Ok(Table::Windowed(grouped.aggregate_or_delete(
        store,
        move |key, value, so_far| fold.step(key, value, so_far),
        move |_, so_far, fold| merger.merge(so_far, fold),
    )))
}

impl Fold {
    /// The fold with one value more.
    pub fn step(&self, key: &Key, value: Option<Text>, so_far: Option<Text>) -> Option<Text> {
        match (self, so_far) {
            (Self::Count, so_far) => Some(sum(so_far.as_deref(), Some("1"))),
            (Self::Reduce(_), None) => value,
            (Self::Reduce(reduce), Some(so_far)) => reduce(None, value.as_deref(), Some(&so_far)),
            (Self::Aggregate { init, step, .. }, so_far) => {
                let so_far = so_far.or_else(|| init.clone());
                step(Some(key), value.as_deref(), so_far.as_deref())
            }
        }
    }

    /// The fold with that of another session.
    pub fn merge(&self, so_far: Option<Text>, fold: Text) -> Option<Text> {
        match (self, so_far) {
            (Self::Count, so_far) => Some(sum(so_far.as_deref(), Some(&fold))),
            (Self::Reduce(_), None) => Some(fold),
            (Self::Reduce(reduce), Some(so_far)) => reduce(None, Some(&fold), Some(&so_far)),
            (Self::Aggregate { init, merge, .. }, so_far) => {
                let so_far = so_far.or_else(|| init.clone());
                merge.and_then(|merge| merge(so_far.as_deref(), Some(&fold)))
            }
        }
    }
}

fn sum(one: Option<&str>, other: Option<&str>) -> Text {
    use crate::functions::number;
    (number(one) + number(other)).to_string()
}

/// How long a store is to keep its windows, where the scenario says so. The JVM's cache answers
/// reads too, and never forgets a window in a run as short as a scenario.
///
/// # Errors
/// When it is negative.
pub fn retention(at: &Interpreter, field: &Option<StoreField>) -> Applied<Option<Duration>> {
    const FOR_EVER: Duration = Duration::from_millis(i64::MAX as u64 / 4);
    if at.config.caching {
        return Ok(Some(FOR_EVER));
    }
    let ms = field.as_ref().and_then(|store| store.retention);
    ms.map(duration).transpose()
}

/// The window store of a step, read at the end if the scenario names it.
///
/// # Errors
/// When the scenario asks for a versioned store.
pub fn window_store(
    at: &mut Interpreter,
    id: &str,
    field: &Option<StoreField>,
    windows: WindowField,
) -> Applied<WindowStore<Key, Text>> {
    let Some(name) = store_name(field)? else {
        return Ok(WindowStore::new(unnamed(id), KeyCodec, text()));
    };
    let store = WindowStore::new(name, KeyCodec, text());
    at.dump(name, move |driver| {
        let entries = driver.window_entries(store)?.into_iter();
        let entry = |(key, start, value, ts): (Key, i64, Text, i64)| Entry {
            key: key.to_string(),
            window: Some((start, windows.end_of(start))),
            ts: Some(ts),
            value,
        };
        Ok(entries.map(entry).collect())
    });
    Ok(store)
}

/// The session store of a step, read at the end if the scenario names it.
///
/// # Errors
/// When the scenario asks for a versioned store.
pub fn session_store(
    at: &mut Interpreter,
    id: &str,
    field: &Option<StoreField>,
) -> Applied<SessionStore<Key, Text>> {
    let Some(name) = store_name(field)? else {
        return Ok(SessionStore::new(unnamed(id), KeyCodec, text()));
    };
    let store = SessionStore::new(name, KeyCodec, text());
    at.dump(name, move |driver| {
        let entries = driver.session_entries(store)?.into_iter();
        let entry = |(session, value): (Windowed<Key>, Text)| Entry {
            key: session.key.to_string(),
            window: Some((session.start, session.end)),
            ts: None,
            value,
        };
        Ok(entries.map(entry).collect())
    });
    Ok(store)
}

fn store_name(field: &Option<StoreField>) -> Applied<Option<&'static str>> {
    match field {
        Some(field) if field.versioned.is_some() => {
            let what = "a store of windows is not versioned".to_owned();
            Err(Stop::Malformed(what))
        }
        Some(field) => Ok(Some(intern(&field.name))),
        None => Ok(None),
    }
}
