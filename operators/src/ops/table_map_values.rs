//! `map_values` of a table: other values for the same rows.

use std::sync::Arc;

use millstream_topology::NodeKind;

use crate::{
    KTable,
    ops::derive::{PassOn, derive},
};

/// Deletions are passed on as they are.
pub(crate) fn table_map_values<K: Clone + 'static, V: Clone + 'static, V2: Clone + 'static>(
    table: &KTable<K, V>,
    map: Arc<dyn Fn(&K, V) -> V2 + Send + Sync>,
) -> KTable<K, V2> {
    let mapped = move |key: &K, value: Option<V>| value.map(|value| map(key, value));
    let kind = NodeKind::TableMapValues;
    derive(table, kind, PassOn::Every, Arc::new(mapped))
}
