//! `ByteStore`: ordered bytes, the base of a task's stores.

use std::sync::Arc;

use bytes::Bytes;

use crate::Result;

/// Entries to ingest, by strictly ascending key; `None` deletes.
pub type Entries<'a> = dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a;

/// Entries of a range, ascending.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + 'a>;

/// Says of a key that its entry may be dropped; asked at any time, by any thread.
pub type Droppable = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Ordered bytes that only ever change by atomic, durable ingests.
///
/// [`MemoryBytes`](crate::MemoryBytes) and `RocksBytes` implement it.
pub trait ByteStore: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The entries with `from <= key < to`, or to the end, as they are at the time of the call.
    ///
    /// # Errors
    /// When the store cannot be read; later reads fail in the iterator.
    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Result<Scan<'_>>;

    /// Writes and deletes all entries, or none; what it has written survives a crash once it
    /// returns.
    ///
    /// # Errors
    /// When the store cannot be written; it is then as before.
    fn ingest(&self, entries: &mut Entries<'_>) -> Result<()>;

    /// True when there is no entry.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn is_empty(&self) -> Result<bool> {
        match self.scan(&[], None)?.next() {
            None => Ok(true),
            Some(entry) => entry.map(|_| false),
        }
    }

    /// Lets the store drop entries that `droppable` holds for, whenever that is cheap. Replaces an
    /// earlier rule. Callers hide such entries themselves.
    fn set_droppable(&self, droppable: Droppable) {
        let _ = droppable;
    }

    /// What was found damaged since it was opened, by whomever: a read, a query, a flush, the
    /// background. What it holds is not to be trusted from then on, even by those that have seen no
    /// error.
    fn damage(&self) -> Option<String> {
        None
    }

    /// True when it refuses what the disk would take, so that only opening it again helps. Nothing
    /// is damaged.
    fn is_stuck(&self) -> bool {
        false
    }

    /// About how many entries there are.
    fn approximate_entries(&self) -> u64;
}
