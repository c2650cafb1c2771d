//! `stream_stream_join`: two streams joined within a window.

use std::time::Duration;

use millstream_operators::JoinWindow;
use millstream_topology::{KvStore, WindowStore, bytes, text};
use serde::Deserialize;

use super::{
    Group,
    join_tables::{JoinType, inner, keyed, left},
};
use crate::{
    functions::{self, Joiner},
    interpreter::{Applied, Fields, Interpreter, duration, repartition_name},
    text::{Key, KeyCodec, Text, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[("stream_stream_join", stream_stream_join)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamStreamStep {
    id: String,
    left: String,
    right: String,
    #[serde(rename = "type")]
    kind: JoinType,
    joiner: String,
    before: i64,
    after: i64,
    grace: i64,
    repartition: Option<String>,
}

fn stream_stream_join(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: StreamStreamStep = fields.read()?;
    let joiner = functions::joiner(&step.joiner)?;
    let window = step.window()?;
    let name = repartition_name(&step.id, &step.repartition);
    let with_itself = step.left == step.right;
    let stream = at.partitioned(&step.left, &format!("{name}-left"))?;
    if with_itself && at.config.optimize && step.kind == JoinType::Inner {
        let joined = stream.join_self(window, step.buffer("one"), inner(joiner));
        at.add_stream(&step.id, keyed(joined));
        return Ok(());
    }
    let other = match with_itself {
        true => stream.clone(),
        false => at.partitioned(&step.right, &format!("{name}-right"))?,
    };
    let other = other.within(window, step.buffer("left"), step.buffer("right"));
    let waiting = KvStore::new(intern(&format!("{}-alone", step.id)), bytes(), bytes());
    let joined = match step.kind {
        JoinType::Inner => keyed(stream.join_with_key(other, inner(joiner))),
        JoinType::Left => stream.left_join_with_key(other.unmatched(waiting), left(joiner)),
        JoinType::Outer => stream.outer_join_with_key(other.unmatched(waiting), outer(joiner)),
    };
    at.add_stream(&step.id, joined);
    Ok(())
}

/// The joiner of an outer join.
fn outer(
    joiner: Joiner,
) -> impl Fn(&Option<Key>, Option<&Text>, Option<&Text>) -> Option<Text> + Send + Sync + 'static {
    move |k, l, r| joiner(k.as_ref(), l.map(String::as_str), r.map(String::as_str))
}

impl StreamStreamStep {
    fn buffer(&self, side: &str) -> WindowStore<Key, Text> {
        WindowStore::new(intern(&format!("{}-{side}", self.id)), KeyCodec, text())
    }

    fn window(&self) -> Applied<JoinWindow> {
        let window = JoinWindow::of(Duration::ZERO).grace(duration(self.grace)?);
        let window = match self.before < 0 {
            true => window.newer_by(duration(-self.before)?),
            false => window.before(duration(self.before)?),
        };
        Ok(match self.after < 0 {
            true => window.older_by(duration(-self.after)?),
            false => window.after(duration(self.after)?),
        })
    }
}
