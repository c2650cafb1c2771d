//! `StreamsBuilder`: where a topology starts, and the draft that its handles write into.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use millstream_state::StoreDefinition;
use millstream_topology::{
    Error, NodeId, NodeKind, Plan, Result, StoreId, Topic, TopicRole,
};

use crate::{KStream, KTable, TableStore, Topology, graph::SourceFactory, ops};

/// What the handles of one topology write into.
#[derive(Default)]
pub struct Draft {
    pub(crate) plan: Plan,
    pub(crate) sources: BTreeMap<NodeId, SourceFactory>,
    definitions: Vec<Arc<dyn StoreDefinition>>,
    /// The first thing that is wrong; `build` returns it, so that the methods in between need not.
    error: Option<Error>,
}

impl Draft {
    /// Gives an operator a store of its own.
    pub(crate) fn own_store(
        &mut self,
        node: NodeId,
        definition: Arc<dyn StoreDefinition>,
    ) -> StoreId {
        match self.plan.add_store(definition.spec()) {
            Ok(store) => {
                self.definitions.push(definition);
                self.plan.connect(node, store);
                store
            }
            Err(error) => {
                self.fail(error);
                StoreId(0)
            }
        }
    }

    /// Connects a processor to a store that others may use too.
    pub(crate) fn share_store(&mut self, node: NodeId, definition: Arc<dyn StoreDefinition>) {
        match self.plan.store(&definition.spec().name) {
            Some(store) => self.plan.connect(node, store),
            None => {
                self.own_store(node, definition);
            }
        }
    }

    pub(crate) fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    pub(crate) fn check(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.fail(error);
        }
    }
}

/// A draft, shared by the builder and all handles.
#[derive(Clone, Default)]
pub(crate) struct SharedDraft(Arc<Mutex<Draft>>);

impl SharedDraft {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Draft> {
        self.0.lock().expect("building does not panic")
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Where a topology starts.
///
/// ```
/// use millstream_operators::StreamsBuilder;
/// use millstream_topology::{text, Topic};
///
/// const IN: Topic<String, String> = Topic::new("in", text(), text());
/// const OUT: Topic<String, String> = Topic::new("out", text(), text());
///
/// let b = StreamsBuilder::new();
/// b.stream(IN).map_values(|_, text| text.to_uppercase()).to(OUT);
/// println!("{}", b.build()?.describe());
/// # Ok::<(), millstream_topology::Error>(())
/// ```
#[derive(Default)]
pub struct StreamsBuilder {
    draft: SharedDraft,
}

impl StreamsBuilder {
    /// An empty topology.
    pub fn new() -> Self {
        Self::default()
    }

    /// The records of a topic. The timestamp of each is the one that the log holds.
    ///
    /// A null key or value is data that does not decode, unless the descriptor's codec is
    /// [`nullable`](millstream_topology::nullable).
    pub fn stream<K: Clone, V: Clone>(&self, topic: Topic<K, V>) -> KStream<K, V> {
        ops::source::source(&self.draft, topic, TopicRole::External, None)
    }

    /// As [`stream`](Self::stream), with the event time taken from the record. `extract` gets key,
    /// value, the log's timestamp and the greatest event time of the partition so far (-1 at
    /// first). A record with a negative time is dropped and counted.
    pub fn stream_by_time<K: Clone, V: Clone>(
        &self,
        topic: Topic<K, V>,
        extract: impl Fn(&K, &V, i64, i64) -> i64 + Send + Sync + 'static,
    ) -> KStream<K, V> {
        ops::source::source(
            &self.draft,
            topic,
            TopicRole::External,
            Some(Arc::new(extract)),
        )
    }

    /// The newest value of each key of a topic, kept in a store: a
    /// [`KvStore`](millstream_topology::KvStore), or a
    /// [`VersionedStore`](millstream_topology::VersionedStore) that remembers what held before.
    ///
    /// A null value deletes its key; a record with a null key is dropped and counted. Every update is
    /// applied and passed on with its timestamp, also one that is older than the value it replaces. A
    /// versioned store puts such an update into the past, and drops and counts what is older than its
    /// history.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, text, u64_be, KvStore, Topic, VersionedStore};
    /// const STOCK: Topic<String, u64> = Topic::new("stock", text(), u64_be());
    /// const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
    /// const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
    /// const PRICE: VersionedStore<String, u64> =
    ///     VersionedStore::new("price", text(), u64_be(), hours(1));
    /// let b = StreamsBuilder::new();
    /// let stock = b.table(STOCK, HELD);
    /// let prices = b.table(PRICES, PRICE);
    /// ```
    pub fn table<K: Clone, V: Clone>(
        &self,
        topic: Topic<K, V>,
        store: impl TableStore<K, V>,
    ) -> KTable<K, V> {
        ops::table::table(&self.draft, topic, store, None)
    }

    /// As [`table`](Self::table), with the event time taken from the record. `extract` gets key and
    /// value, `None` where they are null, the log's timestamp and the greatest event time of the
    /// partition so far (-1 at first). A record with a negative time is dropped and counted.
    pub fn table_by_time<K: Clone, V: Clone>(
        &self,
        topic: Topic<K, V>,
        store: impl TableStore<K, V>,
        extract: impl Fn(Option<&K>, Option<&V>, i64, i64) -> i64 + Send + Sync + 'static,
    ) -> KTable<K, V> {
        ops::table::table(&self.draft, topic, store, Some(Arc::new(extract)))
    }

    /// Checks the whole and finishes it.
    ///
    /// # Errors
    /// The first thing that was wrong in any call so far, with
    /// [`ErrorKind::Topology`](millstream_topology::ErrorKind::Topology).
    pub fn build(self) -> Result<Topology> {
        let mut draft = std::mem::take(&mut *self.draft.lock());
        if let Some(error) = draft.error.take() {
            return Err(error);
        }
        draft.plan.check()?;
        Ok(Topology::new(draft.plan, draft.sources, draft.definitions))
    }
}

/// Adds a node that has listeners of its own behind `inputs`.
pub(crate) fn add_node(draft: &SharedDraft, kind: NodeKind, inputs: &[NodeId]) -> NodeId {
    draft.lock().plan.add_node(kind, inputs)
}
