//! `global_table`: a table that every instance has whole.

use std::sync::Arc;

use millstream_state::{KvDefinition, StoreDefinition, TaskState};
use millstream_topology::{KvStore, Topic};

use crate::{GlobalKTable, GlobalSource, RawRecord, builder::SharedDraft, ops::source::bad};

/// Every update is applied, also one that is older than the value it replaces.
pub(crate) fn global_table<K: Clone + 'static, V: Clone + 'static>(
    shared: &SharedDraft,
    topic: Topic<K, V>,
    store: KvStore<K, V>,
) -> GlobalKTable<K, V> {
    let apply = move |state: &mut TaskState, index: usize, record: &RawRecord| {
        let Some(key) = record.key.as_deref() else {
            return Ok(false);
        };
        let key = topic.key().decode(Some(key)).map_err(bad("key"))?;
        let mut rows = state.kv(index, &store);
        match record.value.as_deref() {
            Some(value) => {
                let value = topic.value().decode(Some(value)).map_err(bad("value"))?;
                rows.put(&key, value, record.timestamp)?;
            }
            None => rows.delete(&key, record.timestamp)?,
        }
        Ok(true)
    };
    let definition: Arc<dyn StoreDefinition> = Arc::new(KvDefinition(store));
    let mut draft = shared.lock();
    let added = draft.plan.add_global(topic.name(), definition.spec());
    draft.check(added);
    draft.globals.push(GlobalSource {
        topic: topic.name().into(),
        definition,
        apply: Arc::new(apply),
    });
    let index = draft.globals.len() - 1;
    drop(draft);
    GlobalKTable {
        draft: shared.clone(),
        index,
        store,
    }
}
