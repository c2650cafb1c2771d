//! `Versioned`: a key-value store that remembers its past.

use bytes::Bytes;
use millstream_topology::VersionedStore;

use crate::{
    Kv,
    error::{Fault, Result, unwritable},
    layout::Times,
};

const LENGTH_BYTES: usize = 4;
const TIME_BYTES: usize = 8;
/// First byte of a version that deletes its key.
const DELETED: u8 = 0;
/// First byte of a version with a value.
const PRESENT: u8 = 1;

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// It holds from its time on.
    Latest,
    /// It holds in the past only: a newer version was there already.
    Past,
    /// It is older than the history, and was not stored.
    Expired,
}

/// A versioned store of a task.
///
/// Time in it is the greatest time put into it. A version is dropped when its key is next changed,
/// once it ceased to hold longer ago than the history reaches.
pub struct Versioned<'a, K: 'static, V: 'static> {
    versions: Kv<'a, Bytes, Bytes>,
    store: VersionedStore<K, V>,
    times: &'a mut Times,
}

/// A value, and the time from which it held.
pub type Version<V> = (V, i64);

/// Key in the store, value or `None` for a deletion, time from which it held.
type Stored<V> = (Bytes, Option<V>, i64);

impl<'a, K: 'static, V: Clone + 'static> Versioned<'a, K, V> {
    pub(crate) fn new(
        versions: Kv<'a, Bytes, Bytes>,
        store: VersionedStore<K, V>,
        times: &'a mut Times,
    ) -> Self {
        Self {
            versions,
            store,
            times,
        }
    }

    /// The value that holds now, and since when.
    ///
    /// # Errors
    /// When the key does not encode, or the base cannot be read.
    pub fn get(&mut self, key: &K) -> Result<Option<Version<V>>> {
        let prefix = self.prefix(key)?;
        let last = self.stored(&prefix)?.pop();
        Ok(last.and_then(|(_, value, from)| Some((value?, from))))
    }

    /// The value that held at a time, and since when. Of times before the history only the value
    /// that holds now is known.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_as_of(&mut self, key: &K, time: i64) -> Result<Option<Version<V>>> {
        let prefix = self.prefix(key)?;
        let versions = self.stored(&prefix)?;
        let end = versions.partition_point(|(_, _, from)| *from <= time);
        let known = time >= self.known_from() || end == versions.len();
        let held = versions.into_iter().take(end).last();
        let held = held.filter(|_| known);
        Ok(held.and_then(|(_, value, from)| Some((value?, from))))
    }

    /// Stores what holds from a time on; `None` deletes the key from then on.
    ///
    /// # Errors
    /// When key or value do not encode, or the base cannot be read.
    pub fn put(&mut self, key: &K, value: Option<&V>, time: i64) -> Result<Versions> {
        if time < self.known_from() {
            return Ok(Versions::Expired);
        }
        self.times.set(0, self.times.of(0).max(time));
        let prefix = self.prefix(key)?;
        let mut bytes = vec![DELETED];
        if let Some(value) = value {
            bytes[0] = PRESENT;
            let encoded = self.store.value().encode(value, &mut bytes);
            encoded.map_err(|source| unwritable(self.store.name(), "value", source))?;
        }
        let mut place = prefix.clone();
        place.extend_from_slice(&time.to_be_bytes());
        self.versions.put(&place.into(), bytes.into(), time)?;
        let versions = self.stored(&prefix)?;
        self.expire(&versions)?;
        let latest = versions.last().is_none_or(|(_, _, from)| *from <= time);
        Ok(match latest {
            true => Versions::Latest,
            false => Versions::Past,
        })
    }

    /// All versions, with the time from which each held and the time from which it held no more, if
    /// any. Deletions are left out. Reads the whole store.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn all(&mut self) -> Result<Vec<(K, V, i64, Option<i64>)>> {
        let stored = self.versions.range(None, None, usize::MAX)?;
        let mut found = Vec::new();
        for (at, (place, bytes, from)) in stored.iter().enumerate() {
            let key = self.key_of(place)?;
            let Some(value) = self.decode(bytes)? else {
                continue;
            };
            let head = &place[..place.len() - TIME_BYTES];
            let next = stored.get(at + 1);
            let to = next
                .filter(|(place, ..)| &place[..place.len() - TIME_BYTES] == head)
                .map(|(.., from)| *from);
            found.push((key, value, *from, to));
        }
        Ok(found)
    }

    /// The earliest time of which everything is known.
    pub fn known_from(&self) -> i64 {
        self.times.of(0).saturating_sub(self.store.history_ms())
    }

    fn prefix(&self, key: &K) -> Result<Vec<u8>> {
        let mut bytes = vec![0; LENGTH_BYTES];
        let encoded = self.store.key().encode(key, &mut bytes);
        encoded.map_err(|source| unwritable(self.store.name(), "key", source))?;
        let length = (bytes.len() - LENGTH_BYTES) as u32;
        bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(bytes)
    }

    fn key_of(&self, place: &[u8]) -> Result<K> {
        let key = &place[LENGTH_BYTES..place.len() - TIME_BYTES];
        let decoded = self.store.key().decode(Some(key));
        decoded.map_err(|source| Fault::undecodable(self.store.name(), source))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<V>> {
        match bytes.split_first() {
            Some((&PRESENT, value)) => {
                let decoded = self.store.value().decode(Some(value));
                let read = decoded.map(Some);
                read.map_err(|source| Fault::undecodable(self.store.name(), source))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The versions of a key, oldest first.
    fn stored(&mut self, prefix: &[u8]) -> Result<Vec<Stored<V>>> {
        let found = self.versions.prefix(prefix, usize::MAX)?;
        found
            .into_iter()
            .map(|(place, bytes, from)| Ok((place, self.decode(&bytes)?, from)))
            .collect()
    }

    /// Drops what nobody can ask for any more.
    fn expire(&mut self, versions: &[Stored<V>]) -> Result<()> {
        let known_from = self.known_from();
        for (at, (place, value, from)) in versions.iter().enumerate() {
            let ended = match versions.get(at + 1) {
                Some((.., next)) => *next <= known_from,
                None => value.is_none() && *from < known_from,
            };
            if ended {
                self.versions.delete(place, *from)?;
            }
        }
        Ok(())
    }
}
