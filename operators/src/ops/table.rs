//! `table` and `to_table`: the newest value of each key, kept in a store.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use millstream_topology::{
    BoxError, Change, KvStore, NodeId, NodeKind, Record, Result, Serde, StoreId, Topic, TopicRole,
};

use crate::{
    Cx, KStream, KTable, RawRecord, RawSource, Refill, TableStore,
    build::TaskBuild,
    builder::{Draft, SharedDraft},
    edge::{Edge, Port, edge},
    graph::only_entry,
    ops::{held::Passing, source::bad},
    table::Wishes,
    table_store::{history_of, store_getter},
};

/// How the records of a table's topic are read.
pub struct RowFormat<K: 'static, V: 'static> {
    name: &'static str,
    /// `None` is a null key, where the topic may have them.
    key: KeyOfRow<K>,
    value: Serde<V>,
}

type KeyOfRow<K> = Arc<dyn Fn(Option<&[u8]>) -> Result<Option<K>, BoxError> + Send + Sync>;

impl<K, V> RowFormat<K, V> {
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
        let key = (self.key)(record.key.as_deref()).map_err(bad("key"))?;
        let value = record.value.as_deref();
        let value = value.map(|bytes| self.value.decode(Some(bytes)));
        Ok((key, value.transpose().map_err(bad("value"))?))
    }
}

/// Key and value of a record, `None` where they are null.
type Row<K, V> = (Option<K>, Option<V>);

/// Gets key and value, `None` where they are null, the log's timestamp and the partition's time so
/// far; returns the event time.
pub(crate) type RowTime<K, V> = Arc<dyn Fn(Option<&K>, Option<&V>, i64, i64) -> i64 + Send + Sync>;

pub(crate) fn table<K: Clone + 'static, V: Clone + 'static>(
    draft: &SharedDraft,
    format: RowFormat<K, V>,
    store: impl TableStore<K, V>,
    extract: Option<RowTime<K, V>>,
) -> KTable<K, V> {
    let source = draft
        .lock()
        .plan
        .add_source(&[format.name], TopicRole::External);
    let format = Arc::new(format);
    let rows = Rows::new(draft, source, store);
    let table = rows.table.clone();
    if let (Some(kept), Some(id)) = (store.refilled(), rows.id) {
        refill(draft, &table, id, (format.clone(), kept), extract.is_some());
    }
    draft.lock().sources.insert(
        source,
        Arc::new(move |build| {
            let keep = rows.node(build);
            let entry = build.node(source, move |cx: &mut Cx<'_>, record| {
                keep.borrow_mut().push(cx, record)
            });
            only_entry(TableSource {
                format: format.clone(),
                extract: extract.clone(),
                entry,
                decoded: None,
            })
        }),
    );
    table
}

/// Lets a store be restored from the table's topic.
fn refill<K: Clone + 'static, V: Clone + 'static>(
    draft: &SharedDraft,
    table: &KTable<K, V>,
    id: StoreId,
    (format, store): (Arc<RowFormat<K, V>>, KvStore<K, V>),
    has_extractor: bool,
) {
    let mut draft = draft.lock();
    if has_extractor {
        let what = "a table whose times are extracted cannot be restored from its topic, which \
                    holds others; keep it in the `KvStore` itself instead of `FromTopic`";
        draft.refuse(table.id, what);
    }
    let topic = format.name.into();
    let translate = move |record: &RawRecord| {
        let (key, value) = format.decode(record)?;
        let Some(key) = key else { return Ok(None) };
        let (mut k, mut v) = (Vec::new(), Vec::new());
        store.key().encode(&key, &mut k).map_err(bad("key"))?;
        let Some(value) = value else {
            return Ok(Some((k, None)));
        };
        store.value().encode(&value, &mut v).map_err(bad("value"))?;
        Ok(Some((k, Some(v))))
    };
    let translate = Arc::new(translate);
    draft.refills.insert(id, Refill { topic, translate });
}

/// Refuses a store that can only be restored from a topic for a table that is not read from one.
pub(crate) fn check_not_refilled<K: 'static, V: 'static>(
    draft: &mut Draft,
    node: NodeId,
    store: impl TableStore<K, V>,
) {
    if store.refilled().is_some() {
        let what = "`FromTopic` is for a table that is read from a topic; give this one the \
                    `KvStore` itself";
        draft.refuse(node, what);
    }
}

pub(crate) fn to_table<K, V, T>(stream: KStream<K, V>, store: impl TableStore<K, T>) -> KTable<K, T>
where
    K: Clone + 'static,
    V: Clone + Into<Option<T>> + 'static,
    T: Clone + 'static,
{
    let rows = Rows::new(&stream.draft, stream.id, store);
    let table = rows.table.clone();
    check_not_refilled(&mut stream.draft.lock(), table.id, store);
    stream.port.subscribe(Arc::new(move |build| {
        let keep = rows.node(build);
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let value = value.into();
            let record = Record {
                key,
                value,
                timestamp,
                headers,
            };
            keep.borrow_mut().push(cx, record)
        });
        Rc::new(RefCell::new(Plain(body)))
    }));
    table
}

/// A body that is no node of its own.
struct Plain<F>(F);

impl<K, V, F: FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()>> crate::edge::Push<K, V> for Plain<F> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Result<()> {
        (self.0)(cx, record)
    }
}

/// A node that keeps rows in a store and passes changes on.
struct Rows<K: 'static, V: 'static, S> {
    table: KTable<K, V>,
    store: S,
    /// `None` when nothing is kept.
    id: Option<StoreId>,
}

impl<K: Clone + 'static, V: Clone + 'static, S: TableStore<K, V>> Rows<K, V, S> {
    fn new(draft: &SharedDraft, input: NodeId, store: S) -> Self {
        let mut plan = draft.lock();
        let node = plan.plan.add_node(NodeKind::Table, &[input]);
        let id = store.definition().map(|kept| plan.own_store(node, kept));
        drop(plan);
        // Of a table that is not kept nothing is looked up.
        let place = id.unwrap_or(StoreId(usize::MAX));
        let table = KTable {
            draft: draft.clone(),
            id: node,
            port: Port::new(),
            getter: store_getter(place, store),
            history: history_of(store, place),
            stores: id.into_iter().collect(),
            wishes: match id {
                Some(_) => Arc::default(),
                None => Wishes::unkept(),
            },
        };
        Self { table, store, id }
    }

    /// Every update is applied and passed on, also one that is older than the value it replaces
    /// (Kafka Streams' `KTableSource`); only a versioned store knows better. The timestamp of a
    /// change is that of its record.
    fn node(&self, build: &mut TaskBuild<'_>) -> Edge<K, Option<V>> {
        let next = self.table.port.connect(build);
        let store = self.store;
        let index = self.id.map_or(usize::MAX, |id| build.store(id));
        let passing = Passing::new(build, &self.table.wishes, || store.encode_key(), next);
        let with_old = passing.wants_old();
        let keep = edge(move |cx: &mut Cx<'_>, record: Record<K, Option<V>>| {
            let Record {
                key,
                value: new,
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
        });
        build.node(self.table.id, keep)
    }
}

struct TableSource<K: 'static, V: 'static> {
    format: Arc<RowFormat<K, V>>,
    extract: Option<RowTime<K, V>>,
    entry: Edge<K, Option<V>>,
    /// What `event_time` has decoded already, for the `push` that follows it.
    decoded: Option<Row<K, V>>,
}

impl<K: Clone + 'static, V: Clone + 'static> RawSource for TableSource<K, V> {
    fn event_time(&mut self, record: &RawRecord, partition_time: i64) -> Result<i64> {
        let Some(extract) = &self.extract else {
            return Ok(record.timestamp);
        };
        let (key, value) = self.format.decode(record)?;
        let time = extract(
            key.as_ref(),
            value.as_ref(),
            record.timestamp,
            partition_time,
        );
        self.decoded = Some((key, value));
        Ok(time)
    }

    fn push(&mut self, cx: &mut Cx<'_>, record: RawRecord, event_time: i64) -> Result<()> {
        let (key, value) = match self.decoded.take() {
            Some(decoded) => decoded,
            None => self.format.decode(&record)?,
        };
        let Some(key) = key else {
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
