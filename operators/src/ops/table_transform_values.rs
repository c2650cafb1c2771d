//! `transform_values` of a table: other values, also for deletions.

use millstream_topology::NodeKind;

use crate::{
    KTable,
    ops::derive::{Derive, PassOn, derive},
};

/// The function sees deletions, and may put a value in their place.
pub(crate) fn table_transform_values<
    K: Clone + 'static,
    V: Clone + 'static,
    V2: Clone + 'static,
>(
    table: &KTable<K, V>,
    transform: Derive<K, V, V2>,
) -> KTable<K, V2> {
    let kind = NodeKind::TableTransformValues;
    derive(table, kind, PassOn::Every, transform)
}
