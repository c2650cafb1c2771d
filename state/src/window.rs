//! `Window`: access by key and window start.

use crate::{
    blob::Blob,
    committed::Committed,
    error::Result,
    layout::ID_BYTES,
    window_live::{Entry, WindowLive},
};

/// A window store of a task.
///
/// Time in it is the greatest start that was put into it. A window is gone once its start lies the
/// retention behind that: reads hide it, and puts into it are dropped.
pub struct Window<'a, K: 'static, V: 'static> {
    live: &'a mut WindowLive<K, V>,
    committed: &'a Committed,
}

impl<'a, K: 'static, V: Clone + 'static> Window<'a, K, V> {
    pub(crate) fn new(live: &'a mut WindowLive<K, V>, committed: &'a Committed) -> Self {
        Self { live, committed }
    }

    /// The value of a window, and its timestamp.
    ///
    /// # Errors
    /// When the key does not encode, or the base cannot be read.
    pub fn get(&mut self, key: &K, start: i64) -> Result<Option<(V, i64)>> {
        if start < self.live.first_live() {
            return Ok(None);
        }
        let entries = self.live.entries_of(key, self.committed)?;
        let at = entries.binary_search_by_key(&(start, 0), Entry::place);
        Ok(at.ok().and_then(|at| entries[at].value.clone()))
    }

    /// Sets or removes the value of a window.
    ///
    /// # Errors
    /// As [`get`](Self::get), and a negative start.
    ///
    /// # Panics
    /// On a store with duplicates.
    pub fn put(&mut self, key: &K, start: i64, value: Option<V>, timestamp: i64) -> Result<()> {
        self.change(key, start, |entry| {
            entry.deleted_at = timestamp;
            entry.value = value.map(|value| (value, timestamp));
            Ok(())
        })
    }

    /// Reads, changes and writes a window. `change` finds the present value in its argument and
    /// leaves the new one there; what it leaves for an expired window is dropped.
    ///
    /// # Errors
    /// As [`put`](Self::put), and what `change` fails with. What it left in the slot counts all the
    /// same, so a function that fails leaves the value as it found it.
    ///
    /// # Panics
    /// On a store with duplicates.
    pub fn update<R>(
        &mut self,
        key: &K,
        start: i64,
        change: impl FnOnce(&mut Option<(V, i64)>) -> Result<R>,
    ) -> Result<R> {
        self.change(key, start, |entry| {
            if let Some((_, timestamp)) = &entry.value {
                entry.deleted_at = *timestamp;
            }
            change(&mut entry.value)
        })
    }

    /// Adds a value behind those that the key has with that start.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Panics
    /// On a store without duplicates.
    pub fn add(&mut self, key: &K, start: i64, value: V) -> Result<()> {
        assert!(
            self.live.duplicates,
            "values are added to stores with duplicates only"
        );
        self.live.observe(start)?;
        if start < self.live.first_live() {
            return Ok(());
        }
        let key_at = self.live.locate(key, self.committed)?;
        let entries = self.live.entries_at(key_at);
        let end = entries.partition_point(|entry| entry.time <= start);
        let sequence = match entries[..end].last() {
            Some(last) if last.time == start => last.rank + 1,
            Some(_) | None => 0,
        };
        let entry = self.live.insert(key_at, end, Entry::new(start, sequence));
        entry.value = Some((value, start));
        self.live.mark_dirty(key_at, end);
        Ok(())
    }

    /// Visits the values of a key with `from <= start <= to`, by start, then in the order of their
    /// arrival.
    ///
    /// # Errors
    /// As [`get`](Self::get), and what `visit` fails with.
    pub fn fetch(
        &mut self,
        key: &K,
        from: i64,
        to: i64,
        visit: &mut dyn FnMut(i64, &V, i64) -> Result<()>,
    ) -> Result<()> {
        let from = from.max(self.live.first_live());
        let entries = self.live.entries_of(key, self.committed)?;
        let first = entries.partition_point(|entry| entry.time < from);
        for entry in entries[first..].iter().take_while(|entry| entry.time <= to) {
            if let Some((value, timestamp)) = &entry.value {
                visit(entry.time, value, *timestamp)?;
            }
        }
        Ok(())
    }

    /// The windows of all keys with `from <= start <= to`, by start, then by encoded key: key,
    /// start, value, timestamp. Reads the whole store.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn fetch_all(&mut self, from: i64, to: i64) -> Result<Vec<(K, i64, V, i64)>> {
        let from = from.max(self.live.first_live());
        let mut found: Vec<(i64, Blob, i64, V, i64)> = Vec::new();
        self.live.visit_all(self.committed, &mut |key, entry| {
            if let Some((value, timestamp)) = &entry.value
                && (from..=to).contains(&entry.time)
            {
                found.push((
                    entry.time,
                    key.clone(),
                    entry.rank,
                    value.clone(),
                    *timestamp,
                ));
            }
        })?;
        found.sort_by(|a, b| (a.0, &a.1, a.2).cmp(&(b.0, &b.1, b.2)));
        found
            .into_iter()
            .map(|(start, key, _, value, at)| Ok((self.live.decode_key(&key)?, start, value, at)))
            .collect()
    }

    /// Greatest start put into the store; -1 at first.
    pub fn observed_time(&self) -> i64 {
        self.live.observed
    }

    /// Visits the encoded key and the start of every window that is kept, in no order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn visit_starts(&mut self, visit: &mut dyn FnMut(&[u8], i64)) -> Result<()> {
        self.live.visit_all(self.committed, &mut |key, entry| {
            if entry.value.is_some() {
                visit(&key[ID_BYTES..], entry.time);
            }
        })
    }

    fn change<R>(
        &mut self,
        key: &K,
        start: i64,
        change: impl FnOnce(&mut Entry<V>) -> Result<R>,
    ) -> Result<R> {
        assert!(
            !self.live.duplicates,
            "values are only added to a store with duplicates"
        );
        self.live.change(key, (start, 0), self.committed, change)
    }
}
