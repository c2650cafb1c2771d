//! `aggregate`: `count`, `reduce` and `aggregate` of a stream, also in windows.

use millstream_operators::{Grouped, KTable};
use serde::Deserialize;

use super::{Group, windows::WindowField};
use crate::{
    each_table,
    functions::{self, Aggregator, Merger},
    interpreter::{
        Applied, Fields, Interpreter, StoreField, Stream, Table, TableKey, repartition_name, topic,
    },
    text::{Key, Text},
};

/// The steps of this group.
pub const STEPS: Group = &[("aggregate", aggregate)];

/// An `aggregate` step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateStep {
    /// Its result.
    pub id: String,
    /// Its input.
    pub from: String,
    /// A new key; absent for grouping by the key that is there.
    pub group_by: Option<String>,
    /// The name of its repartition topic.
    pub repartition: Option<String>,
    /// What is computed.
    pub agg: AggField,
    /// The windows.
    pub window: Option<WindowField>,
    /// `close` for results of closed windows only.
    pub emit: Option<Emit>,
    /// The store.
    pub store: Option<StoreField>,
}

/// When a window's result goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emit {
    /// Once, when it has closed.
    Close,
}

/// What an aggregation of a stream computes.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum AggField {
    /// The number of records.
    Count {},
    /// A combination of values.
    Reduce {
        /// The reducer.
        #[serde(rename = "fn")]
        function: String,
    },
    /// A fold.
    Aggregate {
        /// The initialiser.
        init: String,
        /// The aggregator.
        #[serde(rename = "fn")]
        function: String,
        /// The merger of sessions.
        merge: Option<String>,
    },
}

/// What an aggregation of a stream computes, with its functions.
#[derive(Clone)]
pub enum Fold {
    /// The number of records.
    Count,
    /// A combination of values: gets no key, the value, and the value so far.
    Reduce(Aggregator),
    /// A fold.
    Aggregate {
        /// What it starts with.
        init: Option<Text>,
        /// The aggregator.
        step: Aggregator,
        /// The merger of sessions.
        merge: Option<Merger>,
    },
}

impl AggField {
    /// Finds the functions.
    ///
    /// # Errors
    /// When there is no function of a name.
    pub fn fold(&self) -> Applied<Fold> {
        Ok(match self {
            Self::Count {} => Fold::Count,
            Self::Reduce { function } => Fold::Reduce(functions::aggregator(function)?),
            Self::Aggregate {
                init,
                function,
                merge,
            } => Fold::Aggregate {
                init: functions::initial(init)?,
                step: functions::aggregator(function)?,
                merge: merge.as_deref().map(functions::merger).transpose()?,
            },
        })
    }
}

fn aggregate(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: AggregateStep = fields.read()?;
    let through = repartition_name(&step.id, &step.repartition);
    let stream = grouped(at, &step.from, step.group_by.as_deref(), &through)?;
    let table = match &step.window {
        None => {
            let stream = stream.drop_null_keys().drop_null_values();
            Table::Plain(unwindowed(at, &step, stream.group_by_key())?)
        }
        Some(window) => window.aggregate(at, &step, stream)?,
    };
    let table = each_table!(table, table => TableKey::table(at.cached(table)));
    at.add_table(&step.id, table);
    Ok(())
}

fn unwindowed(
    at: &mut Interpreter,
    step: &AggregateStep,
    grouped: Grouped<Key, Text>,
) -> Applied<KTable<Key, Text>> {
    let fold = step.agg.fold()?;
    if let Fold::Count = fold {
        let counts = grouped.count(at.count_store(&step.id, &step.store)?);
        return Ok(at.cached(counts).map_values(|_, count| count.to_string()));
    }
    let store = at.table_store(&step.id, &step.store)?;
    Ok(match fold {
        Fold::Reduce(reduce) => grouped.reduce_or_delete(store, move |so_far, value| {
            reduce(None, Some(&value), Some(&so_far))
        }),
        fold => grouped.aggregate_or_delete(store, move |key, value, so_far| {
            fold.step(key, Some(value), so_far)
        }),
    })
}

/// The stream with the keys to group by, equal keys in one task. Keys and values may still be null.
///
/// # Errors
/// When there is no such stream, or no key mapper of that name.
pub fn grouped(
    at: &mut Interpreter,
    from: &str,
    group_by: Option<&str>,
    through: &str,
) -> Applied<Stream> {
    match group_by {
        None => at.partitioned(from, through),
        Some(function) => {
            let key = functions::key_mapper(function)?;
            let mapped = move |k: &Option<Key>, v: &Option<Text>| {
                key(k.as_ref(), v.as_deref()).map(Key::plain)
            };
            Ok(at.stream(from)?.rekey(topic(through), mapped))
        }
    }
}
