//! `filter` of a table: the rows that a predicate accepts.

use millstream_topology::NodeKind;

use crate::{
    KTable,
    ops::{
        derive::{PassOn, derive},
        filter::Predicate,
    },
};

/// A row that is not accepted is deleted here; one that neither was here nor is, is not spoken of.
pub(crate) fn table_filter<K: Clone + 'static, V: Clone + 'static>(
    table: &KTable<K, V>,
    keep: Predicate<K, V>,
) -> KTable<K, V> {
    let kept = move |key: &K, value: Option<V>| value.filter(|value| keep(key, value));
    derive(
        table,
        NodeKind::TableFilter,
        PassOn::Seen,
        std::sync::Arc::new(kept),
    )
}
