//! The operators, one file each.

pub(crate) mod source;
pub(crate) mod sink;
pub(crate) mod repartition;
pub(crate) mod filter;
pub(crate) mod drop_nulls;
pub(crate) mod map;
pub(crate) mod map_values;
pub(crate) mod flat_map;
pub(crate) mod peek;
pub(crate) mod merge;
pub(crate) mod split;
pub(crate) mod process;
pub(crate) mod table;
pub(crate) mod to_stream;
pub(crate) mod aggregate;
pub(crate) mod fold;
pub(crate) mod closing;
pub(crate) mod window_aggregate;
pub(crate) mod sliding_aggregate;
pub(crate) mod session_aggregate;
pub(crate) mod cogroup;
pub(crate) mod suppress;
pub(crate) mod table_join;
pub(crate) mod stream_join;
