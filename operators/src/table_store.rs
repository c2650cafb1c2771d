//! `TableStore`: what the rows of a table can be kept in.

use std::{rc::Rc, sync::Arc};

use millstream_state::{KvDefinition, StoreDefinition, VersionedDefinition, Versions};
use millstream_topology::{KvStore, Result, StoreId, VersionedStore};

use crate::{
    Cx,
    build::TaskBuild,
    ops::held::{EncodeKey, plain_key},
    table::{Getter, GetterFactory, History, Past},
};

/// How the past of a table is looked up.
pub struct Remembers<K: 'static, V: 'static>(History<K, V>);

/// What a change did to a store.
pub struct Kept<V> {
    pub(crate) old: Option<V>,
    pub(crate) latest: bool,
}

/// What the rows of a table can be kept in: a [`KvStore`], a [`VersionedStore`] for a table that
/// remembers its past, or [`NoStore`].
///
/// ```
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore, Topic};
/// # const NAMES: Topic<u64, String> = Topic::new("names", u64_be(), text());
/// const BY_ID: KvStore<u64, String> = KvStore::new("by-id", u64_be(), text());
/// const LOUD: KvStore<u64, String> = KvStore::new("loud", u64_be(), text());
/// # let b = StreamsBuilder::new();
/// b.table(NAMES, BY_ID).map_values(|_, name| name.to_uppercase()).materialize(LOUD);
/// # assert!(b.build().is_ok());
/// ```
///
/// The store has the types of the table: here its values are `String`s, so give it a codec of
/// those.
///
/// ```compile_fail,E0277
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_topology::{text, u64_be, KvStore, Topic};
/// # const NAMES: Topic<u64, String> = Topic::new("names", u64_be(), text());
/// # const BY_ID: KvStore<u64, String> = KvStore::new("by-id", u64_be(), text());
/// const LOUD: KvStore<u64, u64> = KvStore::new("loud", u64_be(), u64_be());
/// # let b = StreamsBuilder::new();
/// b.table(NAMES, BY_ID).map_values(|_, name| name.to_uppercase()).materialize(LOUD);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot keep the rows of a table from `{K}` to `{V}`",
    note = "name a `KvStore<K, V>` or a `VersionedStore<K, V>` with the types of the table"
)]
pub trait TableStore<K: 'static, V: 'static>: Copy + Send + Sync + 'static {
    /// `None` when nothing is kept.
    #[doc(hidden)]
    fn definition(self) -> Option<Arc<dyn StoreDefinition>>;

    /// Writes a key as the store does.
    #[doc(hidden)]
    fn encode_key(self) -> EncodeKey<K>;

    /// Applies a change; `None` when it is too old to be applied.
    #[doc(hidden)]
    fn keep(
        self,
        cx: &mut Cx<'_>,
        index: usize,
        key: &K,
        new: Option<V>,
        timestamp: i64,
    ) -> Result<Option<Kept<V>>>;

    #[doc(hidden)]
    fn look_up(self, cx: &mut Cx<'_>, index: usize, key: &K) -> Result<Option<(V, i64)>>;

    #[doc(hidden)]
    fn remembers(self, id: StoreId) -> Option<Remembers<K, V>>;

    /// The store that is to be refilled from the topic that the table is read from.
    #[doc(hidden)]
    fn refilled(self) -> Option<KvStore<K, V>> {
        None
    }
}

impl<K: 'static, V: Clone + 'static> TableStore<K, V> for KvStore<K, V> {
    fn definition(self) -> Option<Arc<dyn StoreDefinition>> {
        Some(Arc::new(KvDefinition(self)))
    }

    fn encode_key(self) -> EncodeKey<K> {
        plain_key(self.key())
    }

    fn keep(
        self,
        cx: &mut Cx<'_>,
        index: usize,
        key: &K,
        new: Option<V>,
        timestamp: i64,
    ) -> Result<Option<Kept<V>>> {
        let stored = new.map(|value| (value, timestamp));
        let old = cx.state.kv(index, &self).update(key, |slot| {
            Ok(std::mem::replace(slot, stored).map(|(value, _)| value))
        })?;
        Ok(Some(Kept { old, latest: true }))
    }

    fn look_up(self, cx: &mut Cx<'_>, index: usize, key: &K) -> Result<Option<(V, i64)>> {
        cx.state.kv(index, &self).get_with_timestamp(key)
    }

    fn remembers(self, _id: StoreId) -> Option<Remembers<K, V>> {
        None
    }
}

impl<K: 'static, V: Clone + 'static> TableStore<K, V> for VersionedStore<K, V> {
    fn definition(self) -> Option<Arc<dyn StoreDefinition>> {
        Some(Arc::new(VersionedDefinition(self)))
    }

    fn encode_key(self) -> EncodeKey<K> {
        plain_key(self.key())
    }

    fn keep(
        self,
        cx: &mut Cx<'_>,
        index: usize,
        key: &K,
        new: Option<V>,
        timestamp: i64,
    ) -> Result<Option<Kept<V>>> {
        let mut versions = cx.state.versioned(index, &self);
        let old = versions.get(key)?.map(|(value, _)| value);
        let latest = match versions.put(key, new.as_ref(), timestamp)? {
            Versions::Latest => true,
            Versions::Past => false,
            Versions::Expired => return Ok(None),
        };
        Ok(Some(Kept { old, latest }))
    }

    fn look_up(self, cx: &mut Cx<'_>, index: usize, key: &K) -> Result<Option<(V, i64)>> {
        cx.state.versioned(index, &self).get(key)
    }

    fn remembers(self, id: StoreId) -> Option<Remembers<K, V>> {
        let past = move |build: &TaskBuild<'_>| {
            let index = build.store(id);
            let past: Past<K, V> = Rc::new(move |cx: &mut Cx<'_>, key: &K, time: i64| {
                cx.state.versioned(index, &self).get_as_of(key, time)
            });
            past
        };
        Some(Remembers(History {
            past: Arc::new(past),
            ms: self.history_ms(),
        }))
    }
}

/// A store whose content is that of the topic which the table is read from: it has no changelog,
/// and a restore reads the topic again, up to the offset that is committed. So each row is written
/// to the log once instead of twice (Kafka Streams' `reuse.ktable.source.topics`).
///
/// The topic should be compacted, as what has expired in it is lost to a restore. It may be used
/// for [`table`](crate::StreamsBuilder::table) alone. Records that do not decode are left out of a
/// restore, as their processing left them out.
///
/// ```
/// # use millstream_operators::{FromTopic, StreamsBuilder};
/// # use millstream_topology::{text, KvStore, Topic};
/// const NAMES: Topic<String, String> = Topic::new("names", text(), text());
/// const NAME_OF: KvStore<String, String> = KvStore::new("name-of", text(), text());
/// # let b = StreamsBuilder::new();
/// let names = b.table(NAMES, FromTopic(NAME_OF));
/// ```
pub struct FromTopic<K: 'static, V: 'static>(
    /// The store.
    pub KvStore<K, V>,
);

impl<K, V> Clone for FromTopic<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for FromTopic<K, V> {}

impl<K: 'static, V: Clone + 'static> TableStore<K, V> for FromTopic<K, V> {
    fn definition(self) -> Option<Arc<dyn StoreDefinition>> {
        Some(Arc::new(KvDefinition(self.0.without_changelog())))
    }

    fn encode_key(self) -> EncodeKey<K> {
        self.0.encode_key()
    }

    fn keep(
        self,
        cx: &mut Cx<'_>,
        index: usize,
        key: &K,
        new: Option<V>,
        timestamp: i64,
    ) -> Result<Option<Kept<V>>> {
        self.0.keep(cx, index, key, new, timestamp)
    }

    fn look_up(self, cx: &mut Cx<'_>, index: usize, key: &K) -> Result<Option<(V, i64)>> {
        self.0.look_up(cx, index, key)
    }

    fn remembers(self, _: StoreId) -> Option<Remembers<K, V>> {
        None
    }

    fn refilled(self) -> Option<KvStore<K, V>> {
        Some(self.0)
    }
}

/// For a table that is not kept in a store: its changes go on as they come, without the values
/// before them.
///
/// A filter behind such a table passes on a deletion for each row that it does not accept, since it
/// cannot know whether the row was there. What must look values up, a join, or take old ones out, a
/// grouping, is refused when the topology is built (Kafka Streams gives the table a store of its
/// own choice then).
///
/// ```
/// # use millstream_operators::{NoStore, StreamsBuilder};
/// # use millstream_topology::{text, Topic};
/// const NAMES: Topic<String, String> = Topic::new("names", text(), text());
/// const LOUD: Topic<String, Option<String>> =
///     Topic::new("loud", text(), millstream_topology::nullable(text()));
/// # let b = StreamsBuilder::new();
/// b.table(NAMES, NoStore).map_values(|_, name| name.to_uppercase()).to_stream().to(LOUD);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NoStore;

impl<K: Clone + 'static, V: Clone + 'static> TableStore<K, V> for NoStore {
    fn definition(self) -> Option<Arc<dyn StoreDefinition>> {
        None
    }

    fn encode_key(self) -> EncodeKey<K> {
        unreachable!("changes wait for the commit in front of a store")
    }

    fn keep(
        self,
        _: &mut Cx<'_>,
        _: usize,
        _: &K,
        _: Option<V>,
        _: i64,
    ) -> Result<Option<Kept<V>>> {
        let (old, latest) = (None, true);
        Ok(Some(Kept { old, latest }))
    }

    fn look_up(self, _: &mut Cx<'_>, _: usize, _: &K) -> Result<Option<(V, i64)>> {
        unreachable!("a topology that looks up what is not kept is refused")
    }

    fn remembers(self, _: StoreId) -> Option<Remembers<K, V>> {
        None
    }
}

/// The past of a table that is kept in `store`, if it has one.
pub(crate) fn history_of<K: 'static, V: 'static>(
    store: impl TableStore<K, V>,
    id: StoreId,
) -> Option<History<K, V>> {
    store.remembers(id).map(|Remembers(history)| history)
}

/// Looks a table's values up in its store.
pub(crate) fn store_getter<K: 'static, V: Clone + 'static>(
    id: StoreId,
    store: impl TableStore<K, V>,
) -> GetterFactory<K, V> {
    Arc::new(move |build: &TaskBuild<'_>| {
        let index = build.store(id);
        let getter: Getter<K, V> =
            Rc::new(move |cx: &mut Cx<'_>, key: &K| store.look_up(cx, index, key));
        getter
    })
}
