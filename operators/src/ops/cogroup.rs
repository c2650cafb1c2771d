//! `cogroup`: fold the values of several streams into one table.

use std::{rc::Rc, sync::Arc};

use millstream_state::KvDefinition;
use millstream_topology::{KvStore, NodeKind, Record, Result};

use crate::{
    Cx, KTable,
    ops::fold::{Folder, Input, Parts, Place, change, table},
};

/// Folds the records of one input by key alone.
pub(crate) struct KeyFold<K: 'static, A: 'static> {
    place: Place<K, A>,
    store: KvStore<K, A>,
}

impl<K: Clone + 'static, A: Clone + 'static> KeyFold<K, A> {
    /// The timestamp of a result is the greatest of its records.
    pub(crate) fn add(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<K, ()>,
        mut step: impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        let Record {
            key,
            timestamp,
            headers,
            ..
        } = record;
        let place = &self.place;
        let (with_old, quiet) = (place.wants_old(), place.is_quiet());
        let mut folds = cx.state.kv(place.store, &self.store);
        let (values, newest) = folds.update(&key, |slot| {
            let (old, newest) = match slot.clone() {
                Some((old, at)) => (Some(old), timestamp.max(at)),
                None => (None, timestamp),
            };
            let before = with_old.then(|| old.clone()).flatten();
            let new = step(&key, old)?;
            let passed_on = if quiet { None } else { new.clone() };
            *slot = new.map(|new| (new, newest));
            Ok(((passed_on, before), newest))
        })?;
        place.pass(cx, change(key, values, newest, &headers))
    }
}

/// One table over all inputs, without windows.
pub(crate) fn cogroup<K: Clone + 'static, A: Clone + 'static>(
    inputs: Vec<Input<K, A>>,
    store: KvStore<K, A>,
) -> KTable<K, A> {
    table(
        inputs,
        Parts {
            kind: NodeKind::Cogroup,
            definition: Arc::new(KvDefinition(store)),
            encode: Arc::new(move |key, out| store.key().encode(key, out)),
            getter: Arc::new(move |index| {
                Rc::new(move |cx: &mut Cx<'_>, key: &K| {
                    cx.state.kv(index, &store).get_with_timestamp(key)
                })
            }),
            folder: Arc::new(move |place| Folder::Key(KeyFold { place, store })),
        },
    )
}
