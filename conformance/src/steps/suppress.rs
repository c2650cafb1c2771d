//! `suppress`: changes of a table held back.

use millstream_operators::{until_time_limit, until_window_closes};
use millstream_topology::{Codec, SuppressStore, text};
use serde::Deserialize;

use super::Group;
use crate::{
    interpreter::{Applied, Fields, Interpreter, Stop, Table, duration, unnamed},
    text::{KeyCodec, Text, WindowedKeyCodec},
};

/// The steps of this group.
pub const STEPS: Group = &[("suppress", suppress)];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SuppressStep {
    id: String,
    from: String,
    kind: Until,
    ms: Option<i64>,
    max_records: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Until {
    UntilWindowCloses,
    UntilTimeLimit,
}

fn suppress(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: SuppressStep = fields.read()?;
    let table = match (step.kind, at.table(&step.from)?) {
        (Until::UntilWindowCloses, Table::Plain(_)) => {
            let what = "`until_window_closes` is not for a table without windows".to_owned();
            return Err(Stop::Refused(what));
        }
        (Until::UntilWindowCloses, Table::Windowed(table)) => {
            let buffer = buffer(&step.id, WindowedKeyCodec);
            Table::Windowed(table.suppress(until_window_closes(), buffer))
        }
        (Until::UntilTimeLimit, table) => {
            let ms = step
                .ms
                .ok_or_else(|| Stop::Malformed("a limit has `ms`".to_owned()))?;
            let mut limit = until_time_limit(duration(ms)?);
            if let Some(records_max) = step.max_records {
                limit = limit.max_records(records_max);
            }
            match table {
                Table::Plain(table) => {
                    Table::Plain(table.suppress(limit, buffer(&step.id, KeyCodec)))
                }
                Table::Windowed(table) => {
                    Table::Windowed(table.suppress(limit, buffer(&step.id, WindowedKeyCodec)))
                }
            }
        }
    };
    at.add_table(&step.id, table);
    Ok(())
}

fn buffer<C: Codec>(id: &str, key: C) -> SuppressStore<C::Value, Text> {
    SuppressStore::new(unnamed(id), key, text())
}
