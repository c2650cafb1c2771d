//! Changes of a table that wait for the commit.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use foldhash::fast::FixedState;
use millstream_topology::{BoxError, Change, Record, Result, Serde};

use crate::{Cx, build::TaskBuild, edge::Next, ops::source::bad, processor::Shared, table::Wishes};

/// Appends the bytes of a key of a table.
pub(crate) type EncodeKey<KO> =
    Arc<dyn Fn(&KO, &mut Vec<u8>) -> Result<bool, BoxError> + Send + Sync>;

/// Writes a key as its serde does.
pub(crate) fn plain_key<K: 'static>(serde: Serde<K>) -> EncodeKey<K> {
    Arc::new(move |key, out| serde.encode(key, out))
}

/// Changes that wait for the commit, by the time of the last update of their key: for each key the
/// value before the first of them, and the last one.
struct Held<KO: 'static, A: 'static> {
    encode: EncodeKey<KO>,
    index_of: HashMap<Vec<u8>, usize, FixedState>,
    changes: Vec<Option<Record<KO, Change<A>>>>,
    scratch: Vec<u8>,
}

impl<KO, A> Held<KO, A> {
    fn add(&mut self, mut change: Record<KO, Change<A>>) -> Result<()> {
        self.scratch.clear();
        let encoded = (self.encode)(&change.key, &mut self.scratch);
        encoded.map_err(bad("key"))?;
        let at = self.changes.len();
        match self.index_of.get_mut(self.scratch.as_slice()) {
            Some(place) => {
                let earlier = self.changes[std::mem::replace(place, at)].take();
                change.value.old = earlier.and_then(|earlier| earlier.value.old);
            }
            None => drop(self.index_of.insert(self.scratch.clone(), at)),
        }
        self.changes.push(Some(change));
        Ok(())
    }
}

/// Passes at the commit what has changed since the last one; a key that came and went has not.
fn hold_back<KO: Clone + 'static, A: Clone + 'static>(
    build: &mut TaskBuild<'_>,
    encode: EncodeKey<KO>,
    next: Next<KO, Change<A>>,
    with_old: bool,
) -> Shared<Held<KO, A>> {
    let held = Rc::new(RefCell::new(Held {
        encode,
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
        for mut change in changes.into_iter().flatten() {
            if change.value.new.is_none() && change.value.old.is_none() {
                continue;
            }
            change.value.old = change.value.old.filter(|_| with_old);
            next.push(cx, change)?;
        }
        Ok(())
    };
    build.flushes.push(Rc::new(RefCell::new(flush)));
    held
}

/// Where a table's changes go: on at once, or at the commit.
pub(crate) struct Passing<K: 'static, A: 'static> {
    next: Next<K, Change<A>>,
    held: Option<Shared<Held<K, A>>>,
    with_old: bool,
}

impl<K, A> Clone for Passing<K, A> {
    fn clone(&self) -> Self {
        Self {
            next: self.next.clone(),
            held: self.held.clone(),
            with_old: self.with_old,
        }
    }
}

impl<K: Clone + 'static, A: Clone + 'static> Passing<K, A> {
    /// As those behind the table wish.
    pub(crate) fn new(
        build: &mut TaskBuild<'_>,
        wishes: &Wishes,
        encode: impl FnOnce() -> EncodeKey<K>,
        next: Next<K, Change<A>>,
    ) -> Self {
        let with_old = wishes.old_values();
        let held = wishes
            .on_commit()
            .then(|| hold_back(build, encode(), next.clone(), with_old));
        Self {
            next,
            held,
            with_old,
        }
    }

    /// True when nobody listens, so that a change need not be made.
    pub(crate) fn is_quiet(&self) -> bool {
        self.next.is_empty()
    }

    /// True when changes wait for the commit.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// True when a change needs the value before it.
    pub(crate) fn wants_old(&self) -> bool {
        self.with_old || self.held.is_some()
    }

    /// Passes a change on, now or at the commit.
    pub(crate) fn pass(&self, cx: &mut Cx<'_>, change: Record<K, Change<A>>) -> Result<()> {
        match &self.held {
            _ if self.is_quiet() => Ok(()),
            Some(held) => held.borrow_mut().add(change),
            None => self.next.push(cx, change),
        }
    }
}
