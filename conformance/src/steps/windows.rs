//! Windowed aggregations: one function for each kind of window.

use serde::Deserialize;

use super::{aggregate::AggregateStep, missing};
use crate::interpreter::{Applied, Interpreter, Stream, Table};

/// The `window` of a step; times in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the format")]
pub enum WindowField {
    /// Windows that follow each other.
    Tumbling { size: i64, grace: i64 },
    /// Windows that overlap.
    Hopping { size: i64, advance: i64, grace: i64 },
    /// Windows around each record.
    Sliding { diff: i64, grace: i64 },
    /// Windows that end when a key falls silent.
    Session { gap: i64, grace: i64 },
    /// One window without an end.
    Unlimited { start: i64 },
}

impl WindowField {
    /// The aggregation of a stream in such windows. Keys and values of `stream` may be null.
    ///
    /// # Errors
    /// Why it could not be built.
    pub fn aggregate(
        &self,
        at: &mut Interpreter,
        step: &AggregateStep,
        stream: Stream,
    ) -> Applied<Table> {
        let _ = (at, step, stream);
        match self {
            Self::Tumbling { .. } => missing("tumbling windows"),
            Self::Hopping { .. } => missing("hopping windows"),
            Self::Sliding { .. } => missing("sliding windows"),
            Self::Session { .. } => missing("session windows"),
            Self::Unlimited { .. } => missing("unlimited windows"),
        }
    }
}
