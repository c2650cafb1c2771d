//! `Committed`: what the log has committed: bytes over the base, shared with queries and flushes.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
    vec,
};

use millstream_topology::StoreSpec;

use crate::{
    ByteStore, Result,
    blob::Blob,
    layout::{FirstKept, Meta, reserved_entries},
    merge::Layered,
};

/// Changed entries by key; `None` hides what lies below.
pub(crate) type Overlay = BTreeMap<Blob, Option<Blob>>;
/// One changed entry.
pub(crate) type Change = (Blob, Option<Blob>);

/// What an entry of an overlay costs beside its bytes beyond those in the [`Blob`]s: its share of a
/// node.
const OVERLAY_ENTRY_BYTES: usize = 80;
/// Smaller steps of the time at which a store was level are not worth a write of their own.
const LEVEL_STEP_MS: i64 = 60_000;
/// Entries that a walk over a store reads under one lock.
const WALK_PAGE: usize = 512;

/// Invariant: nothing that the log has not committed is in here or below.
pub(crate) struct Committed {
    base: Arc<dyn ByteStore>,
    stores: Vec<(StoreSpec, u16)>,
    /// By the time that is in the base: what the base may drop.
    first_kept_in_base: Arc<FirstKept>,
    layers: RwLock<Layers>,
}

/// Invariant: `active` hides `flushing`, which hides the base. An ingest of `flushing` therefore
/// changes nothing that a reader sees, at whatever moment it becomes visible in the base.
pub(crate) struct Layers {
    active: Overlay,
    active_bytes: usize,
    flushing: Option<Flushing>,
    metas: Vec<Meta>,
    metas_changed: bool,
    /// Why the latest flush failed, if it did.
    flush_failure: Option<Arc<str>>,
}

/// An overlay on its way to the base, with what belongs to it.
struct Flushing {
    batch: Arc<Batch>,
    bytes: usize,
    running: bool,
}

/// What one ingest carries.
pub(crate) struct Batch {
    pub(crate) entries: Overlay,
    pub(crate) reserved: Vec<(Vec<u8>, Vec<u8>)>,
    /// By the time that the ingest brings to the base.
    pub(crate) first_kept: FirstKept,
}

impl Committed {
    pub(crate) fn new(base: Arc<dyn ByteStore>, stores: Vec<(StoreSpec, u16, Meta)>) -> Self {
        let first_kept_in_base = Arc::new(FirstKept::of(stores.iter()));
        let rule = first_kept_in_base.clone();
        base.set_droppable(Arc::new(move |key| rule.is_expired(key)));
        let metas = stores.iter().map(|(.., meta)| meta.clone()).collect();
        let stores = stores.into_iter().map(|(spec, id, _)| (spec, id)).collect();
        let layers = Layers {
            active: Overlay::new(),
            active_bytes: 0,
            flushing: None,
            metas,
            metas_changed: false,
            flush_failure: None,
        };
        Self {
            base,
            stores,
            first_kept_in_base,
            layers: RwLock::new(layers),
        }
    }

    pub(crate) fn base(&self) -> &dyn ByteStore {
        &*self.base
    }

    pub(crate) fn watch(&self) -> Weak<dyn ByteStore> {
        Arc::downgrade(&self.base)
    }

    pub(crate) fn meta(&self, index: usize) -> Meta {
        self.read().metas[index].clone()
    }

    pub(crate) fn metas(&self) -> Vec<Meta> {
        self.read().metas.clone()
    }

    pub(crate) fn bytes(&self) -> usize {
        let layers = self.read();
        layers.active_bytes
            + layers
                .flushing
                .as_ref()
                .map_or(0, |flushing| flushing.bytes)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Blob>> {
        if let Some(value) = self.read().overlaid(key) {
            return Ok(value.clone());
        }
        Ok(self.base.get(key)?.map(|value| Blob::from(&value[..])))
    }

    /// The first `limit` entries with `from <= key < to`, as they were at one moment.
    pub(crate) fn page(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Blob, Blob)>> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        // The scan is opened under the lock, so that no flush lies between it and the overlay.
        let (overlay, base) = {
            let layers = self.read();
            (
                layers.page(from, to, limit),
                self.base.scan(from, Some(to))?,
            )
        };
        let mut failure = None;
        let base = base.map_while(|entry| match entry {
            Ok((key, value)) => Some((Blob::from(&key[..]), Some(Blob::from(&value[..])))),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        let page = Layered::new(overlay.into_iter(), base)
            .filter_map(|(key, value)| Some((key, value?)))
            .take(limit)
            .collect();
        match failure {
            None => Ok(page),
            Some(error) => Err(error),
        }
    }

    /// All entries with `from <= key < to`, page by page: commits in between are seen from the next
    /// page on.
    pub(crate) fn walk(&self, from: &[u8], to: &[u8]) -> Walk<'_> {
        let page = Vec::new().into_iter();
        Walk {
            committed: self,
            from: Some(from.to_vec()),
            to: to.to_vec(),
            page,
        }
    }

    /// Takes over changes with strictly ascending keys, and the metas with them.
    pub(crate) fn fold(
        &self,
        changes: impl Iterator<Item = Change>,
        metas: impl Iterator<Item = (usize, Meta)>,
    ) {
        let layers = &mut *self.write();
        for (key, value) in changes {
            layers.active_bytes += entry_bytes(&key, value.as_ref());
            let key_bytes = key.len();
            if let Some(old) = layers.active.insert(key, value) {
                let old_bytes = OVERLAY_ENTRY_BYTES + key_bytes + old.map_or(0, |old| old.len());
                layers.active_bytes -= old_bytes;
            }
        }
        for (index, meta) in metas {
            layers.metas_changed |= layers.metas[index] != meta;
            layers.metas[index] = meta;
        }
    }

    /// Notes when a store was level with its changelog.
    pub(crate) fn set_level(&self, index: usize, at_ms: i64) {
        let layers = &mut *self.write();
        let level = &mut layers.metas[index].level_ms;
        let step = level.map(|before| at_ms.saturating_sub(before));
        if layers.metas_changed || !step.is_some_and(|step| (0..LEVEL_STEP_MS).contains(&step)) {
            layers.metas_changed |= *level != Some(at_ms);
            *level = Some(at_ms);
        }
    }

    /// Makes the active overlay the one to flush; a failed one first. `None` when there is nothing
    /// to do or one is on its way.
    pub(crate) fn begin_flush(&self) -> Option<Arc<Batch>> {
        let layers = &mut *self.write();
        if layers.flushing.is_none() {
            if layers.active.is_empty() && !layers.metas_changed {
                return None;
            }
            let metas = self.stores.iter().zip(&layers.metas);
            let metas: Vec<_> = metas
                .map(|((spec, id), meta)| (spec.clone(), *id, meta.clone()))
                .collect();
            layers.metas_changed = false;
            let batch = Batch {
                entries: std::mem::take(&mut layers.active),
                reserved: reserved_entries(&metas),
                first_kept: FirstKept::of(metas.iter()),
            };
            let bytes = std::mem::take(&mut layers.active_bytes);
            layers.flushing = Some(Flushing {
                batch: Arc::new(batch),
                bytes,
                running: false,
            });
        }
        let flushing = layers
            .flushing
            .as_mut()
            .filter(|flushing| !flushing.running)?;
        flushing.running = true;
        Some(flushing.batch.clone())
    }

    pub(crate) fn flush_failure(&self) -> Option<Arc<str>> {
        self.read().flush_failure.clone()
    }

    /// Notes how a flush went.
    pub(crate) fn set_flush_failure(&self, failure: Option<Arc<str>>) {
        self.write().flush_failure = failure;
    }

    /// Ends the flush that is running. After a failure the batch stays where it is, for the next
    /// one.
    pub(crate) fn end_flush(&self, done: bool) {
        let mut layers = self.write();
        let finished = if done { layers.flushing.take() } else { None };
        if let Some(flushing) = &mut layers.flushing {
            flushing.running = false;
        }
        drop(layers);
        if let Some(flushing) = finished {
            self.first_kept_in_base
                .advance_to(&flushing.batch.first_kept);
        }
    }

    // Nothing that runs under the lock panics half-way through a change.
    fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry_bytes(key: &Blob, value: Option<&Blob>) -> usize {
    OVERLAY_ENTRY_BYTES + key.len() + value.map_or(0, |value| value.len())
}

impl Layers {
    fn overlaid(&self, key: &[u8]) -> Option<&Option<Blob>> {
        self.active
            .get(key)
            .or_else(|| self.flushing.as_ref()?.batch.entries.get(key))
    }

    /// Changes from `from` on: enough of them that `limit` entries of a merge with the base lie
    /// among them.
    fn page(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Change> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let active = self.active.range::<[u8], _>(range);
        let flushing = self
            .flushing
            .iter()
            .flat_map(|f| f.batch.entries.range::<[u8], _>(range));
        let mut page = Vec::new();
        let mut present = 0;
        for (key, value) in Layered::new(active, flushing) {
            page.push((key.clone(), value.clone()));
            present += usize::from(value.is_some());
            if present == limit {
                break;
            }
        }
        page
    }
}

/// See [`Committed::walk`].
pub(crate) struct Walk<'a> {
    committed: &'a Committed,
    /// Where the next page begins; `None` behind the last.
    from: Option<Vec<u8>>,
    to: Vec<u8>,
    page: vec::IntoIter<(Blob, Blob)>,
}

impl Iterator for Walk<'_> {
    type Item = Result<(Blob, Blob)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.page.next() {
            return Some(Ok(entry));
        }
        let from = self.from.take()?;
        let page = match self.committed.page(&from, &self.to, WALK_PAGE) {
            Ok(page) => page,
            Err(error) => return Some(Err(error)),
        };
        if page.len() == WALK_PAGE {
            self.from = page.last().map(|(key, _)| [key, &[0][..]].concat());
        }
        self.page = page.into_iter();
        self.page.next().map(Ok)
    }
}
