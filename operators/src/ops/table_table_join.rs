//! Table–table join: rows of two tables with equal keys.

use std::{rc::Rc, sync::Arc};

use millstream_topology::{Change, NodeId, NodeKind, Record};

use crate::{
    Cx, KTable,
    builder::add_node,
    edge::{Next, Port, edge},
    table::{Getter, GetterFactory, Sides, Wishes},
};

/// Combines both sides; `None` where a side that the join needs is absent.
type Combine<L, R, VO> = Arc<dyn Fn(Option<&L>, Option<&R>) -> Option<VO> + Send + Sync>;

/// Each side triggers, with what the other side holds now. The result has the greater timestamp and
/// the headers of the change.
///
/// Where the other side is absent, an inner join has nothing to say, nor has a left join about a
/// change of its right side; otherwise a deletion of what was not there is kept quiet.
pub(crate) fn table_table_join<K, L, R, VO>(
    left: &KTable<K, L>,
    right: &KTable<K, R>,
    sides: Sides,
    combine: Combine<L, R, VO>,
) -> KTable<K, VO>
where
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = left.draft.clone();
    left.need_values();
    right.need_values();
    match sides {
        Sides::Both => {}
        Sides::Left => left.want_old_values(),
        Sides::Any => {
            left.want_old_values();
            right.want_old_values();
        }
    }
    let same = draft.is(&right.draft);
    let inputs: &[NodeId] = if same {
        &[left.id, right.id]
    } else {
        &[left.id]
    };
    let node = add_node(&draft, NodeKind::TableJoin, inputs);
    draft.meets(&right.draft, node);
    let mut stores = left.stores.clone();
    stores.extend(right.stores.iter().filter(|id| !left.stores.contains(id)));
    {
        let mut draft = draft.lock();
        stores.iter().for_each(|id| draft.plan.connect(node, *id));
        draft.plan.copartition(node, inputs);
    }
    let wishes = Wishes::behind(&[&left.wishes, &right.wishes]);
    let port: Port<K, Change<VO>> = Port::new();

    let (shared, asked, join) = (port.clone(), wishes.clone(), combine.clone());
    let other = right.getter.clone();
    left.port.subscribe(Arc::new(move |build| {
        let next: Next<K, Change<VO>> = build.once(node, |build| shared.connect(build));
        let (other, join, with_old) = (other(build), join.clone(), asked.old_values());
        let needs_other = sides == Sides::Both;
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, Change<L>>| {
            let pair = |l: Option<&L>, r: Option<&R>| join(l, r);
            side(cx, record, &other, needs_other, with_old, &next, &pair)
        });
        build.node(node, body)
    }));

    let (shared, asked, join) = (port.clone(), wishes.clone(), combine.clone());
    let other = left.getter.clone();
    right.port.subscribe(Arc::new(move |build| {
        let next: Next<K, Change<VO>> = build.once(node, |build| shared.connect(build));
        let (other, join, with_old) = (other(build), join.clone(), asked.old_values());
        let needs_other = sides != Sides::Any;
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, Change<R>>| {
            let pair = |r: Option<&R>, l: Option<&L>| join(l, r);
            side(cx, record, &other, needs_other, with_old, &next, &pair)
        });
        build.node(node, body)
    }));

    KTable {
        draft,
        id: node,
        port,
        getter: getter(left.getter.clone(), right.getter.clone(), combine),
        history: None,
        stores,
        wishes,
    }
}

/// A change of one side.
fn side<K: Clone, M, O, VO: Clone>(
    cx: &mut Cx<'_>,
    record: Record<K, Change<M>>,
    other: &Getter<K, O>,
    needs_other: bool,
    with_old: bool,
    next: &Next<K, Change<VO>>,
    pair: &dyn Fn(Option<&M>, Option<&O>) -> Option<VO>,
) -> millstream_topology::Result<()> {
    let Record {
        key,
        value: Change { new, old, latest },
        timestamp,
        headers,
    } = record;
    if !latest {
        cx.counters.dropped += 1;
        return Ok(());
    }
    let found = other(cx, &key)?;
    if found.is_none() && (needs_other || (new.is_none() && old.is_none())) {
        return Ok(());
    }
    let timestamp = found
        .as_ref()
        .map_or(timestamp, |(_, at)| timestamp.max(*at));
    let theirs = found.as_ref().map(|(value, _)| value);
    let before = with_old.then(|| pair(old.as_ref(), theirs)).flatten();
    let value = Change::new(pair(new.as_ref(), theirs), before);
    next.push(
        cx,
        Record {
            key,
            value,
            timestamp,
            headers,
        },
    )
}

/// Looks a row of the result up through both tables.
fn getter<K: 'static, L: 'static, R: 'static, VO: 'static>(
    left: GetterFactory<K, L>,
    right: GetterFactory<K, R>,
    combine: Combine<L, R, VO>,
) -> GetterFactory<K, VO> {
    Arc::new(move |build| {
        let (left, right, combine) = (left(build), right(build), combine.clone());
        let getter: Getter<K, VO> = Rc::new(move |cx: &mut Cx<'_>, key: &K| {
            let (l, r) = (left(cx, key)?, right(cx, key)?);
            let at = |found: Option<i64>| found.unwrap_or(i64::MIN);
            let newest = at(l.as_ref().map(|(_, at)| *at)).max(at(r.as_ref().map(|(_, at)| *at)));
            let value = combine(
                l.as_ref().map(|(value, _)| value),
                r.as_ref().map(|(value, _)| value),
            );
            Ok(value.map(|value| (value, newest)))
        });
        getter
    })
}
