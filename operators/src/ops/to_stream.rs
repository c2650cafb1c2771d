//! `to_stream`: the changes of a table as records.

use std::sync::Arc;

use millstream_topology::{Change, NodeKind, Record};

use crate::{Cx, KStream, KTable, builder::add_node, edge::edge};

/// The value is the new one; `None` says that the key was deleted.
pub(crate) fn to_stream<K: Clone + 'static, V: Clone + 'static>(
    table: &KTable<K, V>,
) -> KStream<K, Option<V>> {
    let id = add_node(&table.draft, NodeKind::ToStream, &[table.id]);
    let out = KStream::new(&table.draft, id, false);
    let port = out.port.clone();
    table.port.subscribe(Arc::new(move |build| {
        let next = port.connect(build);
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            next.push(
                cx,
                Record {
                    key,
                    value: value.new,
                    timestamp,
                    headers,
                },
            )
        });
        build.node(id, body)
    }));
    out
}
