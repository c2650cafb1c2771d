//! `group_by` of a table: each change through a topic of the application, under the keys of the
//! groups.

use std::sync::Arc;

use millstream_topology::{Change, Error, ErrorKind, NodeKind, Record, Result, Topic, TopicRole};

use crate::{
    Cx, GroupedTable, KStream, KTable, RawRecord, RawSource,
    builder::add_node,
    edge::{Edge, edge},
    graph::only_entry,
    ops::{change_format, source::bad},
};

/// The group of a row, and what is aggregated there; `None` leaves it out.
pub(crate) type Group<K, V, K2, V2> = Arc<dyn Fn(&K, &V) -> Option<(K2, V2)> + Send + Sync>;

const ROLE: TopicRole = TopicRole::Repartition { partitions: None };

/// The old row goes first. Timestamp and headers are those of the change.
pub(crate) fn table_group_by<K, V, K2, V2>(
    table: &KTable<K, V>,
    through: Topic<K2, V2>,
    group: Group<K, V, K2, V2>,
) -> GroupedTable<K2, V2>
where
    K: Clone + 'static,
    V: Clone + 'static,
    K2: Clone + PartialEq + 'static,
    V2: Clone + 'static,
{
    table.need_values();
    table.want_old_values();
    let draft = table.draft.clone();
    let node = add_node(&draft, NodeKind::TableGroupBy, &[table.id]);
    let sink_node = draft.lock().plan.add_sink(node, through.name(), ROLE);
    table.port.subscribe(Arc::new(move |build| {
        let sink = build.sink(through.name(), ROLE);
        let group = group.clone();
        let write = edge(move |cx: &mut Cx<'_>, record: Record<K2, Change<V2>>| {
            let refuse =
                |source| Error::caused(ErrorKind::User, "a change does not encode", source);
            let scratch = &mut *cx.scratch;
            scratch.key.clear();
            scratch.value.clear();
            let keyed = through.key().encode(&record.key, &mut scratch.key);
            let keyed = keyed.map_err(refuse)?;
            change_format::encode(&through.value(), &record.value, &mut scratch.value)
                .map_err(refuse)?;
            cx.out.send(
                sink,
                keyed.then_some(&scratch.key[..]),
                Some(&scratch.value[..]),
                record.timestamp,
                &record.headers,
            )
        });
        let write: Edge<K2, Change<V2>> = build.node(sink_node, write);
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            let Record {
                key,
                value: Change { new, old, latest },
                timestamp,
                headers,
            } = record;
            if !latest {
                return Ok(());
            }
            let mut send = |key, new, old| {
                let value = Change::new(new, old);
                let headers = headers.clone();
                let record = Record {
                    key,
                    value,
                    timestamp,
                    headers,
                };
                write.borrow_mut().push(cx, record)
            };
            let old = old.and_then(|old| group(&key, &old));
            let new = new.and_then(|new| group(&key, &new));
            match (old, new) {
                (Some((from, old)), Some((to, new))) if from == to => {
                    send(to, Some(new), Some(old))
                }
                (old, new) => {
                    if let Some((from, old)) = old {
                        send(from, None, Some(old))?;
                    }
                    match new {
                        Some((to, new)) => send(to, Some(new), None),
                        None => Ok(()),
                    }
                }
            }
        });
        build.node(node, body)
    }));

    let id = draft.lock().plan.add_source(&[through.name()], ROLE);
    let out: KStream<K2, Change<V2>> = KStream::new(&draft, id, false);
    let port = out.port.clone();
    draft.lock().sources.insert(
        id,
        Arc::new(move |build| {
            let next = port.connect(build);
            let entry = build.node(id, move |cx: &mut Cx<'_>, record| next.push(cx, record));
            only_entry(Changes { through, entry })
        }),
    );
    GroupedTable::new(out)
}

/// The entry of changes that come back from the topic.
struct Changes<K: 'static, V: 'static> {
    through: Topic<K, V>,
    entry: Edge<K, Change<V>>,
}

impl<K: Clone + 'static, V: Clone + 'static> RawSource for Changes<K, V> {
    fn event_time(&mut self, record: &RawRecord, _partition_time: i64) -> Result<i64> {
        Ok(record.timestamp)
    }

    fn push(&mut self, cx: &mut Cx<'_>, record: RawRecord, event_time: i64) -> Result<()> {
        let key = self.through.key().decode(record.key.as_deref());
        let value = record.value.as_deref().unwrap_or_default();
        let value = change_format::decode(&self.through.value(), value);
        let record = Record {
            key: key.map_err(bad("key"))?,
            value: value.map_err(bad("value"))?,
            timestamp: event_time,
            headers: record.headers,
        };
        self.entry.borrow_mut().push(cx, record)
    }
}
