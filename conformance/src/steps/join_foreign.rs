//! `fk_join`: two tables joined by a foreign key.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[("fk_join", |_, _| missing("fk_join"))];
