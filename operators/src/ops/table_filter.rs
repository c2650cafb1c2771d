//! `filter` of a table: the rows that a predicate accepts.

use std::sync::Arc;

use millstream_topology::NodeKind;

use crate::{
    KTable,
    ops::{
        derive::{PassOn, derive},
        filter::Predicate,
    },
};

/// A row that is not accepted is deleted here; one that neither was here nor is, is not spoken of.
/// Behind a versioned table every change is passed on, because a late one may concern a time at
/// which the row was accepted.
pub(crate) fn table_filter<K: Clone + 'static, V: Clone + 'static>(
    table: &KTable<K, V>,
    keep: Predicate<K, V>,
) -> KTable<K, V> {
    let kept = move |key: &K, value: Option<V>| value.filter(|value| keep(key, value));
    let pass_on = match table.history {
        Some(_) => PassOn::Every,
        None => PassOn::Seen,
    };
    derive(table, NodeKind::TableFilter, pass_on, Arc::new(kept))
}
