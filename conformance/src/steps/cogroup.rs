//! `cogroup`: several streams folded into one table.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[("cogroup", |_, _| missing("cogroup"))];
