//! `materialize`: a store of its own for a table that is only computed.

use std::sync::Arc;

use millstream_topology::{Change, NodeId, NodeKind, Record, StoreId};

use crate::{
    Cx, KTable, TableStore,
    edge::{Next, edge},
    ops::{held::Passing, table::check_not_refilled},
    table::Wishes,
    table_store::{history_of, store_getter},
};

/// The value before a change is the one in the store, so the tables above need not know theirs.
pub(crate) fn materialize<K: Clone + 'static, V: Clone + 'static>(
    table: &KTable<K, V>,
    store: impl TableStore<K, V>,
) -> KTable<K, V> {
    let wishes: Arc<Wishes> = Arc::default();
    let asked = wishes.clone();
    let node = NodeId(table.draft.lock().plan.nodes().len());
    let (id, port) = table.behind(NodeKind::Materialize, move |build, next: Next<_, _>| {
        let index = build.store(build.stores_of(node)[0]);
        let passing = Passing::new(build, &asked, || store.encode_key(), next);
        let with_old = passing.wants_old();
        edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            let Record {
                key,
                value: Change { new, .. },
                timestamp,
                headers,
            } = record;
            let Some(kept) = store.keep(cx, index, &key, new.clone(), timestamp)? else {
                cx.counters.dropped += 1;
                return Ok(());
            };
            let value = Change {
                new,
                old: kept.old.filter(|_| with_old),
                latest: kept.latest,
            };
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
    assert_eq!(id, node, "one node was added");
    let store_id = {
        let mut draft = table.draft.lock();
        check_not_refilled(&mut draft, node, store);
        match store.definition() {
            Some(definition) => draft.own_store(node, definition),
            None => {
                let what = "`materialize` keeps a table in a store; give it a `KvStore` or a \
                            `VersionedStore`";
                draft.refuse(node, what);
                StoreId(0)
            }
        }
    };
    KTable {
        draft: table.draft.clone(),
        id,
        port,
        getter: store_getter(store_id, store),
        history: history_of(store, store_id),
        stores: vec![store_id],
        wishes,
    }
}
