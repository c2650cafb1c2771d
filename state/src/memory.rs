//! `MemoryBytes`: a base in memory.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::{
    Result,
    bytes::{ByteStore, Droppable, Entries, Scan},
};

/// A base in memory: lives as long as its `Arc`, so that a test can open it again as if after a
/// restart.
#[derive(Default)]
pub struct MemoryBytes(Mutex<Content>);

#[derive(Default)]
struct Content {
    entries: Arc<BTreeMap<Bytes, Bytes>>,
    droppable: Option<Droppable>,
    written_since_drop: usize,
}

impl MemoryBytes {
    // Nothing that runs under the lock panics half-way through a change.
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBytes")
            .field("entries", &self.lock().entries.len())
            .finish()
    }
}

impl ByteStore for MemoryBytes {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.lock().entries.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Result<Scan<'_>> {
        let entries = self.lock().entries.clone();
        let mut last: Option<Bytes> = None;
        let (from, to) = (from.to_vec(), to.map(<[u8]>::to_vec));
        Ok(Box::new(std::iter::from_fn(move || {
            let lower = match &last {
                Some(last) => Bound::Excluded(&last[..]),
                None => Bound::Included(&from[..]),
            };
            let (key, value) = entries.range::<[u8], _>((lower, Bound::Unbounded)).next()?;
            if to.as_ref().is_some_and(|to| key >= to) {
                return None;
            }
            last = Some(key.clone());
            Some(Ok((key.clone(), value.clone())))
        })))
    }

    fn ingest(&self, entries: &mut Entries<'_>) -> Result<()> {
        let mut guard = self.lock();
        let content = &mut *guard;
        // Copies the map only while somebody scans the one before.
        let present = Arc::make_mut(&mut content.entries);
        for (key, value) in entries {
            content.written_since_drop += 1;
            match value {
                Some(value) => {
                    present.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                None => drop(present.remove(key)),
            }
        }
        if let Some(droppable) = &content.droppable
            && content.written_since_drop > present.len() / 2
        {
            present.retain(|key, _| !droppable(key));
            content.written_since_drop = 0;
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool> {
        Ok(self.lock().entries.is_empty())
    }

    fn set_droppable(&self, droppable: Droppable) {
        self.lock().droppable = Some(droppable);
    }

    fn approximate_entries(&self) -> u64 {
        self.lock().entries.len() as u64
    }
}
