//! What commits, aborts and short memory do to the live layer of windows and
//! sessions.

use std::{any::Any, mem};

use super::{Entry, Keys, Place, WindowLive};
use crate::{
    blob::Blob,
    committed::{Change, Committed},
    error::Result,
    layout::{ID_BYTES, TIMESTAMP_BYTES},
    live::{AnyStore, Log, write_stored},
};

type Found<'a, V> = (&'a Blob, &'a mut Entry<V>);

/// The key and the entry of a place; `None` when the entry has expired since.
fn entry_at<V>(keys: &mut Keys<V>, (key_at, time, rank): Place) -> Option<Found<'_, V>> {
    let (key, windows) = keys.get_index_mut(key_at as usize)?;
    let at = windows
        .entries
        .binary_search_by_key(&(time, rank), Entry::place)
        .ok()?;
    Some((key, &mut windows.entries[at]))
}

impl<K: 'static, V: Clone + 'static> AnyStore for WindowLive<K, V> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn attach(&mut self, id: u16, empty: bool, observed: i64) {
        self.id = id;
        self.complete = empty;
        self.reset_time(observed);
        self.below_until = observed;
    }

    fn write_dirty(&mut self, log: &mut Log<'_>, changes: &mut Vec<Change>) -> Result<()> {
        changes.reserve(self.dirty.len());
        let first = self.in_flight.len();
        self.in_flight.append(&mut self.dirty);
        for at in first..self.in_flight.len() {
            let place = self.in_flight[at];
            let Some((key, entry)) = entry_at(&mut self.keys, place) else {
                continue;
            };
            self.key_bytes.clear();
            self.key_bytes.extend_from_slice(key);
            self.suffix
                .push(&mut self.key_bytes, entry.time, entry.rank);
            entry.dirty = false;
            let (stored, timestamp) = write_stored(
                self.store.name,
                &self.store.value,
                entry.value.as_ref(),
                &mut self.value_bytes,
            )?;
            let timestamp = timestamp.unwrap_or(entry.deleted_at);
            let value = stored.map(|stored| &stored[TIMESTAMP_BYTES..]);
            log(&self.key_bytes[ID_BYTES..], value, timestamp)?;
            if stored.is_none() {
                self.deleted.push(place);
            }
            let now = stored.map_or(0, <[u8]>::len);
            self.bytes = self.bytes + now - entry.stored_bytes as usize;
            entry.stored_bytes = now as u32;
            changes.push((Blob::from(&self.key_bytes[..]), stored.map(Blob::from)));
        }
        Ok(())
    }

    fn settle(&mut self, observed: i64) {
        self.in_flight.clear();
        for place in self.deleted.drain(..) {
            let Some((_, entry)) = entry_at(&mut self.keys, place) else {
                continue;
            };
            if entry.value.is_none() && !entry.dirty {
                self.bytes -= entry.bytes();
                let entries = &mut self.keys[place.0 as usize].entries;
                entries.retain(|entry| entry.place() != (place.1, place.2));
            }
        }
        self.observed_committed = observed;
        self.expire();
    }

    fn abort(&mut self, committed: &Committed, observed: i64) {
        self.reset_time(observed);
        self.deleted.clear();
        let places = mem::take(&mut self.dirty)
            .into_iter()
            .chain(mem::take(&mut self.in_flight));
        let mut touched: Vec<usize> = places.map(|place| place.0 as usize).collect();
        touched.sort_unstable();
        touched.dedup();
        let mut emptied = Vec::new();
        for at in touched {
            let (key, windows) = self
                .keys
                .get_index_mut(at)
                .expect("dirty keys are in the map");
            let key = key.clone();
            windows.loaded = false;
            let freed: usize = windows.entries.drain(..).map(|entry| entry.bytes()).sum();
            self.bytes -= freed;
            // After an error the key stays unloaded, and the next use of it can report the error.
            if let Ok(entries) = self.read_below(&key, committed) {
                if entries.is_empty() {
                    emptied.push(key);
                }
                self.set_entries(at, entries);
            }
        }
        for key in emptied {
            self.take_out(&key);
        }
    }

    fn forget(&mut self, observed: i64) {
        assert!(
            !self.is_dirty(),
            "a store is not restored while it has changes of its own"
        );
        self.keys.clear();
        self.expiry.clear();
        self.complete = false;
        self.untouched = true;
        self.bytes = 0;
        self.reset_time(observed);
        self.below_until = observed;
    }

    fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.in_flight.is_empty()
    }

    fn observed(&self) -> i64 {
        self.observed
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn shed(&mut self, target_bytes: usize) {
        if self.is_dirty() || self.bytes <= target_bytes {
            return;
        }
        // Second chance: the first pass spares what was used since the last time.
        for spare_used in [true, false] {
            let bytes = &mut self.bytes;
            self.keys.retain(|key, windows| {
                let keep = *bytes <= target_bytes || (spare_used && mem::take(&mut windows.used));
                if !keep {
                    *bytes -= windows.bytes(key);
                }
                keep
            });
        }
        self.complete = false;
        self.below_until = self.observed;
        self.keys.shrink_to_fit();
    }
}

impl<K: 'static, V: Clone + 'static> WindowLive<K, V> {
    /// Drops what has expired by committed time from memory; the base drops it for itself.
    fn expire(&mut self) {
        let first_kept = self.first_kept();
        for key in self.expiry.pop_before(first_kept) {
            let Some(windows) = self.keys.get_mut(&key[..]) else {
                continue;
            };
            let expired = windows
                .entries
                .partition_point(|entry| entry.time < first_kept);
            let freed: usize = windows
                .entries
                .drain(..expired)
                .map(|entry| entry.bytes())
                .sum();
            self.bytes -= freed;
            if !windows.entries.is_empty() || !windows.loaded {
                continue;
            }
            match self.dirty.is_empty() {
                true => self.take_out(&key),
                // Asked again at the next commit.
                false => self.expiry.push(first_kept, key),
            }
        }
        if first_kept > self.below_until {
            self.complete = true;
        }
    }
}
