//! `Kv`: key-value access, and the live layer behind it.

mod commit;

use std::{collections::BTreeSet, ops::Bound};

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use millstream_topology::KvStore;

use crate::{
    blob::Blob,
    committed::Committed,
    error::{Fault, Result, unwritable},
    layout::{ID_BYTES, behind_prefix, bounds_of},
    live::read_stored,
    merge::Layered,
};

/// A store of up to so many entries is loaded as a whole by its first range read, because then no
/// later one has to ask the base.
const LOAD_ENTRIES_MAX: usize = 1 << 16;

/// A key-value store of a task.
///
/// Reads see what the open transaction has written. The timestamp is stored with the value.
pub struct Kv<'a, K: 'static, V: 'static> {
    live: &'a mut KvLive<K, V>,
    committed: &'a Committed,
}

impl<'a, K: 'static, V: Clone + 'static> Kv<'a, K, V> {
    pub(crate) fn new(live: &'a mut KvLive<K, V>, committed: &'a Committed) -> Self {
        Self { live, committed }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the key does not encode, or the base cannot be read.
    pub fn get(&mut self, key: &K) -> Result<Option<V>> {
        Ok(self.slot(key)?.map(|(value, _)| value.clone()))
    }

    /// The value of a key, and its timestamp.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with_timestamp(&mut self, key: &K) -> Result<Option<(V, i64)>> {
        Ok(self.slot(key)?.cloned())
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the key does not encode. A value that does not encode fails the commit.
    pub fn put(&mut self, key: &K, value: V, timestamp: i64) -> Result<()> {
        self.live.write(key, Some((value, timestamp)), timestamp)
    }

    /// Removes a key. The timestamp is that of the changelog's tombstone.
    ///
    /// # Errors
    /// When the key does not encode.
    pub fn delete(&mut self, key: &K, timestamp: i64) -> Result<()> {
        self.live.write(key, None, timestamp)
    }

    /// Reads, changes and writes a key with one look-up. `change` finds the present value in its
    /// argument and leaves the new one there; `None` removes the key.
    ///
    /// # Errors
    /// As [`get`](Self::get), and what `change` fails with. What it left in the slot counts all the
    /// same, so a function that fails leaves the value as it found it.
    pub fn update<R>(
        &mut self,
        key: &K,
        change: impl FnOnce(&mut Option<(V, i64)>) -> Result<R>,
    ) -> Result<R> {
        let at = self.live.locate(key, self.committed)?;
        let slot = &mut self.live.slots[at];
        let was_present = slot.value.is_some();
        if let Some((_, timestamp)) = &slot.value {
            slot.deleted_at = *timestamp;
        }
        let result = change(&mut slot.value);
        match was_present || slot.value.is_some() {
            true => self.live.mark_dirty(at),
            false => self.live.drop_if_needless(at),
        }
        result
    }

    /// The first `limit` entries with `from <= key < to`, in the order of the encoded keys; without
    /// bounds, from the first, to the last.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn range(
        &mut self,
        from: Option<&K>,
        to: Option<&K>,
        limit: usize,
    ) -> Result<Vec<(K, V, i64)>> {
        let (first, end) = bounds_of(self.live.id);
        let lower = match from {
            Some(key) => self.live.encode_key(key)?.to_vec(),
            None => first.to_vec(),
        };
        let upper = match to {
            Some(key) => self.live.encode_key(key)?.to_vec(),
            None => end.to_vec(),
        };
        self.between(&lower, &upper, limit)
    }

    /// The first `limit` entries whose encoded key begins with `prefix`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn prefix(&mut self, prefix: &[u8], limit: usize) -> Result<Vec<(K, V, i64)>> {
        let lower = [&self.live.id.to_be_bytes(), prefix].concat();
        let upper = behind_prefix(&lower);
        self.between(&lower, &upper, limit)
    }

    fn slot(&mut self, key: &K) -> Result<Option<&(V, i64)>> {
        if self.live.complete {
            self.live.encode_key(key)?;
            let slot = self.live.slots.get_mut(&self.live.key_bytes[..]);
            return Ok(slot.and_then(|slot| {
                slot.used = true;
                slot.value.as_ref()
            }));
        }
        let at = self.live.locate(key, self.committed)?;
        Ok(self.live.slots[at].value.as_ref())
    }

    fn between(&mut self, lower: &[u8], upper: &[u8], limit: usize) -> Result<Vec<(K, V, i64)>> {
        if lower >= upper {
            return Ok(Vec::new());
        }
        self.live.load(self.committed)?;
        let live = &mut *self.live;
        live.order
            .get_or_insert_with(|| live.slots.keys().cloned().collect());
        let live = &*live;
        let order = live.order.as_ref().expect("the order was made above");
        let range = (Bound::Included(lower), Bound::Excluded(upper));
        let cached = order.range::<[u8], _>(range).filter_map(|key| {
            let slot = live.slots.get(key)?;
            Some((key.clone(), slot.value.clone()))
        });
        if live.complete {
            return cached
                .filter_map(|(key, value)| Some((key, value?)))
                .take(limit)
                .map(|(key, (value, at))| Ok((live.decode_key(&key)?, value, at)))
                .collect();
        }
        live.merge(cached, self.committed, (lower, upper), limit)
    }
}

/// Invariant: `dirty` and `in_flight` hold positions in `slots`, so while one of them has any, no
/// slot is taken out.
pub(crate) struct KvLive<K: 'static, V: 'static> {
    store: KvStore<K, V>,
    id: u16,
    slots: IndexMap<Blob, Slot<V>, RandomState>,
    /// True when `slots` has all entries, so that what is not there is nowhere.
    complete: bool,
    /// False once entries were shed, because loading them all again would undo that.
    loadable: bool,
    /// The keys of `slots` in order, from the first range read on.
    order: Option<BTreeSet<Blob>>,
    dirty: Vec<u32>,
    in_flight: Vec<u32>,
    /// Those in flight that have no value.
    deleted: Vec<u32>,
    bytes: usize,
    key_bytes: Vec<u8>,
    value_bytes: Vec<u8>,
}

/// `None` as value of a clean slot is the knowledge that the key is absent.
struct Slot<V> {
    value: Option<(V, i64)>,
    /// Timestamp of the changelog's tombstone while `value` is `None`.
    deleted_at: i64,
    /// Length of the stored value when it was last read or written.
    value_bytes: u32,
    dirty: bool,
    /// True when it was used since entries were last shed.
    used: bool,
}

impl<V> Slot<V> {
    /// Memory of a slot in the map, beside key and value bytes on the heap.
    const BYTES: usize = size_of::<Self>() + size_of::<Blob>() + 2 * size_of::<usize>();

    fn clean(value: Option<(V, i64)>, value_bytes: usize) -> Self {
        Self {
            value,
            deleted_at: 0,
            value_bytes: value_bytes as u32,
            dirty: false,
            used: true,
        }
    }

    fn bytes(&self, key: &Blob) -> usize {
        Self::BYTES + key.len() + self.value_bytes as usize
    }
}

impl<K: 'static, V: Clone + 'static> KvLive<K, V> {
    pub(crate) fn new(store: KvStore<K, V>) -> Self {
        Self {
            store,
            id: 0,
            slots: IndexMap::default(),
            complete: false,
            loadable: true,
            order: None,
            dirty: Vec::new(),
            in_flight: Vec::new(),
            deleted: Vec::new(),
            bytes: 0,
            key_bytes: Vec::new(),
            value_bytes: Vec::new(),
        }
    }

    fn encode_key(&mut self, key: &K) -> Result<&[u8]> {
        encode(&self.store, self.id, key, &mut self.key_bytes)?;
        Ok(&self.key_bytes)
    }

    fn decode_key(&self, key: &[u8]) -> Result<K> {
        let decoded = self.store.key().decode(Some(&key[ID_BYTES..]));
        decoded.map_err(|source| Fault::undecodable(self.store.name(), source))
    }

    fn decode_value(&self, stored: &[u8]) -> Result<(V, i64)> {
        read_stored(self.store.name(), &self.store.value(), stored)
    }

    /// Where the slot of a key is, read from below when there was none.
    fn locate(&mut self, key: &K, committed: &Committed) -> Result<usize> {
        encode(&self.store, self.id, key, &mut self.key_bytes)?;
        if let Some((at, _, slot)) = self.slots.get_full_mut(&self.key_bytes[..]) {
            slot.used = true;
            return Ok(at);
        }
        let slot = match self.complete {
            true => Slot::clean(None, 0),
            false => self.read_below(&self.key_bytes, committed)?,
        };
        Ok(self.insert(Blob::from(&self.key_bytes[..]), slot))
    }

    fn read_below(&self, key: &[u8], committed: &Committed) -> Result<Slot<V>> {
        Ok(match committed.get(key)? {
            Some(stored) => Slot::clean(Some(self.decode_value(&stored)?), stored.len()),
            None => Slot::clean(None, 0),
        })
    }

    /// Adds a slot for a key that has none.
    fn insert(&mut self, key: Blob, slot: Slot<V>) -> usize {
        self.bytes += slot.bytes(&key);
        if let Some(order) = &mut self.order {
            order.insert(key.clone());
        }
        self.slots.insert_full(key, slot).0
    }

    fn write(&mut self, key: &K, value: Option<(V, i64)>, timestamp: i64) -> Result<()> {
        encode(&self.store, self.id, key, &mut self.key_bytes)?;
        let at = match self.slots.get_index_of(&self.key_bytes[..]) {
            Some(at) => at,
            None => self.insert(Blob::from(&self.key_bytes[..]), Slot::clean(None, 0)),
        };
        let slot = &mut self.slots[at];
        slot.value = value;
        slot.deleted_at = timestamp;
        slot.used = true;
        self.mark_dirty(at);
        Ok(())
    }

    fn mark_dirty(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if !slot.dirty {
            slot.dirty = true;
            let at = u32::try_from(at).expect("a live layer has fewer than 2^32 entries");
            self.dirty.push(at);
        }
    }

    /// Drops the knowledge that a key is absent, where it is the newest: no other slot moves then.
    fn drop_if_needless(&mut self, at: usize) {
        if self.complete && at + 1 == self.slots.len() && !self.slots[at].dirty {
            let key = self.slots.keys()[at].clone();
            self.take_out(&key);
        }
    }

    /// Loads the store as a whole, if it is small.
    fn load(&mut self, committed: &Committed) -> Result<()> {
        if self.complete || !self.loadable {
            return Ok(());
        }
        let (first, end) = bounds_of(self.id);
        for (n, entry) in committed.walk(&first, &end).enumerate() {
            let (key, stored) = entry?;
            if n == LOAD_ENTRIES_MAX {
                self.loadable = false;
                return Ok(());
            }
            if !self.slots.contains_key(&key) {
                let value = self.decode_value(&stored)?;
                self.insert(key, Slot::clean(Some(value), stored.len()));
            }
        }
        self.complete = true;
        Ok(())
    }

    fn merge(
        &self,
        cached: impl Iterator<Item = (Blob, Option<(V, i64)>)>,
        committed: &Committed,
        (lower, upper): (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Vec<(K, V, i64)>> {
        let mut failure = None;
        let below = committed.walk(lower, upper).map_while(|entry| {
            let read = entry.and_then(|(key, stored)| Ok((key, self.decode_value(&stored)?)));
            read.map(|(key, value)| (key, Some(value)))
                .map_err(|e| failure = Some(e))
                .ok()
        });
        let found: Result<Vec<_>> = Layered::new(cached, below)
            .filter_map(|(key, value)| Some((key, value?)))
            .take(limit)
            .map(|(key, (value, at))| Ok((self.decode_key(&key)?, value, at)))
            .collect();
        match failure {
            None => found,
            Some(error) => Err(error),
        }
    }

    /// Drops the slot of a key, where no position is held.
    fn take_out(&mut self, key: &[u8]) {
        if let Some((key, slot)) = self.slots.swap_remove_entry(key) {
            self.bytes -= slot.bytes(&key);
            if let Some(order) = &mut self.order {
                order.remove(&key);
            }
        }
    }
}

fn encode<K, V>(store: &KvStore<K, V>, id: u16, key: &K, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    store
        .key()
        .encode(key, out)
        .map_err(|source| unwritable(store.name(), "key", source))?;
    Ok(())
}
