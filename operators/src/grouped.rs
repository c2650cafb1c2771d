//! `Grouped` and `WindowedGrouped`: streams about to be aggregated.

use std::{sync::Arc, time::Duration};

use millstream_topology::{
    BoxError, Error, ErrorKind, KvStore, Result, TimeWindows, WindowStore, Windowed,
};

use crate::{KStream, KTable, ops, ops::aggregate::Step};

/// A stream whose records with equal keys meet in one task.
pub struct Grouped<K: 'static, V: 'static>(KStream<K, V>);

fn user_error(source: impl Into<BoxError>) -> Error {
    Error::caused(ErrorKind::User, "an aggregator failed on a record", source)
}

impl<K: Clone + 'static, V: Clone + 'static> Grouped<K, V> {
    pub(crate) fn new(stream: KStream<K, V>) -> Self {
        Self(stream)
    }

    /// How many records each key has had. The timestamp of a count is the greatest of its records.
    pub fn count(self, store: KvStore<K, u64>) -> KTable<K, u64> {
        self.aggregate(store, |_, _, count| count + 1)
    }

    /// Combines the values of each key; the first value stands as it is.
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

    /// Folds the values of each key, from `A::default()` on.
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: KvStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(Some(step(k, v, old.unwrap_or_default())));
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// As [`aggregate`](Self::aggregate), with a function that may fail.
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

    /// As [`reduce`](Self::reduce), with a function that may also delete.
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

    /// Splits each key's records by time.
    pub fn windowed_by(self, windows: impl Into<TimeWindows>) -> WindowedGrouped<K, V> {
        WindowedGrouped {
            stream: self.0,
            windows: windows.into(),
            retention_ms: None,
        }
    }
}

/// A grouped stream whose records are further split by time.
pub struct WindowedGrouped<K: 'static, V: 'static> {
    stream: KStream<K, V>,
    windows: TimeWindows,
    retention_ms: Option<i64>,
}

impl<K: Clone + 'static, V: Clone + 'static> WindowedGrouped<K, V> {
    /// Keeps windows in the store for so long after their start, for queries; without it, for as long
    /// as they take records: their size and grace. Less than that is refused.
    pub fn retain(mut self, retention: Duration) -> Self {
        self.retention_ms = Some(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        self
    }

    /// How many records each key has had in each window.
    pub fn count(self, store: WindowStore<K, u64>) -> KTable<Windowed<K>, u64> {
        self.aggregate(store, |_, _, count| count + 1)
    }

    /// Combines the values of each key and window; the first value stands as it is.
    pub fn reduce(
        self,
        store: WindowStore<K, V>,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        let step = move |_: &K, value: V, old: Option<V>| {
            Ok(Some(match old {
                Some(old) => combine(old, value),
                None => value,
            }))
        };
        self.fold(store, Arc::new(step))
    }

    /// Folds the values of each key and window, from `A::default()` on.
    ///
    /// A record that is late for a window (`window end <= greatest time seen - grace`) does not change
    /// it and is counted as dropped, once for each such window. The timestamp of a result is the greatest of
    /// its records.
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: WindowStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(Some(step(k, v, old.unwrap_or_default())));
        self.fold(store, Arc::new(step))
    }

    /// Folds the values of each key and window with a function that may also delete: it gets the fold so far,
    /// `None` if there is none, and returns the one from now on, `None` to have none.
    ///
    /// A deletion goes on as a change without a new value, also where there was nothing to delete.
    /// The timestamp of a result is the greatest of the records since the window was last empty.
    pub fn aggregate_or_delete<A: Clone + 'static>(
        self,
        store: WindowStore<K, A>,
        step: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(step(k, v, old));
        self.fold(store, Arc::new(step))
    }

    /// As [`reduce`](Self::reduce), with a function that may also delete.
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
        let Self {
            stream,
            windows,
            retention_ms,
        } = self;
        ops::window_aggregate::window_aggregate(stream, windows, retention_ms, store, step)
    }
}
