//! Changes of a table that wait for the commit.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use foldhash::fast::FixedState;
use millstream_topology::{Change, Headers, KvStore, Record, Result};

use crate::{Cx, build::TaskBuild, edge::Next, ops::source::bad, processor::Shared};

/// Changes that wait for the commit, one for each key.
pub(crate) struct Held<K: 'static, A: 'static> {
    store: KvStore<K, A>,
    index_of: HashMap<Vec<u8>, usize, FixedState>,
    changes: Vec<Waiting<K, A>>,
    scratch: Vec<u8>,
}

struct Waiting<K, A> {
    key: K,
    /// What there was before the first of the changes, the value itself only where it is asked for;
    /// `None` when there was nothing.
    before: Option<Option<A>>,
    /// Timestamp and headers of the last record that changed the key.
    timestamp: i64,
    headers: Headers,
}

impl<K, A> Held<K, A> {
    /// The headers of a result are those of the last record that changed it.
    pub(crate) fn add(
        &mut self,
        key: K,
        before: Option<Option<A>>,
        timestamp: i64,
        headers: Headers,
    ) -> Result<()> {
        self.scratch.clear();
        let encoded = self.store.key().encode(&key, &mut self.scratch);
        encoded.map_err(bad("key"))?;
        match self.index_of.get(self.scratch.as_slice()) {
            Some(at) => {
                self.changes[*at].timestamp = timestamp;
                self.changes[*at].headers = headers;
            }
            None => {
                let at = self.changes.len();
                self.index_of.insert(self.scratch.clone(), at);
                self.changes.push(Waiting {
                    key,
                    before,
                    timestamp,
                    headers,
                });
            }
        }
        Ok(())
    }
}

/// Has the changes of a store passed on at the commit. A key that is absent and was absent at the
/// commit before is not spoken of.
pub(crate) fn hold_back<K: Clone + 'static, A: Clone + 'static>(
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
    let flush = move |cx: &mut Cx<'_>| {
        let changes = {
            let mut held = waiting.borrow_mut();
            held.index_of.clear();
            std::mem::take(&mut held.changes)
        };
        for Waiting {
            key,
            before,
            timestamp,
            headers,
        } in changes
        {
            let now = cx.state.kv(index, &store).get_with_timestamp(&key)?;
            if now.is_none() && before.is_none() {
                continue;
            }
            let (new, timestamp) = match now {
                Some((new, at)) => (Some(new), at),
                None => (None, timestamp),
            };
            let value = Change::new(new, before.flatten());
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
    };
    build.flushes.push(Rc::new(RefCell::new(flush)));
    held
}
