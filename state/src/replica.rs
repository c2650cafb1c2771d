//! `Replica`: the committed content of a task's stores, without a task: what a standby keeps.

use std::sync::{Arc, Weak};

use millstream_topology::StoreSpec;

use crate::{
    ByteStore, FlushJob, StoreDefinition, StoreView, changelog,
    committed::Committed,
    error::Result,
    layout::{Meta, Place, Times, places_of},
};

/// The committed content of the stores of one task, brought forward by changelog records alone. It
/// may go from thread to thread, and [becomes](crate::TaskState::over) the state of a task without
/// being written or read again.
pub struct Replica {
    pub(crate) committed: Arc<Committed>,
    pub(crate) stores: Vec<Kept>,
}

/// A store of a replica.
pub(crate) struct Kept {
    pub(crate) definition: Arc<dyn StoreDefinition>,
    pub(crate) spec: StoreSpec,
    pub(crate) id: u16,
    /// It is known to have no entries.
    pub(crate) is_empty: bool,
}

impl Replica {
    /// Opens the stores over `base`. A store is found again by its name.
    ///
    /// # Errors
    /// When the base cannot be read, is of another format, or has a store of another kind under a
    /// name.
    pub fn open(
        base: Arc<dyn ByteStore>,
        definitions: &[Arc<dyn StoreDefinition>],
    ) -> Result<Self> {
        let specs: Vec<StoreSpec> = definitions.iter().map(|store| store.spec()).collect();
        let found = places_of(&*base, &specs)?;
        let mut stores = Vec::new();
        let mut metas = Vec::new();
        for ((definition, spec), place) in definitions.iter().zip(specs).zip(found) {
            let Place { id, meta, is_empty } = place;
            metas.push((spec.clone(), id, meta));
            stores.push(Kept {
                definition: definition.clone(),
                spec,
                id,
                is_empty,
            });
        }
        let committed = Arc::new(Committed::new(base, metas));
        Ok(Self { committed, stores })
    }

    /// What its stores are, in the order of their indices.
    pub fn stores(&self) -> impl Iterator<Item = &StoreSpec> {
        self.stores.iter().map(|place| &place.spec)
    }

    /// The changelog offset behind the last record that the store reflects; `None` when nothing is
    /// known and the changelog must be read from its start.
    pub fn position(&self, index: usize) -> Option<i64> {
        self.committed.meta(index).position
    }

    /// When the store was last known to have all of its changelog, in milliseconds since the Unix
    /// epoch; `None` when that was never told.
    pub fn level_ms(&self, index: usize) -> Option<i64> {
        self.committed.meta(index).level_ms
    }

    /// Tells that the store had all that its changelog held at that time. It is written with the
    /// next flush; steps of less than a minute alone are no reason for one, and are passed over.
    pub fn set_level(&self, index: usize, at_ms: i64) {
        self.committed.set_level(index, at_ms);
    }

    /// Applies changelog records, in order, and moves the position. The caller flushes when
    /// [`committed_bytes`](Self::committed_bytes) grows large.
    ///
    /// # Errors
    /// None at present.
    pub fn restore<'a>(
        &mut self,
        index: usize,
        records: &mut (dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>, i64)> + 'a),
        next_offset: i64,
    ) -> Result<()> {
        let store = &mut self.stores[index];
        let folded = changelog::fold(store.id, store.spec.kind, records);
        store.is_empty &= folded.changes.is_empty();
        let before = self.committed.meta(index);
        let times = match folded.times {
            Some(told) => told,
            None if before.times.are_several() => before.times,
            None => Times::one(before.times.of(0).max(folded.time)),
        };
        let meta = Meta {
            position: Some(next_offset),
            times,
            observed: before.observed.max(folded.observed),
            level_ms: before.level_ms,
        };
        self.committed
            .fold(folded.changes.into_iter(), [(index, meta)].into_iter());
        Ok(())
    }

    /// Approximate memory of what is not in the base yet.
    pub fn committed_bytes(&self) -> usize {
        self.committed.bytes()
    }

    /// Begins to write to the base. `None` when there is nothing to write, or another flush has not
    /// ended.
    pub fn start_flush(&self) -> Option<FlushJob> {
        FlushJob::begin(&self.committed)
    }

    /// What was found damaged in the base since it was opened.
    pub fn damage(&self) -> Option<String> {
        self.committed.base().damage()
    }

    /// True when no flush will succeed before the base is opened again, as it is.
    pub fn is_stuck(&self) -> bool {
        self.committed.base().is_stuck()
    }

    /// Why the latest flush failed; `None` when it did not.
    pub fn flush_failure(&self) -> Option<Arc<str>> {
        self.committed.flush_failure()
    }

    /// Tells when the base is closed: flushes and views may keep it open for longer than this.
    pub fn watch_base(&self) -> Weak<dyn ByteStore> {
        self.committed.watch()
    }

    /// A view of a store for queries. It holds the base open.
    pub fn view(&self, index: usize) -> StoreView {
        let store = &self.stores[index];
        StoreView::new(
            store.definition.clone(),
            index,
            store.id,
            self.committed.clone(),
        )
    }
}
