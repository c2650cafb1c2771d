//! Windowed aggregations: one function for each kind of window.

use millstream_topology::{Hopping, TimeWindows, Tumbling, WindowStore, text};
use serde::Deserialize;

use super::{
    aggregate::{AggregateStep, Fold, counted},
    missing,
};
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

impl WindowField {
    /// The aggregation of a stream in such windows. Keys and values of `stream` may be null.
    ///
    /// # Errors
    /// Why it could not be built.
    pub fn aggregate(
        &self,
        at: &mut Interpreter,
        step: &AggregateStep,
        stream: Stream,
    ) -> Applied<Table> {
        match *self {
            Self::Tumbling { size, grace } => {
                let windows = Tumbling::of(duration(size)?).grace(duration(grace)?);
                aligned(at, step, stream, windows.into())
            }
            Self::Hopping {
                size,
                advance,
                grace,
            } => {
                let windows = Hopping::of(duration(size)?).advance_by(duration(advance)?);
                aligned(at, step, stream, windows.grace(duration(grace)?).into())
            }
            Self::Sliding { .. } => missing("sliding windows"),
            Self::Session { .. } => missing("session windows"),
            Self::Unlimited { .. } => missing("unlimited windows"),
        }
    }
}

/// Tumbling and hopping windows: a null value is aggregated like any other, a null key is dropped.
fn aligned(
    at: &mut Interpreter,
    step: &AggregateStep,
    stream: Stream,
    windows: TimeWindows,
) -> Applied<Table> {
    if step.emit.is_some() {
        return missing("emit on close");
    }
    let store = window_store(at, &step.id, &step.store, windows.size_ms())?;
    let mut grouped = stream.drop_null_keys().group_by_key().windowed_by(windows);
    if let Some(ms) = step.store.as_ref().and_then(|store| store.retention) {
        grouped = grouped.retain(duration(ms)?);
    }
    Ok(Table::Windowed(match step.agg.fold()? {
        Fold::Count => grouped.aggregate(store, |_, _, count| counted(&count)),
        Fold::Reduce(reduce) => {
            grouped.aggregate_or_delete(store, move |_, value, so_far| match so_far {
                None => value,
                Some(so_far) => reduce(None, value.as_deref(), Some(&so_far)),
            })
        }
        Fold::Aggregate { init, step, .. } => {
            grouped.aggregate_or_delete(store, move |key, value, so_far| {
                let so_far = so_far.or_else(|| init.clone());
                step(Some(key), value.as_deref(), so_far.as_deref())
            })
        }
    }))
}

/// The window store of a step, read at the end if the scenario names it.
fn window_store(
    at: &mut Interpreter,
    id: &str,
    field: &Option<StoreField>,
    size_ms: i64,
) -> Applied<WindowStore<Key, Text>> {
    let Some(field) = field else {
        return Ok(WindowStore::new(unnamed(id), KeyCodec, text()));
    };
    if field.versioned.is_some() {
        return Err(Stop::Malformed(
            "a window store is not versioned".to_owned(),
        ));
    }
    let store = WindowStore::new(intern(&field.name), KeyCodec, text());
    at.dump(&field.name, move |driver| {
        let entries = driver.window_entries(store)?.into_iter();
        let entry = |(key, start, value, ts): (Key, i64, Text, i64)| Entry {
            key: key.to_string(),
            window: Some((start, start + size_ms)),
            ts: Some(ts),
            value,
        };
        Ok(entries.map(entry).collect())
    });
    Ok(store)
}
