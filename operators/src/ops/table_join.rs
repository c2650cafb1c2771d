//! Stream–table join: look each record's key up in a table.

use std::sync::Arc;

use millstream_topology::{Error, ErrorKind, NodeKind, Record};

use crate::{Cx, KStream, KTable, edge::edge};

/// Gets the record's value and the table's, if there is one; `None` drops the record.
pub(crate) type Lookup<V, T, VO> = Arc<dyn Fn(&V, Option<&T>) -> Option<VO> + Send + Sync>;

/// Only the stream triggers; the table's value is the one that holds now, whatever its timestamp.
/// The result has the timestamp and the headers of the stream's record.
pub(crate) fn table_join<K, V, T, VO>(
    stream: KStream<K, V>,
    table: &KTable<K, T>,
    joiner: Lookup<V, T, VO>,
) -> KStream<K, VO>
where
    K: Clone + 'static,
    V: Clone + 'static,
    T: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = stream.draft.clone();
    if !draft.is(&table.draft) {
        draft.lock().fail(Error::new(
            ErrorKind::Topology,
            "a stream and a table of two builders cannot meet; make both with one `StreamsBuilder`",
        ));
    }
    let (left, getter) = (stream.id, table.getter.clone());
    let out = stream.unary(NodeKind::StreamTableJoin, move |build, next| {
        let (lookup, joiner) = (getter(build), joiner.clone());
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let found = lookup(cx, &record.key)?;
            match joiner(&record.value, found.as_ref().map(|(value, _)| value)) {
                Some(value) => next.push(cx, record.with_value(value)),
                None => Ok(()),
            }
        })
    });
    let mut plan = draft.lock();
    for store in &table.stores {
        plan.plan.connect(out.id, *store);
    }
    plan.plan.copartition(&[left, table.id]);
    drop(plan);
    out
}
