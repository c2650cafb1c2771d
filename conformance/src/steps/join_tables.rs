//! `stream_table_join` and `table_table_join`.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[
    ("stream_table_join", |_, _| missing("stream_table_join")),
    ("table_table_join", |_, _| missing("table_table_join")),
];
