//! `process_route`: a processor with several outputs.

use millstream_operators::{Output, OutputHandle, Processor};
use millstream_topology::Result;
use serde::Deserialize;

use super::{At, In};
use crate::{
    functions::length,
    interpreter::{Applied, Fields, Interpreter},
    text::{Key, Text, intern},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteStep {
    id: String,
    from: String,
    outputs: Vec<String>,
}

type Out = OutputHandle<Option<Key>, Option<Text>>;

/// Sends a record on by the length of its value; one without a value to all outputs, in order.
struct Route(Vec<Out>);

impl Processor for Route {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutKey = Option<Key>;
    type OutValue = Option<Text>;

    fn process(&mut self, cx: &mut At<'_, '_>, record: In) -> Result<()> {
        match &record.value {
            None => self
                .0
                .iter()
                .try_for_each(|out| cx.forward_to(*out, record.clone())),
            Some(value) => {
                let out = self.0[length(Some(value)) % self.0.len()];
                cx.forward_to(out, record)
            }
        }
    }
}

pub(super) fn process_route(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: RouteStep = fields.read()?;
    let name = |output: &String| Output::new(intern(&format!("{}-{output}", step.id)));
    let outputs: Vec<Output<Option<Key>, Option<Text>>> = step.outputs.iter().map(name).collect();
    let (_, streams) = at
        .stream(&step.from)?
        .process_to((), outputs, |(), outputs| Route(outputs));
    for (id, stream) in step.outputs.iter().zip(streams) {
        at.add_stream(id, stream);
    }
    Ok(())
}
