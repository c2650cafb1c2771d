//! `table`, `to_table`, `to_stream` and the operators on one table.

use millstream_operators::{KTable, NoStore};
use millstream_runtime::TestDriver;
use millstream_topology::{Error, Topic, VersionedStore, nullable, text};
use serde::Deserialize;

use super::Group;
use crate::{
    each_table, functions,
    interpreter::{
        Applied, Entry, Fields, Interpreter, StoreField, Stream, Table, TableKey, duration,
        repartition_name,
    },
    text::{Key, KeyCodec, Text, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("table", table),
    ("to_table", to_table),
    ("to_stream", to_stream),
    ("table_filter", table_filter),
    ("table_filter_not", table_filter_not),
    ("table_map_values", table_map_values),
    ("table_transform_values", table_transform_values),
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
    let topic = Topic::new(intern(&step.topic), nullable(KeyCodec), text());
    let extract = functions::extractor(step.extractor.as_deref().unwrap_or("record"))?;
    let time = move |_: Option<&Key>, v: Option<&Text>, ts, partition_time| {
        extract(v.map(String::as_str), ts, partition_time)
    };
    let table = match versioned_store(at, &step.store)? {
        Some(store) => at.builder.table_by_time(topic, store, time),
        None if !at.is_kept(&step.id, &step.store) => {
            at.builder.table_by_time(topic, NoStore, time)
        }
        None => {
            let store = at.table_store(&step.id, &step.store)?;
            let table = at.builder.table_by_time(topic, store, time);
            match step.store {
                Some(_) => at.cached(table),
                None => table,
            }
        }
    };
    at.add_table(&step.id, Table::Plain(table));
    Ok(())
}

/// The versioned store of a table step, if it has one, read at the end.
fn versioned_store(
    at: &mut Interpreter,
    field: &Option<StoreField>,
) -> Applied<Option<VersionedStore<Key, Text>>> {
    let Some((field, history)) = field.as_ref().and_then(|f| Some((f, f.versioned?))) else {
        return Ok(None);
    };
    let store = VersionedStore::new(intern(&field.name), KeyCodec, text(), duration(history)?);
    let times = at.input_times.clone();
    at.dump(&field.name, move |driver| {
        visible_versions(driver, store, &times)
    });
    Ok(Some(store))
}

/// The versions that a look-up at some of these times finds, and those that hold now.
fn visible_versions(
    driver: &mut TestDriver,
    store: VersionedStore<Key, Text>,
    times: &[i64],
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for (key, value, from, to) in driver.versions(store)? {
        let mut visible = to.is_none();
        for time in times
            .iter()
            .filter(|time| (from..to.unwrap_or(i64::MAX)).contains(*time))
        {
            let found = driver.get_as_of(store, &key, *time)?;
            visible |= found.is_some_and(|(_, found_from)| found_from == from);
        }
        if visible {
            let Key { text, window } = key;
            entries.push(Entry {
                key: text,
                window,
                ts: Some(from),
                value,
            });
        }
    }
    Ok(entries)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToTableStep {
    id: String,
    from: String,
    repartition: Option<String>,
    store: Option<StoreField>,
}

fn to_table(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ToTableStep = fields.read()?;
    let through = repartition_name(&step.id, &step.repartition);
    let stream = at.partitioned(&step.from, &through)?;
    let stream = stream.drop_null_keys();
    let table = match at.is_kept(&step.id, &step.store) {
        true => {
            let store = at.table_store::<Key>(&step.id, &step.store)?;
            at.cached(stream.to_table(store))
        }
        false => stream.to_table(NoStore),
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

/// A step from a table to a table with one function.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowsStep {
    id: String,
    from: String,
    #[serde(rename = "fn")]
    function: String,
    store: Option<StoreField>,
}

fn table_filter(at: &mut Interpreter, fields: Fields) -> Applied {
    filter(at, fields.read()?, true)
}

fn table_filter_not(at: &mut Interpreter, fields: Fields) -> Applied {
    filter(at, fields.read()?, false)
}

fn filter(at: &mut Interpreter, step: RowsStep, wanted: bool) -> Applied {
    let keep = functions::predicate(&step.function)?;
    let table = each_table!(at.table(&step.from)?, table => {
        let test = move |key: &_, value: &Text| keep(Some(&TableKey::flat(key)), Some(value));
        let kept = match wanted {
            true => table.filter(test),
            false => table.filter_not(test),
        };
        materialized(at, &step.id, &step.store, kept)?
    });
    at.add_table(&step.id, table);
    Ok(())
}

fn table_map_values(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: RowsStep = fields.read()?;
    let map = functions::value_mapper(&step.function)?;
    let table = each_table!(at.table(&step.from)?, table => {
        let value = move |key: &_, value: Text| map(Some(&TableKey::flat(key)), Some(&value));
        materialized(at, &step.id, &step.store, table.map_values(value).flatten())?
    });
    at.add_table(&step.id, table);
    Ok(())
}

fn table_transform_values(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: RowsStep = fields.read()?;
    let map = functions::value_mapper(&step.function)?;
    let table = each_table!(at.table(&step.from)?, table => {
        let value = move |key: &_, value: Option<Text>| {
            map(Some(&TableKey::flat(key)), value.as_deref())
        };
        materialized(at, &step.id, &step.store, table.transform_values(value))?
    });
    at.add_table(&step.id, table);
    Ok(())
}

/// A table, with a store if the scenario names one.
///
/// # Errors
/// When the scenario asks for a versioned store or a retention.
pub fn materialized<T: TableKey>(
    at: &mut Interpreter,
    id: &str,
    field: &Option<StoreField>,
    table: KTable<T, Text>,
) -> Applied<Table> {
    Ok(T::table(match field {
        None => table,
        Some(_) => {
            let store = at.table_store::<T>(id, field)?;
            at.cached(table.materialize(store))
        }
    }))
}
