//! `TaskState`: the stores of one task, and the steps of a commit.

use std::{
    any::type_name,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use millstream_topology::{KvStore, SessionStore, StoreSpec, VersionedStore, WindowStore};

use crate::{
    ByteStore, FlushJob, Kv, Session, StoreDefinition, StoreView, Versioned, Window,
    changelog::{TIMES_KEY, logs_times, times_value},
    committed::{Change, Committed},
    error::Result,
    kv::KvLive,
    layout::{Suffix, Times},
    live::AnyStore,
    replica::{Kept, Replica},
    window_live::WindowLive,
};

/// Takes changelog records: store index, key, value without timestamp or `None` for a tombstone,
/// timestamp.
pub type ChangelogSink<'a> = dyn FnMut(usize, &[u8], Option<&[u8]>, i64) -> Result<()> + 'a;

/// The stores of one task: of one sub-topology on one partition.
///
/// Owned by the thread that runs the task. A commit is [`write_changelog`](Self::write_changelog),
/// the transaction of the log, [`commit`](Self::commit); or [`abort`](Self::abort) if the
/// transaction fails.
pub struct TaskState {
    replica: Replica,
    /// That of the replica.
    committed: Arc<Committed>,
    stores: Vec<Store>,
    /// What the changelog has been told and the transaction has not confirmed.
    in_flight: Vec<Change>,
}

struct Store {
    spec: StoreSpec,
    live: Box<dyn AnyStore>,
    times: Times,
    /// Times and observed time as they are committed.
    committed: (Times, i64),
    /// Those that become committed with what is in flight.
    written: Option<(Times, i64)>,
}

impl TaskState {
    /// Opens the stores over `base`. A store is found again by its name.
    ///
    /// # Errors
    /// When the base cannot be read, is of another format, or has a store of another kind under a
    /// name.
    pub fn open(
        base: Arc<dyn ByteStore>,
        definitions: &[Arc<dyn StoreDefinition>],
    ) -> Result<Self> {
        Ok(Self::over(Replica::open(base, definitions)?))
    }

    /// The stores of a replica, which this takes over as they stand.
    pub fn over(replica: Replica) -> Self {
        let open = |(index, kept): (usize, &Kept)| {
            let meta = replica.committed.meta(index);
            let mut live = kept.definition.open();
            live.attach(kept.id, kept.is_empty, meta.observed);
            Store {
                spec: kept.spec.clone(),
                live,
                times: meta.times.clone(),
                committed: (meta.times, meta.observed),
                written: None,
            }
        };
        Self {
            stores: replica.stores.iter().enumerate().map(open).collect(),
            committed: replica.committed.clone(),
            replica,
            in_flight: Vec::new(),
        }
    }

    /// A key-value store; `index` is its position in the definitions.
    ///
    /// # Panics
    /// When the store at `index` was not defined by `store`.
    pub fn kv<K: 'static, V: Clone + 'static>(
        &mut self,
        index: usize,
        store: &KvStore<K, V>,
    ) -> Kv<'_, K, V> {
        let live = self.stores[index]
            .live
            .as_any_mut()
            .downcast_mut::<KvLive<K, V>>();
        Kv::new(
            live.unwrap_or_else(|| wrong_store::<KvStore<K, V>>(store.name())),
            &self.committed,
        )
    }

    /// A versioned store; `index` is its position in the definitions. Its time is that of
    /// [`time`](Self::time).
    ///
    /// # Panics
    /// When the store at `index` was not defined by `store`.
    pub fn versioned<K: 'static, V: Clone + 'static>(
        &mut self,
        index: usize,
        store: &VersionedStore<K, V>,
    ) -> Versioned<'_, K, V> {
        let slot = &mut self.stores[index];
        let live = slot
            .live
            .as_any_mut()
            .downcast_mut::<KvLive<Bytes, Bytes>>();
        let live = live.unwrap_or_else(|| wrong_store::<VersionedStore<K, V>>(store.name()));
        Versioned::new(Kv::new(live, &self.committed), *store, &mut slot.times)
    }

    /// A window store; `index` is its position in the definitions.
    ///
    /// # Panics
    /// When the store at `index` was not defined by `store`.
    pub fn window<K: 'static, V: Clone + 'static>(
        &mut self,
        index: usize,
        store: &WindowStore<K, V>,
    ) -> Window<'_, K, V> {
        let live = self.stores[index]
            .live
            .as_any_mut()
            .downcast_mut::<WindowLive<K, V>>();
        let live = live.filter(|live| live.suffix() == Suffix::Window);
        let live = live.unwrap_or_else(|| wrong_store::<WindowStore<K, V>>(store.name()));
        Window::new(live, &self.committed)
    }

    /// A session store; `index` is its position in the definitions.
    ///
    /// # Panics
    /// When the store at `index` was not defined by `store`.
    pub fn session<K: 'static, V: Clone + 'static>(
        &mut self,
        index: usize,
        store: &SessionStore<K, V>,
    ) -> Session<'_, K, V> {
        let live = self.stores[index]
            .live
            .as_any_mut()
            .downcast_mut::<WindowLive<K, V>>();
        let live = live.filter(|live| live.suffix() == Suffix::Session);
        let live = live.unwrap_or_else(|| wrong_store::<SessionStore<K, V>>(store.name()));
        Session::new(live, &self.committed)
    }

    /// The time that an operator keeps with that store; -1 at first. It is committed and aborted
    /// with the store's entries.
    ///
    /// After a restore it is the one that the changelog tells; where that tells none, as of a
    /// key-value store, the greatest timestamp restored.
    pub fn time(&self, index: usize) -> i64 {
        self.input_time(index, 0)
    }

    /// Sets the time that an operator keeps with that store.
    pub fn set_time(&mut self, index: usize, time: i64) {
        self.set_input_time(index, 0, time);
    }

    /// As [`time`](Self::time), where several inputs share a store and keep a time each.
    pub fn input_time(&self, index: usize, input: usize) -> i64 {
        self.stores[index].times.of(input)
    }

    /// As [`set_time`](Self::set_time), where several inputs share a store and keep a time each.
    pub fn set_input_time(&mut self, index: usize, input: usize, time: i64) {
        self.stores[index].times.set(input, time);
    }

    /// Hands the last value of every changed key to `log`, for stores that have a changelog. The
    /// key of a window is `key ‖ start ‖ sequence number`, that of a session `key ‖ end ‖ start`.
    /// One record more, whose key is a zero byte, tells the times that operators keep with a store
    /// of windows, sessions or a buffer, when they have changed.
    ///
    /// # Errors
    /// What `log` fails with, and values that do not encode. [`abort`](Self::abort) must follow.
    pub fn write_changelog(&mut self, log: &mut ChangelogSink<'_>) -> Result<()> {
        for (index, store) in self.stores.iter_mut().enumerate() {
            let logged = store.spec.logged;
            let mut log = |key: &[u8], value: Option<&[u8]>, timestamp| match logged {
                true => log(index, key, value, timestamp),
                false => Ok(()),
            };
            store.live.write_dirty(&mut log, &mut self.in_flight)?;
            let now = (store.times.clone(), store.live.observed());
            let (times, observed) = &now;
            if *times != Times::NONE && now != store.committed && logs_times(store.spec.kind) {
                let value = times_value(times, *observed);
                log(TIMES_KEY, Some(&value), times.latest())?;
            }
            store.written = Some(now);
        }
        Ok(())
    }

    /// Takes what was written to the changelog for committed, after the log's transaction has
    /// committed. `positions` are store indices and the changelog offsets behind their last
    /// records.
    ///
    /// # Errors
    /// None at present.
    pub fn commit(&mut self, positions: &[(usize, i64)]) -> Result<()> {
        let mut metas = self.committed.metas();
        for (index, store) in self.stores.iter_mut().enumerate() {
            if let Some(written) = store.written.take() {
                store.committed = written;
                let (times, observed) = store.committed.clone();
                metas[index].times = times;
                metas[index].observed = observed;
            }
        }
        for (index, position) in positions {
            metas[*index].position = Some(*position);
        }
        // Stable, so that of two versions of a key the later one stays the later one. Neighbours in
        // the overlay are then filled one after the other, which is several times faster than at
        // random.
        self.in_flight.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.committed
            .fold(self.in_flight.drain(..), metas.into_iter().enumerate());
        for store in &mut self.stores {
            store.live.settle(store.committed.1);
        }
        Ok(())
    }

    /// Drops everything that is not committed.
    pub fn abort(&mut self) {
        self.in_flight.clear();
        for store in &mut self.stores {
            store.written = None;
            store.times = store.committed.0.clone();
            store.live.abort(&self.committed, store.committed.1);
        }
    }

    /// True when something is not committed.
    pub fn is_dirty(&self) -> bool {
        let mut stores = self.stores.iter();
        stores.any(|store| store.live.is_dirty() || store.times != store.committed.0)
    }

    /// The changelog offset behind the last record that the store reflects; `None` when nothing is
    /// known and the changelog must be read from its start.
    pub fn position(&self, index: usize) -> Option<i64> {
        self.replica.position(index)
    }

    /// When the store was last known to have all of its changelog, in milliseconds since the Unix
    /// epoch; `None` when that was never told.
    pub fn level_ms(&self, index: usize) -> Option<i64> {
        self.replica.level_ms(index)
    }

    /// As [`Replica::set_level`].
    pub fn set_level(&self, index: usize, at_ms: i64) {
        self.replica.set_level(index, at_ms);
    }

    /// As [`set_level`](Self::set_level), of all stores.
    pub fn set_all_level(&self, at_ms: i64) {
        (0..self.stores.len()).for_each(|index| self.set_level(index, at_ms));
    }

    /// Applies changelog records, in order, and moves the position. The caller flushes when
    /// [`committed_bytes`](Self::committed_bytes) grows large.
    ///
    /// # Errors
    /// None at present.
    ///
    /// # Panics
    /// When the store has uncommitted changes of its own.
    pub fn restore<'a>(
        &mut self,
        index: usize,
        records: &mut (dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>, i64)> + 'a),
        next_offset: i64,
    ) -> Result<()> {
        self.replica.restore(index, records, next_offset)?;
        let meta = self.committed.meta(index);
        let store = &mut self.stores[index];
        store.live.forget(meta.observed);
        store.times = meta.times.clone();
        store.committed = (meta.times, meta.observed);
        Ok(())
    }

    /// What is committed, for who closes the task.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What was found damaged in the base since it was opened. The task must then be built anew
    /// from its changelogs; nothing that was read from it is to be committed.
    pub fn damage(&self) -> Option<String> {
        self.committed.base().damage()
    }

    /// Tells when the base is closed: flushes and views may keep it open for longer than this.
    pub fn watch_base(&self) -> Weak<dyn ByteStore> {
        self.committed.watch()
    }

    /// True when no flush will succeed before the base is opened again, as it is.
    pub fn is_stuck(&self) -> bool {
        self.committed.base().is_stuck()
    }

    /// Why the latest flush failed; `None` when it did not. What it was to write stays in memory.
    pub fn flush_failure(&self) -> Option<Arc<str>> {
        self.committed.flush_failure()
    }

    /// Approximate memory of what is committed and not in the base yet.
    pub fn committed_bytes(&self) -> usize {
        self.committed.bytes()
    }

    /// Begins to write the committed layer to the base. `None` when there is nothing to write, or
    /// another flush has not ended.
    pub fn start_flush(&mut self) -> Option<FlushJob> {
        FlushJob::begin(&self.committed)
    }

    /// Approximate memory of the live layers.
    pub fn live_bytes(&self) -> usize {
        self.stores.iter().map(|store| store.live.bytes()).sum()
    }

    /// Drops entries that are only a cache, the least recently used first, until the live layers
    /// have about `target_bytes`. To be called between a commit and the next record: stores with
    /// uncommitted changes stay as they are.
    pub fn shed(&mut self, target_bytes: usize) {
        let total = self.live_bytes();
        if total <= target_bytes {
            return;
        }
        for store in &mut self.stores {
            let share = store.live.bytes() as u128 * target_bytes as u128 / total as u128;
            store.live.shed(share as usize);
        }
    }

    /// A view of a store for queries. It holds the base open.
    pub fn view(&self, index: usize) -> StoreView {
        self.replica.view(index)
    }
}

fn wrong_store<S>(name: &str) -> ! {
    panic!(
        "store is not at the index it is asked for at. store=`{name}`, type={}",
        type_name::<S>()
    )
}
