//! `process`, `process_values`, `process_route`: the Processor API.

mod punctuated;
mod records;
mod routing;
mod values;

use std::time::Duration;

use millstream_operators::{Clock, Context, KvHandle, Reads};
use millstream_topology::{KvStore, Result, text};
use serde::Deserialize;

use self::{
    punctuated::{Punctuated, Ttl},
    records::{Lookup, Stateless, Stored},
    values::{StatelessValues, StoredValues},
};
use super::Group;
use crate::{
    functions::shown,
    interpreter::{
        Applied, Entry, Fields, Interpreter, Stop, StoreField, Stream, TableKey, duration,
    },
    text::{Key, Text, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[
    ("process", process),
    ("process_values", process_values),
    ("process_route", routing::process_route),
];

/// Context of processors that may change keys.
type At<'a, 'b> = Context<'a, 'b, Option<Key>, Option<Text>>;
type In = millstream_topology::Record<Option<Key>, Option<Text>>;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessStep {
    id: String,
    from: String,
    processor: String,
    store: Option<StoreField>,
    every: Option<i64>,
    time: Option<Time>,
    ttl: Option<i64>,
    ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Time {
    Stream,
    Wall,
}

impl ProcessStep {
    /// The plain store of the processor, read at the end without timestamps.
    fn store(&self, at: &mut Interpreter) -> Applied<KvStore<Text, Text>> {
        let name = &self.store_field()?.name;
        let store = KvStore::new(intern(name), text(), text());
        at.dump(name, move |driver| {
            let entries = driver.entries(store)?.into_iter();
            let entry = |(key, value, _)| Entry {
                key,
                window: None,
                ts: None,
                value,
            };
            Ok(entries.map(entry).collect())
        });
        Ok(store)
    }

    fn store_field(&self) -> Applied<&StoreField> {
        let field = self.store.as_ref();
        field.ok_or_else(|| Stop::Malformed(format!("`{}` needs a store", self.processor)))
    }

    /// How often, and on which clock.
    fn timer(&self) -> Applied<Timer> {
        let (Some(every), Some(time)) = (self.every, self.time) else {
            return Err(Stop::Malformed(format!(
                "`{}` needs a timer",
                self.processor
            )));
        };
        let clock = match time {
            Time::Stream => Clock::Stream,
            Time::Wall => Clock::Wall,
        };
        Ok(Timer {
            every: duration(every)?,
            clock,
        })
    }

    fn number(&self, field: Option<i64>) -> Applied<i64> {
        field.ok_or_else(|| Stop::Malformed(format!("`{}` needs a time", self.processor)))
    }

    fn unknown<T>(&self) -> Applied<T> {
        Err(Stop::Malformed(format!(
            "there is no processor `{}`",
            self.processor
        )))
    }
}

#[derive(Clone, Copy)]
struct Timer {
    every: Duration,
    clock: Clock,
}

impl Timer {
    fn start(self, cx: &mut At<'_, '_>) {
        cx.schedule(self.every, self.clock);
    }
}

/// `T(k)`: what stores are keyed by.
fn stored_key(key: &Option<Key>) -> Text {
    crate::functions::shown_key(key.as_ref())
}

/// The value so far as number, plus one, as text; put back.
fn count(
    mut store: millstream_state::Kv<'_, Text, Text>,
    key: &Text,
    timestamp: i64,
) -> Result<Text> {
    let so_far = store.get(key)?;
    let next = (crate::functions::number(so_far.as_deref()) + 1).to_string();
    store.put(key, next.clone(), timestamp)?;
    Ok(next)
}

fn counted(value: &Option<Text>, count: &str) -> Option<Text> {
    Some(crate::functions::cut(format!(
        "{}#{count}",
        shown(value.as_deref())
    )))
}

fn process(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ProcessStep = fields.read()?;
    let stream = at.stream(&step.from)?;
    let out = match step.processor.as_str() {
        "dedup" => {
            let store = step.store(at)?;
            stream.process(store, Stored::dedup)
        }
        "running_count" => {
            let store = step.store(at)?;
            stream.process(store, Stored::running_count)
        }
        "summary" | "summary_reset" => {
            let (store, timer) = (step.store(at)?, step.timer()?);
            let reset = step.processor == "summary_reset";
            stream.process(store, move |counts| {
                Punctuated::summary(counts, timer, reset)
            })
        }
        "tick" => {
            let timer = step.timer()?;
            stream.process((), move |()| Punctuated::tick(timer))
        }
        "ttl" => {
            let (store, timer) = (step.store(at)?, step.timer()?);
            let ttl_ms = step.number(step.ttl)?;
            stream.process(store, move |held| Ttl {
                held,
                timer,
                ttl_ms,
            })
        }
        "lookup" => {
            let name = intern(&step.store_field()?.name);
            let table: KvStore<Key, Text> = Key::store(name);
            stream.process(Reads(table), Lookup)
        }
        "shift_ts" => {
            let ms = step.number(step.ms)?;
            stream.process((), move |()| Stateless::ShiftTime { ms })
        }
        "fan" => stream.process((), |()| Stateless::Fan),
        "stream_time" => stream.process((), |()| Stateless::StreamTime),
        "add_header" => stream.process((), |()| Stateless::AddHeader),
        "strip_headers" => stream.process((), |()| Stateless::StripHeaders),
        _ => return step.unknown(),
    };
    at.add_stream(&step.id, out);
    Ok(())
}

fn process_values(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ProcessStep = fields.read()?;
    let stream: Stream = at.stream(&step.from)?;
    let out = match step.processor.as_str() {
        "running_count" => {
            let store = step.store(at)?;
            stream.process_values(store, StoredValues)
        }
        "append_ts" => stream.process_values((), |()| StatelessValues::AppendTime),
        "dup" => stream.process_values((), |()| StatelessValues::Twice),
        "none_if_null" => stream.process_values((), |()| StatelessValues::NoneIfNull),
        _ => return step.unknown(),
    };
    at.add_stream(&step.id, out);
    Ok(())
}

/// A processor's own store.
type Own = KvHandle<Text, Text>;
