//! Stream–table join: look each record's key up in a table.

use std::sync::Arc;

use millstream_topology::{NodeKind, Record, Result};

use crate::{Cx, KStream, KTable, MaybeNull, build::TaskBuild, edge::edge};

/// Gets key and value of the record and the table's value, if there is one; `None` drops the
/// record.
pub(crate) type Lookup<K, V, T, VO> = Arc<dyn Fn(&K, &V, Option<&T>) -> Option<VO> + Send + Sync>;

/// What becomes of a record without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    /// Nothing.
    Silent,
    /// It is joined with nothing.
    Joined,
}

/// Only the stream triggers. A table's value is the one that holds now, whatever its timestamp;
/// that of a versioned table is the one that held at the time of the record. The result has the
/// timestamp and the headers of the stream's record.
///
/// `key_of` gives the key of the result; a record for which it gives none is dropped and counted.
pub(crate) fn table_join<NK, K, OK, V, T, VO>(
    stream: KStream<NK, V>,
    table: &KTable<K, T>,
    key_of: fn(NK) -> Option<OK>,
    alone: Alone,
    joiner: Lookup<OK, V, T, VO>,
) -> KStream<OK, VO>
where
    NK: Clone + 'static,
    K: Clone + 'static,
    OK: MaybeNull<K>,
    V: Clone + 'static,
    T: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = stream.draft.clone();
    let left = stream.id;
    let found_in = look_up(table);
    let out = stream.unary(NodeKind::StreamTableJoin, move |build, next| {
        let (look_up, joiner) = (found_in(build), joiner.clone());
        edge(move |cx: &mut Cx<'_>, record: Record<NK, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let Some(key) = key_of(key) else {
                cx.counters.dropped += 1;
                return Ok(());
            };
            let found = match key.as_present() {
                Some(key) => look_up(cx, key, timestamp)?,
                None => None,
            };
            match joiner(&key, &value, found.as_ref()) {
                Some(value) => next.push(
                    cx,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                ),
                None => Ok(()),
            }
        })
    });
    connect(&draft, out.id, left, table, alone);
    out
}

/// Tells the plan what a join of a stream and a table needs.
pub(crate) fn connect<K: 'static, T: 'static>(
    draft: &crate::builder::SharedDraft,
    node: millstream_topology::NodeId,
    left: millstream_topology::NodeId,
    table: &KTable<K, T>,
    alone: Alone,
) {
    table.need_values();
    if !draft.meets(&table.draft, node) {
        return;
    }
    let mut draft = draft.lock();
    for store in &table.stores {
        draft.plan.connect(node, *store);
    }
    draft.plan.copartition(node, &[left, table.id]);
    if alone == Alone::Joined {
        draft.plan.take_null_keys(left, node);
    }
}

type LookUp<K, T> = Box<dyn Fn(&mut Cx<'_>, &K, i64) -> Result<Option<T>>>;

/// Looks up what a table holds for a record of that time.
pub(crate) fn look_up<K: 'static, T: 'static>(
    table: &KTable<K, T>,
) -> impl Fn(&TaskBuild<'_>) -> LookUp<K, T> + Send + Sync + use<K, T> {
    let (getter, history) = (table.getter.clone(), table.history.clone());
    move |build| match &history {
        Some(history) => {
            let past = (history.past)(build);
            Box::new(move |cx: &mut Cx<'_>, key: &K, time: i64| {
                Ok(past(cx, key, time)?.map(|(value, _)| value))
            })
        }
        None => {
            let now = getter(build);
            Box::new(move |cx: &mut Cx<'_>, key: &K, _: i64| {
                Ok(now(cx, key)?.map(|(value, _)| value))
            })
        }
    }
}
