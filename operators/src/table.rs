//! `KTable`: the newest value of each key, as a stream of changes with a way to look values up.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_topology::{Change, NodeId, Result, StoreId, Topic};

use crate::{
    Cx, ForeignKey, GroupedTable, KStream, TableStore,
    build::TaskBuild,
    builder::SharedDraft,
    edge::Port,
    ops::{self, foreign_join::Kind as ForeignKind},
};

/// Looks up a table's present value and its timestamp.
pub(crate) type Getter<K, V> = Rc<dyn Fn(&mut Cx<'_>, &K) -> Result<Option<(V, i64)>>>;

/// Makes the getter of one task.
pub(crate) type GetterFactory<K, V> = Arc<dyn Fn(&TaskBuild<'_>) -> Getter<K, V> + Send + Sync>;

/// Looks up the value that held at a time, and since when.
pub(crate) type Past<K, V> = Rc<dyn Fn(&mut Cx<'_>, &K, i64) -> Result<Option<(V, i64)>>>;

/// Makes the look-up of one task.
pub(crate) type PastFactory<K, V> = Arc<dyn Fn(&TaskBuild<'_>) -> Past<K, V> + Send + Sync>;

/// What a versioned table knows of its past.
pub(crate) struct History<K, V> {
    pub(crate) past: PastFactory<K, V>,
    pub(crate) ms: i64,
}

impl<K, V> Clone for History<K, V> {
    fn clone(&self) -> Self {
        Self {
            past: self.past.clone(),
            ms: self.ms,
        }
    }
}

/// What those behind a table ask of the node that makes it.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Nobody can have values looked up, nor the value before a change: the table has no store.
    unkept: bool,
    /// Somebody needs the value before a change.
    old_values: AtomicBool,
    /// Changes are passed on once a commit, not once an update.
    on_commit: AtomicBool,
    /// The tables whose old values are needed for those of this one.
    above: Vec<Arc<Wishes>>,
}

impl Wishes {
    /// The wishes of a table that is computed from others and knows old values only from them.
    pub(crate) fn behind(above: &[&Arc<Self>]) -> Arc<Self> {
        Arc::new(Self {
            above: above.iter().map(|wishes| (*wishes).clone()).collect(),
            ..Self::default()
        })
    }

    /// The wishes of a table without a store.
    pub(crate) fn unkept() -> Arc<Self> {
        Arc::new(Self {
            unkept: true,
            ..Self::default()
        })
    }

    /// True when the values of the table can be looked up, and are told with a change.
    pub(crate) fn can_be_had(&self) -> bool {
        !self.unkept && self.above.iter().all(|above| above.can_be_had())
    }

    pub(crate) fn old_values(&self) -> bool {
        self.old_values.load(Ordering::Relaxed)
    }

    pub(crate) fn on_commit(&self) -> bool {
        self.on_commit.load(Ordering::Relaxed)
    }

    fn want_old_values(&self) {
        self.old_values.store(true, Ordering::Relaxed);
        self.above.iter().for_each(|above| above.want_old_values());
    }
}

/// A table: the newest value of each key.
///
/// A table is a stream of changes with a way to look values up. What is computed from a table
/// without a store of its own is looked up through it.
pub struct KTable<K: 'static, V: 'static> {
    pub(crate) draft: SharedDraft,
    pub(crate) id: NodeId,
    pub(crate) port: Port<K, Change<V>>,
    pub(crate) getter: GetterFactory<K, V>,
    /// `None` for a table that knows only what holds now.
    pub(crate) history: Option<History<K, V>>,
    /// The stores that the getter reads.
    pub(crate) stores: Vec<StoreId>,
    pub(crate) wishes: Arc<Wishes>,
}

impl<K, V> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            draft: self.draft.clone(),
            id: self.id,
            port: self.port.clone(),
            getter: self.getter.clone(),
            history: self.history.clone(),
            stores: self.stores.clone(),
            wishes: self.wishes.clone(),
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    /// Names the node that makes the table, for `describe()`, metrics and errors; the name is
    /// unique in the topology.
    ///
    /// Rows, timestamps and headers pass untouched. The name is none of a store or topic: those
    /// have their descriptors'.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// # const BY_ACCOUNT: KvStore<String, i64> = KvStore::new("by-account", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// b.table(BALANCES, BY_ACCOUNT).filter(|_, cents| *cents < 0).named("overdrawn");
    /// assert!(b.build()?.describe().to_string().contains("overdrawn"));
    /// # Ok::<(), millstream_topology::Error>(())
    /// ```
    pub fn named(self, name: &str) -> Self {
        let mut draft = self.draft.lock();
        let renamed = draft.plan.rename(self.id, name);
        draft.check_in(self.id, renamed);
        drop(draft);
        self
    }

    /// The changes of the table as records; `None` says that the key was deleted. A table has no
    /// null keys.
    ///
    /// Timestamp and headers are those of the change. A late update of a versioned table is a
    /// record like any other.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, nullable, text, KvStore, Topic};
    /// # const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// # const BY_ACCOUNT: KvStore<String, i64> = KvStore::new("by-account", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// const SEEN: Topic<String, Option<i64>> = Topic::new("seen", text(), nullable(i64_be()));
    /// b.table(BALANCES, BY_ACCOUNT).to_stream().to(SEEN);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn to_stream(&self) -> KStream<K, Option<V>> {
        ops::to_stream::to_stream(self)
    }

    /// The rows that `keep` accepts; it is not asked about deletions.
    ///
    /// A value that is not accepted deletes its key here. Nothing is passed on where neither the
    /// value before nor the new one is accepted; behind a table without a store and behind a
    /// versioned one, every change is. Timestamp and headers are those of the change.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// const BY_ACCOUNT: KvStore<String, i64> = KvStore::new("by-account", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let overdrawn = b.table(BALANCES, BY_ACCOUNT).filter(|_, cents| *cents < 0);
    /// ```
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        ops::table_filter::table_filter(self, Arc::new(keep))
    }

    /// The rows that `drop` does not accept: [`filter`](Self::filter) the other way round,
    /// deletions, timestamps and headers as there.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// # const BY_ACCOUNT: KvStore<String, i64> = KvStore::new("by-account", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let in_credit = b.table(BALANCES, BY_ACCOUNT).filter_not(|_, cents| *cents < 0);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn filter_not(&self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |key, value| !drop(key, value))
    }

    /// The table with other values; `map` is not called for deletions, which are passed on as such.
    ///
    /// Timestamp and headers are those of the change. For values that may be absent let `map`
    /// return an `Option` and [`flatten`](KTable::flatten) the result.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// const NAMES: Topic<u64, String> = Topic::new("names", u64_be(), text());
    /// const BY_ID: KvStore<u64, String> = KvStore::new("by-id", u64_be(), text());
    /// # let b = StreamsBuilder::new();
    /// let names = b.table(NAMES, BY_ID);
    /// let initials = names.map_values(|_, name| name.chars().next()).flatten();
    /// ```
    pub fn map_values<V2: Clone + 'static>(
        &self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        ops::table_map_values::table_map_values(self, Arc::new(map))
    }

    /// The table with other values; `transform` is called for deletions too, with `None`, and says
    /// with `None` that the key is to be deleted here.
    ///
    /// Without a store of its own ([`materialize`](Self::materialize)) such a table is looked up by
    /// calling `transform` with what the table before holds, `None` for a key that it has not.
    /// Timestamp and headers are those of the change.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// const STOCK: Topic<String, u64> = Topic::new("stock", text(), u64_be());
    /// const BY_ITEM: KvStore<String, u64> = KvStore::new("by-item", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// // An item that is not listed is an item of which there is none.
    /// let held = b.table(STOCK, BY_ITEM).transform_values(|_, held| Some(held.unwrap_or(0)));
    /// ```
    pub fn transform_values<V2: Clone + 'static>(
        &self,
        transform: impl Fn(&K, Option<V>) -> Option<V2> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        ops::table_transform_values::table_transform_values(self, Arc::new(transform))
    }

    /// Keeps the rows of a table that is only computed in a store of its own, for queries and for
    /// look-ups that need not compute.
    ///
    /// Every change is applied and passed on, with its timestamp and headers.
    ///
    /// A deletion deletes the row. A store with other types than the table's does not compile: see
    /// [`TableStore`].
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// # const BY_ACCOUNT: KvStore<String, i64> = KvStore::new("by-account", text(), i64_be());
    /// const OVERDRAWN: KvStore<String, i64> = KvStore::new("overdrawn", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// b.table(BALANCES, BY_ACCOUNT).filter(|_, cents| *cents < 0).materialize(OVERDRAWN);
    /// ```
    pub fn materialize(&self, store: impl TableStore<K, V>) -> Self {
        ops::materialize::materialize(self, store)
    }

    /// Groups the rows anew, by a key made of key and value, through a topic of the application
    /// (`<application>-<name>-repartition`). `group` gives the new key and what is to be
    /// aggregated, or `None` to leave a row out; it is not called for deletions.
    ///
    /// A change takes the old row out of its group and puts the new one into its own: as one record
    /// if the group is the same (KIP-904), else as two, the old one first. The topic holds Kafka
    /// Streams' format: of a record with both values the length of the new one (4 bytes,
    /// big-endian), the new one, the old one and a byte 2; of one with one value, the value and a
    /// byte, 1 for a new and 0 for an old one. Late updates of a versioned table change no group.
    ///
    /// A null group cannot be: give `None` for the whole instead. The topic's records have
    /// timestamp and headers of the change.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// const HOMES: Topic<u64, String> = Topic::new("homes", u64_be(), text());
    /// const BY_PERSON: KvStore<u64, String> = KvStore::new("by-person", u64_be(), text());
    /// const BY_TOWN: Topic<String, u64> = Topic::new("by-town", text(), u64_be());
    /// const INHABITANTS: KvStore<String, u64> = KvStore::new("inhabitants", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let homes = b.table(HOMES, BY_PERSON);
    /// homes.group_by(BY_TOWN, |person, town| (town.clone(), *person)).count(INHABITANTS);
    /// ```
    pub fn group_by<K2, V2, G>(
        &self,
        through: Topic<K2, V2>,
        group: impl Fn(&K, &V) -> G + Send + Sync + 'static,
    ) -> GroupedTable<K2, V2>
    where
        K2: Clone + PartialEq + 'static,
        V2: Clone + 'static,
        G: Into<Option<(K2, V2)>>,
    {
        let group = move |key: &K, value: &V| group(key, value).into();
        ops::table_group_by::table_group_by(self, through, Arc::new(group))
    }

    /// The rows that have a partner in `other`, both sides combined. Both tables update the result.
    ///
    /// The timestamp of a row is the greater of both sides', the headers are those of the change. A
    /// deletion on one side is passed on if the other side has a row. Late updates of a versioned
    /// table are dropped and counted. The result has no store: it is looked up through both tables,
    /// until [`materialize`](Self::materialize) gives it one.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
    /// const STOCK: Topic<String, u64> = Topic::new("stock", text(), u64_be());
    /// # const PRICE: KvStore<String, u64> = KvStore::new("price", text(), u64_be());
    /// # const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let worth = b.table(PRICES, PRICE).join(&b.table(STOCK, HELD), |price, held| price * held);
    /// ```
    pub fn join<T: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, T>,
        joiner: impl Fn(&V, &T) -> VO + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        let both = move |l: Option<&V>, r: Option<&T>| Some(joiner(l?, r?));
        ops::table_table_join::table_table_join(self, other, Sides::Both, Arc::new(both))
    }

    /// As [`join`](Self::join), with the rows of this table that have no partner: the joiner gets
    /// `None` for it. A deletion in `other` is passed on as a row without partner, one in this
    /// table as a deletion.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
    /// # const STOCK: Topic<String, u64> = Topic::new("stock", text(), u64_be());
    /// # const PRICE: KvStore<String, u64> = KvStore::new("price", text(), u64_be());
    /// # const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let (prices, stock) = (b.table(PRICES, PRICE), b.table(STOCK, HELD));
    /// let worth = prices.left_join(&stock, |price, held| price * held.copied().unwrap_or(0));
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn left_join<T: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, T>,
        joiner: impl Fn(&V, Option<&T>) -> VO + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        let left = move |l: Option<&V>, r: Option<&T>| Some(joiner(l?, r));
        ops::table_table_join::table_table_join(self, other, Sides::Left, Arc::new(left))
    }

    /// As [`join`](Self::join), with the rows of either table that have no partner in the other:
    /// the joiner gets `None` for it, never for both. A deletion in one is passed on as a row
    /// without partner, or as a deletion where the other has none either.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
    /// # const STOCK: Topic<String, u64> = Topic::new("stock", text(), u64_be());
    /// # const PRICE: KvStore<String, u64> = KvStore::new("price", text(), u64_be());
    /// # const HELD: KvStore<String, u64> = KvStore::new("held", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let (prices, stock) = (b.table(PRICES, PRICE), b.table(STOCK, HELD));
    /// let known = prices.outer_join(&stock, |price, held| format!("{price:?} {held:?}"));
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn outer_join<T: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, T>,
        joiner: impl Fn(Option<&V>, Option<&T>) -> VO + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        let any =
            move |l: Option<&V>, r: Option<&T>| (l.is_some() || r.is_some()).then(|| joiner(l, r));
        ops::table_table_join::table_table_join(self, other, Sides::Any, Arc::new(any))
    }

    /// The rows with the rows of `other` that they refer to by a foreign key, both combined; rows
    /// that refer to none are left out. Both tables update the result, which is kept in `store`.
    ///
    /// `foreign_key` gives the key of the partner, `None` where a row refers to none; such a row is
    /// counted as dropped. `joiner` may give an `Option`, whose `None` deletes the result. A result
    /// has the timestamp of the right row if that has changed, the greater one of both sides' if
    /// the left one has, and the headers of the change. Late updates of versioned tables are
    /// dropped and counted, and so are answers about a left row that has changed meanwhile. What
    /// changes on different rows of both sides comes in no order.
    ///
    /// ```
    /// # use millstream_operators::{ForeignKey, StreamsBuilder};
    /// # use millstream_topology::{bytes, text, u64_be, KvStore, Topic};
    /// const ORDERS: Topic<u64, String> = Topic::new("orders", u64_be(), text());
    /// const CUSTOMERS: Topic<String, String> = Topic::new("customers", text(), text());
    /// # const BY_ORDER: KvStore<u64, String> = KvStore::new("by-order", u64_be(), text());
    /// # const BY_CUSTOMER: KvStore<String, String> = KvStore::new("by-customer", text(), text());
    /// const CUSTOMER: ForeignKey<u64, String, String, String> = ForeignKey::new(
    ///     Topic::new("orders-asking", text(), text()),
    ///     Topic::new("customers-answering", u64_be(), text()),
    ///     KvStore::new("orders-by-customer", bytes(), bytes()),
    /// );
    /// const NAMED: KvStore<u64, String> = KvStore::new("named", u64_be(), text());
    /// # let b = StreamsBuilder::new();
    /// let (orders, customers) = (b.table(ORDERS, BY_ORDER), b.table(CUSTOMERS, BY_CUSTOMER));
    /// let customer_of = |_: &u64, order: &String| order.split(' ').next().map(str::to_owned);
    /// let named = orders.join_foreign(&customers, CUSTOMER, NAMED, customer_of, |order, name| {
    ///     format!("{name}: {order}")
    /// });
    /// ```
    pub fn join_foreign<FK, T, VO, F, R>(
        &self,
        other: &KTable<FK, T>,
        through: ForeignKey<K, V, FK, T>,
        store: impl TableStore<K, VO>,
        foreign_key: impl Fn(&K, &V) -> F + Send + Sync + 'static,
        joiner: impl Fn(&V, &T) -> R + Send + Sync + 'static,
    ) -> KTable<K, VO>
    where
        FK: Clone + 'static,
        T: Clone + 'static,
        VO: Clone + 'static,
        F: Into<Option<FK>>,
        R: Into<Option<VO>>,
    {
        let key_of = Arc::new(move |key: &K, value: &V| foreign_key(key, value).into());
        let pair = Arc::new(move |value: &V, partner: Option<&T>| joiner(value, partner?).into());
        let (sides, kind) = ((self, other), ForeignKind::Inner);
        ops::foreign_join::foreign_join(sides, through, store, kind, key_of, pair)
    }

    /// As [`join_foreign`](Self::join_foreign), with the rows that refer to none: the joiner gets
    /// `None` for it. A row without a foreign key is not counted; it has its own timestamp.
    ///
    /// ```
    /// # use millstream_operators::{ForeignKey, StreamsBuilder};
    /// # use millstream_topology::{bytes, text, u64_be, KvStore, Topic};
    /// # const ORDERS: Topic<u64, String> = Topic::new("orders", u64_be(), text());
    /// # const CUSTOMERS: Topic<String, String> = Topic::new("customers", text(), text());
    /// # const BY_ORDER: KvStore<u64, String> = KvStore::new("by-order", u64_be(), text());
    /// # const BY_CUSTOMER: KvStore<String, String> = KvStore::new("by-customer", text(), text());
    /// # const CUSTOMER: ForeignKey<u64, String, String, String> = ForeignKey::new(
    /// #     Topic::new("orders-asking", text(), text()),
    /// #     Topic::new("customers-answering", u64_be(), text()),
    /// #     KvStore::new("orders-by-customer", bytes(), bytes()),
    /// # );
    /// # const NAMED: KvStore<u64, String> = KvStore::new("named", u64_be(), text());
    /// # let b = StreamsBuilder::new();
    /// let (orders, customers) = (b.table(ORDERS, BY_ORDER), b.table(CUSTOMERS, BY_CUSTOMER));
    /// let customer_of = |_: &u64, order: &String| order.split(' ').next().map(str::to_owned);
    /// let named = |order: &String, name: Option<&String>| match name {
    ///     Some(name) => format!("{name}: {order}"),
    ///     None => order.clone(),
    /// };
    /// orders.left_join_foreign(&customers, CUSTOMER, NAMED, customer_of, named);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn left_join_foreign<FK, T, VO, F, R>(
        &self,
        other: &KTable<FK, T>,
        through: ForeignKey<K, V, FK, T>,
        store: impl TableStore<K, VO>,
        foreign_key: impl Fn(&K, &V) -> F + Send + Sync + 'static,
        joiner: impl Fn(&V, Option<&T>) -> R + Send + Sync + 'static,
    ) -> KTable<K, VO>
    where
        FK: Clone + 'static,
        T: Clone + 'static,
        VO: Clone + 'static,
        F: Into<Option<FK>>,
        R: Into<Option<VO>>,
    {
        let key_of = Arc::new(move |key: &K, value: &V| foreign_key(key, value).into());
        let pair = Arc::new(move |value: &V, partner: Option<&T>| joiner(value, partner).into());
        let (sides, kind) = ((self, other), ForeignKind::Left);
        ops::foreign_join::foreign_join(sides, through, store, kind, key_of, pair)
    }

    /// Passes a change on once for each key and commit, with the newest value, instead of once for
    /// each update. The store is the same either way (Kafka Streams' record cache does this by
    /// size, here it is the operator's choice).
    ///
    /// A deletion goes on like any change; of a key that came and went in between nothing is said.
    /// Timestamp and headers are those of the key's last change. Tables that have a store of their
    /// own hold changes back; others pass each on as it comes to them.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, nullable, text, u64_be, KvStore, Topic};
    /// # const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// const TOTALS: Topic<String, Option<u64>> = Topic::new("totals", text(), nullable(u64_be()));
    /// let counts = b.stream(BALANCES).group_by_key().count(SEEN).emit_on_commit();
    /// counts.to_stream().to(TOTALS);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn emit_on_commit(self) -> Self {
        self.need_values();
        self.wishes.on_commit.store(true, Ordering::Relaxed);
        self
    }
}

impl<K: 'static, V: 'static> KTable<K, V> {
    pub(crate) fn want_old_values(&self) {
        self.wishes.want_old_values();
    }

    /// Refuses the topology if the values of this table cannot be had.
    pub(crate) fn need_values(&self) {
        if self.wishes.can_be_had() {
            return;
        }
        let what = "the values of this table are needed, but it is not kept; give it a `KvStore` \
                    instead of `NoStore`";
        self.draft.lock().refuse(self.id, what);
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, Option<V>> {
    /// The table with `None` as a deletion, so that a function which gave an `Option` may delete.
    ///
    /// Every change is passed on, deletions also where there was nothing to delete. Timestamp and
    /// headers are those of the change.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const BALANCES: Topic<String, i64> = Topic::new("balances", text(), i64_be());
    /// # const BY_ACCOUNT: KvStore<String, i64> = KvStore::new("by-account", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let balances = b.table(BALANCES, BY_ACCOUNT);
    /// let unsigned = balances.map_values(|_, cents| u64::try_from(cents).ok());
    /// let in_credit = unsigned.flatten();
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn flatten(&self) -> KTable<K, V> {
        ops::table_flatten::table_flatten(self)
    }
}

/// The sides of which a row needs at least one for a row of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sides {
    Both,
    Left,
    Any,
}
