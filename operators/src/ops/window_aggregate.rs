//! Windowed `aggregate`, `reduce`, `count`: fold the values of each key and window.

use std::{rc::Rc, sync::Arc};

use millstream_state::WindowDefinition;
use millstream_topology::{
    Change, Error, ErrorKind, NodeId, NodeKind, Record, Result, TimeWindows, WindowStore, Windowed,
};

use crate::{
    Cx, KStream, KTable,
    edge::edge,
    ops::aggregate::Step,
    table::{Getter, GetterFactory, Wishes},
};

/// Windows of one record are updated by start, ascending. The operator's stream time lives with its
/// store, so that a restart does not reopen windows that were closed.
pub(crate) fn window_aggregate<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static>(
    stream: KStream<K, V>,
    windows: TimeWindows,
    retention_ms: Option<i64>,
    store: WindowStore<K, A>,
    step: Step<K, V, A>,
) -> KTable<Windowed<K>, A> {
    let draft = stream.draft.clone();
    let wishes: Arc<Wishes> = Arc::default();
    let asked = wishes.clone();
    let node = NodeId(draft.lock().plan.nodes().len());
    let (size, grace) = (windows.size_ms(), windows.grace_ms());
    let out = stream.unary(NodeKind::WindowAggregate, move |build, next| {
        let index = build.store(build.stores_of(node)[0]);
        let (step, with_old, quiet) = (step.clone(), asked.old_values(), next.is_empty());
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let stream_time = cx.state.time(index).max(timestamp);
            cx.state.set_time(index, stream_time);
            let close = stream_time - grace;
            for start in windows.starts(timestamp) {
                let end = start + size;
                if end <= close {
                    cx.counters.dropped += 1;
                    continue;
                }
                let mut table = cx.state.window(index, &store);
                let (change, newest) = table.update(&key, start, |slot| {
                    let (old, newest) = match slot.clone() {
                        Some((old, at)) => (Some(old), timestamp.max(at)),
                        None => (None, timestamp),
                    };
                    let before = with_old.then(|| old.clone()).flatten();
                    let new = step(&key, value.clone(), old)?;
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
                if !quiet {
                    let key = Windowed {
                        key: key.clone(),
                        start,
                        end,
                    };
                    let headers = headers.clone();
                    next.push(
                        cx,
                        Record {
                            key,
                            value: change,
                            timestamp: newest,
                            headers,
                        },
                    )?;
                }
            }
            Ok(())
        })
    });
    assert_eq!(out.id, node, "one node was added");
    let least_ms = windows.retention_ms();
    let retention_ms = retention_ms.unwrap_or(least_ms);
    let definition = WindowDefinition {
        store,
        retention_ms,
        duplicates: false,
    };
    let name = {
        let mut draft = draft.lock();
        let name = draft.plan.nodes()[node.0].name.clone();
        draft.check(windows.check(&name));
        draft.check(
            check_retention(store.name(), retention_ms, least_ms).map_err(|e| e.in_node(&name)),
        );
        draft.own_store(node, Arc::new(definition))
    };
    let getter: GetterFactory<Windowed<K>, A> = Arc::new(move |build| {
        let index = build.store(name);
        let getter: Getter<Windowed<K>, A> = Rc::new(move |cx: &mut Cx<'_>, key: &Windowed<K>| {
            cx.state.window(index, &store).get(&key.key, key.start)
        });
        getter
    });
    KTable {
        draft,
        id: node,
        port: out.port,
        getter,
        stores: vec![name],
        wishes,
    }
}

/// Refuses a store that would forget windows which still take records.
pub(crate) fn check_retention(store: &str, retention_ms: i64, least_ms: i64) -> Result<()> {
    if retention_ms >= least_ms {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Topology,
        format!(
            "a store keeps its windows for less than they are open; retain them for size and grace \
             at least. store=`{store}`, retention_ms={retention_ms}, least_ms={least_ms}"
        ),
    ))
}
