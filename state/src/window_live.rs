//! `WindowLive`: the live layer of a store of windows or sessions. It holds all live ones, unless
//! memory is short.
//!
//! What is said of windows and their starts here holds for sessions and their ends: the time of an
//! entry is the one that it expires by, and its rank orders it among those of one time.

mod commit;

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use millstream_topology::{Error, ErrorKind, Serde};

use crate::{
    blob::Blob,
    committed::Committed,
    error::{Fault, Result, unwritable},
    expiry::ExpiryQueue,
    layout::{ID_BYTES, Suffix, bounds_of, first_live_time},
    live::read_stored,
};

/// A store of up to so many windows is loaded as a whole at its first use: a key that is new, as
/// most are in a join, then costs no look-up in the base.
const LOAD_ENTRIES_MAX: usize = 1 << 18;

/// Where an entry is: position of its key, time, rank.
type Place = (u32, i64, i64);

type Keys<V> = IndexMap<Blob, KeyWindows<V>, RandomState>;

/// Invariant: `dirty` and `in_flight` hold positions in `keys`, so while one of them has any, no
/// key is taken out.
pub(crate) struct WindowLive<K: 'static, V: 'static> {
    store: Contents<K, V>,
    suffix: Suffix,
    retention_ms: i64,
    pub(crate) duplicates: bool,
    id: u16,
    /// By store id and encoded key.
    keys: Keys<V>,
    /// True when a key that is not in `keys` has no live window anywhere.
    complete: bool,
    /// True until the first use, and for ever when the store was too large to be loaded as a whole
    /// then.
    untouched: bool,
    /// Greatest start that a window which is only in the layers below can have.
    below_until: i64,
    pub(crate) observed: i64,
    /// `observed` without what an abort would take back.
    observed_committed: i64,
    expiry: ExpiryQueue,
    dirty: Vec<Place>,
    in_flight: Vec<Place>,
    /// Those in flight that have no value.
    deleted: Vec<Place>,
    bytes: usize,
    key_bytes: Vec<u8>,
    value_bytes: Vec<u8>,
}

/// What the descriptor of a store says of its entries.
pub(crate) struct Contents<K: 'static, V: 'static> {
    pub(crate) name: &'static str,
    pub(crate) key: Serde<K>,
    pub(crate) value: Serde<V>,
}

/// The windows of a key, by time, then rank.
struct KeyWindows<V> {
    entries: Vec<Entry<V>>,
    /// False while the layers below may have more.
    loaded: bool,
    used: bool,
}

impl<V> KeyWindows<V> {
    /// Memory of a key in the map, beside its bytes on the heap.
    const BYTES: usize = size_of::<Self>() + size_of::<Blob>() + 2 * size_of::<usize>();

    fn new(entries: Vec<Entry<V>>, loaded: bool) -> Self {
        Self {
            entries,
            loaded,
            used: true,
        }
    }

    fn bytes(&self, key: &Blob) -> usize {
        Self::BYTES + key.len() + self.entries.iter().map(Entry::bytes).sum::<usize>()
    }
}

/// One window of a key, or one of its values where there are several.
pub(crate) struct Entry<V> {
    pub(crate) time: i64,
    pub(crate) rank: i64,
    dirty: bool,
    stored_bytes: u32,
    pub(crate) value: Option<(V, i64)>,
    /// Timestamp of the changelog's tombstone while `value` is `None`.
    pub(crate) deleted_at: i64,
}

impl<V> Entry<V> {
    pub(crate) fn new(time: i64, rank: i64) -> Self {
        Self {
            time,
            rank,
            dirty: false,
            stored_bytes: 0,
            value: None,
            deleted_at: time,
        }
    }

    /// What entries of a key are ordered by.
    pub(crate) fn place(&self) -> (i64, i64) {
        (self.time, self.rank)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.stored_bytes as usize
    }
}

impl<K: 'static, V: Clone + 'static> WindowLive<K, V> {
    pub(crate) fn new(
        store: Contents<K, V>,
        suffix: Suffix,
        retention_ms: i64,
        duplicates: bool,
    ) -> Self {
        Self {
            store,
            suffix,
            retention_ms,
            duplicates,
            id: 0,
            keys: IndexMap::default(),
            complete: false,
            untouched: true,
            below_until: -1,
            observed: -1,
            observed_committed: -1,
            expiry: ExpiryQueue::new(retention_ms),
            dirty: Vec::new(),
            in_flight: Vec::new(),
            deleted: Vec::new(),
            bytes: 0,
            key_bytes: Vec::new(),
            value_bytes: Vec::new(),
        }
    }

    pub(crate) fn suffix(&self) -> Suffix {
        self.suffix
    }

    /// The first time that reads show.
    pub(crate) fn first_live(&self) -> i64 {
        first_live_time(self.observed, self.retention_ms)
    }

    /// The first time that puts reach.
    pub(crate) fn first_put(&self) -> i64 {
        first_live_time(self.observed, self.suffix.kept_ms(self.retention_ms))
    }

    /// The first time that is kept after an abort: memory holds everything from there on.
    fn first_kept(&self) -> i64 {
        first_live_time(
            self.observed_committed,
            self.suffix.kept_ms(self.retention_ms),
        )
    }

    /// Sets the store's time to the committed one.
    fn reset_time(&mut self, observed: i64) {
        self.observed = observed;
        self.observed_committed = observed;
    }

    /// Moves the store's time to `time`, if that is later.
    pub(crate) fn observe(&mut self, time: i64) -> Result<()> {
        if time < 0 {
            let store = self.store.name;
            let message = format!("window lies before 1970. store=`{store}`, time={time}");
            return Err(Error::new(ErrorKind::Data, message));
        }
        self.observed = self.observed.max(time);
        Ok(())
    }

    /// The entries of a key.
    pub(crate) fn entries_of(&mut self, key: &K, committed: &Committed) -> Result<&[Entry<V>]> {
        let at = match self.find(key, committed)? {
            Some(at) => at,
            None if self.complete => return Ok(&[]),
            None => {
                let entries = self.read_below(&self.key_bytes, committed)?;
                if entries.is_empty() {
                    return Ok(&[]);
                }
                self.add_key(entries)
            }
        };
        Ok(self.entries_at(at))
    }

    /// The position of a key, which is added if it has no windows.
    pub(crate) fn locate(&mut self, key: &K, committed: &Committed) -> Result<usize> {
        if let Some(at) = self.find(key, committed)? {
            return Ok(at);
        }
        let entries = match self.complete {
            true => Vec::new(),
            false => self.read_below(&self.key_bytes, committed)?,
        };
        Ok(self.add_key(entries))
    }

    /// Changes one entry. What is made of one that has expired is dropped.
    pub(crate) fn change<R>(
        &mut self,
        key: &K,
        (time, rank): (i64, i64),
        committed: &Committed,
        change: impl FnOnce(&mut Entry<V>) -> Result<R>,
    ) -> Result<R> {
        self.observe(time)?;
        if time < self.first_put() {
            return change(&mut Entry::new(time, rank));
        }
        let key_at = self.locate(key, committed)?;
        match self
            .entries_at(key_at)
            .binary_search_by_key(&(time, rank), Entry::place)
        {
            Ok(at) => {
                let entry = &mut self.entries_at_mut(key_at)[at];
                let was_present = entry.value.is_some();
                let result = change(entry);
                if was_present || entry.value.is_some() {
                    self.mark_dirty(key_at, at);
                }
                result
            }
            Err(at) => {
                let mut entry = Entry::new(time, rank);
                let result = change(&mut entry);
                if entry.value.is_some() {
                    *self.insert(key_at, at, Entry::new(time, rank)) = entry;
                    self.mark_dirty(key_at, at);
                } else {
                    self.drop_if_needless(key_at);
                }
                result
            }
        }
    }

    pub(crate) fn entries_at(&self, key_at: usize) -> &[Entry<V>] {
        &self.keys[key_at].entries
    }

    pub(crate) fn entries_at_mut(&mut self, key_at: usize) -> &mut [Entry<V>] {
        &mut self.keys[key_at].entries
    }

    /// Puts an entry where it belongs among those of its key.
    pub(crate) fn insert(&mut self, key_at: usize, at: usize, entry: Entry<V>) -> &mut Entry<V> {
        let (key, windows) = self
            .keys
            .get_index_mut(key_at)
            .expect("the position was looked up just now");
        let time = entry.time;
        let near = [at.checked_sub(1), Some(at)].into_iter().flatten();
        let mut near = near.filter_map(|at| windows.entries.get(at));
        if !near.any(|other| self.expiry.same_slice(other.time, time)) {
            self.expiry.push(time, key.clone());
        }
        self.bytes += entry.bytes();
        windows.entries.insert(at, entry);
        &mut windows.entries[at]
    }

    pub(crate) fn mark_dirty(&mut self, key_at: usize, at: usize) {
        let entry = &mut self.keys[key_at].entries[at];
        if !entry.dirty {
            entry.dirty = true;
            let key_at = u32::try_from(key_at).expect("a live layer has fewer than 2^32 keys");
            self.dirty.push((key_at, entry.time, entry.rank));
        }
    }

    pub(crate) fn decode_key(&self, key: &[u8]) -> Result<K> {
        let decoded = self.store.key.decode(Some(&key[ID_BYTES..]));
        decoded.map_err(|source| Fault::undecodable(self.store.name, source))
    }

    /// Visits all live windows, of each key in order.
    pub(crate) fn visit_all(
        &mut self,
        committed: &Committed,
        visit: &mut dyn FnMut(&Blob, &Entry<V>),
    ) -> Result<()> {
        self.load_if_untouched(committed)?;
        for (key, windows) in self.keys.iter().filter(|(_, windows)| windows.loaded) {
            windows.entries.iter().for_each(|entry| visit(key, entry));
        }
        if self.complete && self.keys.values().all(|windows| windows.loaded) {
            return Ok(());
        }
        let (first, end) = bounds_of(self.id);
        for stored in committed.walk(&first, &end) {
            let (key, stored) = stored?;
            let (key, entry) = self.read_entry(&key, &stored)?;
            if !self.keys.get(key).is_some_and(|windows| windows.loaded) {
                visit(&Blob::from(key), &entry);
            }
        }
        Ok(())
    }

    /// Where a key is, if it is known; its windows are loaded then. Leaves the encoded key in
    /// `key_bytes`.
    fn find(&mut self, key: &K, committed: &Committed) -> Result<Option<usize>> {
        self.load_if_untouched(committed)?;
        self.key_bytes.clear();
        self.key_bytes.extend_from_slice(&self.id.to_be_bytes());
        let encoded = self.store.key.encode(key, &mut self.key_bytes);
        encoded.map_err(|source| unwritable(self.store.name, "key", source))?;
        let Some((at, _, windows)) = self.keys.get_full_mut(&self.key_bytes[..]) else {
            return Ok(None);
        };
        windows.used = true;
        if !windows.loaded {
            let entries = self.read_below(&self.key_bytes, committed)?;
            self.set_entries(at, entries);
        }
        Ok(Some(at))
    }

    /// The live windows that the layers below have of a key.
    fn read_below(&self, key: &[u8], committed: &Committed) -> Result<Vec<Entry<V>>> {
        let mut lower = key.to_vec();
        self.suffix.push(&mut lower, self.first_kept(), 0);
        // No time has the highest bit set.
        let upper = [key, &[0x80]].concat();
        let mut entries = Vec::new();
        for stored in committed.walk(&lower, &upper) {
            let (stored_key, stored) = stored?;
            // A longer key may lie between the windows of this one.
            if stored_key.len() == key.len() + self.suffix.bytes() {
                entries.push(self.read_entry(&stored_key, &stored)?.1);
            }
        }
        Ok(entries)
    }

    fn read_entry<'k>(&self, key: &'k [u8], stored: &[u8]) -> Result<(&'k [u8], Entry<V>)> {
        let name = self.store.name;
        let split = self.suffix.split(key);
        let (key, time, rank) =
            split.ok_or_else(|| Fault::undecodable(name, "key has no window"))?;
        let mut entry = Entry::new(time, rank);
        entry.stored_bytes = stored.len() as u32;
        entry.value = Some(read_stored(name, &self.store.value, stored)?);
        Ok((key, entry))
    }

    fn load_if_untouched(&mut self, committed: &Committed) -> Result<()> {
        if !self.untouched {
            return Ok(());
        }
        self.untouched = false;
        if self.complete {
            return Ok(());
        }
        let (first, end) = bounds_of(self.id);
        let first_kept = self.first_kept();
        let mut loaded: IndexMap<Blob, Vec<Entry<V>>, RandomState> = IndexMap::default();
        for (n, stored) in committed.walk(&first, &end).enumerate() {
            if n == LOAD_ENTRIES_MAX {
                return Ok(());
            }
            let (key, stored) = stored?;
            let (key, entry) = self.read_entry(&key, &stored)?;
            if entry.time < first_kept {
                continue;
            }
            match loaded.get_mut(key) {
                Some(entries) => entries.push(entry),
                None => drop(loaded.insert(Blob::from(key), vec![entry])),
            }
        }
        for (key, entries) in loaded {
            self.key_bytes.clear();
            self.key_bytes.extend_from_slice(&key);
            self.add_key(entries);
        }
        self.complete = true;
        Ok(())
    }

    /// Adds the key that is in `key_bytes`.
    fn add_key(&mut self, entries: Vec<Entry<V>>) -> usize {
        let key = Blob::from(&self.key_bytes[..]);
        let windows = KeyWindows::new(Vec::new(), true);
        self.bytes += windows.bytes(&key);
        let (at, _) = self.keys.insert_full(key, windows);
        self.set_entries(at, entries);
        at
    }

    /// Gives a key without entries those that the layers below have.
    fn set_entries(&mut self, at: usize, entries: Vec<Entry<V>>) {
        let (key, windows) = self
            .keys
            .get_index_mut(at)
            .expect("the position was looked up");
        assert!(windows.entries.is_empty(), "entries are loaded once");
        let mut last = None;
        for entry in &entries {
            if !last.is_some_and(|last| self.expiry.same_slice(last, entry.time)) {
                self.expiry.push(entry.time, key.clone());
            }
            last = Some(entry.time);
            self.bytes += entry.bytes();
        }
        windows.entries = entries;
        windows.loaded = true;
    }

    /// Drops a key without windows, where it is the newest: no other key moves then.
    pub(crate) fn drop_if_needless(&mut self, key_at: usize) {
        if key_at + 1 == self.keys.len() && self.keys[key_at].entries.is_empty() {
            let key = self.keys.keys()[key_at].clone();
            self.take_out(&key);
        }
    }

    /// Drops a key, where no position is held.
    fn take_out(&mut self, key: &[u8]) {
        if let Some((key, windows)) = self.keys.swap_remove_entry(key) {
            self.bytes -= windows.bytes(&key);
        }
    }
}
