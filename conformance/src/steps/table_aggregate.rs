//! `table_aggregate`: the rows of a table grouped anew and folded.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[("table_aggregate", |_, _| missing("table_aggregate"))];
