//! `StreamsBuilder`: where a topology starts, and the draft that its handles write into.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use millstream_state::StoreDefinition;
use millstream_topology::{
    Error, ErrorKind, KvStore, NodeId, NodeKind, Plan, Result, StoreId, Topic, TopicPattern,
    TopicRole,
};

use crate::{
    GlobalKTable, GlobalSource, KStream, KTable, Refill, TableStore, Topology,
    edge::Port,
    graph::SourceFactory,
    ops::{self, source::Origin, table::RowFormat},
};

/// The names of the topics, or the pattern.
type OriginIdentity = (Vec<&'static str>, Option<&'static str>);

/// What a stream can be made of: a topic, several topics, or a pattern of topics.
///
/// A name alone says nothing of types and codecs: name the topic by a descriptor, `const IN:
/// Topic<String, String> = Topic::new("in", text(), text())`, and read `b.stream(IN)`.
///
/// ```compile_fail,E0277
/// # let b = millstream_operators::StreamsBuilder::new();
/// b.stream("in").map_values(|_: &String, line: String| line.len()).print("lengths");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a stream can be read from",
    note = "give a `Topic`, an array or a vector of topics with the same types, or a `TopicPattern`"
)]
pub trait StreamOrigin<K, V> {
    #[doc(hidden)]
    fn origin(self) -> Origin<K, V>;
}

impl<K, V> StreamOrigin<K, V> for Topic<K, V> {
    fn origin(self) -> Origin<K, V> {
        Origin::Topics(vec![self])
    }
}

impl<K, V, const N: usize> StreamOrigin<K, V> for [Topic<K, V>; N] {
    fn origin(self) -> Origin<K, V> {
        Origin::Topics(self.into())
    }
}

impl<K, V> StreamOrigin<K, V> for Vec<Topic<K, V>> {
    fn origin(self) -> Origin<K, V> {
        Origin::Topics(self)
    }
}

impl<K, V> StreamOrigin<K, V> for TopicPattern<K, V> {
    fn origin(self) -> Origin<K, V> {
        Origin::Pattern(self)
    }
}

/// What a table can be made of: a topic, whose keys may be nullable.
///
/// The topic is a descriptor, and the store has the same types:
///
/// ```
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore, Topic};
/// const STOCK: Topic<String, u64> = Topic::new("stock", text(), u64_be());
/// const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// b.table(STOCK, HELD);
/// # assert!(b.build().is_ok());
/// ```
///
/// A name alone says nothing of codecs:
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore};
/// # const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// b.table("stock", HELD);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a table of `{K}` to `{V}` can be read from",
    note = "give a `Topic<K, V>` or a `Topic<Option<K>, V>`, and a `KvStore<K, V>` or a \
            `VersionedStore<K, V>`"
)]
pub trait TableOrigin<K, V> {
    #[doc(hidden)]
    fn rows(self) -> RowFormat<K, V>;
}

impl<K, V> TableOrigin<K, V> for Topic<K, V> {
    fn rows(self) -> RowFormat<K, V> {
        RowFormat::plain(self)
    }
}

impl<K, V> TableOrigin<K, V> for Topic<Option<K>, V> {
    fn rows(self) -> RowFormat<K, V> {
        RowFormat::nullable(self)
    }
}

/// What the handles of one topology write into.
#[derive(Default)]
pub struct Draft {
    pub(crate) plan: Plan,
    pub(crate) sources: BTreeMap<NodeId, SourceFactory>,
    definitions: Vec<Arc<dyn StoreDefinition>>,
    pub(crate) globals: Vec<GlobalSource>,
    /// Stores that are restored from a topic which is read.
    pub(crate) refills: BTreeMap<StoreId, Refill>,
    /// Streams that were asked for, with node and port, for those who ask for the same again.
    read: Vec<(OriginIdentity, Box<dyn Any + Send>)>,
    /// Stores that a node reads and another must have.
    wanted: Vec<(NodeId, Arc<dyn StoreDefinition>)>,
    /// The first thing that is wrong, and the node where it is; `build` returns it, so that the
    /// methods in between need not. The node is named then, because `named` may come later.
    error: Option<(Option<NodeId>, Error)>,
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
                self.fail_in(node, error);
                StoreId(0)
            }
        }
    }

    /// Connects a processor to a store that others may use too.
    pub(crate) fn share_store(&mut self, node: NodeId, definition: Arc<dyn StoreDefinition>) {
        match self.plan.store(&definition.spec().name) {
            Some(store) => {
                self.check_kept_alike(node, store, &*definition);
                self.connect(node, store, &*definition);
            }
            None => {
                self.own_store(node, definition);
            }
        }
    }

    /// Connects a node, once all is said, to a store that another node must have.
    pub(crate) fn want_store(&mut self, node: NodeId, definition: Arc<dyn StoreDefinition>) {
        self.wanted.push((node, definition));
    }

    /// Refuses a second descriptor of a store if its types are others: they would read what the
    /// first did not write.
    fn connect(&mut self, node: NodeId, store: StoreId, definition: &dyn StoreDefinition) {
        let (known, asked) = (self.definitions[store.0].types(), definition.types());
        if known != asked {
            let name = definition.spec().name;
            let what = format!(
                "two descriptors of one store have different types; use one constant for it. \
                 store=`{name}`, types=`{known}` and `{asked}`"
            );
            self.refuse(node, what);
        }
        self.plan.connect(node, store);
    }

    /// Refuses a second owner of a store who would keep it otherwise than the first, who decides.
    fn check_kept_alike(&mut self, node: NodeId, store: StoreId, definition: &dyn StoreDefinition) {
        let first = &self.definitions[store.0];
        if first.types() != definition.types() {
            return;
        }
        let (kept, spec) = (first.spec(), definition.spec());
        let name = &spec.name;
        if kept.kind != spec.kind {
            let what = format!(
                "two nodes keep one store in different ways; give its retention once, and use that \
                 everywhere. store=`{name}`, first={:?}, second={:?}",
                kept.kind, spec.kind
            );
            self.refuse(node, what);
        } else if kept.logged != spec.logged {
            let what = format!(
                "two descriptors of one store differ in its changelog; use one constant for it. \
                 store=`{name}`"
            );
            self.refuse(node, what);
        }
    }

    fn connect_wanted(&mut self) {
        for (node, definition) in std::mem::take(&mut self.wanted) {
            let name = definition.spec().name;
            match self.plan.store(&name) {
                Some(store) => self.connect(node, store, &*definition),
                None if self.is_global(&*definition) => {}
                None => {
                    let what = format!(
                        "a processor reads a store that no operator has; make the table or the \
                         aggregation that keeps it. store=`{name}`"
                    );
                    self.refuse(node, what);
                }
            }
        }
    }

    /// True when a global table is kept in a store of that name and those types.
    fn is_global(&self, definition: &dyn StoreDefinition) -> bool {
        self.globals.iter().any(|global| {
            global.definition().spec().name == definition.spec().name
                && global.definition().types() == definition.types()
        })
    }

    /// Refuses the topology for what is wrong in a node, unless something was wrong before.
    pub(crate) fn refuse(&mut self, node: NodeId, what: impl Into<String>) {
        self.fail_in(node, Error::new(ErrorKind::Topology, what));
    }

    /// As [`refuse`](Self::refuse), if the result is an error.
    pub(crate) fn check_in(&mut self, node: NodeId, result: Result<()>) {
        if let Err(error) = result {
            self.fail_in(node, error);
        }
    }

    /// Refuses the topology for what is in no node of it.
    pub(crate) fn check(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert((None, error));
        }
    }

    fn fail_in(&mut self, node: NodeId, error: Error) {
        self.error.get_or_insert((Some(node), error));
    }

    /// The first thing that is wrong, with the name of its node.
    fn take_error(&mut self) -> Option<Error> {
        let (node, error) = self.error.take()?;
        Some(match node {
            Some(node) => error.in_node(&self.plan.nodes()[node.0].name),
            None => error,
        })
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

    /// True when what meets in `node` comes from one builder. Else refuses both topologies: the
    /// ids and the listeners of one mean nothing in the other.
    pub(crate) fn meets(&self, other: &Self, node: NodeId) -> bool {
        if self.is(other) {
            return true;
        }
        const WHAT: &str = "streams and tables of two builders cannot meet; make both with one \
                            `StreamsBuilder`";
        let name = self.lock().plan.nodes()[node.0].name.clone();
        self.lock().refuse(node, WHAT);
        let theirs = Error::new(ErrorKind::Topology, WHAT).in_node(&name);
        other.lock().check(Err(theirs));
        false
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

    /// The records of a topic, of several topics (an array or a vector of descriptors), or of all
    /// topics that match a [`TopicPattern`]. Timestamp and headers of each are those that the log
    /// holds; one with a negative timestamp is dropped and counted.
    ///
    /// A null key or value is data that does not decode, unless the descriptor's codec is
    /// [`nullable`](millstream_topology::nullable). Asking for the same topics again gives the same
    /// stream; two streams cannot share only some of their topics. A topic that begins to match
    /// while an application runs is read from its next start on.
    ///
    /// ```
    /// use millstream_operators::StreamsBuilder;
    /// use millstream_topology::{text, Topic, TopicPattern};
    ///
    /// const WEB: Topic<String, String> = Topic::new("web-clicks", text(), text());
    /// const APP: Topic<String, String> = Topic::new("app-clicks", text(), text());
    /// const REST: TopicPattern<String, String> =
    ///     TopicPattern::new("clicks-[a-z]+", text(), text());
    ///
    /// let b = StreamsBuilder::new();
    /// b.stream([WEB, APP]).merge(b.stream(REST)).print("click");
    /// assert_eq!(b.build()?.subtopologies().len(), 1);
    /// # Ok::<(), millstream_topology::Error>(())
    /// ```
    pub fn stream<K: Clone + 'static, V: Clone + 'static>(
        &self,
        from: impl StreamOrigin<K, V>,
    ) -> KStream<K, V> {
        let origin = from.origin();
        let identity = origin.identity();
        let read = |draft: &Draft| {
            let (_, kept) = draft.read.iter().find(|(known, _)| *known == identity)?;
            kept.downcast_ref::<(NodeId, Port<K, V>)>().cloned()
        };
        if let Some((id, port)) = read(&self.draft.lock()) {
            return KStream {
                draft: self.draft.clone(),
                id,
                port,
                rekeyed: false,
            };
        }
        let stream = ops::source::source(&self.draft, origin, TopicRole::External, None);
        let kept = Box::new((stream.id, stream.port.clone()));
        self.draft.lock().read.push((identity, kept));
        stream
    }

    /// As [`stream`](Self::stream), with the event time taken from the record. `extract` gets key,
    /// value, the log's timestamp and the greatest event time of the topic's partition so far (-1
    /// at first). A record with a negative time is dropped and counted.
    ///
    /// Null keys and values are as there; `extract` gets them where keys or values are `Option`s.
    /// Headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// const LINES: Topic<String, String> = Topic::new("lines", text(), text());
    /// # let b = StreamsBuilder::new();
    /// // The time stands in front of each line; a line without one counts as just now.
    /// let lines = b.stream_by_time(LINES, |_, line, _, partition_time| {
    ///     let time = line.split(' ').next().and_then(|time| time.parse().ok());
    ///     time.unwrap_or(partition_time)
    /// });
    /// ```
    pub fn stream_by_time<K: Clone + 'static, V: Clone + 'static>(
        &self,
        from: impl StreamOrigin<K, V>,
        extract: impl Fn(&K, &V, i64, i64) -> i64 + Send + Sync + 'static,
    ) -> KStream<K, V> {
        let extract = Some(Arc::new(extract) as _);
        ops::source::source(&self.draft, from.origin(), TopicRole::External, extract)
    }

    /// The newest value of each key of a topic, kept in a store: a
    /// [`KvStore`](millstream_topology::KvStore), or a
    /// [`VersionedStore`](millstream_topology::VersionedStore) that remembers what held before.
    ///
    /// A null value deletes its key. A null key is data that does not decode, unless the topic's
    /// key codec is [`nullable`](millstream_topology::nullable): then it is dropped and counted.
    /// Every update is applied and passed on with its timestamp and headers, also one that is older
    /// than the value it replaces. A versioned store puts such an update into the past, and drops
    /// and counts what is older than its history.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, nullable, text, u64_be, KvStore, Topic, VersionedStore};
    /// const STOCK: Topic<Option<String>, u64> = Topic::new("stock", nullable(text()), u64_be());
    /// const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
    /// const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
    /// const PRICE: VersionedStore<String, u64> =
    ///     VersionedStore::new("price", text(), u64_be(), hours(1));
    /// let b = StreamsBuilder::new();
    /// let stock = b.table(STOCK, HELD);
    /// let prices = b.table(PRICES, PRICE);
    /// ```
    pub fn table<K: Clone + 'static, V: Clone + 'static>(
        &self,
        topic: impl TableOrigin<K, V>,
        store: impl TableStore<K, V>,
    ) -> KTable<K, V> {
        ops::table::table(&self.draft, topic.rows(), store, None)
    }

    /// As [`table`](Self::table), with the event time taken from the record, as
    /// [`stream_by_time`](Self::stream_by_time) does. `extract` gets `None` for a null key or
    /// value.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const NAMES: Topic<u64, String> = Topic::new("names", u64_be(), text());
    /// # const BY_ID: KvStore<u64, String> = KvStore::new("by-id", u64_be(), text());
    /// # let b = StreamsBuilder::new();
    /// // The time stands in front of each name; a deletion has that of the log.
    /// let names = b.table_by_time(NAMES, BY_ID, |_, name, log_time, _| {
    ///     let time = name.and_then(|name| name.split(' ').next()?.parse().ok());
    ///     time.unwrap_or(log_time)
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn table_by_time<K: Clone + 'static, V: Clone + 'static>(
        &self,
        topic: impl TableOrigin<K, V>,
        store: impl TableStore<K, V>,
        extract: impl Fn(Option<&K>, Option<&V>, i64, i64) -> i64 + Send + Sync + 'static,
    ) -> KTable<K, V> {
        ops::table::table(&self.draft, topic.rows(), store, Some(Arc::new(extract)))
    }

    /// The newest value of each key of a topic, all partitions of it, in a store that every
    /// instance has whole, so that a stream may look any key up in it: `stream.join(global.by(key),
    /// joiner)`.
    ///
    /// A null value deletes its key; a record with a null key is dropped. The topic is
    /// read to its end before the first record of a stream is processed; from then on its updates
    /// are applied as they come, in no order with the streams, and trigger nothing.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// const ORDERS: Topic<u64, String> = Topic::new("orders", u64_be(), text());
    /// const COUNTRIES: Topic<String, String> = Topic::new("countries", text(), text());
    /// const COUNTRY: KvStore<String, String> = KvStore::new("country", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let countries = b.global_table(COUNTRIES, COUNTRY);
    /// let code_of = |_: &u64, order: &String| order.get(..2).map(str::to_owned);
    /// let labelled = b.stream(ORDERS).join(countries.by(code_of), |order, country| {
    ///     format!("{order} to {country}")
    /// });
    /// ```
    pub fn global_table<K: Clone, V: Clone>(
        &self,
        topic: Topic<K, V>,
        store: KvStore<K, V>,
    ) -> GlobalKTable<K, V> {
        ops::global_table::global_table(&self.draft, topic, store)
    }

    /// Checks the whole and finishes it.
    ///
    /// # Errors
    /// The first thing that was wrong in any call so far, with
    /// [`ErrorKind::Topology`](millstream_topology::ErrorKind::Topology).
    ///
    /// ```
    /// use millstream_operators::StreamsBuilder;
    /// use millstream_topology::{text, u64_be, ErrorKind, KvStore, Topic};
    ///
    /// const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    ///
    /// let b = StreamsBuilder::new();
    /// b.stream(IN).map(|key, value| (value, key)).named("swapped").group_by_key().count(SEEN);
    /// let error = b.build().err().expect("the key may have changed");
    /// assert_eq!((error.kind(), error.node()), (ErrorKind::Topology, Some("swapped")));
    /// assert!(error.to_string().contains("put `.repartition(TOPIC)` in between"));
    /// ```
    pub fn build(self) -> Result<Topology> {
        let mut draft = std::mem::take(&mut *self.draft.lock());
        draft.connect_wanted();
        if let Some(error) = draft.take_error() {
            return Err(error);
        }
        draft.plan.check()?;
        Ok(Topology::new(
            draft.plan,
            draft.sources,
            draft.definitions,
            draft.globals,
            draft.refills,
        ))
    }
}

/// Adds a node that has listeners of its own behind `inputs`.
pub(crate) fn add_node(draft: &SharedDraft, kind: NodeKind, inputs: &[NodeId]) -> NodeId {
    draft.lock().plan.add_node(kind, inputs)
}
