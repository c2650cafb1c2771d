//! Stream–global-table join: look a key made of each record up in a table that is there whole.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record};

use crate::{
    Cx, KStream,
    edge::edge,
    global::GlobalLookup,
    ops::table_join::{Alone, Lookup},
};

/// Only the stream triggers. The result has key, timestamp and headers of its record, and needs a
/// repartition where the stream does.
pub(crate) fn global_join<SK, SV, K, V, VO>(
    stream: KStream<SK, SV>,
    by: GlobalLookup<SK, SV, K, V>,
    alone: Alone,
    joiner: Lookup<SK, SV, V, VO>,
) -> KStream<SK, VO>
where
    SK: Clone + 'static,
    SV: Clone + 'static,
    K: Clone + 'static,
    V: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = stream.draft.clone();
    let left = stream.id;
    let GlobalLookup { table, key_of } = by;
    let (global, index, store) = (table.draft, table.index, table.store);
    let out = stream.unary(NodeKind::StreamGlobalJoin, move |_, next| {
        let (key_of, joiner) = (Arc::clone(&key_of), Arc::clone(&joiner));
        edge(move |cx: &mut Cx<'_>, record: Record<SK, SV>| {
            let found = match key_of(&record.key, &record.value) {
                Some(key) => cx.globals.view(index).get_typed(&store, &key)?,
                None if alone == Alone::Joined => None,
                None => {
                    cx.counters.dropped += 1;
                    return Ok(());
                }
            };
            let found = found.as_ref().map(|(value, _)| value);
            match joiner(&record.key, &record.value, found) {
                Some(value) => next.push(cx, record.with_value(value)),
                None => Ok(()),
            }
        })
    });
    draft.meets(&global, out.id);
    if alone == Alone::Joined {
        draft.lock().plan.take_null_keys(left, out.id);
    }
    out
}
