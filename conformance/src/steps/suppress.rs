//! `suppress`: changes of a table held back.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[("suppress", |_, _| missing("suppress"))];
