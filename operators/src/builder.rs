//! `StreamsBuilder`: where a topology starts, and the draft that its handles write into.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use millstream_state::StoreDefinition;
use millstream_topology::{
    Error, KvStore, NodeId, NodeKind, Plan, Result, StoreId, Topic, TopicRole,
};

use crate::{KStream, KTable, Topology, graph::SourceFactory, ops};

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

    /// The newest value of each key of a topic, kept in a store. A null value deletes its key; a
    /// null key is data that does not decode.
    pub fn table<K: Clone, V: Clone>(
        &self,
        topic: Topic<K, V>,
        store: KvStore<K, V>,
    ) -> KTable<K, V> {
        ops::table::table(&self.draft, topic, store)
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
