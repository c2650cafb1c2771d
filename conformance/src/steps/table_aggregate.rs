//! `table_aggregate`: the rows of a table grouped anew and folded.

use millstream_operators::{GroupedTable, KTable};
use millstream_topology::{KvStore, Topic, text};
use serde::Deserialize;

use super::Group;
use crate::{
    each_table, functions,
    interpreter::{Applied, Fields, Interpreter, StoreField, Table, TableKey, repartition_name},
    text::{Key, KeyCodec, Text, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[("table_aggregate", table_aggregate)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableAggregateStep {
    id: String,
    from: String,
    key_fn: String,
    value_fn: String,
    repartition: Option<String>,
    agg: AggField,
    store: Option<StoreField>,
}

/// What an aggregation of a table computes.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum AggField {
    Count {},
    Reduce {
        add: String,
        sub: String,
    },
    Aggregate {
        init: String,
        add: String,
        sub: String,
    },
}

fn table_aggregate(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: TableAggregateStep = fields.read()?;
    let new_key = functions::key_mapper(&step.key_fn)?;
    let new_value = functions::value_mapper(&step.value_fn)?;
    let name = repartition_name(&step.id, &step.repartition);
    let through: Topic<Key, Text> = Topic::new(intern(&name), KeyCodec, text());
    let grouped = each_table!(at.table(&step.from)?, table => {
        table.group_by(through, move |key: &_, value: &Text| {
            let key = TableKey::flat(key);
            let group = new_key(Some(&key), Some(value))?;
            Some((Key::plain(group), new_value(Some(&key), Some(value))?))
        })
    });
    let store = at.table_store(&step.id, &step.store)?;
    let table = fold(grouped, store, &step.agg)?;
    let table = at.cached(table);
    at.add_table(&step.id, Table::Plain(table));
    Ok(())
}

fn fold(
    grouped: GroupedTable<Key, Text>,
    store: KvStore<Key, Text>,
    agg: &AggField,
) -> Applied<KTable<Key, Text>> {
    Ok(match agg {
        AggField::Count {} => grouped.aggregate_or_delete(
            store,
            |_, _, count| Some(moved(&count.unwrap_or_default(), 1)),
            |_, _, count| Some(moved(&count, -1)),
        ),
        AggField::Reduce { add, sub } => {
            let (add, sub) = (functions::aggregator(add)?, functions::aggregator(sub)?);
            grouped.reduce_or_delete(
                store,
                move |fold, value| add(None, Some(&value), Some(&fold)),
                move |fold, value| sub(None, Some(&value), Some(&fold)),
            )
        }
        AggField::Aggregate { init, add, sub } => {
            let init = functions::initial(init)?;
            let (add, sub) = (functions::aggregator(add)?, functions::aggregator(sub)?);
            grouped.aggregate_or_delete(
                store,
                move |key, value, fold| {
                    let fold = fold.or_else(|| init.clone());
                    add(Some(key), Some(&value), fold.as_deref())
                },
                move |key, value, fold| sub(Some(key), Some(&value), Some(&fold)),
            )
        }
    })
}

/// A count that has moved, as text; nothing is 0.
fn moved(count: &str, by: i64) -> Text {
    (functions::number(Some(count)) + by).to_string()
}
