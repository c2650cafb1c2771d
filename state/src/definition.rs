//! `StoreDefinition`: makes one store of a task, and shows its bytes to people.

use millstream_topology::{
    Error, ErrorKind, KvStore, Serde, SessionStore, StoreKind, StoreSpec, VersionedStore,
    WindowStore,
};
use serde_json::Value as JsonValue;

use crate::{
    error::{Fault, Result, unwritable},
    kv::KvLive,
    layout::Suffix,
    live::AnyStore,
    window_live::{Contents, WindowLive},
};

/// Makes one store of a task, and shows its bytes to people.
pub trait StoreDefinition: Send + Sync {
    /// Name, layout, changelog or not.
    fn spec(&self) -> StoreSpec;

    /// An empty live layer, for [`TaskState::open`](crate::TaskState::open).
    fn open(&self) -> Box<dyn AnyStore>;

    /// Names the types of its keys and values, so that two descriptors can be told apart.
    fn types(&self) -> &'static str {
        std::any::type_name::<Self>()
    }

    /// The bytes of a key that is given as text, as in a URL; of a store of windows or sessions,
    /// the key without the window.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for text that is no key.
    fn parse_key(&self, text: &str) -> Result<Vec<u8>>;

    /// A key as JSON; of a store of windows or sessions, the key without the window.
    ///
    /// # Errors
    /// Bytes that are no key.
    fn key_json(&self, key: &[u8]) -> Result<JsonValue>;

    /// A value, without its timestamp, as JSON.
    ///
    /// # Errors
    /// Bytes that are no value.
    fn value_json(&self, value: &[u8]) -> Result<JsonValue>;
}

/// Defines a key-value store.
pub struct KvDefinition<K: 'static, V: 'static>(pub KvStore<K, V>);

/// Defines a window store.
pub struct WindowDefinition<K: 'static, V: 'static> {
    /// The descriptor.
    pub store: WindowStore<K, V>,
    /// How long after its start a window is kept, measured by the greatest start put into the
    /// store.
    pub retention_ms: i64,
    /// True when a key may hold several values with one start.
    pub duplicates: bool,
}

/// Defines a session store.
pub struct SessionDefinition<K: 'static, V: 'static> {
    /// The descriptor.
    pub store: SessionStore<K, V>,
    /// How long after its end a session is kept, measured by the greatest end put into the store.
    pub retention_ms: i64,
}

/// Defines a store of entries whose keys an operator makes, none of which begins with a zero byte,
/// and with which it keeps a time. Used as a key-value store.
pub struct BufferDefinition<K: 'static, V: 'static>(pub KvStore<K, V>);

impl<K: 'static, V: Clone + 'static> StoreDefinition for KvDefinition<K, V> {
    fn spec(&self) -> StoreSpec {
        StoreSpec {
            name: self.0.name().into(),
            kind: StoreKind::KeyValue,
            logged: self.0.is_logged(),
        }
    }

    fn open(&self) -> Box<dyn AnyStore> {
        Box::new(KvLive::new(self.0))
    }

    fn parse_key(&self, text: &str) -> Result<Vec<u8>> {
        parse_key(self.0.name(), &self.0.key(), text)
    }

    fn key_json(&self, key: &[u8]) -> Result<JsonValue> {
        json(self.0.name(), &self.0.key(), key)
    }

    fn value_json(&self, value: &[u8]) -> Result<JsonValue> {
        json(self.0.name(), &self.0.value(), value)
    }
}

/// Defines a versioned store. It is laid out as a key-value store whose keys end in a time: see
/// [`VersionedStore::versions`].
pub struct VersionedDefinition<K: 'static, V: 'static>(pub VersionedStore<K, V>);

/// Bytes in front of the key of a version: its length.
const LENGTH_BYTES: usize = 4;
/// Bytes behind the key of a version: its time.
const TIME_BYTES: usize = 8;

impl<K: 'static, V: Clone + 'static> StoreDefinition for VersionedDefinition<K, V> {
    fn spec(&self) -> StoreSpec {
        KvDefinition(self.0.versions()).spec()
    }

    fn open(&self) -> Box<dyn AnyStore> {
        Box::new(KvLive::new(self.0.versions()))
    }

    fn parse_key(&self, text: &str) -> Result<Vec<u8>> {
        let key = parse_key(self.0.name(), &self.0.key(), text)?;
        Ok([&(key.len() as u32).to_be_bytes(), &key[..]].concat())
    }

    fn key_json(&self, key: &[u8]) -> Result<JsonValue> {
        let end = key.len().saturating_sub(TIME_BYTES);
        let inner = key.get(LENGTH_BYTES..end).unwrap_or_default();
        json(self.0.name(), &self.0.key(), inner)
    }

    fn value_json(&self, value: &[u8]) -> Result<JsonValue> {
        match value.split_first() {
            Some((1, value)) => json(self.0.name(), &self.0.value(), value),
            Some(_) | None => Ok(JsonValue::Null),
        }
    }
}

impl<K: 'static, V: Clone + 'static> StoreDefinition for WindowDefinition<K, V> {
    fn spec(&self) -> StoreSpec {
        let kind = StoreKind::Window {
            retention_ms: self.retention_ms,
            duplicates: self.duplicates,
        };
        StoreSpec {
            name: self.store.name().into(),
            kind,
            logged: self.store.is_logged(),
        }
    }

    fn open(&self) -> Box<dyn AnyStore> {
        let (name, key, value) = (self.store.name(), self.store.key(), self.store.value());
        Box::new(WindowLive::new(
            Contents { name, key, value },
            Suffix::Window,
            self.retention_ms,
            self.duplicates,
        ))
    }

    fn parse_key(&self, text: &str) -> Result<Vec<u8>> {
        parse_key(self.store.name(), &self.store.key(), text)
    }

    fn key_json(&self, key: &[u8]) -> Result<JsonValue> {
        json(self.store.name(), &self.store.key(), key)
    }

    fn value_json(&self, value: &[u8]) -> Result<JsonValue> {
        json(self.store.name(), &self.store.value(), value)
    }
}

impl<K: 'static, V: Clone + 'static> StoreDefinition for SessionDefinition<K, V> {
    fn spec(&self) -> StoreSpec {
        StoreSpec {
            name: self.store.name().into(),
            kind: StoreKind::Session {
                retention_ms: self.retention_ms,
            },
            logged: self.store.is_logged(),
        }
    }

    fn open(&self) -> Box<dyn AnyStore> {
        let (name, key, value) = (self.store.name(), self.store.key(), self.store.value());
        Box::new(WindowLive::new(
            Contents { name, key, value },
            Suffix::Session,
            self.retention_ms,
            false,
        ))
    }

    fn parse_key(&self, text: &str) -> Result<Vec<u8>> {
        parse_key(self.store.name(), &self.store.key(), text)
    }

    fn key_json(&self, key: &[u8]) -> Result<JsonValue> {
        json(self.store.name(), &self.store.key(), key)
    }

    fn value_json(&self, value: &[u8]) -> Result<JsonValue> {
        json(self.store.name(), &self.store.value(), value)
    }
}

impl<K: 'static, V: Clone + 'static> StoreDefinition for BufferDefinition<K, V> {
    fn spec(&self) -> StoreSpec {
        StoreSpec {
            kind: StoreKind::Buffer,
            ..KvDefinition(self.0).spec()
        }
    }

    fn open(&self) -> Box<dyn AnyStore> {
        KvDefinition(self.0).open()
    }

    fn parse_key(&self, text: &str) -> Result<Vec<u8>> {
        KvDefinition(self.0).parse_key(text)
    }

    fn key_json(&self, key: &[u8]) -> Result<JsonValue> {
        KvDefinition(self.0).key_json(key)
    }

    fn value_json(&self, value: &[u8]) -> Result<JsonValue> {
        KvDefinition(self.0).value_json(value)
    }
}

fn parse_key<T>(store: &str, serde: &Serde<T>, text: &str) -> Result<Vec<u8>> {
    let key = serde.parse(text).map_err(|source| {
        let message = format!("text is no key of the store. store=`{store}`, text=`{text}`");
        Error::caused(ErrorKind::Data, message, source)
    })?;
    let mut bytes = Vec::new();
    serde
        .encode(&key, &mut bytes)
        .map_err(|source| unwritable(store, "key", source))?;
    Ok(bytes)
}

fn json<T>(store: &str, serde: &Serde<T>, bytes: &[u8]) -> Result<JsonValue> {
    match serde.decode(Some(bytes)) {
        Ok(value) => Ok(serde.to_json(&value)),
        Err(source) => Err(Fault::undecodable(store, source)),
    }
}
