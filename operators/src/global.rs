//! `GlobalKTable`: a table that every instance has whole, and joins of streams with it.

use std::sync::Arc;

use millstream_state::{StoreDefinition, TaskState};
use millstream_topology::{KvStore, Result};

use crate::{
    KStream, RawRecord,
    builder::SharedDraft,
    join::{JoinWith, Joiner, LeftJoinWith, LeftJoiner},
    ops::{self, table_join::Alone},
};

/// Applies a record to a store; `false` when it has no key.
pub(crate) type Apply =
    Arc<dyn Fn(&mut TaskState, usize, &RawRecord) -> Result<bool> + Send + Sync>;

/// What feeds a global table.
#[derive(Clone)]
pub struct GlobalSource {
    pub(crate) topic: Arc<str>,
    pub(crate) definition: Arc<dyn StoreDefinition>,
    pub(crate) apply: Apply,
}

impl GlobalSource {
    /// The topic that is read, all partitions of it.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The store.
    pub fn definition(&self) -> &Arc<dyn StoreDefinition> {
        &self.definition
    }

    /// Applies a record to the store at `index`; `false` when it has no key and is dropped.
    ///
    /// # Errors
    /// When the record does not decode, or the base cannot be read.
    pub fn apply(&self, state: &mut TaskState, index: usize, record: &RawRecord) -> Result<bool> {
        (self.apply)(state, index, record)
    }
}

/// A table that every instance has whole: see
/// [`global_table`](crate::StreamsBuilder::global_table).
pub struct GlobalKTable<K: 'static, V: 'static> {
    pub(crate) draft: SharedDraft,
    pub(crate) index: usize,
    pub(crate) store: KvStore<K, V>,
}

impl<K, V> Clone for GlobalKTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            draft: self.draft.clone(),
            ..*self
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> GlobalKTable<K, V> {
    /// This table as the right-hand side of a join: each record of the stream looks up the key that
    /// `key` makes of its key and value, `None` for none.
    ///
    /// Only the stream triggers, and its keys may be null and need not be those by which it is
    /// partitioned. An inner join drops and counts a record that `key` gives no key for; a left
    /// join joins it with nothing. A null value is not looked at: the functions get the `Option`.
    /// Results have key, timestamp and headers of the record.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const ORDERS: Topic<u64, String> = Topic::new("orders", u64_be(), text());
    /// # const COUNTRIES: Topic<String, String> = Topic::new("countries", text(), text());
    /// # const COUNTRY: KvStore<String, String> = KvStore::new("country", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let countries = b.global_table(COUNTRIES, COUNTRY);
    /// let code_of = |_: &u64, order: &String| order.get(..2).map(str::to_owned);
    /// b.stream(ORDERS).left_join(countries.by(code_of), |order, country| match country {
    ///     Some(country) => format!("{order} to {country}"),
    ///     None => order.clone(),
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn by<SK, SV, G>(
        &self,
        key: impl Fn(&SK, &SV) -> G + Send + Sync + 'static,
    ) -> GlobalLookup<SK, SV, K, V>
    where
        SK: 'static,
        SV: 'static,
        G: Into<Option<K>>,
    {
        GlobalLookup {
            table: self.clone(),
            key_of: Arc::new(move |k, v| key(k, v).into()),
        }
    }
}

/// Makes the key that a record looks up.
pub(crate) type LookupKey<SK, SV, K> = Arc<dyn Fn(&SK, &SV) -> Option<K> + Send + Sync>;

/// A global table with the key that each record of a stream looks up.
pub struct GlobalLookup<SK: 'static, SV: 'static, K: 'static, V: 'static> {
    pub(crate) table: GlobalKTable<K, V>,
    pub(crate) key_of: LookupKey<SK, SV, K>,
}

impl<SK, SV, K, V> JoinWith<SK, SV> for GlobalLookup<SK, SV, K, V>
where
    SK: Clone + 'static,
    SV: Clone + 'static,
    K: Clone + 'static,
    V: Clone + 'static,
{
    type Key = SK;
    type Left = SV;
    type Value = V;

    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<SK, SV>,
        joiner: Joiner<SK, SV, V, VO>,
    ) -> KStream<SK, VO> {
        let inner = move |k: &SK, v: &SV, t: Option<&V>| t.map(|t| joiner(k, v, t));
        ops::global_join::global_join(left, self, Alone::Silent, Arc::new(inner))
    }
}

impl<SK, SV, K, V> LeftJoinWith<SK, SV> for GlobalLookup<SK, SV, K, V>
where
    SK: Clone + 'static,
    SV: Clone + 'static,
    K: Clone + 'static,
    V: Clone + 'static,
{
    type Left = SV;
    type Value = V;

    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<SK, SV>,
        joiner: LeftJoiner<SK, SV, V, VO>,
    ) -> KStream<SK, VO> {
        let outer = move |k: &SK, v: &SV, t: Option<&V>| Some(joiner(k, v, t));
        ops::global_join::global_join(left, self, Alone::Joined, Arc::new(outer))
    }
}
