//! `KvStore`, `WindowStore` and `SessionStore`: the name and the types of state, as constants.

use crate::{CHANGELOG_SUFFIX, Codec, Serde};

macro_rules! store_descriptor {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<K: 'static, V: 'static> {
            name: &'static str,
            key: Serde<K>,
            value: Serde<V>,
            logged: bool,
        }

        impl<K, V> Clone for $name<K, V> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<K, V> Copy for $name<K, V> {}

        impl<K, V> $name<K, V> {
            /// A store with that name and those codecs, backed by a changelog topic.
            ///
            /// A store has no null keys: a `nullable` key codec does not compile.
            pub const fn new<CK, CV>(name: &'static str, key: CK, value: CV) -> Self
            where
                CK: Codec<Value = K>,
                CV: Codec<Value = V>,
            {
                const { assert!(!CK::NULLABLE, "{}", crate::codec::NULL_KEYS) };
                Self { name, key: Serde::of(key), value: Serde::of(value), logged: true }
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

            /// True when a changelog topic backs the store.
            pub const fn is_logged(&self) -> bool {
                self.logged
            }

            /// The name of the changelog topic in an application.
            pub fn changelog(&self, application_id: &str) -> String {
                format!("{application_id}-{}{CHANGELOG_SUFFIX}", self.name)
            }
        }
    };
}

store_descriptor!(
    /// A key-value store: the newest value of each key, with its timestamp.
    ///
    /// ```
    /// use millstream_topology::{text, u64_be, KvStore};
    /// const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
    /// assert!(COUNTS.is_logged());
    /// ```
    ///
    /// A store has no null keys: `drop_null_keys()` of the stream, and name the store with the
    /// plain type.
    ///
    /// ```compile_fail,E0080
    /// use millstream_topology::{nullable, text, u64_be, KvStore};
    /// const COUNTS: KvStore<Option<String>, u64> =
    ///     KvStore::new("counts", nullable(text()), u64_be());
    /// ```
    KvStore
);
store_descriptor!(
    /// A window store: values by key and window start, kept for the retention of its operator.
    ///
    /// ```
    /// use millstream_topology::{text, u64_be, WindowStore};
    /// const PER_MINUTE: WindowStore<String, u64> =
    ///     WindowStore::new("per-minute", text(), u64_be());
    /// assert_eq!(PER_MINUTE.name(), "per-minute");
    /// ```
    WindowStore
);
store_descriptor!(
    /// A session store: values by key, first and last timestamp of a session, kept for the
    /// retention of its operator.
    ///
    /// ```
    /// use millstream_topology::{text, u64_be, SessionStore};
    /// const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
    /// assert_eq!(VISITS.name(), "visits");
    /// ```
    SessionStore
);
