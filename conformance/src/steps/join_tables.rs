//! `stream_table_join` and `table_table_join`.

use millstream_operators::KTable;
use serde::Deserialize;

use super::{Group, missing, tables::materialized};
use crate::{
    functions::{self, Joiner},
    interpreter::{Applied, Fields, Interpreter, Stop, StoreField, Table, TableKey},
    text::Text,
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("stream_table_join", |_, _| missing("stream_table_join")),
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
        JoinType::Left => left.left_join(right, move |l, r| joiner(None, Some(l), r.map(String::as_str))),
        JoinType::Outer => left.outer_join(right, move |l, r| {
            joiner(None, l.map(String::as_str), r.map(String::as_str))
        }),
    }
    .flatten()
}
