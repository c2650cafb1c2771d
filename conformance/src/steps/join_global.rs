//! `global_table` and `stream_global_join`.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[
    ("global_table", |_, _| missing("global_table")),
    ("stream_global_join", |_, _| missing("stream_global_join")),
];
