//! `Windows`, `WindowedGrouped` and `SessionGrouped`: grouped streams split by time.

use std::{sync::Arc, time::Duration};

use millstream_topology::{
    Hopping, SessionStore, Sessions, Sliding, TimeWindows, Tumbling, Unlimited, WindowStore,
    Windowed,
};

use crate::{
    Cogrouped, KStream, KTable, SessionCogrouped, WindowedCogrouped,
    ops::{
        aggregate::Step,
        fold::Input,
        session_aggregate::{Merge, session_aggregate},
        sliding_aggregate::sliding_aggregate,
        window_aggregate::{Frames, WindowOptions, window_aggregate},
    },
};

/// A kind of windows that grouped streams can be split by.
///
/// ```
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{mins, text, u64_be, Topic, Tumbling, WindowStore};
/// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
/// # const COUNTS: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// b.stream(CLICKS).group_by_key().windowed_by(Tumbling::of(mins(1))).count(COUNTS);
/// # assert!(b.build().is_ok());
/// ```
///
/// A duration says how long, not which kind: it is `Tumbling::of(mins(1))`, `Sliding::of(mins(1))`,
/// …
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
/// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
/// # const COUNTS: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// b.stream(CLICKS).group_by_key().windowed_by(mins(1));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no kind of windows",
    note = "give `Tumbling`, `Hopping`, `Sliding`, `Sessions` or `Unlimited`, as in \
            `.windowed_by(Tumbling::of(mins(1)))`"
)]
pub trait Windows: Sized {
    /// A grouped stream split by such windows.
    type Grouped<K: Clone + 'static, V: Clone + 'static>;
    /// Several grouped streams split by such windows.
    type Cogrouped<K: Clone + 'static, A: Clone + 'static>;

    #[doc(hidden)]
    fn group<K: Clone + 'static, V: Clone + 'static>(
        self,
        stream: KStream<K, V>,
    ) -> Self::Grouped<K, V>;
    #[doc(hidden)]
    fn cogroup<K: Clone + 'static, A: Clone + 'static>(
        self,
        streams: Cogrouped<K, A>,
    ) -> Self::Cogrouped<K, A>;
}

/// Windows whose results a [`WindowStore`] keeps.
#[derive(Clone, Copy)]
pub(crate) enum InWindowStore {
    Frames(Frames),
    Sliding(Sliding),
}

macro_rules! in_window_store {
    ($windows:ty, $to:expr) => {
        impl Windows for $windows {
            type Grouped<K: Clone + 'static, V: Clone + 'static> = WindowedGrouped<K, V>;
            type Cogrouped<K: Clone + 'static, A: Clone + 'static> = WindowedCogrouped<K, A>;

            fn group<K: Clone + 'static, V: Clone + 'static>(
                self,
                stream: KStream<K, V>,
            ) -> WindowedGrouped<K, V> {
                WindowedGrouped {
                    stream,
                    windows: $to(self),
                    options: WindowOptions::default(),
                }
            }

            fn cogroup<K: Clone + 'static, A: Clone + 'static>(
                self,
                streams: Cogrouped<K, A>,
            ) -> WindowedCogrouped<K, A> {
                WindowedCogrouped::new(streams, $to(self))
            }
        }
    };
}
in_window_store!(TimeWindows, |windows| InWindowStore::Frames(Frames::Time(
    windows
)));
in_window_store!(Tumbling, |windows: Tumbling| InWindowStore::Frames(
    Frames::Time(windows.into())
));
in_window_store!(Hopping, |windows: Hopping| InWindowStore::Frames(
    Frames::Time(windows.into())
));
in_window_store!(Unlimited, |windows| InWindowStore::Frames(
    Frames::Unlimited(windows)
));
in_window_store!(Sliding, InWindowStore::Sliding);

impl Windows for Sessions {
    type Grouped<K: Clone + 'static, V: Clone + 'static> = SessionGrouped<K, V>;
    type Cogrouped<K: Clone + 'static, A: Clone + 'static> = SessionCogrouped<K, A>;

    fn group<K: Clone + 'static, V: Clone + 'static>(
        self,
        stream: KStream<K, V>,
    ) -> SessionGrouped<K, V> {
        SessionGrouped {
            stream,
            windows: self,
            options: WindowOptions::default(),
        }
    }

    fn cogroup<K: Clone + 'static, A: Clone + 'static>(
        self,
        streams: Cogrouped<K, A>,
    ) -> SessionCogrouped<K, A> {
        SessionCogrouped::new(streams, self)
    }
}

impl InWindowStore {
    pub(crate) fn aggregate<K: Clone + 'static, A: Clone + 'static>(
        self,
        inputs: Vec<Input<K, A>>,
        options: WindowOptions,
        store: WindowStore<K, A>,
    ) -> KTable<Windowed<K>, A> {
        match self {
            Self::Frames(frames) => window_aggregate(inputs, frames, options, store),
            Self::Sliding(windows) => sliding_aggregate(inputs, windows, options, store),
        }
    }
}

pub(crate) fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A grouped stream whose records are further split by tumbling, hopping, sliding or unlimited
/// windows.
///
/// # Results
/// Each update of a window is a change of the table with the window as part of its key, or with
/// [`emit_on_close`](Self::emit_on_close) the last one alone. Its timestamp is the greatest of the
/// window's records, its headers are those of the record that caused it.
///
/// # Late records
/// A window with an end `e` takes records as long as `e > t - grace`, where `t` is the greatest
/// timestamp that the operator has seen, of whatever key; a sliding window also at `e = t - grace`.
/// A record that comes later does not change it, and is counted as dropped: once for each such
/// window (for sliding windows, once if all its windows have closed, else once for each that it
/// would have changed). Records before the start of an [`Unlimited`] window are ignored without
/// being counted.
///
/// # Nulls
/// Keys and values of plain types are never null. Of a stream with null keys drop them first, with
/// [`drop_null_keys`](KStream::drop_null_keys). Kafka Streams hands null values to the aggregators
/// of tumbling, hopping and unlimited windows, and drops and counts them for sliding ones: here the
/// type says which, `Option<V>` as it is, or after [`drop_null_values`](KStream::drop_null_values).
pub struct WindowedGrouped<K: 'static, V: 'static> {
    stream: KStream<K, V>,
    windows: InWindowStore,
    options: WindowOptions,
}

impl<K: Clone + 'static, V: Clone + 'static> WindowedGrouped<K, V> {
    /// Keeps windows in the store for so long after their start, for queries; without it, for as
    /// long as they take records: their size and grace, of sliding windows twice the difference and
    /// grace. Less than that is refused. It changes no result.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{days, mins, text, u64_be, Topic, Tumbling, WindowStore};
    /// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// # const COUNTS: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let minutes = b.stream(CLICKS).group_by_key().windowed_by(Tumbling::of(mins(1)));
    /// minutes.retain(days(7)).count(COUNTS);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn retain(mut self, retention: Duration) -> Self {
        self.options.retention_ms = Some(millis_of(retention));
        self
    }

    /// Passes the result of a window on once, when it has closed, instead of at each update.
    ///
    /// Results that close together go by window start, then key. The record that closes them gives
    /// them its headers; their timestamps are those of their windows. They close by the times of
    /// the records that reach the operator: an idle stream closes nothing. The store has the
    /// unfinished results too. [`Unlimited`] windows never close, and are refused.
    ///
    /// Nulls and late records are as [`WindowedGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Topic, Tumbling, WindowStore};
    /// const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// const COUNTS: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let minutes = b.stream(CLICKS).group_by_key().windowed_by(Tumbling::of(mins(1)));
    /// let final_counts = minutes.emit_on_close().count(COUNTS);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn emit_on_close(mut self) -> Self {
        self.options.on_close = true;
        self
    }

    /// How many records each key has had in each window.
    ///
    /// Nulls, late records, timestamps and headers are as [`WindowedGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Sliding, Topic, WindowStore};
    /// const LOGINS: Topic<String, String> = Topic::new("logins", text(), text());
    /// const LATELY: WindowStore<String, u64> = WindowStore::new("lately", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let within_an_hour = Sliding::of(mins(60)).grace(mins(5));
    /// let counts = b.stream(LOGINS).group_by_key().windowed_by(within_an_hour).count(LATELY);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn count(self, store: WindowStore<K, u64>) -> KTable<Windowed<K>, u64> {
        self.aggregate(store, |_, _, count| count + 1)
    }

    /// Combines the values of each key and window; the first value stands as it is.
    ///
    /// Nulls, late records, timestamps and headers are as [`WindowedGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, i64_be, text, Hopping, Topic, WindowStore};
    /// const DEGREES: Topic<String, i64> = Topic::new("degrees", text(), i64_be());
    /// const HIGHEST: WindowStore<String, i64> = WindowStore::new("highest", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let days = Hopping::of(hours(24)).advance_by(hours(1));
    /// let highest = b.stream(DEGREES).group_by_key().windowed_by(days).reduce(HIGHEST, i64::max);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn reduce(
        self,
        store: WindowStore<K, V>,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        self.reduce_or_delete(store, move |so_far, value| Some(combine(so_far, value)))
    }

    /// Folds the values of each key and window, from `A::default()` on.
    ///
    /// Nulls, late records, timestamps and headers are as [`WindowedGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, Topic, Unlimited, WindowStore};
    /// const CENTS: Topic<String, u64> = Topic::new("cents", text(), u64_be());
    /// const SUMS: WindowStore<String, u64> = WindowStore::new("sums", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let since_2024 = Unlimited::since(1_704_067_200_000);
    /// let grouped = b.stream(CENTS).group_by_key().windowed_by(since_2024);
    /// let sums = grouped.aggregate(SUMS, |_, cents, sum| sum + cents);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: WindowStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(Some(step(k, v, old.unwrap_or_default())));
        self.fold(store, Arc::new(step))
    }

    /// Folds the values of each key and window with a function that may also delete: it gets the
    /// fold so far, `None` if there is none, and returns the one from now on, `None` to have none.
    ///
    /// A deletion goes on as a change without a new value, also where there was nothing to delete.
    /// The timestamp of a result is the greatest of the records since the window was last empty.
    ///
    /// Nulls, late records and headers are as [`WindowedGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, mins, text, Topic, Tumbling, WindowStore};
    /// const MOVES: Topic<String, i64> = Topic::new("moves", text(), i64_be());
    /// const NET: WindowStore<String, i64> = WindowStore::new("net", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let minutes = b.stream(MOVES).group_by_key().windowed_by(Tumbling::of(mins(1)));
    /// let net = minutes.aggregate_or_delete(NET, |_, by, net| {
    ///     Some(net.unwrap_or(0) + by).filter(|net| *net != 0)
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate_or_delete<A: Clone + 'static>(
        self,
        store: WindowStore<K, A>,
        step: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(step(k, v, old));
        self.fold(store, Arc::new(step))
    }

    /// As [`reduce`](Self::reduce), with a function that may also delete: `None` deletes the
    /// window, and goes on as a change without a new value. The timestamp of a result is the
    /// greatest of the records since the window was last empty.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, mins, text, Topic, Tumbling, WindowStore};
    /// # const MOVES: Topic<String, i64> = Topic::new("moves", text(), i64_be());
    /// # const NET: WindowStore<String, i64> = WindowStore::new("net", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let minutes = b.stream(MOVES).group_by_key().windowed_by(Tumbling::of(mins(1)));
    /// let net = minutes.reduce_or_delete(NET, |net, by| Some(net + by).filter(|net| *net != 0));
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn reduce_or_delete(
        self,
        store: WindowStore<K, V>,
        combine: impl Fn(V, V) -> Option<V> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        self.aggregate_or_delete(store, move |_, value, old| match old {
            Some(old) => combine(old, value),
            None => Some(value),
        })
    }

    fn fold<A: Clone + 'static>(
        self,
        store: WindowStore<K, A>,
        step: Step<K, V, A>,
    ) -> KTable<Windowed<K>, A> {
        let inputs = vec![Input::new(self.stream, step)];
        self.windows.aggregate(inputs, self.options, store)
    }
}

/// A grouped stream whose records are further split into [`Sessions`].
///
/// # Results
/// A record that touches sessions of its key (those that begin or end within the gap of it, the gap
/// included) makes one of them and itself. Each session that it replaces is deleted: a change
/// without a new value, with that session's end as timestamp. Then comes the new session, with its
/// own end as timestamp. Only a record of the same instant as a session of one instant updates that
/// in place. The headers of all of them are those of the record. With
/// [`emit_on_close`](Self::emit_on_close) only the last state of a session is passed on.
///
/// # Late records
/// A record is dropped and counted when the session that it would make, with all that it touches,
/// ends before `t - gap - grace`, where `t` is the greatest timestamp that the operator has seen,
/// of whatever key. A session that ends at that time or before is touched by nothing any more.
///
/// # Nulls
/// Keys and values of plain types are never null. Of a stream with null keys drop them first, with
/// [`drop_null_keys`](KStream::drop_null_keys); null values are folded like others, as
/// `Option<V>`.
pub struct SessionGrouped<K: 'static, V: 'static> {
    stream: KStream<K, V>,
    windows: Sessions,
    options: WindowOptions,
}

impl<K: Clone + 'static, V: Clone + 'static> SessionGrouped<K, V> {
    /// Keeps sessions in the store for so long after their end; without it, for as long as they
    /// take records: gap and grace. Less than that is refused. As in Kafka Streams, a longer time
    /// also lets late records join sessions that have closed, together with such that have not.
    ///
    /// Else nulls, timestamps and headers are as [`SessionGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{days, mins, text, u64_be, SessionStore, Sessions, Topic};
    /// # const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// # const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let visits = b.stream(PAGES).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// visits.retain(days(1)).count(VISITS);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn retain(mut self, retention: Duration) -> Self {
        self.options.retention_ms = Some(millis_of(retention));
        self
    }

    /// Passes a session on once, when it has closed, instead of at each update.
    ///
    /// Sessions that close together go by end, then start, then key. The record that closes them
    /// gives them its headers; their timestamps are their ends.
    ///
    /// Nulls and late records are as [`SessionGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{hours, mins, text, u64_be, SessionStore, Sessions, Topic};
    /// const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let visits = Sessions::of(mins(30)).grace(hours(1));
    /// b.stream(PAGES).group_by_key().windowed_by(visits).emit_on_close().count(VISITS);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn emit_on_close(mut self) -> Self {
        self.options.on_close = true;
        self
    }

    /// How many records each session has. Nulls, late records, timestamps and headers are as
    /// [`SessionGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, SessionStore, Sessions, Topic};
    /// # const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// # const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let visits = b.stream(PAGES).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// let pages_of_a_visit = visits.count(VISITS);
    /// # assert!(b.build().is_ok());
    /// ```
    ///
    /// A session has a start and an end, so a [`WindowStore`] does not do:
    ///
    /// ```compile_fail,E0308
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Sessions, Topic, WindowStore};
    /// # const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// # const VISITS: WindowStore<String, u64> = WindowStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let visits = b.stream(PAGES).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// let pages_of_a_visit = visits.count(VISITS);
    /// ```
    pub fn count(self, store: SessionStore<K, u64>) -> KTable<Windowed<K>, u64> {
        self.aggregate(store, |_, _, count| count + 1, |_, one, other| one + other)
    }

    /// Combines the values of each session; the first value stands as it is. The same function
    /// combines sessions that become one.
    ///
    /// Nulls, late records, timestamps and headers are as [`SessionGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, SessionStore, Sessions, Topic};
    /// const CENTS: Topic<String, u64> = Topic::new("cents", text(), u64_be());
    /// const SPENT: SessionStore<String, u64> = SessionStore::new("spent", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let visits = b.stream(CENTS).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// let spent = visits.reduce(SPENT, |sum, cents| sum + cents);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn reduce(
        self,
        store: SessionStore<K, V>,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        self.reduce_or_delete(store, move |so_far, value| Some(combine(so_far, value)))
    }

    /// Folds the values of each session, from `A::default()` on; `merge` makes one fold of two when
    /// sessions become one, and gets `A::default()` with the first of them.
    ///
    /// Nulls, late records, timestamps and headers are as [`SessionGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{json, mins, text, SessionStore, Sessions, Topic};
    /// const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// const PATHS: SessionStore<String, Vec<String>> = SessionStore::new("paths", text(), json());
    /// # let b = StreamsBuilder::new();
    /// let visits = b.stream(PAGES).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// let paths = visits.aggregate(
    ///     PATHS,
    ///     |_, page, mut path| {
    ///         path.push(page);
    ///         path
    ///     },
    ///     |_, earlier, later| [earlier, later].concat(),
    /// );
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: SessionStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        merge: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        self.aggregate_or_delete(
            store,
            move |key, value, so_far| Some(step(key, value, so_far.unwrap_or_default())),
            move |key, so_far, fold| Some(merge(key, so_far.unwrap_or_default(), fold)),
        )
    }

    /// Folds the values of each session with functions that may also delete. `step` gets the fold
    /// so far, `None` if there is none; `merge` gets it too, and the fold of the session that
    /// joins.
    ///
    /// A deletion goes on as a change without a new value, also where there was nothing to delete.
    /// Nulls, late records, timestamps and headers are as [`SessionGrouped`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, SessionStore, Sessions, Topic};
    /// # const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
    /// # const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// // Who asks for a page that nothing leads to is a robot, and does not visit.
    /// let visits = b.stream(PAGES).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// let visits = visits.aggregate_or_delete(
    ///     VISITS,
    ///     |_, page, pages| Some(pages.unwrap_or(0) + 1).filter(|_| page != "/trap"),
    ///     |_, pages, joins| Some(pages.unwrap_or(0) + joins),
    /// );
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate_or_delete<A: Clone + 'static>(
        self,
        store: SessionStore<K, A>,
        step: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
        merge: impl Fn(&K, Option<A>, A) -> Option<A> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let step: Step<K, V, A> = Arc::new(move |k, v, so_far| Ok(step(k, v, so_far)));
        let merge: Merge<K, A> = Arc::new(move |k, so_far, fold| Ok(merge(k, so_far, fold)));
        let inputs = vec![Input::new(self.stream, step)];
        session_aggregate(inputs, self.windows, self.options, store, merge)
    }

    /// As [`reduce`](Self::reduce), with a function that may also delete: `None` deletes the
    /// session, and goes on as a change without a new value.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, mins, text, SessionStore, Sessions, Topic};
    /// # const CENTS: Topic<String, i64> = Topic::new("cents", text(), i64_be());
    /// # const SPENT: SessionStore<String, i64> = SessionStore::new("spent", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let visits = b.stream(CENTS).group_by_key().windowed_by(Sessions::of(mins(30)));
    /// let spent = visits.reduce_or_delete(SPENT, |sum, cents| {
    ///     Some(sum + cents).filter(|left| *left != 0)
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn reduce_or_delete(
        self,
        store: SessionStore<K, V>,
        combine: impl Fn(V, V) -> Option<V> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        let combine = Arc::new(combine);
        let with = combine.clone();
        self.aggregate_or_delete(
            store,
            move |_, value, so_far| match so_far {
                Some(so_far) => combine(so_far, value),
                None => Some(value),
            },
            move |_, so_far, fold| match so_far {
                Some(so_far) => with(so_far, fold),
                None => Some(fold),
            },
        )
    }
}
