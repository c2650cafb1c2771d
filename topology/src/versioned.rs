//! `VersionedStore`: the name, the types and the history of state that remembers its past.

use std::time::Duration;

use bytes::Bytes;

use crate::{CHANGELOG_SUFFIX, Codec, KvStore, Serde};

/// A versioned key-value store: the values of each key with the times from which they held, so that
/// a join can ask what held at the time of a record.
///
/// The history is how far behind the greatest time put into the store one may ask, and how late an
/// update may come.
///
/// ```
/// use millstream_topology::{hours, text, u64_be, VersionedStore};
/// const PRICES: VersionedStore<String, u64> =
///     VersionedStore::new("prices", text(), u64_be(), hours(1));
/// assert_eq!(PRICES.history_ms(), 3_600_000);
/// ```
pub struct VersionedStore<K: 'static, V: 'static> {
    name: &'static str,
    key: Serde<K>,
    value: Serde<V>,
    history: Duration,
    logged: bool,
}

impl<K, V> Clone for VersionedStore<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for VersionedStore<K, V> {}

impl<K, V> VersionedStore<K, V> {
    /// A store with that name, those codecs and that history, backed by a changelog topic.
    ///
    /// A store has no null keys: a `nullable` key codec does not compile.
    pub const fn new<CK, CV>(name: &'static str, key: CK, value: CV, history: Duration) -> Self
    where
        CK: Codec<Value = K>,
        CV: Codec<Value = V>,
    {
        const { assert!(!CK::NULLABLE, "{}", crate::codec::NULL_KEYS) };
        Self {
            name,
            key: Serde::of(key),
            value: Serde::of(value),
            history,
            logged: true,
        }
    }

    /// The same store without a changelog: its content is lost with the machine's disk.
    pub const fn without_changelog(mut self) -> Self {
        self.logged = false;
        self
    }

    /// The name, unique in a topology.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How keys are written.
    pub const fn key(&self) -> Serde<K> {
        self.key
    }

    /// How values are written.
    pub const fn value(&self) -> Serde<V> {
        self.value
    }

    /// How far the store remembers, in milliseconds.
    pub const fn history_ms(&self) -> i64 {
        let ms = self.history.as_millis();
        if ms > i64::MAX as u128 {
            i64::MAX
        } else {
            ms as i64
        }
    }

    /// The name of the changelog topic in an application.
    pub fn changelog(&self, application_id: &str) -> String {
        format!("{application_id}-{}{CHANGELOG_SUFFIX}", self.name)
    }

    /// The versions as they are kept: length of the key (4 bytes, big-endian), key, time from which
    /// the version holds (8 bytes, big-endian).
    pub const fn versions(&self) -> KvStore<Bytes, Bytes> {
        let store = KvStore::new(self.name, crate::bytes(), crate::bytes());
        if self.logged {
            store
        } else {
            store.without_changelog()
        }
    }
}
