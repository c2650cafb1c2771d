//! `map` and the re-keying half of `rekey`: a new key, and perhaps a new value.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record, Result};

use crate::{Cx, KStream, edge::edge};

pub(crate) type Map<K, V, K2, V2> = Arc<dyn Fn(K, V) -> Result<(K2, V2)> + Send + Sync>;

/// Timestamp and headers stay.
pub(crate) fn map<K, V, K2, V2>(stream: KStream<K, V>, map: Map<K, V, K2, V2>) -> KStream<K2, V2>
where
    K: Clone + 'static,
    V: Clone + 'static,
    K2: Clone + 'static,
    V2: Clone + 'static,
{
    stream.unary(NodeKind::Map, move |_, next| {
        let map = map.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let (key, value) = map(key, value)?;
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

pub(crate) type KeyOf<K, V, K2> = Arc<dyn Fn(&K, &V) -> K2 + Send + Sync>;

/// Value, timestamp and headers stay.
pub(crate) fn rekey<K: Clone + 'static, V: Clone + 'static, K2: Clone + 'static>(
    stream: KStream<K, V>,
    key_of: KeyOf<K, V, K2>,
) -> KStream<K2, V> {
    stream.unary(NodeKind::Rekey, move |_, next| {
        let key_of = key_of.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let key = key_of(&record.key, &record.value);
            next.push(cx, record.with_key(key))
        })
    })
}
