//! What a stream can be joined with: a table, a global table, or another stream within a window.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_topology::{KvStore, NodeId, WindowStore};

use crate::{
    KStream, KTable, MaybeNull,
    builder::SharedDraft,
    edge::Factory,
    ops::{self, table_join::Alone},
};

pub(crate) type Joiner<K, V, T, VO> = Arc<dyn Fn(&K, &V, &T) -> VO + Send + Sync>;
pub(crate) type LeftJoiner<K, V, T, VO> = Arc<dyn Fn(&K, &V, Option<&T>) -> VO + Send + Sync>;
pub(crate) type OuterJoiner<K, V, T, VO> =
    Arc<dyn Fn(&K, Option<&V>, Option<&T>) -> VO + Send + Sync>;

/// The right-hand side of an inner join.
///
/// Streams meet within a window, and their buffers have names:
///
/// ```
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
/// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
/// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT);
/// b.stream(ORDERS).join(payments, |due, paid| due - paid);
/// # assert!(b.build().is_ok());
/// ```
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, Topic};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// b.stream(ORDERS).join(b.stream(PAYMENTS), |due: &u64, paid: &u64| due - paid);
/// ```
///
/// A table is joined by the key that both have; for another, [`rekey`](KStream::rekey) the stream
/// first (here to the customer, a `u64`), or join two tables [by a foreign
/// key](KTable::join_foreign):
///
/// ```
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore, Topic};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const NAMES: Topic<u64, String> = Topic::new("names", u64_be(), text());
/// # const BY_ID: KvStore<u64, String> = KvStore::new("by-id", u64_be(), text());
/// const BY_CUSTOMER: Topic<u64, u64> = Topic::new("by-customer", u64_be(), u64_be());
/// # let b = StreamsBuilder::new();
/// let names = b.table(NAMES, BY_ID);
/// let by_customer = b.stream(ORDERS).rekey(BY_CUSTOMER, |_, customer| *customer);
/// by_customer.join(&names, |_, name| name.clone());
/// # assert!(b.build().is_ok());
/// ```
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore, Topic};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const NAMES: Topic<u64, String> = Topic::new("names", u64_be(), text());
/// # const BY_ID: KvStore<u64, String> = KvStore::new("by-id", u64_be(), text());
/// # let b = StreamsBuilder::new();
/// let names = b.table(NAMES, BY_ID);
/// b.stream(ORDERS).join(&names, |_: &u64, name: &String| name.clone());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be joined with a stream keyed by `{K}`",
    note = "join a `&KTable` with the same key type, a `GlobalKTable` with `.by(key)`, or a stream \
            with a window: `other.within(duration, LEFT_STORE, RIGHT_STORE)`"
)]
pub trait JoinWith<K, V>: Sized {
    /// Key of the results.
    type Key: Clone + 'static;
    /// What the joiner gets from the stream.
    type Left: Clone + 'static;
    /// What the joiner gets from this side.
    type Value: Clone + 'static;

    #[doc(hidden)]
    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: Joiner<Self::Key, Self::Left, Self::Value, VO>,
    ) -> KStream<Self::Key, VO>;
}

/// The right-hand side of a left join. The results have the stream's keys.
///
/// A record that waits for its partner needs a place to wait in:
///
/// ```
/// # use bytes::Bytes;
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{bytes, mins, text, u64_be, KvStore, Topic, WindowStore};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
/// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
/// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// const UNPAID: KvStore<Bytes, Bytes> = KvStore::new("unpaid", bytes(), bytes());
/// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT);
/// b.stream(ORDERS).left_join(payments.unmatched(UNPAID), |_, paid| paid.is_some());
/// # assert!(b.build().is_ok());
/// ```
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
/// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
/// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT);
/// b.stream(ORDERS).left_join(payments, |_: &u64, paid: Option<&u64>| paid.is_some());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be left-joined with a stream keyed by `{K}`",
    note = "left-join a `&KTable` with the same key type, a `GlobalKTable` with `.by(key)`, or a \
            stream with a window and a store for records that wait for a partner: \
            `other.within(duration, LEFT_STORE, RIGHT_STORE).unmatched(STORE)`"
)]
pub trait LeftJoinWith<K, V>: Sized {
    /// What the joiner gets from the stream.
    type Left: Clone + 'static;
    /// What the joiner gets from this side.
    type Value: Clone + 'static;

    #[doc(hidden)]
    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: LeftJoiner<K, Self::Left, Self::Value, VO>,
    ) -> KStream<K, VO>;
}

/// The right-hand side of an outer join. The results have the left stream's keys.
///
/// A table has no outer join with a stream, because only the stream's records make results:
/// [`left_join`](KStream::left_join) it, or outer-join two [tables](KTable::outer_join).
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore, Topic};
/// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
/// # const NAMES: Topic<String, String> = Topic::new("names", text(), text());
/// # const BY_ID: KvStore<String, String> = KvStore::new("by-id", text(), text());
/// # let b = StreamsBuilder::new();
/// let names = b.table(NAMES, BY_ID);
/// b.stream(ORDERS).outer_join(&names, |_: Option<&u64>, name: Option<&String>| name.is_some());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be outer-joined with a stream keyed by `{K}`",
    note = "outer-join a stream with a window and a store for records that wait for a partner: \
            `other.within(duration, LEFT_STORE, RIGHT_STORE).unmatched(STORE)`"
)]
pub trait OuterJoinWith<K, V>: Sized {
    /// What the joiner gets from the stream.
    type Left: Clone + 'static;
    /// What the joiner gets from this side.
    type Value: Clone + 'static;

    #[doc(hidden)]
    fn outer_join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: OuterJoiner<K, Self::Left, Self::Value, VO>,
    ) -> KStream<K, VO>;
}

impl<NK, K, V, T> JoinWith<NK, V> for &KTable<K, T>
where
    NK: MaybeNull<K>,
    K: Clone + 'static,
    V: Clone + 'static,
    T: Clone + 'static,
{
    type Key = K;
    type Left = V;
    type Value = T;

    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, V>,
        joiner: Joiner<K, V, T, VO>,
    ) -> KStream<K, VO> {
        left.require_partitioned("join");
        let inner = move |k: &K, v: &V, t: Option<&T>| t.map(|t| joiner(k, v, t));
        ops::table_join::table_join(left, self, NK::present, Alone::Silent, Arc::new(inner))
    }
}

impl<NK, K, V, T> LeftJoinWith<NK, V> for &KTable<K, T>
where
    NK: MaybeNull<K>,
    K: Clone + 'static,
    V: Clone + 'static,
    T: Clone + 'static,
{
    type Left = V;
    type Value = T;

    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, V>,
        joiner: LeftJoiner<NK, V, T, VO>,
    ) -> KStream<NK, VO> {
        left.require_partitioned("left_join");
        let outer = move |k: &NK, v: &V, t: Option<&T>| Some(joiner(k, v, t));
        ops::table_join::table_join(left, self, Some, Alone::Joined, Arc::new(outer))
    }
}

/// A versioned table on the right-hand side, with the time that a join waits for late updates.
pub struct WithGrace<K: 'static, V: 'static, T: 'static> {
    pub(crate) table: KTable<K, T>,
    pub(crate) grace_ms: i64,
    pub(crate) waiting: KvStore<K, V>,
}

impl<K: Clone + 'static, T: Clone + 'static> KTable<K, T> {
    /// This table as the right-hand side of a join that waits: a record of the stream is joined
    /// when the stream's time has passed it by `grace`, with what the table then knows to have held
    /// at the time of the record. Meanwhile it lies in `waiting`, by time, then key, then arrival.
    ///
    /// The table is versioned and remembers at least as far as `grace`. A record that comes later
    /// than that is joined at once, and so is, in a left join, one without a key. Results keep
    /// timestamp and headers of their record.
    ///
    /// A record of the stream without a value is dropped and counted, one without a key too in an
    /// inner join.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, mins, text, u64_be, KvStore, Topic, VersionedStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
    /// # const PRICE: VersionedStore<String, u64> =
    /// #     VersionedStore::new("price", text(), u64_be(), hours(1));
    /// const UNPRICED: KvStore<String, u64> = KvStore::new("unpriced", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let prices = b.table(PRICES, PRICE);
    /// let prices = prices.with_grace(mins(5), UNPRICED);
    /// let priced = b.stream(ORDERS).join(prices, |n, cents| n * cents);
    /// ```
    pub fn with_grace<V: Clone + 'static>(
        &self,
        grace: Duration,
        waiting: KvStore<K, V>,
    ) -> WithGrace<K, V, T> {
        WithGrace {
            table: self.clone(),
            grace_ms: ms(grace),
            waiting,
        }
    }
}

impl<NK, NV, K, V, T> JoinWith<NK, NV> for WithGrace<K, V, T>
where
    NK: MaybeNull<K>,
    NV: MaybeNull<V>,
    K: Clone + 'static,
    V: Clone + 'static,
    T: Clone + 'static,
{
    type Key = K;
    type Left = V;
    type Value = T;

    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, NV>,
        joiner: Joiner<K, V, T, VO>,
    ) -> KStream<K, VO> {
        left.require_partitioned("join");
        let inner = move |k: &K, v: &V, t: Option<&T>| t.map(|t| joiner(k, v, t));
        ops::grace_join::grace_join(left, self, Alone::Silent, Arc::new(inner))
    }
}

impl<NK, NV, K, V, T> LeftJoinWith<NK, NV> for WithGrace<K, V, T>
where
    NK: MaybeNull<K>,
    NV: MaybeNull<V>,
    K: Clone + 'static,
    V: Clone + 'static,
    T: Clone + 'static,
{
    type Left = V;
    type Value = T;

    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, NV>,
        joiner: LeftJoiner<NK, V, T, VO>,
    ) -> KStream<NK, VO> {
        left.require_partitioned("left_join");
        let outer = move |k: &NK, v: &V, t: Option<&T>| Some(joiner(k, v, t));
        ops::grace_join::grace_join(left, self, Alone::Joined, Arc::new(outer))
    }
}

/// Which records of two streams meet: a left record at `t` meets right ones from `t - before` to
/// `t + after`, both ends included.
///
/// ```
/// use millstream_operators::JoinWindow;
/// use millstream_topology::{mins, secs};
///
/// // A payment comes at most ten minutes after its order, and never before it.
/// let paid = JoinWindow::of(mins(10)).before(secs(0)).grace(mins(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinWindow {
    pub(crate) before_ms: i64,
    pub(crate) after_ms: i64,
    pub(crate) grace_ms: i64,
}

impl From<Duration> for JoinWindow {
    fn from(difference: Duration) -> Self {
        Self::of(difference)
    }
}

impl JoinWindow {
    /// Records whose times differ by no more than this meet.
    ///
    /// ```
    /// use millstream_operators::JoinWindow;
    /// use millstream_topology::mins;
    /// let close = JoinWindow::of(mins(10));
    /// assert_eq!(close, JoinWindow::of(mins(10)).before(mins(10)).after(mins(10)));
    /// ```
    pub fn of(difference: Duration) -> Self {
        Self {
            before_ms: ms(difference),
            after_ms: ms(difference),
            grace_ms: 0,
        }
    }

    /// Right records may be older than the left one by no more than this.
    ///
    /// ```
    /// use millstream_operators::JoinWindow;
    /// use millstream_topology::mins;
    /// // A delivery (left) meets the order (right) of the hour before it, and none after it.
    /// let delivered = JoinWindow::of(mins(0)).before(mins(60));
    /// ```
    pub fn before(mut self, before: Duration) -> Self {
        self.before_ms = ms(before);
        self
    }

    /// Right records may be newer than the left one by no more than this.
    ///
    /// ```
    /// use millstream_operators::JoinWindow;
    /// use millstream_topology::mins;
    /// // An order (left) meets a payment (right) of the ten minutes after it.
    /// let paid = JoinWindow::of(mins(0)).after(mins(10));
    /// ```
    pub fn after(mut self, after: Duration) -> Self {
        self.after_ms = ms(after);
        self
    }

    /// Right records are newer than the left one by at least this: `before` below zero.
    ///
    /// ```
    /// use millstream_operators::JoinWindow;
    /// use millstream_topology::mins;
    /// // An order meets the reminders that come from one to two hours after it.
    /// let reminded = JoinWindow::of(mins(120)).newer_by(mins(60));
    /// ```
    pub fn newer_by(mut self, least: Duration) -> Self {
        self.before_ms = -ms(least);
        self
    }

    /// Right records are older than the left one by at least this: `after` below zero.
    ///
    /// ```
    /// use millstream_operators::JoinWindow;
    /// use millstream_topology::mins;
    /// // A click meets the views that were there from one to ten minutes before it.
    /// let viewed = JoinWindow::of(mins(10)).older_by(mins(1));
    /// ```
    pub fn older_by(mut self, least: Duration) -> Self {
        self.after_ms = -ms(least);
        self
    }

    /// Late records are joined up to this long after the window has closed; in a left or outer join
    /// a record waits so much longer for its partner.
    ///
    /// ```
    /// use millstream_operators::JoinWindow;
    /// use millstream_topology::mins;
    /// let paid = JoinWindow::of(mins(10)).grace(mins(1));
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace_ms = ms(grace);
        self
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

type Subscribe<K, V> = Box<dyn FnOnce(Factory<Option<K>, Option<V>>)>;

/// One side of a stream–stream join: keys and values are null where its types say so.
pub(crate) struct Side<K, V> {
    pub(crate) draft: SharedDraft,
    pub(crate) id: NodeId,
    pub(crate) subscribe: Subscribe<K, V>,
}

impl<K: Clone + 'static, V: Clone + 'static> Side<K, V> {
    pub(crate) fn of<NK: MaybeNull<K>, NV: MaybeNull<V>>(stream: KStream<NK, NV>) -> Self {
        let KStream {
            draft, id, port, ..
        } = stream;
        let subscribe = move |make: Factory<Option<K>, Option<V>>| {
            port.subscribe(Arc::new(move |build| {
                ops::stream_join::opened::<NK, NV, K, V>(make(build))
            }));
        };
        Self {
            draft,
            id,
            subscribe: Box::new(subscribe),
        }
    }
}

/// A stream on the right-hand side, with the window and the buffers of both sides.
pub struct Within<K: 'static, L: 'static, R: 'static> {
    pub(crate) right: Side<K, R>,
    pub(crate) window: JoinWindow,
    pub(crate) left_buffer: WindowStore<K, L>,
    pub(crate) right_buffer: WindowStore<K, R>,
}

impl<K: Clone + 'static, L: Clone + 'static, R: Clone + 'static> Within<K, L, R> {
    /// As [`JoinWindow::before`].
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).before(mins(0));
    /// b.stream(ORDERS).join(payments, |due, paid| due - paid);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn before(mut self, before: Duration) -> Self {
        self.window = self.window.before(before);
        self
    }

    /// As [`JoinWindow::after`].
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).after(mins(60));
    /// b.stream(ORDERS).join(payments, |due, paid| due - paid);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn after(mut self, after: Duration) -> Self {
        self.window = self.window.after(after);
        self
    }

    /// As [`JoinWindow::grace`].
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).grace(mins(1));
    /// b.stream(ORDERS).join(payments, |due, paid| due - paid);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.window = self.window.grace(grace);
        self
    }

    /// The store in which records wait for a partner, for a left or an outer join. Its keys and
    /// values are made by the operator. What becomes of nulls, timestamps and headers says the
    /// join: [`left_join`](KStream::left_join), [`outer_join`](KStream::outer_join).
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{bytes, mins, text, u64_be, KvStore, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// const UNPAID: KvStore<Bytes, Bytes> = KvStore::new("unpaid", bytes(), bytes());
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).unmatched(UNPAID);
    /// b.stream(ORDERS).left_join(payments, |_, paid| paid.is_some());
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn unmatched(self, store: KvStore<Bytes, Bytes>) -> WithinUnmatched<K, L, R> {
        WithinUnmatched {
            within: self,
            store,
        }
    }
}

/// [`Within`] with a store for records that wait for a partner.
pub struct WithinUnmatched<K: 'static, L: 'static, R: 'static> {
    pub(crate) within: Within<K, L, R>,
    pub(crate) store: KvStore<Bytes, Bytes>,
}

impl<NK, NL, K, L, R> JoinWith<NK, NL> for Within<K, L, R>
where
    NK: MaybeNull<K>,
    NL: MaybeNull<L>,
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
{
    type Key = K;
    type Left = L;
    type Value = R;

    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, NL>,
        joiner: Joiner<K, L, R, VO>,
    ) -> KStream<K, VO> {
        left.require_partitioned("join");
        ops::stream_join::inner(Side::of(left), self, joiner)
    }
}

impl<NK, NL, K, L, R> LeftJoinWith<NK, NL> for WithinUnmatched<K, L, R>
where
    NK: MaybeNull<K>,
    NL: MaybeNull<L>,
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
{
    type Left = L;
    type Value = R;

    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, NL>,
        joiner: LeftJoiner<NK, L, R, VO>,
    ) -> KStream<NK, VO> {
        left.require_partitioned("left_join");
        ops::stream_join::left(Side::of(left), self, joiner)
    }
}

impl<NK, NL, K, L, R> OuterJoinWith<NK, NL> for WithinUnmatched<K, L, R>
where
    NK: MaybeNull<K>,
    NL: MaybeNull<L>,
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
{
    type Left = L;
    type Value = R;

    fn outer_join_from<VO: Clone + 'static>(
        self,
        left: KStream<NK, NL>,
        joiner: OuterJoiner<NK, L, R, VO>,
    ) -> KStream<NK, VO> {
        left.require_partitioned("outer_join");
        ops::stream_join::outer(Side::of(left), self, joiner)
    }
}
