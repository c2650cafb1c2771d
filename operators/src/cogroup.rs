//! `Cogrouped`: several grouped streams about to be folded into one table.

use std::{sync::Arc, time::Duration};

use millstream_topology::{KvStore, SessionStore, Sessions, WindowStore, Windowed};

use crate::{
    Grouped, KTable, Windows,
    ops::{
        cogroup::cogroup,
        fold::Input,
        session_aggregate::{Merge, session_aggregate},
        window_aggregate::WindowOptions,
    },
    windows::{InWindowStore, millis_of},
};

/// Several grouped streams with equal keys, each with a function that folds its values. Made by
/// [`Grouped::cogroup`].
///
/// All of them share one store and one table. Null keys and values are as for an aggregation of one
/// stream: [`Grouped`], or in windows [`WindowedGrouped`](crate::WindowedGrouped) and
/// [`SessionGrouped`](crate::SessionGrouped). So are lateness and timestamps; each input has a
/// stream time of its own, so a slow one is not late because another is ahead. The headers of a
/// result are those of the record that caused it. Streams that are not partitioned alike are
/// refused.
pub struct Cogrouped<K: 'static, A: 'static> {
    inputs: Vec<Input<K, A>>,
}

impl<K: Clone + 'static, A: Clone + 'static> Cogrouped<K, A> {
    pub(crate) fn empty() -> Self {
        Self { inputs: Vec::new() }
    }

    /// Adds a stream, whose values `step` folds, from `A::default()` on. Nulls, timestamps and
    /// headers are as [`Cogrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, u64_be, KvStore, Topic};
    /// # const DEPOSITS: Topic<String, u64> = Topic::new("deposits", text(), u64_be());
    /// # const FEES: Topic<String, i64> = Topic::new("fees", text(), i64_be());
    /// # const BALANCES: KvStore<String, i64> = KvStore::new("balances", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let fees = b.stream(FEES).group_by_key();
    /// let deposits = b.stream(DEPOSITS).group_by_key();
    /// let deposits = deposits.cogroup(|_, cents, sum| sum + cents as i64);
    /// deposits.cogroup(fees, |_, cents, sum| sum - cents).aggregate(BALANCES);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn cogroup<V: Clone + 'static>(
        self,
        stream: Grouped<K, V>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> Self
    where
        A: Default,
    {
        self.cogroup_or_delete(stream, move |key, value, so_far| {
            Some(step(key, value, so_far.unwrap_or_default()))
        })
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
    /// let fees = b.stream(FEES).group_by_key();
    /// let deposits = b.stream(DEPOSITS).group_by_key();
    /// let deposits = deposits.cogroup(|_, cents, sum| sum + cents as i64);
    /// let balances = deposits.cogroup_or_delete(fees, |_, cents, sum| {
    ///     Some(sum.unwrap_or(0) - cents).filter(|left| *left != 0)
    /// });
    /// balances.aggregate(BALANCES);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn cogroup_or_delete<V: Clone + 'static>(
        mut self,
        stream: Grouped<K, V>,
        step: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> Self {
        let step = move |key: &K, value, so_far: Option<A>| Ok(step(key, value, so_far));
        self.inputs
            .push(Input::new(stream.into_stream(), Arc::new(step)));
        self
    }

    /// The table of all folds by key. The timestamp of a result is the greatest of its records, its
    /// headers are those of the record that caused it. Nulls are as [`Cogrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, u64_be, KvStore, Topic};
    /// # const DEPOSITS: Topic<String, u64> = Topic::new("deposits", text(), u64_be());
    /// # const FEES: Topic<String, i64> = Topic::new("fees", text(), i64_be());
    /// # const BALANCES: KvStore<String, i64> = KvStore::new("balances", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let deposits = b.stream(DEPOSITS).group_by_key();
    /// let deposits = deposits.cogroup(|_, cents, sum| sum + cents as i64);
    /// let balances = deposits.aggregate(BALANCES);
    /// balances.to_stream().print("balance");
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate(self, store: KvStore<K, A>) -> KTable<K, A> {
        cogroup(self.inputs, store)
    }

    /// Splits each key's records by time, as [`Grouped::windowed_by`] does.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, text, u64_be, Topic, Tumbling, WindowStore};
    /// const SALES: Topic<String, u64> = Topic::new("sales", text(), u64_be());
    /// const RETURNS: Topic<String, u64> = Topic::new("returns", text(), u64_be());
    /// const NET: WindowStore<String, u64> = WindowStore::new("net", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let returns = b.stream(RETURNS).group_by_key();
    /// let net = b
    ///     .stream(SALES)
    ///     .group_by_key()
    ///     .cogroup(|_, cents, net: u64| net + cents)
    ///     .cogroup(returns, |_, cents, net| net.saturating_sub(cents))
    ///     .windowed_by(Tumbling::of(hours(24)))
    ///     .aggregate(NET);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn windowed_by<W: Windows>(self, windows: W) -> W::Cogrouped<K, A> {
        windows.cogroup(self)
    }
}

/// Several grouped streams whose records are further split by tumbling, hopping, sliding or
/// unlimited windows; see [`WindowedGrouped`](crate::WindowedGrouped) for the rules.
pub struct WindowedCogrouped<K: 'static, A: 'static> {
    streams: Cogrouped<K, A>,
    windows: InWindowStore,
    options: WindowOptions,
}

impl<K: Clone + 'static, A: Clone + 'static> WindowedCogrouped<K, A> {
    pub(crate) fn new(streams: Cogrouped<K, A>, windows: InWindowStore) -> Self {
        let options = WindowOptions::default();
        Self {
            streams,
            windows,
            options,
        }
    }

    /// Keeps windows in the store for so long after their start; see
    /// [`WindowedGrouped::retain`](crate::WindowedGrouped::retain). It changes no result.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{days, hours, text, u64_be, Topic, Tumbling, WindowStore};
    /// # const SALES: Topic<String, u64> = Topic::new("sales", text(), u64_be());
    /// # const SOLD: WindowStore<String, u64> = WindowStore::new("sold", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let sales = b.stream(SALES).group_by_key().cogroup(|_, cents, sum: u64| sum + cents);
    /// sales.windowed_by(Tumbling::of(hours(1))).retain(days(7)).aggregate(SOLD);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn retain(mut self, retention: Duration) -> Self {
        self.options.retention_ms = Some(millis_of(retention));
        self
    }

    /// The table of all folds by key and window. Nulls, lateness, timestamps and headers are as
    /// [`Cogrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, text, u64_be, Topic, Tumbling, WindowStore};
    /// # const SALES: Topic<String, u64> = Topic::new("sales", text(), u64_be());
    /// # const SOLD: WindowStore<String, u64> = WindowStore::new("sold", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let sales = b.stream(SALES).group_by_key().cogroup(|_, cents, sum: u64| sum + cents);
    /// let hourly = sales.windowed_by(Tumbling::of(hours(1))).aggregate(SOLD);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate(self, store: WindowStore<K, A>) -> KTable<Windowed<K>, A> {
        self.windows
            .aggregate(self.streams.inputs, self.options, store)
    }
}

/// Several grouped streams whose records are further split into sessions; see
/// [`SessionGrouped`](crate::SessionGrouped) for the rules.
pub struct SessionCogrouped<K: 'static, A: 'static> {
    streams: Cogrouped<K, A>,
    windows: Sessions,
    options: WindowOptions,
}

impl<K: Clone + 'static, A: Clone + 'static> SessionCogrouped<K, A> {
    pub(crate) fn new(streams: Cogrouped<K, A>, windows: Sessions) -> Self {
        let options = WindowOptions::default();
        Self {
            streams,
            windows,
            options,
        }
    }

    /// Keeps sessions in the store for so long after their end; see
    /// [`SessionGrouped::retain`](crate::SessionGrouped::retain) for what that does to late
    /// records.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{days, mins, text, u64_be, SessionStore, Sessions, Topic};
    /// # const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// # const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let pages = b.stream(PAGES).group_by_key().cogroup(|_, _, events: u64| events + 1);
    /// let visits = pages.windowed_by(Sessions::of(mins(30))).retain(days(1));
    /// visits.aggregate(VISITS, |_, one, other| one + other);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn retain(mut self, retention: Duration) -> Self {
        self.options.retention_ms = Some(millis_of(retention));
        self
    }

    /// The table of all folds by key and session; `merge` makes one fold of two when sessions
    /// become one, and gets `A::default()` with the first of them.
    ///
    /// Nulls and lateness are as [`SessionGrouped`](crate::SessionGrouped) says, and so are
    /// timestamps and headers.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, SessionStore, Sessions, Topic};
    /// const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let clicks = b.stream(CLICKS).group_by_key();
    /// let visits = b
    ///     .stream(PAGES)
    ///     .group_by_key()
    ///     .cogroup(|_, _, events| events + 1)
    ///     .cogroup(clicks, |_, _, events| events + 1)
    ///     .windowed_by(Sessions::of(mins(30)))
    ///     .aggregate(VISITS, |_, one, other| one + other);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate(
        self,
        store: SessionStore<K, A>,
        merge: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A>
    where
        A: Default,
    {
        self.aggregate_or_delete(store, move |key, so_far, fold| {
            Some(merge(key, so_far.unwrap_or_default(), fold))
        })
    }

    /// As [`aggregate`](Self::aggregate), with a merger that gets `None` with the first session,
    /// and may delete.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, SessionStore, Sessions, Topic};
    /// # const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// # const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let pages = b.stream(PAGES).group_by_key().cogroup(|_, _, events: u64| events + 1);
    /// pages.windowed_by(Sessions::of(mins(30))).aggregate_or_delete(VISITS, |_, one, other| {
    ///     Some(one.unwrap_or(0) + other).filter(|events| *events > 1)
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate_or_delete(
        self,
        store: SessionStore<K, A>,
        merge: impl Fn(&K, Option<A>, A) -> Option<A> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let merge: Merge<K, A> = Arc::new(move |k, so_far, fold| Ok(merge(k, so_far, fold)));
        session_aggregate(
            self.streams.inputs,
            self.windows,
            self.options,
            store,
            merge,
        )
    }
}
