//! `table`, `to_table`, `to_stream` and the operators on one table.

use millstream_operators::KTable;
use millstream_topology::{Topic, nullable, text};
use serde::Deserialize;

use super::{Group, missing};
use crate::{
    each_table, functions,
    interpreter::{Applied, Fields, Interpreter, StoreField, Stream, Table, TableKey},
    text::{Key, KeyCodec, Text, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("table", table),
    ("to_table", |_, _| missing("to_table")),
    ("to_stream", to_stream),
    ("table_filter", |_, _| missing("table_filter")),
    ("table_filter_not", |_, _| missing("table_filter_not")),
    ("table_map_values", |_, _| missing("table_map_values")),
    ("table_transform_values", |_, _| {
        missing("table_transform_values")
    }),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableStep {
    id: String,
    topic: String,
    store: Option<StoreField>,
    extractor: Option<String>,
}

fn table(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: TableStep = fields.read()?;
    if step
        .store
        .as_ref()
        .is_some_and(|store| store.versioned.is_some())
    {
        return missing("a versioned table");
    }
    let store = at.table_store::<Key>(&step.id, &step.store)?;
    let topic = Topic::new(intern(&step.topic), nullable(KeyCodec), text());
    let table = match &step.extractor {
        None => at.builder.table(topic, store),
        Some(extractor) => {
            let extract = functions::extractor(extractor)?;
            let time = move |_: &Key, v: Option<&Text>, ts, partition_time| {
                extract(v.map(String::as_str), ts, partition_time)
            };
            at.builder.table_by_time(topic, store, time)
        }
    };
    at.add_table(&step.id, Table::Plain(table));
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToStreamStep {
    id: String,
    from: String,
    #[serde(rename = "fn")]
    function: Option<String>,
}

fn to_stream(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ToStreamStep = fields.read()?;
    let stream = each_table!(at.table(&step.from)?, table => stream_of(&table));
    let stream = match &step.function {
        None => stream,
        Some(function) => {
            let key = functions::key_mapper(function)?;
            stream.map(move |k, v| (key(k.as_ref(), v.as_deref()).map(Key::plain), v))
        }
    };
    at.add_stream(&step.id, stream);
    Ok(())
}

/// The changes of a table as a stream of the interpreter: the keys are the same, told otherwise.
fn stream_of<T: TableKey>(table: &KTable<T, Text>) -> Stream {
    let stream = table.to_stream().map(|k, v| (Some(k.flat()), v));
    stream.with_unchanged_key()
}
