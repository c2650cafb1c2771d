//! `flat_map`: none, one or several records of each.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record, Result};

use crate::{Cx, KStream, edge::edge};

pub(crate) type FlatMap<K, V, I> = Arc<dyn Fn(K, V) -> Result<I> + Send + Sync>;

/// Each result has the timestamp and the headers of the record that it was made of.
pub(crate) fn flat_map<K, V, K2, V2, I>(
    stream: KStream<K, V>,
    map: FlatMap<K, V, I>,
) -> KStream<K2, V2>
where
    K: Clone + 'static,
    V: Clone + 'static,
    K2: Clone + 'static,
    V2: Clone + 'static,
    I: IntoIterator<Item = (K2, V2)> + 'static,
{
    stream.unary(NodeKind::FlatMap, move |_, next| {
        let map = map.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            for (key, value) in map(key, value)? {
                let headers = headers.clone();
                next.push(
                    cx,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                )?;
            }
            Ok(())
        })
    })
}

pub(crate) type FlatMapValues<K, V, I> = Arc<dyn Fn(&K, V) -> I + Send + Sync>;

/// As [`flat_map`]; the key stays.
pub(crate) fn flat_map_values<K, V, V2, I>(
    stream: KStream<K, V>,
    map: FlatMapValues<K, V, I>,
) -> KStream<K, V2>
where
    K: Clone + 'static,
    V: Clone + 'static,
    V2: Clone + 'static,
    I: IntoIterator<Item = V2> + 'static,
{
    stream.unary(NodeKind::FlatMap, move |_, next| {
        let map = map.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            for value in map(&key, value) {
                let (key, headers) = (key.clone(), headers.clone());
                next.push(
                    cx,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                )?;
            }
            Ok(())
        })
    })
}
