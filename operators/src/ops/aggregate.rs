//! `aggregate`, `reduce`, `count`: fold the values of each key.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use foldhash::fast::FixedState;
use millstream_state::KvDefinition;
use millstream_topology::{Change, Headers, KvStore, NodeId, NodeKind, Record, Result, StoreId};

use crate::{
    Cx, KStream, KTable,
    build::TaskBuild,
    edge::{Next, edge},
    ops::table::store_getter,
    processor::Shared,
    table::Wishes,
};

/// Gets key, value and the fold so far, `None` before the first record of the key; returns the fold
/// from now on, `None` to delete it.
pub(crate) type Step<K, V, A> = Arc<dyn Fn(&K, V, Option<A>) -> Result<Option<A>> + Send + Sync>;

/// The timestamp of a result is the greatest of its records.
pub(crate) fn aggregate<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static>(
    stream: KStream<K, V>,
    store: KvStore<K, A>,
    step: Step<K, V, A>,
) -> KTable<K, A> {
    let draft = stream.draft.clone();
    let wishes: Arc<Wishes> = Arc::default();
    let asked = wishes.clone();
    let node = NodeId(draft.lock().plan.nodes().len());
    let out: KStream<K, Change<A>> = stream.unary(NodeKind::Aggregate, move |build, next| {
        let index = build.store(build.stores_of(node)[0]);
        let held = asked
            .on_commit()
            .then(|| hold_back(build, index, store, next.clone()));
        let (step, with_old, quiet) = (step.clone(), asked.old_values(), next.is_empty());
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let (change, timestamp) = cx.state.kv(index, &store).update(&key, |slot| {
                let (old, newest) = match slot.clone() {
                    Some((old, at)) => (Some(old), timestamp.max(at)),
                    None => (None, timestamp),
                };
                let before = with_old.then(|| old.clone()).flatten();
                let new = step(&key, value, old)?;
                let passed_on = if quiet { None } else { new.clone() };
                *slot = new.map(|new| (new, newest));
                Ok((
                    Change {
                        new: passed_on,
                        old: before,
                    },
                    newest,
                ))
            })?;
            match &held {
                None if quiet => Ok(()),
                None => next.push(
                    cx,
                    Record {
                        key,
                        value: change,
                        timestamp,
                        headers,
                    },
                ),
                Some(held) => held.borrow_mut().add(key, change.old, headers),
            }
        })
    });
    assert_eq!(out.id, node, "one node was added");
    let id: StoreId = draft.lock().own_store(node, Arc::new(KvDefinition(store)));
    let getter = store_getter(id, store);
    KTable {
        draft,
        id: node,
        port: out.port,
        getter,
        stores: vec![id],
        wishes,
    }
}

/// Changes that wait for the commit: for each key the value before the first of them.
struct Held<K: 'static, A: 'static> {
    store: KvStore<K, A>,
    index_of: HashMap<Vec<u8>, usize, FixedState>,
    changes: Vec<(K, Option<A>, Headers)>,
    scratch: Vec<u8>,
}

impl<K, A> Held<K, A> {
    /// The headers of a result are those of the last record that changed it.
    fn add(&mut self, key: K, old: Option<A>, headers: Headers) -> Result<()> {
        self.scratch.clear();
        self.store
            .key()
            .encode(&key, &mut self.scratch)
            .map_err(crate::ops::source::bad("key"))?;
        match self.index_of.get(self.scratch.as_slice()) {
            Some(at) => self.changes[*at].2 = headers,
            None => {
                self.index_of
                    .insert(self.scratch.clone(), self.changes.len());
                self.changes.push((key, old, headers));
            }
        }
        Ok(())
    }
}

fn hold_back<K: Clone + 'static, A: Clone + 'static>(
    build: &mut TaskBuild<'_>,
    index: usize,
    store: KvStore<K, A>,
    next: Next<K, Change<A>>,
) -> Shared<Held<K, A>> {
    let held = Rc::new(RefCell::new(Held {
        store,
        index_of: HashMap::default(),
        changes: Vec::new(),
        scratch: Vec::new(),
    }));
    let waiting = held.clone();
    build
        .flushes
        .push(Rc::new(RefCell::new(move |cx: &mut Cx<'_>| {
            let changes = {
                let mut held = waiting.borrow_mut();
                held.index_of.clear();
                std::mem::take(&mut held.changes)
            };
            for (key, old, headers) in changes {
                let now = cx.state.kv(index, &store).get_with_timestamp(&key)?;
                let Some((new, timestamp)) = now else {
                    continue;
                };
                let value = Change {
                    new: Some(new),
                    old,
                };
                next.push(
                    cx,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                )?;
            }
            Ok(())
        })));
    held
}
