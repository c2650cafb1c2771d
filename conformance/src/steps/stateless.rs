//! `filter`, `map`, `merge`, `split`, `to` and the like: steps that keep nothing.

use millstream_topology::{AnyTopic, nullable, text};
use serde::Deserialize;

use super::Group;
use crate::{
    functions::{self, K, V},
    interpreter::{Applied, Fields, Interpreter, repartition_name, topic},
    text::{Key, KeyCodec, Text},
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("filter", filter),
    ("filter_not", filter_not),
    ("map", map),
    ("map_values", map_values),
    ("flat_map", flat_map),
    ("flat_map_values", flat_map_values),
    ("select_key", select_key),
    ("merge", merge),
    ("split", split),
    ("repartition", repartition),
    ("to", to),
    ("to_dynamic", to_dynamic),
];

/// A step with one input and one function.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unary {
    id: String,
    from: String,
    #[serde(rename = "fn")]
    function: String,
}

/// Key and value as functions see them.
pub(crate) fn seen<'a>(key: &'a Option<Key>, value: &'a Option<Text>) -> (K<'a>, V<'a>) {
    (key.as_ref(), value.as_deref())
}

fn filter(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: Unary = fields.read()?;
    let keep = functions::predicate(&step.function)?;
    let stream = at.stream(&step.from)?;
    at.add_stream(
        &step.id,
        stream.filter(move |k, v| keep(k.as_ref(), v.as_deref())),
    );
    Ok(())
}

fn filter_not(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: Unary = fields.read()?;
    let drop = functions::predicate(&step.function)?;
    let stream = at.stream(&step.from)?;
    at.add_stream(
        &step.id,
        stream.filter_not(move |k, v| drop(k.as_ref(), v.as_deref())),
    );
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapStep {
    id: String,
    from: String,
    key_fn: String,
    value_fn: String,
}

fn map(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: MapStep = fields.read()?;
    let (key, value) = (
        functions::key_mapper(&step.key_fn)?,
        functions::value_mapper(&step.value_fn)?,
    );
    let mapped = at.stream(&step.from)?.map(move |k, v| {
        let (k, v) = seen(&k, &v);
        (key(k, v).map(Key::plain), value(k, v))
    });
    at.add_stream(&step.id, mapped);
    Ok(())
}

fn map_values(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: Unary = fields.read()?;
    let value = functions::value_mapper(&step.function)?;
    let mapped = at.stream(&step.from)?;
    let mapped = mapped.map_values(move |k, v| value(k.as_ref(), v.as_deref()));
    at.add_stream(&step.id, mapped);
    Ok(())
}

fn flat_map(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: Unary = fields.read()?;
    let all = functions::flat_map(&step.function)?;
    let mapped = at.stream(&step.from)?.flat_map(move |k, v| {
        let (k, v) = seen(&k, &v);
        let plain = |(k, v): (Option<Text>, Option<Text>)| (k.map(Key::plain), v);
        all(k, v).into_iter().map(plain).collect::<Vec<_>>()
    });
    at.add_stream(&step.id, mapped);
    Ok(())
}

fn flat_map_values(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: Unary = fields.read()?;
    let all = functions::flat_value_map(&step.function)?;
    let mapped = at.stream(&step.from)?;
    let mapped = mapped.flat_map_values(move |k, v| all(k.as_ref(), v.as_deref()));
    at.add_stream(&step.id, mapped);
    Ok(())
}

fn select_key(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: Unary = fields.read()?;
    let key = functions::key_mapper(&step.function)?;
    let stream = at.stream(&step.from)?;
    let mapped = stream.select_key(move |k, v| key(k.as_ref(), v.as_deref()).map(Key::plain));
    at.add_stream(&step.id, mapped);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MergeStep {
    id: String,
    from: String,
    with: String,
}

fn merge(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: MergeStep = fields.read()?;
    let merged = at.stream(&step.from)?.merge(at.stream(&step.with)?);
    at.add_stream(&step.id, merged);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitStep {
    from: String,
    branches: Vec<BranchField>,
    default: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchField {
    id: String,
    #[serde(rename = "fn")]
    function: String,
}

fn split(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: SplitStep = fields.read()?;
    let mut split = at.stream(&step.from)?.split();
    for branch in &step.branches {
        let take = functions::predicate(&branch.function)?;
        let taken = split.when(move |k, v| take(k.as_ref(), v.as_deref()));
        at.add_stream(&branch.id, taken);
    }
    if let Some(id) = &step.default {
        at.add_stream(id, split.otherwise());
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RepartitionStep {
    id: String,
    from: String,
    name: Option<String>,
    partitions: Option<u32>,
}

fn repartition(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: RepartitionStep = fields.read()?;
    let through = topic(&repartition_name(&step.id, &step.name));
    let stream = at.stream(&step.from)?;
    let through = match step.partitions {
        None => stream.repartition(through),
        Some(partitions) => stream.repartition_to(through, partitions),
    };
    at.add_stream(&step.id, through);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToStep {
    from: String,
    topic: String,
}

fn to(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ToStep = fields.read()?;
    at.stream(&step.from)?.to(topic(&step.topic));
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToDynamicStep {
    from: String,
    topic: String,
    #[serde(rename = "fn")]
    function: String,
}

fn to_dynamic(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ToDynamicStep = fields.read()?;
    let choose = functions::topic_choice(&step.function)?;
    let topics = AnyTopic::new(nullable(KeyCodec), nullable(text()));
    let prefix = step.topic;
    at.stream(&step.from)?.to_dynamic(topics, move |k, v| {
        choose(&prefix, k.as_ref(), v.as_deref())
    });
    Ok(())
}
