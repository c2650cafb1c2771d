//! `Lru`: a key-value store of a processor that keeps the entries used last, up to a number.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use foldhash::fast::FixedState;
use millstream_state::{Kv, KvDefinition};
use millstream_topology::{KvStore, NodeId, Result};

use crate::{
    Context, Stores,
    builder::Draft,
    ops::source::bad,
    processor_stores::{KvHandle, Place},
};

/// A key-value store of a processor that keeps at most so many entries: one more, and the one that
/// was used longest ago is deleted, in the changelog too (Kafka Streams' `Stores.lruMap`).
///
/// After a restart the entries count as used in the order of their timestamps.
///
/// ```
/// use millstream_operators::{Context, Lru, LruHandle, Processor, StreamsBuilder};
/// use millstream_topology::{text, u64_be, KvStore, Record, Result, Topic};
///
/// const PAGES: Topic<String, String> = Topic::new("pages", text(), text());
/// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
///
/// /// Passes on the pages that were not seen lately.
/// struct Fresh(LruHandle<String, u64>);
///
/// impl Processor for Fresh {
///     type Key = String;
///     type Value = String;
///     type OutKey = String;
///     type OutValue = String;
///
///     fn process(
///         &mut self,
///         cx: &mut Context<'_, '_, String, String>,
///         record: Record<String, String>,
///     ) -> Result<()> {
///         let mut seen = cx.lru(&self.0);
///         let times = seen.get(&record.value)?.unwrap_or(0);
///         seen.put(&record.value, times + 1, record.timestamp)?;
///         match times {
///             0 => cx.forward(record),
///             _ => Ok(()),
///         }
///     }
/// }
///
/// let b = StreamsBuilder::new();
/// b.stream(PAGES).process(Lru(SEEN, 10_000), Fresh);
/// b.build()?;
/// # Ok::<(), millstream_topology::Error>(())
/// ```
pub struct Lru<K: 'static, V: 'static>(
    /// The store.
    pub KvStore<K, V>,
    /// The most entries that it keeps; at least one.
    pub usize,
);

impl<K, V> Clone for Lru<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for Lru<K, V> {}

/// A processor's key to one of its bounded stores.
pub struct LruHandle<K: 'static, V: 'static> {
    handle: KvHandle<K, V>,
    store: KvStore<K, V>,
    entries_max: usize,
    uses: Rc<RefCell<Uses>>,
}

impl<K, V> Clone for LruHandle<K, V> {
    fn clone(&self) -> Self {
        Self {
            uses: self.uses.clone(),
            ..*self
        }
    }
}

/// Which encoded key was used when.
#[derive(Default)]
struct Uses {
    loaded: bool,
    next: u64,
    by_use: BTreeMap<u64, Vec<u8>>,
    by_key: HashMap<Vec<u8>, u64, FixedState>,
}

impl Uses {
    fn touch(&mut self, key: Vec<u8>) {
        self.forget(&key);
        self.by_use.insert(self.next, key.clone());
        self.by_key.insert(key, self.next);
        self.next += 1;
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_use.remove(&at);
        }
    }

    /// The key that was used longest ago, if there are more than so many.
    fn too_many(&self, entries_max: usize) -> Option<Vec<u8>> {
        let first = || self.by_use.values().next().cloned();
        (self.by_use.len() > entries_max).then(first).flatten()
    }
}

impl<K: 'static, V: Clone + 'static> Stores for Lru<K, V> {
    type Handles = LruHandle<K, V>;

    fn connect(self, draft: &mut Draft, node: NodeId) {
        draft.share_store(node, Arc::new(KvDefinition(self.0)));
        if self.1 == 0 {
            draft.refuse(
                node,
                "a bounded store keeps at least one entry; give it a number above 0",
            );
        }
    }

    fn handles(self, find: &dyn Fn(&str) -> Place) -> Self::Handles {
        LruHandle {
            handle: self.0.handles(find),
            store: self.0,
            entries_max: self.1,
            uses: Rc::default(),
        }
    }
}

impl<K, V, R> Context<'_, '_, K, V, R> {
    /// A bounded store of this node.
    pub fn lru<A, B: Clone + 'static>(&mut self, handle: &LruHandle<A, B>) -> LruEntries<'_, A, B> {
        LruEntries {
            handle: handle.clone(),
            kv: self.store(handle.handle),
        }
    }
}

/// The entries of a bounded store.
pub struct LruEntries<'a, K: 'static, V: 'static> {
    handle: LruHandle<K, V>,
    kv: Kv<'a, K, V>,
}

impl<K: 'static, V: Clone + 'static> LruEntries<'_, K, V> {
    /// The value of a key, which counts as used now.
    ///
    /// # Errors
    /// When the key does not encode, or the store cannot be read.
    pub fn get(&mut self, key: &K) -> Result<Option<V>> {
        self.load_once()?;
        let found = self.kv.get(key)?;
        if found.is_some() {
            let key = self.encoded(key)?;
            self.handle.uses.borrow_mut().touch(key);
        }
        Ok(found)
    }

    /// Sets the value of a key, which counts as used now, and deletes what is one too many.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn put(&mut self, key: &K, value: V, timestamp: i64) -> Result<()> {
        self.load_once()?;
        self.kv.put(key, value, timestamp)?;
        let key = self.encoded(key)?;
        self.handle.uses.borrow_mut().touch(key);
        self.evict(timestamp)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn delete(&mut self, key: &K, timestamp: i64) -> Result<()> {
        self.load_once()?;
        self.kv.delete(key, timestamp)?;
        let key = self.encoded(key)?;
        self.handle.uses.borrow_mut().forget(&key);
        Ok(())
    }

    fn evict(&mut self, timestamp: i64) -> Result<()> {
        loop {
            let oldest = self.handle.uses.borrow().too_many(self.handle.entries_max);
            let Some(oldest) = oldest else { return Ok(()) };
            let key = self.handle.store.key().decode(Some(&oldest));
            self.kv.delete(&key.map_err(bad("key"))?, timestamp)?;
            self.handle.uses.borrow_mut().forget(&oldest);
        }
    }

    fn encoded(&self, key: &K) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let encoded = self.handle.store.key().encode(key, &mut bytes);
        encoded.map_err(bad("key"))?;
        Ok(bytes)
    }

    /// What an earlier life of the task has left, by timestamp, then key. A smaller number than it
    /// had takes effect with the next entry.
    fn load_once(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.handle.uses.borrow_mut().loaded, true) {
            return Ok(());
        }
        let mut kept = self.kv.range(None, None, usize::MAX)?;
        kept.sort_by_key(|(_, _, timestamp)| *timestamp);
        for (key, _, _) in kept {
            let key = self.encoded(&key)?;
            self.handle.uses.borrow_mut().touch(key);
        }
        Ok(())
    }
}
