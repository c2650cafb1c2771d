//! `flatten` of a table: `None` as a deletion.

use std::sync::Arc;

use millstream_topology::NodeKind;

use crate::{
    KTable,
    ops::derive::{PassOn, derive},
};

/// A row whose value is `None` is absent here.
pub(crate) fn table_flatten<K: Clone + 'static, V: Clone + 'static>(
    table: &KTable<K, Option<V>>,
) -> KTable<K, V> {
    let flat = |_: &K, value: Option<Option<V>>| value.flatten();
    derive(table, NodeKind::TableFlatten, PassOn::Every, Arc::new(flat))
}
