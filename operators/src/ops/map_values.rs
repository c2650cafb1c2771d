//! `map_values`: another value for the same key.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record, Result};

use crate::{Cx, KStream, edge::edge};

pub(crate) type MapValues<K, V, V2> = Arc<dyn Fn(&K, V) -> Result<V2> + Send + Sync>;

/// Key, timestamp and headers stay.
pub(crate) fn map_values<K: Clone + 'static, V: Clone + 'static, V2: Clone + 'static>(
    stream: KStream<K, V>,
    map: MapValues<K, V, V2>,
) -> KStream<K, V2> {
    stream.unary(NodeKind::MapValues, move |_, next| {
        let map = map.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let value = map(&key, value)?;
            next.push(
                cx,
                Record {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            )
        })
    })
}
