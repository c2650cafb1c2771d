//! `drop_null_keys` and `drop_null_values`: keep what is not null, and count the rest.

use millstream_topology::{NodeKind, Record};

use crate::{Cx, KStream, edge::edge};

/// A record without a key is dropped and counted; the others are untouched.
pub(crate) fn drop_null_keys<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<Option<K>, V>,
) -> KStream<K, V> {
    stream.unary(NodeKind::DropNulls, move |_, next| {
        edge(move |cx: &mut Cx<'_>, record: Record<Option<K>, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let Some(key) = key else {
                cx.counters.dropped += 1;
                return Ok(());
            };
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

/// A record without a value is dropped and counted; the others are untouched.
pub(crate) fn drop_null_values<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, Option<V>>,
) -> KStream<K, V> {
    stream.unary(NodeKind::DropNulls, move |_, next| {
        edge(move |cx: &mut Cx<'_>, record: Record<K, Option<V>>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let Some(value) = value else {
                cx.counters.dropped += 1;
                return Ok(());
            };
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
