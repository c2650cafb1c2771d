//! `stream`, `stream_pattern`: where records enter.

use millstream_topology::{TopicPattern, nullable, text};
use serde::Deserialize;

use super::Group;
use crate::{
    functions,
    interpreter::{Applied, Fields, Interpreter, topic},
    text::{Key, KeyCodec, Text, intern},
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
    let topics: Vec<_> = step.topics.iter().map(|name| topic(name)).collect();
    let stream = match &step.extractor {
        None => at.builder.stream(topics),
        Some(extractor) => {
            let extract = functions::extractor(extractor)?;
            let time = move |_: &Option<Key>, v: &Option<Text>, ts, partition_time| {
                extract(v.as_deref(), ts, partition_time)
            };
            at.builder.stream_by_time(topics, time)
        }
    };
    at.add_stream(&step.id, stream);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternStep {
    id: String,
    pattern: String,
}

fn stream_pattern(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: PatternStep = fields.read()?;
    let (key, value) = (nullable(KeyCodec), nullable(text()));
    let pattern = TopicPattern::new(intern(&step.pattern), key, value);
    let stream = at.builder.stream(pattern);
    at.add_stream(&step.id, stream);
    Ok(())
}
