//! `table`: the newest value of each key of a topic, kept in a store.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use millstream_state::KvDefinition;
use millstream_topology::{Change, KvStore, NodeKind, Record, Result, StoreId, Topic, TopicRole};

use crate::{
    Cx, KTable, RawRecord, RawSource,
    build::TaskBuild,
    builder::SharedDraft,
    edge::{Edge, Port, edge},
    ops::source::bad,
    table::{Getter, GetterFactory, Wishes},
};

/// Every update is applied and passed on, also one that is older than the value it replaces
/// (Kafka Streams' `KTableSource`). The timestamp of a change is that of its record.
pub(crate) fn table<K: Clone + 'static, V: Clone + 'static>(
    draft: &SharedDraft,
    topic: Topic<K, V>,
    store: KvStore<K, V>,
) -> KTable<K, V> {
    let (source, node, store_id) = {
        let mut draft = draft.lock();
        let source = draft.plan.add_source(&[topic.name()], TopicRole::External);
        let node = draft.plan.add_node(NodeKind::Table, &[source]);
        (
            source,
            node,
            draft.own_store(node, Arc::new(KvDefinition(store))),
        )
    };
    let port: Port<K, Change<V>> = Port::new();
    let wishes: Arc<Wishes> = Arc::default();
    let (shared, asked) = (port.clone(), wishes.clone());
    draft.lock().sources.insert(
        source,
        Arc::new(move |build| {
            let next = shared.connect(build);
            let index = build.store(store_id);
            let with_old = asked.old_values();
            let keep = edge(move |cx: &mut Cx<'_>, record: Record<K, Option<V>>| {
                let Record {
                    key,
                    value: new,
                    timestamp,
                    headers,
                } = record;
                let stored = new.clone().map(|value| (value, timestamp));
                let old = cx.state.kv(index, &store).update(&key, |slot| {
                    Ok(std::mem::replace(slot, stored).map(|(value, _)| value))
                })?;
                let old = old.filter(|_| with_old);
                next.push(
                    cx,
                    Record {
                        key,
                        value: Change { new, old },
                        timestamp,
                        headers,
                    },
                )
            });
            let keep: Edge<K, Option<V>> = build.node(node, keep);
            let entry = build.node(source, move |cx: &mut Cx<'_>, record| {
                keep.borrow_mut().push(cx, record)
            });
            Rc::new(RefCell::new(TableSource { topic, entry }))
        }),
    );
    KTable {
        draft: draft.clone(),
        id: node,
        port,
        getter: store_getter(store_id, store),
        stores: vec![store_id],
        wishes,
    }
}

/// Looks a table's values up in its store.
pub(crate) fn store_getter<K: 'static, V: Clone + 'static>(
    id: StoreId,
    store: KvStore<K, V>,
) -> GetterFactory<K, V> {
    Arc::new(move |build: &TaskBuild<'_>| {
        let index = build.store(id);
        let getter: Getter<K, V> = Rc::new(move |cx: &mut Cx<'_>, key: &K| {
            cx.state.kv(index, &store).get_with_timestamp(key)
        });
        getter
    })
}

struct TableSource<K: 'static, V: 'static> {
    topic: Topic<K, V>,
    entry: Edge<K, Option<V>>,
}

impl<K: Clone + 'static, V: Clone + 'static> RawSource for TableSource<K, V> {
    fn event_time(&mut self, record: &RawRecord, _partition_time: i64) -> Result<i64> {
        Ok(record.timestamp)
    }

    fn push(&mut self, cx: &mut Cx<'_>, record: RawRecord, event_time: i64) -> Result<()> {
        let key = self
            .topic
            .key()
            .decode(record.key.as_deref())
            .map_err(bad("key"))?;
        let value = match &record.value {
            Some(bytes) => Some(
                self.topic
                    .value()
                    .decode(Some(bytes))
                    .map_err(bad("value"))?,
            ),
            None => None,
        };
        let record = Record {
            key,
            value,
            timestamp: event_time,
            headers: record.headers,
        };
        self.entry.borrow_mut().push(cx, record)
    }
}
