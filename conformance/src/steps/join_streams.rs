//! `stream_stream_join`: two streams joined within a window.

use super::{Group, missing};

/// The steps of this group.
pub const STEPS: Group = &[("stream_stream_join", |_, _| missing("stream_stream_join"))];
