//! `stream`, `stream_pattern`: where records enter.

use serde::Deserialize;

use super::{Group, missing};
use crate::{
    functions,
    interpreter::{Applied, Fields, Interpreter, topic},
    text::{Key, Text},
};

/// The steps of this group.
pub const STEPS: Group = &[("stream", stream), ("stream_pattern", stream_pattern)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamStep {
    id: String,
    topics: Vec<String>,
    extractor: Option<String>,
}

fn stream(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: StreamStep = fields.read()?;
    let [name] = &step.topics[..] else {
        return missing("a stream of several topics");
    };
    let stream = match &step.extractor {
        None => at.builder.stream(topic(name)),
        Some(extractor) => {
            let extract = functions::extractor(extractor)?;
            let time = move |_: &Option<Key>, v: &Option<Text>, ts, partition_time| {
                extract(v.as_deref(), ts, partition_time)
            };
            at.builder.stream_by_time(topic(name), time)
        }
    };
    at.add_stream(&step.id, stream);
    Ok(())
}

fn stream_pattern(_: &mut Interpreter, _: Fields) -> Applied {
    missing("stream_pattern")
}
