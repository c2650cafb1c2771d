//! `GroupedTable`: the rows of a table under new keys, about to be aggregated.

use std::sync::Arc;

use millstream_topology::{Change, KvStore};

use crate::{KStream, KTable, ops, ops::table_aggregate::Steps};

/// The rows of a table in groups, from [`KTable::group_by`].
///
/// An aggregation follows the rows: a row that changes is first taken out of its group by the
/// subtractor and then put into its new one by the adder, in one step where the group stays the
/// same. Between two groups the step is not atomic: readers may see the row in neither.
///
/// # Nulls
/// There are none: a row that was deleted is only taken out, one that `group` gave `None` for is in
/// no group, and the functions get values only.
///
/// # Results
/// The timestamp of a result is the greatest of the records that made it; its headers are those of
/// the last one.
pub struct GroupedTable<K: 'static, V: 'static>(KStream<K, Change<V>>);

impl<K: Clone + 'static, V: Clone + 'static> GroupedTable<K, V> {
    pub(crate) fn new(changes: KStream<K, Change<V>>) -> Self {
        Self(changes)
    }

    /// How many rows each group has; a group that has lost all its rows has a count of 0.
    ///
    /// Nulls, timestamp and headers are as [`GroupedTable`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const HOMES: Topic<u64, String> = Topic::new("homes", u64_be(), text());
    /// # const BY_PERSON: KvStore<u64, String> = KvStore::new("by-person", u64_be(), text());
    /// # const BY_TOWN: Topic<String, u64> = Topic::new("by-town", text(), u64_be());
    /// # const INHABITANTS: KvStore<String, u64> = KvStore::new("inhabitants", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// # let homes = b.table(HOMES, BY_PERSON);
    /// homes.group_by(BY_TOWN, |person, town| (town.clone(), *person)).count(INHABITANTS);
    /// ```
    pub fn count(self, store: KvStore<K, u64>) -> KTable<K, u64> {
        self.aggregate(
            store,
            |_, _, count| count + 1,
            // Below 0 it cannot come: every row taken out was put in before.
            |_, _, count: u64| count.saturating_sub(1),
        )
    }

    /// Combines the values of each group: the first stands as it is, `add` puts one more in,
    /// `subtract` takes one out.
    ///
    /// Nulls, timestamp and headers are as [`GroupedTable`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const STOCK: Topic<String, i64> = Topic::new("stock", text(), i64_be());
    /// # const HELD: KvStore<String, i64> = KvStore::new("held", text(), i64_be());
    /// # const BY_SHELF: Topic<String, i64> = Topic::new("by-shelf", text(), i64_be());
    /// # const SHELVES: KvStore<String, i64> = KvStore::new("shelves", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let shelves = b.table(STOCK, HELD).group_by(BY_SHELF, |item, n| (item[..1].to_owned(), *n));
    /// shelves.reduce(SHELVES, |sum, n| sum + n, |sum, n| sum - n);
    /// ```
    pub fn reduce(
        self,
        store: KvStore<K, V>,
        add: impl Fn(V, V) -> V + Send + Sync + 'static,
        subtract: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<K, V> {
        self.reduce_or_delete(
            store,
            move |sum, value| Some(add(sum, value)),
            move |sum, value| Some(subtract(sum, value)),
        )
    }

    /// As [`reduce`](Self::reduce), with functions that may also delete: `None` deletes the group,
    /// and goes on as a change without a new value.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const STOCK: Topic<String, i64> = Topic::new("stock", text(), i64_be());
    /// # const HELD: KvStore<String, i64> = KvStore::new("held", text(), i64_be());
    /// # const BY_SHELF: Topic<String, i64> = Topic::new("by-shelf", text(), i64_be());
    /// # const SHELVES: KvStore<String, i64> = KvStore::new("shelves", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// // An empty shelf is not in the table.
    /// let shelves = b.table(STOCK, HELD).group_by(BY_SHELF, |item, n| (item[..1].to_owned(), *n));
    /// shelves.reduce_or_delete(
    ///     SHELVES,
    ///     |sum, n| Some(sum + n),
    ///     |sum, n| Some(sum - n).filter(|left| *left != 0),
    /// );
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn reduce_or_delete(
        self,
        store: KvStore<K, V>,
        add: impl Fn(V, V) -> Option<V> + Send + Sync + 'static,
        subtract: impl Fn(V, V) -> Option<V> + Send + Sync + 'static,
    ) -> KTable<K, V> {
        self.aggregate_or_delete(
            store,
            move |_, value, sum| match sum {
                Some(sum) => add(sum, value),
                None => Some(value),
            },
            move |_, value, sum| subtract(sum, value),
        )
    }

    /// Folds the values of each group, from `A::default()` on: `add` puts a value in, `subtract`
    /// takes one out. Nulls, timestamp and headers are as [`GroupedTable`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// # const STOCK: Topic<String, i64> = Topic::new("stock", text(), i64_be());
    /// # const HELD: KvStore<String, i64> = KvStore::new("held", text(), i64_be());
    /// # const BY_SHELF: Topic<String, i64> = Topic::new("by-shelf", text(), i64_be());
    /// # const SHELVES: KvStore<String, i64> = KvStore::new("shelves", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// let shelves = b.table(STOCK, HELD).group_by(BY_SHELF, |item, n| (item[..1].to_owned(), *n));
    /// shelves.aggregate(SHELVES, |_, n, sum: i64| sum + n, |_, n, sum| sum - n);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn aggregate<A: Clone + Default + 'static>(
        self,
        store: KvStore<K, A>,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        subtract: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        self.aggregate_or_delete(
            store,
            move |key, value, fold| Some(add(key, value, fold.unwrap_or_default())),
            move |key, value, fold| Some(subtract(key, value, fold)),
        )
    }

    /// Folds the values of each group with functions that may also delete: `add` gets the fold so
    /// far, `None` if there is none; both return the one from now on, `None` to have none.
    /// `subtract` is not called where there is nothing to take a value out of.
    ///
    /// Nulls, timestamp and headers are as [`GroupedTable`] says.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const HOMES: Topic<u64, String> = Topic::new("homes", u64_be(), text());
    /// # const BY_PERSON: KvStore<u64, String> = KvStore::new("by-person", u64_be(), text());
    /// # const BY_TOWN: Topic<String, u64> = Topic::new("by-town", text(), u64_be());
    /// # const TOWNS: KvStore<String, u64> = KvStore::new("towns", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// # let homes = b.table(HOMES, BY_PERSON);
    /// // A town that nobody lives in any more is no town.
    /// homes.group_by(BY_TOWN, |person, town| (town.clone(), *person)).aggregate_or_delete(
    ///     TOWNS,
    ///     |_, _, count| Some(count.unwrap_or(0) + 1),
    ///     |_, _, count| Some(count - 1).filter(|left| *left > 0),
    /// );
    /// ```
    pub fn aggregate_or_delete<A: Clone + 'static>(
        self,
        store: KvStore<K, A>,
        add: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
        subtract: impl Fn(&K, V, A) -> Option<A> + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let steps = Steps {
            add: Arc::new(add),
            subtract: Arc::new(subtract),
        };
        ops::table_aggregate::table_aggregate(self.0, store, steps)
    }
}
