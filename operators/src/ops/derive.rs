//! Tables that are computed row by row from another table and keep nothing themselves.

use std::{rc::Rc, sync::Arc};

use millstream_topology::{Change, NodeId, NodeKind, Record, Result};

use crate::{
    Cx, KTable,
    build::TaskBuild,
    builder::add_node,
    edge::{Next, Port, edge},
    table::{Getter, History, Past, Wishes},
};

/// Makes a row's value of the one before; `None` is an absent row.
pub(crate) type Derive<K, V, V2> = Arc<dyn Fn(&K, Option<V>) -> Option<V2> + Send + Sync>;

/// Which changes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassOn {
    /// All.
    Every,
    /// Those of rows that are there, or were there before; all where that cannot be known.
    Seen,
}

pub(crate) fn derive<K: Clone + 'static, V: Clone + 'static, V2: Clone + 'static>(
    table: &KTable<K, V>,
    kind: NodeKind,
    pass_on: PassOn,
    map: Derive<K, V, V2>,
) -> KTable<K, V2> {
    let wishes = Wishes::behind(&[&table.wishes]);
    let pass_on = match wishes.can_be_had() {
        true => pass_on,
        false => PassOn::Every,
    };
    let (asked, derived) = (wishes.clone(), map.clone());
    let (id, port) = table.behind(kind, move |_, next: Next<K, Change<V2>>| {
        let (map, with_old) = (derived.clone(), asked.old_values());
        edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            let Record {
                key,
                value: Change { new, old, latest },
                timestamp,
                headers,
            } = record;
            let new = map(&key, new);
            let old = if with_old { map(&key, old) } else { None };
            if pass_on == PassOn::Seen && new.is_none() && old.is_none() {
                return Ok(());
            }
            let value = Change { new, old, latest };
            next.push(
                cx,
                Record {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            )
        })
    });
    let out = KTable {
        draft: table.draft.clone(),
        id,
        port,
        getter: getter(table, map.clone()),
        history: history(table, map),
        stores: table.stores.clone(),
        wishes,
    };
    if pass_on == PassOn::Seen {
        out.want_old_values();
    }
    out
}

/// Timestamp of a value that was made of an absent row.
const NO_TIMESTAMP: i64 = -1;

fn mapped<K, V, V2>(map: &Derive<K, V, V2>, key: &K, found: Option<(V, i64)>) -> Option<(V2, i64)> {
    let at = found.as_ref().map_or(NO_TIMESTAMP, |(_, at)| *at);
    let value = map(key, found.map(|(value, _)| value))?;
    Some((value, at))
}

fn getter<K: 'static, V: 'static, V2: 'static>(
    table: &KTable<K, V>,
    map: Derive<K, V, V2>,
) -> crate::table::GetterFactory<K, V2> {
    let above = table.getter.clone();
    Arc::new(move |build| {
        let (above, map) = (above(build), map.clone());
        let getter: Getter<K, V2> =
            Rc::new(move |cx: &mut Cx<'_>, key: &K| Ok(mapped(&map, key, above(cx, key)?)));
        getter
    })
}

fn history<K: 'static, V: 'static, V2: 'static>(
    table: &KTable<K, V>,
    map: Derive<K, V, V2>,
) -> Option<History<K, V2>> {
    let History { past: above, ms } = table.history.clone()?;
    let past = move |build: &TaskBuild<'_>| {
        let (above, map) = (above(build), map.clone());
        let past: Past<K, V2> = Rc::new(move |cx: &mut Cx<'_>, key: &K, time: i64| {
            Ok(mapped(&map, key, above(cx, key, time)?))
        });
        past
    };
    Some(History {
        past: Arc::new(past),
        ms,
    })
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    /// Adds a node behind this table that makes changes of its changes; `make` gives its body, once
    /// for each task.
    pub(crate) fn behind<V2, F>(
        &self,
        kind: NodeKind,
        make: impl Fn(&mut TaskBuild<'_>, Next<K, Change<V2>>) -> F + Send + Sync + 'static,
    ) -> (NodeId, Port<K, Change<V2>>)
    where
        V2: Clone + 'static,
        F: FnMut(&mut Cx<'_>, Record<K, Change<V>>) -> Result<()> + 'static,
    {
        let id = add_node(&self.draft, kind, &[self.id]);
        let port = Port::new();
        let shared = port.clone();
        self.port.subscribe(Arc::new(move |build| {
            let next = shared.connect(build);
            let body = make(build, next);
            build.node(id, body)
        }));
        (id, port)
    }
}
