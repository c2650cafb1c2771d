//! `merge`: the records of two streams, in no order between the two.

use std::sync::Arc;

use millstream_topology::NodeKind;

use crate::{
    KStream,
    builder::add_node,
    edge::{Factory, edge},
};

/// A stream merged with itself gives each record once.
pub(crate) fn merge<K: Clone + 'static, V: Clone + 'static>(
    left: KStream<K, V>,
    right: KStream<K, V>,
) -> KStream<K, V> {
    if !left.draft.meets(&right.draft, left.id) {
        return left;
    }
    let id = add_node(&left.draft, NodeKind::Merge, &[left.id, right.id]);
    let out = KStream::new(&left.draft, id, left.rekeyed || right.rekeyed);
    let port = out.port.clone();
    let factory: Factory<K, V> = Arc::new(move |build| {
        build.once(id, |build| {
            let next = port.connect(build);
            build.node(id, edge(move |cx, record| next.push(cx, record)))
        })
    });
    if left.id != right.id {
        right.port.subscribe(factory.clone());
    }
    left.port.subscribe(factory);
    out
}
