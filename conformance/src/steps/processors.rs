//! `process`, `process_values`, `process_route`: the Processor API.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[
    ("process", |_, _| missing("process")),
    ("process_values", |_, _| missing("process_values")),
    ("process_route", |_, _| missing("process_route")),
];
