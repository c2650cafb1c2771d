//! `table`: the newest value of each key of a topic, kept in a store.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use millstream_state::KvDefinition;
use millstream_topology::{
    BoxError, Change, KvStore, NodeKind, Record, Result, Serde, StoreId, Topic, TopicRole,
};

use crate::{
    Cx, KTable, RawRecord, RawSource,
    build::TaskBuild,
    builder::SharedDraft,
    edge::{Edge, Port, edge},
    ops::source::bad,
    table::{Getter, GetterFactory, Wishes},
};

/// How the records of a table's topic are read.
pub struct Rows<K: 'static, V: 'static> {
    name: &'static str,
    /// `None` is a null key, where the topic may have them.
    key: KeyOfRow<K>,
    value: Serde<V>,
}

type KeyOfRow<K> = Arc<dyn Fn(Option<&[u8]>) -> Result<Option<K>, BoxError> + Send + Sync>;

impl<K, V> Rows<K, V> {
    pub(crate) fn plain(topic: Topic<K, V>) -> Self {
        let key = topic.key();
        let key: KeyOfRow<K> = Arc::new(move |bytes| key.decode(bytes).map(Some));
        Self {
            name: topic.name(),
            key,
            value: topic.value(),
        }
    }

    pub(crate) fn nullable(topic: Topic<Option<K>, V>) -> Self {
        let key = topic.key();
        let key: KeyOfRow<K> = Arc::new(move |bytes| key.decode(bytes));
        Self {
            name: topic.name(),
            key,
            value: topic.value(),
        }
    }

    fn decode(&self, record: &RawRecord) -> Result<Row<K, V>> {
        let Some(key) = (self.key)(record.key.as_deref()).map_err(bad("key"))? else {
            return Ok(None);
        };
        let value = match &record.value {
            Some(bytes) => Some(self.value.decode(Some(bytes)).map_err(bad("value"))?),
            None => None,
        };
        Ok(Some((key, value)))
    }
}

/// Key and value of a record; `None` if its key is null.
type Row<K, V> = Option<(K, Option<V>)>;

/// Gets key, value, the log's timestamp and the partition's time so far; returns the event time.
pub(crate) type RowTime<K, V> = Arc<dyn Fn(&K, Option<&V>, i64, i64) -> i64 + Send + Sync>;

/// Every update is applied and passed on, also one that is older than the value it replaces
/// (Kafka Streams' `KTableSource`). The timestamp of a change is that of its record.
pub(crate) fn table<K: Clone + 'static, V: Clone + 'static>(
    draft: &SharedDraft,
    rows: Rows<K, V>,
    store: KvStore<K, V>,
    time: Option<RowTime<K, V>>,
) -> KTable<K, V> {
    let (source, node, store_id) = {
        let mut draft = draft.lock();
        let source = draft.plan.add_source(&[rows.name], TopicRole::External);
        let node = draft.plan.add_node(NodeKind::Table, &[source]);
        (
            source,
            node,
            draft.own_store(node, Arc::new(KvDefinition(store))),
        )
    };
    let rows = Arc::new(rows);
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
            let (rows, time) = (rows.clone(), time.clone());
            Rc::new(move |_| {
                let (rows, time, entry) = (rows.clone(), time.clone(), entry.clone());
                Rc::new(RefCell::new(TableSource {
                    rows,
                    time,
                    entry,
                    decoded: None,
                })) as _
            })
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
    rows: Arc<Rows<K, V>>,
    time: Option<RowTime<K, V>>,
    entry: Edge<K, Option<V>>,
    /// What `event_time` has decoded already, for the `push` that follows it.
    decoded: Option<Row<K, V>>,
}

impl<K: Clone + 'static, V: Clone + 'static> RawSource for TableSource<K, V> {
    fn event_time(&mut self, record: &RawRecord, partition_time: i64) -> Result<i64> {
        let Some(time) = &self.time else {
            return Ok(record.timestamp);
        };
        let row = self.rows.decode(record)?;
        let at = match &row {
            Some((key, value)) => time(key, value.as_ref(), record.timestamp, partition_time),
            None => record.timestamp,
        };
        self.decoded = Some(row);
        Ok(at)
    }

    fn push(&mut self, cx: &mut Cx<'_>, record: RawRecord, event_time: i64) -> Result<()> {
        let row = match self.decoded.take() {
            Some(decoded) => decoded,
            None => self.rows.decode(&record)?,
        };
        let Some((key, value)) = row else {
            cx.counters.dropped += 1;
            return Ok(());
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
