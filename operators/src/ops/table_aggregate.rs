//! `aggregate`, `reduce`, `count` of a grouped table: take the old row out, put the new one in.

use std::sync::Arc;

use millstream_state::KvDefinition;
use millstream_topology::{Change, KvStore, NodeId, NodeKind, Record, StoreId};

use crate::{
    Cx, KStream, KTable,
    edge::edge,
    ops::held::{Passing, plain_key},
    table::Wishes,
    table_store::store_getter,
};

type Add<K, V, A> = Arc<dyn Fn(&K, V, Option<A>) -> Option<A> + Send + Sync>;
type Subtract<K, V, A> = Arc<dyn Fn(&K, V, A) -> Option<A> + Send + Sync>;

/// How a fold follows the rows of its group.
pub(crate) struct Steps<K, V, A> {
    pub(crate) add: Add<K, V, A>,
    pub(crate) subtract: Subtract<K, V, A>,
}

impl<K, V, A> Clone for Steps<K, V, A> {
    fn clone(&self) -> Self {
        Self {
            add: self.add.clone(),
            subtract: self.subtract.clone(),
        }
    }
}

impl<K, V, A: Clone> Steps<K, V, A> {
    /// The fold after a change. Subtracting comes first (Kafka Streams' `KTableAggregate`).
    fn apply(&self, key: &K, Change { new, old, .. }: Change<V>, fold: Option<A>) -> Option<A> {
        let without = match (old, fold) {
            (Some(old), Some(fold)) => (self.subtract)(key, old, fold),
            (_, fold) => fold,
        };
        match new {
            Some(new) => (self.add)(key, new, without),
            None => without,
        }
    }
}

/// The timestamp of a result is the greatest of its records. A fold that is deleted, or was not
/// there, is passed on as a deletion.
pub(crate) fn table_aggregate<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static>(
    changes: KStream<K, Change<V>>,
    store: KvStore<K, A>,
    steps: Steps<K, V, A>,
) -> KTable<K, A> {
    let draft = changes.draft.clone();
    let wishes: Arc<Wishes> = Arc::default();
    let asked = wishes.clone();
    let node = NodeId(draft.lock().plan.nodes().len());
    let out: KStream<K, Change<A>> = changes.unary(NodeKind::TableAggregate, move |build, next| {
        let index = build.store(build.stores_of(node)[0]);
        let passing = Passing::new(build, &asked, || plain_key(store.key()), next);
        let (steps, with_old) = (steps.clone(), passing.wants_old());
        edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let (value, timestamp) = cx.state.kv(index, &store).update(&key, |slot| {
                let (fold, newest) = match slot.clone() {
                    Some((fold, at)) => (Some(fold), timestamp.max(at)),
                    None => (None, timestamp),
                };
                let old = with_old.then(|| fold.clone()).flatten();
                let new = steps.apply(&key, value, fold);
                *slot = new.clone().map(|new| (new, newest));
                Ok((Change::new(new, old), newest))
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
    KTable {
        draft,
        id: node,
        port: out.port,
        getter: store_getter(id, store),
        history: None,
        stores: vec![id],
        wishes,
    }
}
