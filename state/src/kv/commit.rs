//! What commits, aborts and short memory do to the live layer of a key-value store.

use std::{any::Any, collections::BTreeSet, mem};

use super::{KvLive, Slot};
use crate::{
    blob::Blob,
    committed::{Change, Committed},
    error::Result,
    layout::{ID_BYTES, TIMESTAMP_BYTES},
    live::{AnyStore, Log, write_stored},
};

impl<K: 'static, V: Clone + 'static> AnyStore for KvLive<K, V> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn attach(&mut self, id: u16, empty: bool, _observed: i64) {
        self.id = id;
        self.complete = empty;
    }

    fn write_dirty(&mut self, log: &mut Log<'_>, changes: &mut Vec<Change>) -> Result<()> {
        changes.reserve(self.dirty.len());
        // Taken up front, so that an abort after an error finds all of them.
        let dirty = mem::take(&mut self.dirty);
        let first = self.in_flight.len();
        self.in_flight.extend_from_slice(&dirty);
        for &at in &self.in_flight[first..] {
            let (key, slot) = self
                .slots
                .get_index_mut(at as usize)
                .expect("dirty slots are in the map");
            slot.dirty = false;
            let (stored, timestamp) = write_stored(
                self.store.name(),
                &self.store.value(),
                slot.value.as_ref(),
                &mut self.value_bytes,
            )?;
            let timestamp = timestamp.unwrap_or(slot.deleted_at);
            let value = stored.map(|stored| &stored[TIMESTAMP_BYTES..]);
            log(&key[ID_BYTES..], value, timestamp)?;
            if stored.is_none() {
                self.deleted.push(at);
            }
            let now = stored.map_or(0, <[u8]>::len);
            self.bytes = self.bytes + now - slot.value_bytes as usize;
            slot.value_bytes = now as u32;
            changes.push((key.clone(), stored.map(Blob::from)));
        }
        // Keeps the allocation for the next transaction.
        self.dirty = dirty;
        self.dirty.clear();
        Ok(())
    }

    fn settle(&mut self, _observed: i64) {
        let mut deleted = Vec::new();
        for at in self.deleted.drain(..) {
            // While others hold positions, a slot stays, as knowledge of absence.
            if self.dirty.is_empty()
                && let Some((key, Slot { value: None, .. })) = self.slots.get_index(at as usize)
            {
                deleted.push(key.clone());
            }
        }
        self.in_flight.clear();
        for key in deleted {
            self.take_out(&key);
        }
    }

    fn abort(&mut self, committed: &Committed, _observed: i64) {
        self.deleted.clear();
        let touched = mem::take(&mut self.dirty)
            .into_iter()
            .chain(mem::take(&mut self.in_flight));
        let keys: Vec<Blob> = touched
            .filter_map(|at| self.slots.get_index(at as usize))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            self.take_out(key);
        }
        for key in keys {
            if !self.complete {
                break;
            }
            match self.read_below(&key, committed) {
                Ok(slot) if slot.value.is_some() && !self.slots.contains_key(&key) => {
                    self.insert(key, slot);
                }
                Ok(_) => {}
                // The next read of the key meets the error and can report it.
                Err(_) => self.complete = false,
            }
        }
    }

    fn forget(&mut self, _observed: i64) {
        assert!(
            !self.is_dirty(),
            "a store is not restored while it has changes of its own"
        );
        self.slots.clear();
        self.order = None;
        self.complete = false;
        self.loadable = true;
        self.bytes = 0;
    }

    fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.in_flight.is_empty()
    }

    fn observed(&self) -> i64 {
        -1
    }

    fn bytes(&self) -> usize {
        let ordered = self.order.as_ref().map_or(0, BTreeSet::len);
        self.bytes + ordered * 2 * size_of::<Blob>()
    }

    fn shed(&mut self, target_bytes: usize) {
        if self.is_dirty() || self.bytes() <= target_bytes {
            return;
        }
        // Second chance: the first pass spares what was used since the last time.
        for spare_used in [true, false] {
            let bytes = &mut self.bytes;
            self.slots.retain(|key, slot| {
                let keep = *bytes <= target_bytes || (spare_used && mem::take(&mut slot.used));
                if !keep {
                    *bytes -= slot.bytes(key);
                }
                keep
            });
        }
        self.order = None;
        self.complete = false;
        self.loadable = false;
        self.slots.shrink_to_fit();
    }
}
