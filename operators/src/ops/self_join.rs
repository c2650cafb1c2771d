//! Self-join: a stream's records with those of the same stream, over one buffer.

use millstream_topology::{NodeId, NodeKind, Record, WindowStore};

use crate::{
    Cx, JoinWindow, KStream, MaybeNull,
    edge::edge,
    join::Joiner,
    ops::stream_join::{buffer, check, meet},
};

/// A record is first the left one of those that came before, then the right one, then meets itself:
/// the results of a join of two buffers, in its order. A record without key or value is dropped and
/// counted.
pub(crate) fn self_join<NK, NV, K, V, VO>(
    stream: KStream<NK, NV>,
    window: JoinWindow,
    store: WindowStore<K, V>,
    joiner: Joiner<K, V, V, VO>,
) -> KStream<K, VO>
where
    NK: MaybeNull<K>,
    NV: MaybeNull<V>,
    K: Clone + 'static,
    V: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = stream.draft.clone();
    let node = NodeId(draft.lock().plan.nodes().len());
    let reach = (window.before_ms, window.after_ms);
    let out = stream.unary(NodeKind::StreamJoin, move |build, next| {
        let index = build.store(build.stores_of(node)[0]);
        let joiner = joiner.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<NK, NV>| {
            let (key, value) = (record.key.present(), record.value.present());
            let ((Some(key), Some(value)), at) = ((key, value), record.timestamp) else {
                cx.counters.dropped += 1;
                return Ok(());
            };
            let headers = record.headers;
            let send = |cx: &mut Cx<'_>, left: &V, right: &V, other_at: i64| {
                let record = Record {
                    key: key.clone(),
                    value: joiner(&key, left, right),
                    timestamp: at.max(other_at),
                    headers: headers.clone(),
                };
                next.push(cx, record)
            };
            for (other, other_at) in meet(cx, index, &store, &key, at, reach)? {
                send(cx, &value, &other, other_at)?;
            }
            cx.state
                .window(index, &store)
                .add(&key, at, value.clone())?;
            let (before, after) = reach;
            for (other, other_at) in meet(cx, index, &store, &key, at, (after, before))? {
                send(cx, &other, &value, other_at)?;
            }
            Ok(())
        })
    });
    assert_eq!(out.id, node, "one node was added");
    let mut draft = draft.lock();
    check(&mut draft, node, window);
    draft.own_store(node, buffer(store, window));
    drop(draft);
    out
}
