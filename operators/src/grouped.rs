//! `Grouped` and `WindowedGrouped`: streams about to be aggregated.

use std::sync::Arc;

use millstream_topology::{
    BoxError, Error, ErrorKind, KvStore, Result, TimeWindows, WindowStore, Windowed,
};

use crate::{KStream, KTable, ops};

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
            Ok(match old {
                Some(old) => combine(old, value),
                None => value,
            })
        };
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// Folds the values of each key, from `A::default()` on.
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: KvStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(step(k, v, old.unwrap_or_default()));
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// As [`aggregate`](Self::aggregate), with a function that may fail.
    pub fn try_aggregate<A: Clone + Default + 'static, E: Into<BoxError>>(
        self,
        store: KvStore<K, A>,
        step: impl Fn(&K, V, A) -> Result<A, E> + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let step =
            move |k: &K, v, old: Option<A>| step(k, v, old.unwrap_or_default()).map_err(user_error);
        ops::aggregate::aggregate(self.0, store, Arc::new(step))
    }

    /// Splits each key's records by time.
    pub fn windowed_by(self, windows: impl Into<TimeWindows>) -> WindowedGrouped<K, V> {
        WindowedGrouped {
            stream: self.0,
            windows: windows.into(),
        }
    }
}

/// A grouped stream whose records are further split by time.
pub struct WindowedGrouped<K: 'static, V: 'static> {
    stream: KStream<K, V>,
    windows: TimeWindows,
}

impl<K: Clone + 'static, V: Clone + 'static> WindowedGrouped<K, V> {
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
            Ok(match old {
                Some(old) => combine(old, value),
                None => value,
            })
        };
        ops::window_aggregate::window_aggregate(self.stream, self.windows, store, Arc::new(step))
    }

    /// Folds the values of each key and window, from `A::default()` on.
    ///
    /// A record that is late for a window (`window end <= greatest time seen - grace`) does not
    /// change it and is counted as dropped, once for each such window. The timestamp of a result is
    /// the greatest of its records.
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: WindowStore<K, A>,
        step: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let step = move |k: &K, v, old: Option<A>| Ok(step(k, v, old.unwrap_or_default()));
        ops::window_aggregate::window_aggregate(self.stream, self.windows, store, Arc::new(step))
    }
}
