//! The steps of scenarios, one module for each group.

pub mod aggregate;
pub mod cogroup;
pub mod join_foreign;
pub mod join_global;
pub mod join_streams;
pub mod join_tables;
pub mod processors;
pub mod sources;
pub mod stateless;
pub mod suppress;
pub mod table_aggregate;
pub mod tables;
pub mod windows;

use crate::interpreter::{Applied, Fields, Interpreter};

/// Applies a step: reads its fields, calls the DSL, and makes its result known.
pub type Apply = fn(&mut Interpreter, Fields) -> Applied;

/// The steps of a group, by the name of their `op`.
pub type Group = &'static [(&'static str, Apply)];

const GROUPS: &[Group] = &[
    sources::STEPS,
    stateless::STEPS,
    processors::STEPS,
    tables::STEPS,
    aggregate::STEPS,
    cogroup::STEPS,
    suppress::STEPS,
    table_aggregate::STEPS,
    join_streams::STEPS,
    join_tables::STEPS,
    join_global::STEPS,
    join_foreign::STEPS,
];

/// The step of that `op`.
pub(crate) fn step(op: &str) -> Option<Apply> {
    let mut steps = GROUPS.iter().copied().flatten();
    steps.find(|(name, _)| *name == op).map(|(_, apply)| *apply)
}
