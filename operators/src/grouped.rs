//! `Grouped`: a stream about to be aggregated.

use std::sync::Arc;

use millstream_topology::{BoxError, Error, ErrorKind, KvStore, Result};

use crate::{Cogrouped, KStream, KTable, Windows, ops};

/// A stream whose records with equal keys meet in one task.
///
/// # Nulls
/// Stores are named with plain key types, so that a stream with null keys goes through
/// [`drop_null_keys`](KStream::drop_null_keys) first. Kafka Streams drops and counts null values in
/// front of an aggregation: [`drop_null_values`](KStream::drop_null_values) does that. Without it
/// the function gets the `Option`, and `count` counts it.
///
/// # Results
/// The timestamp of a result is the greatest of its key's records, its headers are those of the
/// last one.
pub struct Grouped<K: 'static, V: 'static>(KStream<K, V>);

fn user_error(source: impl Into<BoxError>) -> Error {
    Error::caused(ErrorKind::User, "an aggregator failed on a record", source)
}

impl<K: Clone + 'static, V: Clone + 'static> Grouped<K, V> {
    pub(crate) fn new(stream: KStream<K, V>) -> Self {
        Self(stream)
    }

    /// How many records each key has had. The timestamp of a count is the greatest of its records,
    /// its headers are those of the last one.
    ///
    /// Null keys and values are as [`Grouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// let counts = b.stream(IN).group_by_key().count(SEEN);
    /// ```
    ///
    /// The values of the store are counts:
    ///
    /// ```compile_fail,E0308
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const SEEN: KvStore<String, String> = KvStore::new("seen", text(), text());
    /// let counts = b.stream(IN).group_by_key().count(SEEN);
    /// ```
    pub fn count(self, store: KvStore<K, u64>) -> KTable<K, u64> {
        self.aggregate(store, |_, _, count| count + 1)
    }

    /// Combines the values of each key; the first value stands as it is. The timestamp of a result
    /// is the greatest of its records, its headers are those of the last one.
    ///
    /// Null keys and values are as [`Grouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const LAST: KvStore<String, String> = KvStore::new("last", text(), text());
    /// let greatest = b.stream(IN).group_by_key().reduce(LAST, |a, b| a.max(b));
    /// ```
    pub fn reduce(
        self,
        store: KvStore<K, V>,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let step = move |_: &K, value, old: Option<V>| {
            Ok(Some(match old {
                Some(old) => combine(old, value),
                None => value,
            }))
        };
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// Folds the values of each key, from `A::default()` on. The timestamp of a result is the
    /// greatest of its records, its headers are those of the last one.
    ///
    /// Null keys and values are as [`Grouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const BYTES: KvStore<String, u64> = KvStore::new("bytes", text(), u64_be());
    /// let bytes = b.stream(IN).group_by_key().aggregate(BYTES, |_, line, sum: u64| {
    ///     sum + line.len() as u64
    /// });
    /// ```
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: KvStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(Some(step(k, v, old.unwrap_or_default())));
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// As [`aggregate`](Self::aggregate), with a function that may fail; the application's policy
    /// for processing errors decides what becomes of the record then, and the fold stays as it was.
    ///
    /// Nulls, timestamp and headers are as there.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const SUMS: KvStore<String, u64> = KvStore::new("sums", text(), u64_be());
    /// let sums = b.stream(IN).group_by_key().try_aggregate(SUMS, |_, line, sum: u64| {
    ///     line.parse::<u64>().map(|number| sum + number)
    /// });
    /// ```
    pub fn try_aggregate<A: Clone + Default + 'static, E: Into<BoxError>>(
        self,
        store: KvStore<K, A>,
        step: impl Fn(&K, V, A) -> Result<A, E> + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let step = move |k: &K, v, old: Option<A>| {
            step(k, v, old.unwrap_or_default())
                .map(Some)
                .map_err(user_error)
        };
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// Folds the values of each key with a function that may also delete: it gets the fold so far,
    /// `None` if there is none, and returns the one from now on, `None` to have none.
    ///
    /// A deletion goes on as a change without a new value, also where there was nothing to delete.
    /// The timestamp of a result is the greatest of the records since the key was last absent.
    ///
    /// Null keys and values are as [`Grouped`] says.
    ///
    /// Its headers are those of the last one.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// const MOVES: Topic<String, i64> = Topic::new("moves", text(), i64_be());
    /// const STOCK: KvStore<String, i64> = KvStore::new("stock", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let stock = b.stream(MOVES).group_by_key().aggregate_or_delete(STOCK, |_, by, held| {
    ///     Some(held.unwrap_or(0) + by).filter(|left| *left != 0)
    /// });
    /// ```
    pub fn aggregate_or_delete<A: Clone + 'static>(
        self,
        store: KvStore<K, A>,
        step: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(step(k, v, old));
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// As [`reduce`](Self::reduce), with a function that may also delete: `None` deletes the key,
    /// and goes on as a change without a new value. The timestamp of a result is the greatest of
    /// the records since the key was last absent.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// const MOVES: Topic<String, i64> = Topic::new("moves", text(), i64_be());
    /// const STOCK: KvStore<String, i64> = KvStore::new("stock", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let stock = b.stream(MOVES).group_by_key().reduce_or_delete(STOCK, |held, by| {
    ///     Some(held + by).filter(|left| *left != 0)
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn reduce_or_delete(
        self,
        store: KvStore<K, V>,
        combine: impl Fn(V, V) -> Option<V> + Send + Sync + 'static,
    ) -> KTable<K, V> {
        self.aggregate_or_delete(store, move |_, value, old| match old {
            Some(old) => combine(old, value),
            None => Some(value),
        })
    }

    /// Splits each key's records by time, in [`Tumbling`](millstream_topology::Tumbling),
    /// [`Hopping`](millstream_topology::Hopping), [`Sliding`](millstream_topology::Sliding) or
    /// [`Unlimited`](millstream_topology::Unlimited) windows or in
    /// [`Sessions`](millstream_topology::Sessions).
    ///
    /// What becomes of nulls, late records, timestamps and headers says
    /// [`WindowedGrouped`](crate::WindowedGrouped), of sessions
    /// [`SessionGrouped`](crate::SessionGrouped).
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, secs, text, u64_be, Topic, Tumbling, WindowStore};
    /// const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// const PER_MINUTE: WindowStore<String, u64> =
    ///     WindowStore::new("per-minute", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let minutes = Tumbling::of(mins(1)).grace(secs(10));
    /// let counts = b.stream(CLICKS).group_by_key().windowed_by(minutes).count(PER_MINUTE);
    /// ```
    pub fn windowed_by<W: Windows>(self, windows: W) -> W::Grouped<K, V> {
        windows.group(self.0)
    }

    /// Begins to fold several streams into one table: this one with `step`, others with
    /// [`Cogrouped::cogroup`]. The fold starts from `A::default()`.
    ///
    /// What becomes of nulls, timestamps and headers says [`Cogrouped`].
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, u64_be, KvStore, Topic};
    /// const DEPOSITS: Topic<String, u64> = Topic::new("deposits", text(), u64_be());
    /// const FEES: Topic<String, i64> = Topic::new("fees", text(), i64_be());
    /// const BALANCES: KvStore<String, i64> = KvStore::new("balances", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let fees = b.stream(FEES).group_by_key();
    /// let balances = b
    ///     .stream(DEPOSITS)
    ///     .group_by_key()
    ///     .cogroup(|_, cents, balance| balance + cents as i64)
    ///     .cogroup(fees, |_, cents, balance| balance - cents)
    ///     .aggregate(BALANCES);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn cogroup<A: Clone + Default + 'static>(
        self,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> Cogrouped<K, A> {
        Cogrouped::empty().cogroup(self, step)
    }

    /// As [`cogroup`](Self::cogroup), with a function that may also delete: it gets the fold so
    /// far, `None` if there is none, and returns the one from now on, `None` to have none.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, u64_be, KvStore, Topic};
    /// # const DEPOSITS: Topic<String, u64> = Topic::new("deposits", text(), u64_be());
    /// # const FEES: Topic<String, i64> = Topic::new("fees", text(), i64_be());
    /// # const BALANCES: KvStore<String, i64> = KvStore::new("balances", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// // An account without money is none.
    /// let cents = b.stream(DEPOSITS).group_by_key();
    /// let balances = cents.cogroup_or_delete(|_, cents, balance: Option<i64>| {
    ///     Some(balance.unwrap_or(0) + cents as i64).filter(|balance| *balance != 0)
    /// });
    /// balances.aggregate(BALANCES);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn cogroup_or_delete<A: Clone + 'static>(
        self,
        step: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> Cogrouped<K, A> {
        Cogrouped::empty().cogroup_or_delete(self, step)
    }

    pub(crate) fn into_stream(self) -> KStream<K, V> {
        self.0
    }
}
