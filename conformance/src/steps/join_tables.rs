//! `stream_table_join` and `table_table_join`.

use millstream_operators::{KStream, KTable};
use millstream_topology::KvStore;
use serde::Deserialize;

use super::{Group, tables::materialized};
use crate::{
    functions::{self, Joiner},
    interpreter::{
        Applied, Fields, Interpreter, Stop, StoreField, Stream, Table, TableKey, duration,
        repartition_name, unnamed,
    },
    text::{Key, Text},
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("stream_table_join", stream_table_join),
    ("table_table_join", table_table_join),
];

/// Which side may lack a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinType {
    /// Neither.
    Inner,
    /// The left one.
    Left,
    /// Both.
    Outer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamTableStep {
    id: String,
    left: String,
    right: String,
    #[serde(rename = "type")]
    kind: JoinType,
    joiner: String,
    grace: Option<i64>,
    repartition: Option<String>,
}

fn stream_table_join(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: StreamTableStep = fields.read()?;
    let joiner = functions::joiner(&step.joiner)?;
    let Table::Plain(table) = at.table(&step.right)? else {
        let what = "a stream without windows has no keys in common with a table that has them";
        return Err(Stop::Refused(what.to_owned()));
    };
    let through = repartition_name(&step.id, &step.repartition);
    let stream = at.partitioned(&step.left, &through)?;
    let joined = match (step.kind, step.grace) {
        (JoinType::Inner, None) => {
            let inner = inner(joiner);
            let joined = stream.drop_null_keys().drop_null_values();
            keyed(joined.join_with_key(&table, inner))
        }
        (JoinType::Inner, Some(grace)) => {
            let waiting: KvStore<Key, Text> = Key::store(unnamed(&step.id));
            keyed(stream.join_with_key(table.with_grace(duration(grace)?, waiting), inner(joiner)))
        }
        (JoinType::Left, None) => stream
            .drop_null_values()
            .left_join_with_key(&table, left(joiner)),
        (JoinType::Left, Some(grace)) => {
            let waiting: KvStore<Key, Text> = Key::store(unnamed(&step.id));
            stream.left_join_with_key(table.with_grace(duration(grace)?, waiting), left(joiner))
        }
        (JoinType::Outer, _) => {
            let what = "there is no outer join of a stream and a table";
            return Err(Stop::Refused(what.to_owned()));
        }
    };
    at.add_stream(&step.id, joined);
    Ok(())
}

/// The joiner of an inner join.
pub(crate) fn inner(
    joiner: Joiner,
) -> impl Fn(&Key, &Text, &Text) -> Option<Text> + Send + Sync + 'static {
    move |k, l, r| joiner(Some(k), Some(l), Some(r))
}

/// The joiner of a left join.
pub(crate) fn left(
    joiner: Joiner,
) -> impl Fn(&Option<Key>, &Text, Option<&Text>) -> Option<Text> + Send + Sync + 'static {
    move |k, l, r| joiner(k.as_ref(), Some(l), r.map(String::as_str))
}

/// A stream whose keys are there, as one of the interpreter.
pub(crate) fn keyed(stream: KStream<Key, Option<Text>>) -> Stream {
    stream.map(|k, v| (Some(k), v)).with_unchanged_key()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableTableStep {
    id: String,
    left: String,
    right: String,
    #[serde(rename = "type")]
    kind: JoinType,
    joiner: String,
    store: Option<StoreField>,
}

fn table_table_join(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: TableTableStep = fields.read()?;
    let joiner = functions::joiner(&step.joiner)?;
    let table = match (at.table(&step.left)?, at.table(&step.right)?) {
        (Table::Plain(left), Table::Plain(right)) => {
            let joined = join(&left, &right, step.kind, joiner);
            materialized(at, &step.id, &step.store, joined)?
        }
        (Table::Windowed(left), Table::Windowed(right)) => {
            let joined = join(&left, &right, step.kind, joiner);
            materialized(at, &step.id, &step.store, joined)?
        }
        _ => {
            let what = "a table with windows and one without have no keys in common";
            return Err(Stop::Refused(what.to_owned()));
        }
    };
    at.add_table(&step.id, table);
    Ok(())
}

fn join<T: TableKey>(
    left: &KTable<T, Text>,
    right: &KTable<T, Text>,
    kind: JoinType,
    joiner: Joiner,
) -> KTable<T, Text> {
    match kind {
        JoinType::Inner => left.join(right, move |l, r| joiner(None, Some(l), Some(r))),
        JoinType::Left => left.left_join(right, move |l, r| {
            joiner(None, Some(l), r.map(String::as_str))
        }),
        JoinType::Outer => left.outer_join(right, move |l, r| {
            joiner(None, l.map(String::as_str), r.map(String::as_str))
        }),
    }
    .flatten()
}
