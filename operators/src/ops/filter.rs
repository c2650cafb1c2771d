//! `filter`: keep the records that a predicate accepts.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record};

use crate::{Cx, KStream, edge::edge};

pub(crate) type Predicate<K, V> = Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// Key, timestamp and headers of the records that stay are untouched.
pub(crate) fn filter<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    keep: Predicate<K, V>,
) -> KStream<K, V> {
    stream.unary(NodeKind::Filter, move |_, next| {
        let keep = keep.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            if keep(&record.key, &record.value) {
                next.push(cx, record)
            } else {
                Ok(())
            }
        })
    })
}
