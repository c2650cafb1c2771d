//! `StoreView`: what queries see of a store.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use millstream_topology::{KvStore, StoreKind};

use crate::{
    StoreDefinition,
    blob::Blob,
    committed::Committed,
    error::{Fault, Result, unwritable},
    layout::{
        ID_BYTES, Suffix, TIMESTAMP_BYTES, bounds_of, first_live_time, retention_of,
        split_timestamp,
    },
};

/// Upper bound of the entries that one call returns, whatever limit it is given.
pub const VIEW_PAGE_MAX: usize = 10_000;
/// Entries up to which they are counted one by one.
const COUNT_MAX: usize = 100_000;

/// What queries see of one store of one task: committed data only. Cheap to clone, usable from any
/// thread.
///
/// It keeps the task's base open, so a task's directory can be opened again only when its views are
/// gone.
#[derive(Clone)]
pub struct StoreView {
    definition: Arc<dyn StoreDefinition>,
    name: Arc<str>,
    kind: StoreKind,
    index: usize,
    id: u16,
    committed: Arc<Committed>,
}

impl fmt::Debug for StoreView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreView")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl StoreView {
    pub(crate) fn new(
        definition: Arc<dyn StoreDefinition>,
        index: usize,
        id: u16,
        committed: Arc<Committed>,
    ) -> Self {
        let spec = definition.spec();
        Self {
            definition,
            name: spec.name,
            kind: spec.kind,
            index,
            id,
            committed,
        }
    }

    /// The store's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its layout.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// What reads its bytes.
    pub fn definition(&self) -> &Arc<dyn StoreDefinition> {
        &self.definition
    }

    /// The changelog offset behind the last record that the view reflects.
    pub fn position(&self) -> Option<i64> {
        self.committed.meta(self.index).position
    }

    /// About how many entries the store has: exact up to 100,000, and beyond that the number of
    /// entries in all stores of the task, as the base estimates it.
    pub fn approximate_entries(&self) -> u64 {
        let (first, end) = bounds_of(self.id);
        let first_live = self.first_live();
        let (mut read, mut live) = (0, 0);
        for entry in self.committed.walk(&first, &end).take(COUNT_MAX) {
            read += 1;
            let expired = |(key, _): &(Blob, Blob)| self.is_expired(key, first_live);
            live += u64::from(!entry.as_ref().is_ok_and(expired));
        }
        match read < COUNT_MAX {
            true => live,
            false => live.max(self.committed.base().approximate_entries()),
        }
    }

    /// The value of an encoded key, without its timestamp, and the timestamp.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<(Bytes, i64)>> {
        let key = self.stored_key(key);
        match self.committed.get(&key)? {
            Some(stored) if !self.is_expired(&key, self.first_live()) => {
                self.split(&stored).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The first `limit` entries with `from <= key < to`, as encoded; without bounds from the
    /// first, to the last. Those of a key-value store are all of one moment. Keys of windows have
    /// start and sequence number behind them, those of sessions end and start: see
    /// [`split_window_key`](crate::split_window_key) and
    /// [`split_session_key`](crate::split_session_key).
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn range(
        &self,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes, i64)>> {
        let (first, end) = bounds_of(self.id);
        let lower = from.map_or(first.to_vec(), |key| self.stored_key(key));
        let upper = to.map_or(end.to_vec(), |key| self.stored_key(key));
        let limit = limit.min(VIEW_PAGE_MAX);
        let page = match Suffix::of(self.kind) {
            None => self.committed.page(&lower, &upper, limit)?,
            Some(_) => {
                let first_live = self.first_live();
                let all = self.committed.walk(&lower, &upper);
                let live = all.filter(|entry| match entry {
                    Ok((key, _)) => !self.is_expired(key, first_live),
                    Err(_) => true,
                });
                live.take(limit).collect::<Result<_>>()?
            }
        };
        page.into_iter()
            .map(|(key, stored)| {
                let (value, timestamp) = self.split(&stored)?;
                Ok((Bytes::copy_from_slice(&key[ID_BYTES..]), value, timestamp))
            })
            .collect()
    }

    /// The first `limit` windows of an encoded key with `from <= start <= to`: start, value,
    /// timestamp.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn windows(
        &self,
        key: &[u8],
        from: i64,
        to: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Bytes, i64)>> {
        let mut windows = Vec::new();
        self.visit(
            Suffix::Window,
            key,
            (from, to),
            &mut |start, _, value, at| {
                windows.push((start, value, at));
                windows.len() < limit.min(VIEW_PAGE_MAX)
            },
        )?;
        windows.truncate(limit);
        Ok(windows)
    }

    /// The first `limit` sessions of an encoded key that have a part in `from..=to`, by end: start,
    /// end, value.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn sessions(
        &self,
        key: &[u8],
        from: i64,
        to: i64,
        limit: usize,
    ) -> Result<Vec<(i64, i64, Bytes)>> {
        let mut sessions = Vec::new();
        self.visit(
            Suffix::Session,
            key,
            (from, i64::MAX),
            &mut |end, start, value, _| {
                if start <= to {
                    sessions.push((start, end, value));
                }
                sessions.len() < limit.min(VIEW_PAGE_MAX)
            },
        )?;
        sessions.truncate(limit);
        Ok(sessions)
    }

    /// Visits the live entries of a key whose time lies between two, both included, until `visit`
    /// returns false: time, rank, value, timestamp. A store of another kind has none.
    fn visit(
        &self,
        suffix: Suffix,
        key: &[u8],
        (from, to): (i64, i64),
        visit: &mut dyn FnMut(i64, i64, Bytes, i64) -> bool,
    ) -> Result<()> {
        let from = from.max(self.first_live());
        if from > to || Suffix::of(self.kind) != Some(suffix) {
            return Ok(());
        }
        let prefix = self.stored_key(key);
        let (mut lower, mut upper) = (prefix.clone(), prefix.clone());
        suffix.push(&mut lower, from, 0);
        upper.extend_from_slice(&to.to_be_bytes());
        // More than any rank.
        upper.extend_from_slice(&[0xff; 9]);
        for entry in self.committed.walk(&lower, &upper) {
            let (key, stored) = entry?;
            // A longer key may lie between the windows of this one.
            if key.len() == prefix.len() + suffix.bytes()
                && let Some((_, time, rank)) = suffix.split(&key)
            {
                let (value, timestamp) = self.split(&stored)?;
                if !visit(time, rank, value, timestamp) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The value of a key of a key-value store, and its timestamp.
    ///
    /// # Errors
    /// When the base cannot be read, or key or value do not fit the descriptor.
    pub fn get_typed<K, V>(&self, store: &KvStore<K, V>, key: &K) -> Result<Option<(V, i64)>> {
        let mut bytes = Vec::new();
        let encoded = store.key().encode(key, &mut bytes);
        encoded.map_err(|source| unwritable(&self.name, "key", source))?;
        let Some((value, timestamp)) = self.get(&bytes)? else {
            return Ok(None);
        };
        let value = store.value().decode(Some(&value));
        Ok(Some((
            value.map_err(|source| Fault::undecodable(&self.name, source))?,
            timestamp,
        )))
    }

    fn stored_key(&self, key: &[u8]) -> Vec<u8> {
        [&self.id.to_be_bytes(), key].concat()
    }

    /// The first window start or session end that is not expired by committed time; 0 for a store
    /// without them.
    fn first_live(&self) -> i64 {
        let observed = || self.committed.meta(self.index).observed;
        retention_of(self.kind).map_or(0, |retention| first_live_time(observed(), retention))
    }

    fn is_expired(&self, key: &[u8], first_live: i64) -> bool {
        let entry = Suffix::of(self.kind).and_then(|suffix| suffix.split(key));
        entry.is_some_and(|(_, time, _)| time < first_live)
    }

    fn split(&self, stored: &Blob) -> Result<(Bytes, i64)> {
        match split_timestamp(stored) {
            Some((timestamp, _)) => Ok((
                Bytes::copy_from_slice(&stored[TIMESTAMP_BYTES..]),
                timestamp,
            )),
            None => Err(Fault::undecodable(
                &self.name,
                "value is shorter than its timestamp",
            )),
        }
    }
}
