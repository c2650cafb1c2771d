//! `global_table` and `stream_global_join`.

use millstream_operators::GlobalKTable;
use millstream_topology::{Topic, text};
use serde::Deserialize;

use super::{Group, join_tables::JoinType};
use crate::{
    functions,
    interpreter::{Applied, Fields, Interpreter, Stop, StoreField},
    text::{Key, KeyCodec, Text, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("global_table", global_table),
    ("stream_global_join", stream_global_join),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobalStep {
    id: String,
    topic: String,
    store: Option<StoreField>,
}

fn global_table(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: GlobalStep = fields.read()?;
    let topic = Topic::new(intern(&step.topic), KeyCodec, text());
    let store = at.table_store::<Key>(&step.id, &step.store)?;
    let table = at.builder.global_table(topic, store);
    at.add_global(&step.id, table);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamGlobalStep {
    id: String,
    left: String,
    right: String,
    key_fn: String,
    #[serde(rename = "type")]
    kind: JoinType,
    joiner: String,
}

fn stream_global_join(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: StreamGlobalStep = fields.read()?;
    let joiner = functions::joiner(&step.joiner)?;
    let key_of = functions::key_mapper(&step.key_fn)?;
    let table: GlobalKTable<Key, Text> = at.global(&step.right)?;
    let by = table.by(move |k: &Option<Key>, v: &Text| key_of(k.as_ref(), Some(v)).map(Key::plain));
    let stream = at.stream(&step.left)?.drop_null_values();
    let joined = match step.kind {
        JoinType::Inner => {
            stream.join_with_key(by, move |k, l, r| joiner(k.as_ref(), Some(l), Some(r)))
        }
        JoinType::Left => stream.left_join_with_key(by, move |k, l, r| {
            joiner(k.as_ref(), Some(l), r.map(String::as_str))
        }),
        JoinType::Outer => {
            let what = "there is no outer join of a stream and a global table";
            return Err(Stop::Refused(what.to_owned()));
        }
    };
    at.add_stream(&step.id, joined);
    Ok(())
}
