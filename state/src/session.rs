//! `Session`: access by key, start and end of a session.

use crate::{
    blob::Blob,
    committed::Committed,
    error::Result,
    layout::ID_BYTES,
    window_live::{Entry, WindowLive},
};

/// A session store of a task. A session begins with its first timestamp and ends with its last.
///
/// Time in it is the greatest end that was put into it. A session is hidden from reads once its end
/// lies the retention behind that, and is gone a millisecond later.
pub struct Session<'a, K: 'static, V: 'static> {
    live: &'a mut WindowLive<K, V>,
    committed: &'a Committed,
}

impl<'a, K: 'static, V: Clone + 'static> Session<'a, K, V> {
    pub(crate) fn new(live: &'a mut WindowLive<K, V>, committed: &'a Committed) -> Self {
        Self { live, committed }
    }

    /// The value of a session.
    ///
    /// # Errors
    /// When the key does not encode, or the base cannot be read.
    pub fn get(&mut self, key: &K, start: i64, end: i64) -> Result<Option<V>> {
        match end < self.live.first_live() {
            true => Ok(None),
            false => self.get_kept(key, start, end),
        }
    }

    /// As [`get`](Self::get), also of a session that reads hide although it is still there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_kept(&mut self, key: &K, start: i64, end: i64) -> Result<Option<V>> {
        let entries = self.live.entries_of(key, self.committed)?;
        let at = entries.binary_search_by_key(&(end, start), Entry::place);
        let value = at.ok().and_then(|at| entries[at].value.as_ref());
        Ok(value.map(|(value, _)| value.clone()))
    }

    /// The sessions of a key that end at `earliest_end` or later and start at `latest_start` or
    /// earlier, by end, then start: start, end, value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn find(
        &mut self,
        key: &K,
        earliest_end: i64,
        latest_start: i64,
    ) -> Result<Vec<(i64, i64, V)>> {
        let from = earliest_end.max(self.live.first_live());
        let entries = self.live.entries_of(key, self.committed)?;
        let first = entries.partition_point(|entry| entry.time < from);
        let found = entries[first..]
            .iter()
            .filter(|entry| entry.rank <= latest_start);
        let session = |entry: &Entry<V>| {
            let (value, _) = entry.value.as_ref()?;
            Some((entry.rank, entry.time, value.clone()))
        };
        Ok(found.filter_map(session).collect())
    }

    /// Sets the value of a session, or removes it, and moves the store's time. The timestamp of the
    /// entry is the session's end.
    ///
    /// # Errors
    /// As [`get`](Self::get), and a negative end.
    pub fn put(&mut self, key: &K, start: i64, end: i64, value: Option<V>) -> Result<()> {
        self.live
            .change(key, (end, start), self.committed, |entry| {
                entry.deleted_at = end;
                entry.value = value.map(|value| (value, end));
                Ok(())
            })
    }

    /// Removes a session.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn remove(&mut self, key: &K, start: i64, end: i64) -> Result<()> {
        self.put(key, start, end, None)
    }

    /// All sessions that reads show, by encoded key, then start, then end: key, start, end, value.
    /// Reads the whole store.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn all(&mut self) -> Result<Vec<(K, i64, i64, V)>> {
        let first_live = self.live.first_live();
        let mut found: Vec<(Blob, i64, i64, V)> = Vec::new();
        self.live.visit_all(self.committed, &mut |key, entry| {
            if let Some((value, _)) = &entry.value
                && entry.time >= first_live
            {
                found.push((key.clone(), entry.rank, entry.time, value.clone()));
            }
        })?;
        found.sort_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
        found
            .into_iter()
            .map(|(key, start, end, value)| Ok((self.live.decode_key(&key)?, start, end, value)))
            .collect()
    }

    /// Visits the encoded key, the start and the end of every session that is kept, in no order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn visit_bounds(&mut self, visit: &mut dyn FnMut(&[u8], i64, i64)) -> Result<()> {
        self.live.visit_all(self.committed, &mut |key, entry| {
            if entry.value.is_some() {
                visit(&key[ID_BYTES..], entry.rank, entry.time);
            }
        })
    }

    /// Greatest end put into the store; -1 at first.
    pub fn observed_time(&self) -> i64 {
        self.live.observed
    }
}
