//! `aggregate`, `reduce`, `count`: fold the values of each key.

use std::sync::Arc;

use millstream_state::KvDefinition;
use millstream_topology::{Change, KvStore, NodeId, NodeKind, Record, Result, StoreId};

use crate::{
    Cx, KStream, KTable,
    edge::edge,
    ops::held::{Passing, plain_key},
    table::Wishes,
    table_store::store_getter,
};

/// Gets key, value and the fold so far, `None` before the first record of the key; returns the fold
/// from now on, `None` to delete it.
pub(crate) type Step<K, V, A> = Arc<dyn Fn(&K, V, Option<A>) -> Result<Option<A>> + Send + Sync>;

/// The timestamp of a result is the greatest of its records.
pub(crate) fn aggregate<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static>(
    stream: KStream<K, V>,
    store: KvStore<K, A>,
    step: Step<K, V, A>,
) -> KTable<K, A> {
    let draft = stream.draft.clone();
    let wishes: Arc<Wishes> = Arc::default();
    let asked = wishes.clone();
    let node = NodeId(draft.lock().plan.nodes().len());
    let out: KStream<K, Change<A>> = stream.unary(NodeKind::Aggregate, move |build, next| {
        let index = build.store(build.stores_of(node)[0]);
        let passing = Passing::new(build, &asked, || plain_key(store.key()), next);
        let (step, with_old, quiet) = (step.clone(), passing.wants_old(), passing.is_quiet());
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let (value, timestamp) = cx.state.kv(index, &store).update(&key, |slot| {
                let (old, newest) = match slot.clone() {
                    Some((old, at)) => (Some(old), timestamp.max(at)),
                    None => (None, timestamp),
                };
                let before = with_old.then(|| old.clone()).flatten();
                let new = step(&key, value, old)?;
                let passed_on = if quiet { None } else { new.clone() };
                *slot = new.map(|new| (new, newest));
                Ok((Change::new(passed_on, before), newest))
            })?;
            passing.pass(
                cx,
                Record {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            )
        })
    });
    assert_eq!(out.id, node, "one node was added");
    let id: StoreId = draft.lock().own_store(node, Arc::new(KvDefinition(store)));
    let getter = store_getter(id, store);
    KTable {
        draft,
        id: node,
        port: out.port,
        getter,
        history: None,
        stores: vec![id],
        wishes,
    }
}
