//! `suppress`: hold the changes of a table back, and pass on the last one of each key.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use millstream_state::BufferDefinition;
use millstream_topology::{Buffered, Change, KvStore, NodeKind, Record, Result, SuppressStore};

use crate::{
    Cx, KTable,
    edge::{Next, Port, edge},
    ops::source::bad,
    suppress::Rule,
    table::{Getter, GetterFactory, Wishes},
};

/// The changes that one task holds back.
struct Buffer<K: 'static, V: 'static> {
    index: usize,
    store: KvStore<K, Buffered<V>>,
    /// Every key of the store once it is loaded: the time that orders it, and its bytes.
    waiting: BTreeSet<(i64, Box<[u8]>)>,
    loaded: bool,
    scratch: Vec<u8>,
}

impl<K: Clone + 'static, V: Clone + 'static> Buffer<K, V> {
    fn load_once(&mut self, cx: &mut Cx<'_>) -> Result<()> {
        if self.loaded {
            return Ok(());
        }
        let held = cx
            .state
            .kv(self.index, &self.store)
            .range(None, None, usize::MAX)?;
        for (key, held, _) in held {
            self.insert(held.time_ms, &key)?;
        }
        self.loaded = true;
        Ok(())
    }

    fn insert(&mut self, time_ms: i64, key: &K) -> Result<()> {
        self.scratch.clear();
        self.store
            .key()
            .encode(key, &mut self.scratch)
            .map_err(bad("key"))?;
        self.waiting
            .insert((time_ms, self.scratch.as_slice().into()));
        Ok(())
    }

    /// Holds a change back. A key that waits already keeps its place, and what went on before it.
    fn hold(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<K, Change<V>>,
        time_of: fn(&K, i64) -> i64,
    ) -> Result<()> {
        let Record {
            key,
            value: Change { new, old, .. },
            timestamp,
            headers,
        } = record;
        let mut held = cx.state.kv(self.index, &self.store);
        let (time_ms, prior) = match held.get(&key)? {
            Some(earlier) => (earlier.time_ms, earlier.prior),
            None => {
                let time_ms = time_of(&key, timestamp);
                self.insert(time_ms, &key)?;
                (time_ms, old)
            }
        };
        let change = Buffered {
            time_ms,
            new,
            prior,
            headers,
        };
        held.put(&key, change, timestamp)
    }

    /// Passes the first change on, if `is_due` says so of its time and the number of all. Until it
    /// has gone on it is still in the buffer, for those who look into the table.
    fn pass_first(
        &mut self,
        cx: &mut Cx<'_>,
        next: &Next<K, Change<V>>,
        rule: &Rule<K>,
        now: i64,
    ) -> Result<bool> {
        let Some((time_ms, bytes)) = self.waiting.first() else {
            return Ok(false);
        };
        let is_over = *time_ms <= now.saturating_sub(rule.wait_ms);
        if !is_over && self.waiting.len() <= rule.records_max {
            return Ok(false);
        }
        let key = self.store.key().decode(Some(bytes)).map_err(bad("key"))?;
        let held = cx
            .state
            .kv(self.index, &self.store)
            .get_with_timestamp(&key)?;
        if let Some((held, timestamp)) = held {
            let Buffered {
                new,
                prior: old,
                headers,
                ..
            } = held;
            if new.is_some() || !rule.is_final {
                let change = Record {
                    key: key.clone(),
                    value: Change::new(new, old),
                    timestamp,
                    headers,
                };
                next.push(cx, change)?;
            }
            cx.state
                .kv(self.index, &self.store)
                .delete(&key, timestamp)?;
        }
        self.waiting.pop_first();
        Ok(true)
    }
}

/// The operator's time lives with the buffer, so that a restart forgets neither.
pub(crate) fn suppress<K: Clone + 'static, V: Clone + 'static>(
    table: &KTable<K, V>,
    rule: Rule<K>,
    buffer: SuppressStore<K, V>,
) -> KTable<K, V> {
    // What went on before a change is what the table tells as its old value.
    table.want_old_values();
    let draft = table.draft.clone();
    let store = buffer.entries();
    let (id, store_id) = {
        let mut draft = draft.lock();
        let id = draft.plan.add_node(NodeKind::Suppress, &[table.id]);
        (id, draft.own_store(id, Arc::new(BufferDefinition(store))))
    };
    let port: Port<K, Change<V>> = Port::new();
    let (shared, rule) = (port.clone(), Arc::new(rule));
    table.port.subscribe(Arc::new(move |build| {
        let (next, rule) = (shared.connect(build), rule.clone());
        let mut buffer = Buffer {
            index: build.store(store_id),
            store,
            waiting: BTreeSet::new(),
            loaded: false,
            scratch: Vec::new(),
        };
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            buffer.load_once(cx)?;
            let now = cx.state.time(buffer.index).max(record.timestamp);
            cx.state.set_time(buffer.index, now);
            buffer.hold(cx, record, rule.time_of)?;
            while buffer.pass_first(cx, &next, &rule, now)? {}
            Ok(())
        });
        build.node(id, body)
    }));
    let of_table = table.getter.clone();
    let getter: GetterFactory<K, V> = Arc::new(move |build| {
        let (index, of_table) = (build.store(store_id), of_table(build));
        let getter: Getter<K, V> = Rc::new(move |cx: &mut Cx<'_>, key: &K| {
            match cx.state.kv(index, &store).get(key)? {
                // When it went on is not known any more.
                Some(held) => Ok(held.prior.map(|prior| (prior, UNKNOWN_TIME))),
                None => of_table(cx, key),
            }
        });
        getter
    });
    let stores = std::iter::once(store_id)
        .chain(table.stores.iter().copied())
        .collect();
    KTable {
        draft,
        id,
        port,
        getter,
        history: None,
        stores,
        wishes: Wishes::behind(&[&table.wishes]),
    }
}

/// Before every time, so that a join takes that of its other side.
const UNKNOWN_TIME: i64 = -1;
