//! `peek` and `for_each`: look at each record.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record};

use crate::{Cx, KStream, builder::add_node, edge::edge};

pub(crate) fn peek<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    look: Arc<dyn Fn(&K, &V) + Send + Sync>,
) -> KStream<K, V> {
    stream.unary(NodeKind::Peek, move |_, next| {
        let look = look.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            look(&record.key, &record.value);
            next.push(cx, record)
        })
    })
}

pub(crate) fn for_each<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    act: Arc<dyn Fn(K, V) + Send + Sync>,
) {
    let id = add_node(&stream.draft, NodeKind::ForEach, &[stream.id]);
    stream.terminal(id, move |_| {
        let act = act.clone();
        edge(move |_: &mut Cx<'_>, record: Record<K, V>| {
            act(record.key, record.value);
            Ok(())
        })
    });
}
