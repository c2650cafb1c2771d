//! Stream–stream join: records with equal keys whose times are close.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::Bytes;
use millstream_state::{BufferDefinition, StoreDefinition, WindowDefinition};
use millstream_topology::{KvStore, NodeId, NodeKind, Record, Result, StoreId, WindowStore};

use crate::{
    Cx, JoinWindow, KStream, MaybeNull,
    builder::SharedDraft,
    edge::{Edge, Factory, Next, Push, edge},
    join::{Joiner, LeftJoiner, OuterJoiner, Side, Within, WithinUnmatched},
    ops::unmatched::{Released, Unmatched, Whose},
};

/// Inner join. Each side keeps its records in a buffer; a record meets those of the other side's
/// buffer in order of time, then arrival, and is then put into its own. The result has the greater
/// timestamp and the headers of the record that caused it. A buffer hides records that are older
/// than before + after + grace. A record without key or value is dropped and counted.
pub(crate) fn inner<K, L, R, VO>(
    left: Side<K, L>,
    within: Within<K, L, R>,
    joiner: Joiner<K, L, R, VO>,
) -> KStream<K, VO>
where
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let pair = move |k: &K, l: Option<&L>, r: Option<&R>| Some(joiner(k, l?, r?));
    wire(left, within, Keeps::NOTHING, Arc::new(pair))
}

/// Left join: a left record that has met nobody when its window has closed, grace included, is
/// passed on alone, with its own timestamp and the headers of the record that moved the time,
/// before that record's own results. A left record without a key is passed on alone at once.
///
/// Kafka Streams passes a late one on at once although grace lasts (KAFKA-19536); here grace is
/// kept.
pub(crate) fn left<NK, K, L, R, VO>(
    left: Side<K, L>,
    within: WithinUnmatched<K, L, R>,
    joiner: LeftJoiner<NK, L, R, VO>,
) -> KStream<NK, VO>
where
    NK: MaybeNull<K>,
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let keeps = Keeps {
        left: true,
        right: false,
        store: Some(within.store),
    };
    let pair = move |k: &NK, l: Option<&L>, r: Option<&R>| Some(joiner(k, l?, r));
    wire(left, within.within, keeps, Arc::new(pair))
}

/// Outer join: as a left join, for both sides. Unmatched records of one time go on right ones
/// first.
pub(crate) fn outer<NK, K, L, R, VO>(
    left: Side<K, L>,
    within: WithinUnmatched<K, L, R>,
    joiner: OuterJoiner<NK, L, R, VO>,
) -> KStream<NK, VO>
where
    NK: MaybeNull<K>,
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let keeps = Keeps {
        left: true,
        right: true,
        store: Some(within.store),
    };
    let pair = move |k: &NK, l: Option<&L>, r: Option<&R>| Some(joiner(k, l, r));
    wire(left, within.within, keeps, Arc::new(pair))
}

/// Which sides' records are passed on alone.
#[derive(Clone, Copy)]
struct Keeps {
    left: bool,
    right: bool,
    store: Option<KvStore<Bytes, Bytes>>,
}

impl Keeps {
    const NOTHING: Self = Self {
        left: false,
        right: false,
        store: None,
    };
}

type Pair<OK, L, R, VO> = Arc<dyn Fn(&OK, Option<&L>, Option<&R>) -> Option<VO> + Send + Sync>;

fn wire<OK, K, L, R, VO>(
    left: Side<K, L>,
    within: Within<K, L, R>,
    keeps: Keeps,
    pair: Pair<OK, L, R, VO>,
) -> KStream<OK, VO>
where
    OK: MaybeNull<K>,
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = left.draft.clone();
    let Within {
        right,
        window,
        left_buffer,
        right_buffer,
    } = within;
    let inputs = [(&left.draft, left.id), (&right.draft, right.id)];
    let definitions: [Arc<dyn StoreDefinition>; 2] =
        [buffer(left_buffer, window), buffer(right_buffer, window)];
    let (node, ids, unmatched) = add_node(&draft, inputs, window, definitions, keeps);
    let out: KStream<OK, VO> = KStream::new(&draft, node, false);
    let unmatched = unmatched.map(|(id, store)| Unmatched {
        id,
        store,
        left: left_buffer,
        right: right_buffer,
        window,
    });

    let (port, shared, waiting) = (out.port.clone(), pair.clone(), unmatched.clone());
    let on_left: Factory<Option<K>, Option<L>> = Arc::new(move |build| {
        let next: Next<OK, VO> = build.once(node, |build| port.connect(build));
        let half = Half {
            mine: (build.store(ids[0]), left_buffer),
            theirs: (build.store(ids[1]), right_buffer),
            clock: build.store(ids[0]),
            whose: Whose::Left,
            reach: (window.before_ms, window.after_ms),
            unmatched: waiting.clone().map(|w| w.open(build)),
            alone: keeps.left,
        };
        let (apart, pair) = (shared.clone(), shared.clone());
        let pair = move |k: &OK, l: Option<&L>, r: Option<&R>| pair(k, l, r);
        let body = edge(
            move |cx: &mut Cx<'_>, record: Record<Option<K>, Option<L>>| {
                half.take(cx, record, &next, &pair, &|k, l, r| apart(k, l, r))
            },
        );
        build.node(node, body)
    });
    let (port, shared) = (out.port.clone(), pair);
    let on_right: Factory<Option<K>, Option<R>> = Arc::new(move |build| {
        let next: Next<OK, VO> = build.once(node, |build| port.connect(build));
        let half = Half {
            mine: (build.store(ids[1]), right_buffer),
            theirs: (build.store(ids[0]), left_buffer),
            clock: build.store(ids[0]),
            whose: Whose::Right,
            reach: (window.after_ms, window.before_ms),
            unmatched: unmatched.clone().map(|w| w.open(build)),
            alone: keeps.right,
        };
        let (apart, pair) = (shared.clone(), shared.clone());
        let pair = move |k: &OK, r: Option<&R>, l: Option<&L>| pair(k, l, r);
        let body = edge(
            move |cx: &mut Cx<'_>, record: Record<Option<K>, Option<R>>| {
                half.take(cx, record, &next, &pair, &|k, l, r| apart(k, l, r))
            },
        );
        build.node(node, body)
    });
    (left.subscribe)(on_left);
    (right.subscribe)(on_right);
    out
}

/// The definition of a buffer of records that may still be met.
pub(crate) fn buffer<K: 'static, V: Clone + 'static>(
    store: WindowStore<K, V>,
    window: JoinWindow,
) -> Arc<dyn StoreDefinition> {
    Arc::new(WindowDefinition {
        store,
        retention_ms: (window.before_ms + window.after_ms + window.grace_ms).max(0),
        duplicates: true,
    })
}

type Waits = (StoreId, KvStore<Bytes, Bytes>);

fn add_node(
    draft: &SharedDraft,
    inputs: [(&SharedDraft, NodeId); 2],
    window: JoinWindow,
    buffers: [Arc<dyn StoreDefinition>; 2],
    keeps: Keeps,
) -> (NodeId, [StoreId; 2], Option<Waits>) {
    let [(left_draft, left), (right_draft, right)] = inputs;
    let same = left_draft.is(right_draft);
    let inputs: &[NodeId] = if same { &[left, right] } else { &[left] };
    let node = crate::builder::add_node(draft, NodeKind::StreamJoin, inputs);
    draft.meets(right_draft, node);
    let mut draft = draft.lock();
    draft.plan.copartition(node, inputs);
    if keeps.left {
        draft.plan.take_null_keys(left, node);
    }
    if keeps.right {
        draft.plan.take_null_keys(right, node);
    }
    check(&mut draft, node, window);
    let ids = buffers.map(|buffer| draft.own_store(node, buffer));
    let waits = keeps.store.map(|store| {
        let definition = Arc::new(BufferDefinition(store));
        (draft.own_store(node, definition), store)
    });
    (node, ids, waits)
}

/// Refuses a window that ends before it begins.
pub(crate) fn check(draft: &mut crate::builder::Draft, node: NodeId, window: JoinWindow) {
    let (before, after) = (window.before_ms, window.after_ms);
    if before.saturating_add(after) < 0 {
        let what = format!(
            "a join's window ends before it begins; let `before` and `after` add up to 0 ms or \
             more. before={before}, after={after}"
        );
        draft.refuse(node, what);
    }
}

/// One side of a join: what it does with a record of its own.
struct Half<K: 'static, L: 'static, R: 'static, M: 'static, O: 'static> {
    mine: (usize, WindowStore<K, M>),
    theirs: (usize, WindowStore<K, O>),
    /// The store with which the join's time is kept, which both sides move.
    clock: usize,
    whose: Whose,
    /// How far back and ahead of a record those of the other side may be.
    reach: (i64, i64),
    unmatched: Option<Unmatched<K, L, R, usize>>,
    /// True when records of this side are passed on alone.
    alone: bool,
}

impl<K, L, R, M, O> Half<K, L, R, M, O>
where
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    M: Clone + 'static,
    O: Clone + 'static,
{
    /// `pair` makes a result of a record of this side and one of the other, `apart` of a left and a
    /// right one.
    fn take<OK: MaybeNull<K>, VO: Clone>(
        &self,
        cx: &mut Cx<'_>,
        record: Record<Option<K>, Option<M>>,
        next: &Next<OK, VO>,
        pair: &dyn Fn(&OK, Option<&M>, Option<&O>) -> Option<VO>,
        apart: &dyn Fn(&OK, Option<&L>, Option<&R>) -> Option<VO>,
    ) -> Result<()> {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        // A record that is dropped moves the time like any other.
        let now = cx.state.time(self.clock).max(timestamp);
        cx.state.set_time(self.clock, now);
        let send = |cx: &mut Cx<'_>, key: OK, value: Option<VO>, timestamp| match value {
            None => Ok(()),
            Some(value) => {
                let headers = headers.clone();
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
        };
        let (key, value) = match (key, value) {
            (Some(key), Some(value)) => (key, value),
            (None, Some(value)) if self.alone && OK::null().is_some() => {
                return match OK::null() {
                    Some(null) => {
                        let result = pair(&null, Some(&value), None);
                        send(cx, null, result, timestamp)
                    }
                    None => Ok(()),
                };
            }
            _ => {
                cx.counters.dropped += 1;
                return Ok(());
            }
        };
        if let Some(unmatched) = self.unmatched.as_ref().filter(|_| timestamp == now) {
            unmatched.release(cx, now, &mut |cx, released: Released<K, L, R>| {
                let key = OK::of(released.key);
                let (l, r) = (released.left.as_ref(), released.right.as_ref());
                let result = apart(&key, l, r);
                send(cx, key, result, released.timestamp)
            })?;
        }
        let key = OK::of(key);
        let plain = key.as_present().expect("the key is not null").clone();
        let met = self.meet(cx, &plain, timestamp)?;
        for (other, at) in &met {
            if let Some(unmatched) = &self.unmatched {
                unmatched.remove(cx, self.whose.other(), &plain, *at)?;
            }
            let result = pair(&key, Some(&value), Some(other));
            send(cx, key.clone(), result, timestamp.max(*at))?;
        }
        if let Some(unmatched) = self
            .unmatched
            .as_ref()
            .filter(|_| met.is_empty() && self.alone)
        {
            if unmatched.is_open(self.whose, now, timestamp) {
                let serde = self.mine.1.value();
                unmatched.add(cx, self.whose, &plain, &serde, &value, timestamp)?;
            } else {
                let result = pair(&key, Some(&value), None);
                send(cx, key, result, timestamp)?;
            }
        }
        let (index, store) = &self.mine;
        cx.state.window(*index, store).add(&plain, timestamp, value)
    }

    /// The values of the other side that a record meets, with their times.
    fn meet(&self, cx: &mut Cx<'_>, key: &K, at: i64) -> Result<Vec<(O, i64)>> {
        let (index, store) = &self.theirs;
        meet(cx, *index, store, key, at, self.reach)
    }
}

/// The values in a buffer that a record meets, with their times.
pub(crate) fn meet<K: 'static, O: Clone + 'static>(
    cx: &mut Cx<'_>,
    index: usize,
    store: &WindowStore<K, O>,
    key: &K,
    at: i64,
    (back, ahead): (i64, i64),
) -> Result<Vec<(O, i64)>> {
    let (from, to) = ((at - back).max(0), (at + ahead).max(0));
    let mut met = Vec::new();
    cx.state
        .window(index, store)
        .fetch(key, from, to, &mut |at, value, _| {
            met.push((value.clone(), at));
            Ok(())
        })?;
    Ok(met)
}

/// A side's entry for a stream of these types.
pub(crate) fn opened<NK, NV, K, V>(inner: Edge<Option<K>, Option<V>>) -> Edge<NK, NV>
where
    NK: MaybeNull<K>,
    NV: MaybeNull<V>,
    K: 'static,
    V: 'static,
{
    Rc::new(RefCell::new(Opened(inner)))
}

/// Says of a record which of key and value are null.
struct Opened<K, V>(Edge<Option<K>, Option<V>>);

impl<NK: MaybeNull<K>, NV: MaybeNull<V>, K, V> Push<NK, NV> for Opened<K, V> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<NK, NV>) -> Result<()> {
        let record = Record {
            key: record.key.present(),
            value: record.value.present(),
            timestamp: record.timestamp,
            headers: record.headers,
        };
        self.0.borrow_mut().push(cx, record)
    }
}
