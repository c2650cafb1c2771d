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

/// What the rows of a table can be kept in: a [`KvStore`], or a [`VersionedStore`] for a table that
/// remembers its past.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot keep the rows of a table from `{K}` to `{V}`",
    note = "name a `KvStore<K, V>` or a `VersionedStore<K, V>` with the types of the table"
)]
pub trait TableStore<K: 'static, V: 'static>: Copy + Send + Sync + 'static {
    #[doc(hidden)]
    fn definition(self) -> Arc<dyn StoreDefinition>;

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
}

impl<K: 'static, V: Clone + 'static> TableStore<K, V> for KvStore<K, V> {
    fn definition(self) -> Arc<dyn StoreDefinition> {
        Arc::new(KvDefinition(self))
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
    fn definition(self) -> Arc<dyn StoreDefinition> {
        Arc::new(VersionedDefinition(self))
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
