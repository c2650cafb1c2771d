//! `cogroup`: several streams folded into one table.

use millstream_operators::{Cogrouped, Grouped, WindowedCogrouped};
use serde::Deserialize;

use super::{
    Group,
    aggregate::{Fold, grouped},
    windows::{KnownWindows, WindowField, retention, session_store, window_store},
};
use crate::{
    each_table, functions,
    interpreter::{
        Applied, Fields, Interpreter, Stop, StoreField, Table, TableKey, repartition_name,
    },
    text::{Key, Text},
};

/// The steps of this group.
pub const STEPS: Group = &[("cogroup", cogroup)];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CogroupStep {
    id: String,
    inputs: Vec<InputField>,
    init: String,
    merge: Option<String>,
    window: Option<WindowField>,
    store: Option<StoreField>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputField {
    from: String,
    group_by: Option<String>,
    repartition: Option<String>,
    #[serde(rename = "fn")]
    function: String,
}

fn cogroup(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: CogroupStep = fields.read()?;
    let mut streams: Option<Cogrouped<Key, Text>> = None;
    let drops_null_values = matches!(step.window, None | Some(WindowField::Sliding { .. }));
    for (number, input) in step.inputs.iter().enumerate() {
        let through = repartition_name(&format!("{}-{number}", step.id), &input.repartition);
        let stream =
            grouped(at, &input.from, input.group_by.as_deref(), &through)?.drop_null_keys();
        let fold = fold(&step, &input.function)?;
        streams = Some(match drops_null_values {
            true => add(streams, stream.drop_null_values().group_by_key(), fold),
            false => add(streams, stream.group_by_key(), fold),
        });
    }
    let streams = streams.ok_or_else(|| Stop::Malformed("a cogroup has inputs".to_owned()))?;
    let table = table(at, &step, streams)?;
    let table = each_table!(table, table => TableKey::table(at.cached(table)));
    at.add_table(&step.id, table);
    Ok(())
}

fn fold(step: &CogroupStep, function: &str) -> Applied<Fold> {
    Ok(Fold::Aggregate {
        init: functions::initial(&step.init)?,
        step: functions::aggregator(function)?,
        merge: step.merge.as_deref().map(functions::merger).transpose()?,
    })
}

fn add<V: Into<Option<Text>> + Clone + 'static>(
    streams: Option<Cogrouped<Key, Text>>,
    grouped: Grouped<Key, V>,
    fold: Fold,
) -> Cogrouped<Key, Text> {
    let folded = move |key: &Key, value: V, so_far| fold.step(key, value.into(), so_far);
    match streams {
        None => grouped.cogroup_or_delete(folded),
        Some(streams) => streams.cogroup_or_delete(grouped, folded),
    }
}

fn table(
    at: &mut Interpreter,
    step: &CogroupStep,
    streams: Cogrouped<Key, Text>,
) -> Applied<Table> {
    let Some(field) = step.window else {
        return Ok(Table::Plain(
            streams.aggregate(at.table_store(&step.id, &step.store)?),
        ));
    };
    let framed = match field.known()? {
        KnownWindows::Tumbling(windows) => streams.windowed_by(windows),
        KnownWindows::Hopping(windows) => streams.windowed_by(windows),
        KnownWindows::Unlimited(windows) => streams.windowed_by(windows),
        KnownWindows::Sliding(windows) => streams.windowed_by(windows),
        KnownWindows::Sessions(windows) => {
            let mut sessions = streams.windowed_by(windows);
            if let Some(retention) = retention(at, &step.store)? {
                sessions = sessions.retain(retention);
            }
            let store = session_store(at, &step.id, &step.store)?;
            let merger = fold(step, "keep")?;
            let merge = move |_: &Key, so_far, fold| merger.merge(so_far, fold);
            return Ok(Table::Windowed(sessions.aggregate_or_delete(store, merge)));
        }
    };
    aggregate_framed(at, step, field, framed)
}

fn aggregate_framed(
    at: &mut Interpreter,
    step: &CogroupStep,
    field: WindowField,
    mut framed: WindowedCogrouped<Key, Text>,
) -> Applied<Table> {
    if let Some(retention) = retention(at, &step.store)? {
        framed = framed.retain(retention);
    }
    let store = window_store(at, &step.id, &step.store, field)?;
    Ok(Table::Windowed(framed.aggregate(store)))
}
