//! Stream–stream join: records with equal keys whose times are close.

use std::sync::Arc;

use bytes::Bytes;
use millstream_state::{KvDefinition, StoreDefinition, WindowDefinition};
use millstream_topology::{
    Error, ErrorKind, KvStore, NodeId, NodeKind, Record, Result, StoreId, WindowStore,
};

use crate::{
    Cx, KStream,
    edge::{Next, Port, edge},
    join::{Joiner, LeftJoiner, Within, WithinUnmatched},
};

/// Inner join. Each side keeps its records in a buffer; a record meets those of the other side's
/// buffer in order of time, then arrival, and is then put into its own. The result has the greater
/// timestamp and the headers of the record that caused it. A buffer hides records that are older
/// than before + after + grace.
pub(crate) fn inner<K, L, R, VO>(
    left: KStream<K, L>,
    within: Within<K, L, R>,
    joiner: Joiner<L, R, VO>,
) -> KStream<K, VO>
where
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let pair = move |l: &L, r: Option<&R>| r.map(|r| joiner(l, r));
    wire(left, within, None, Arc::new(pair))
}

/// Left join: a left record that has met nobody when its window has closed, grace included, is
/// passed on alone, with its own timestamp, before the results of the record that moved the time.
///
/// Kafka Streams passes a late one on at once although grace lasts (KAFKA-19536); here grace is
/// kept.
pub(crate) fn left<K, L, R, VO>(
    left: KStream<K, L>,
    within: WithinUnmatched<K, L, R>,
    joiner: LeftJoiner<L, R, VO>,
) -> KStream<K, VO>
where
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let WithinUnmatched { within, store } = within;
    wire(
        left,
        within,
        Some(store),
        Arc::new(move |l, r| Some(joiner(l, r))),
    )
}

type Pair<L, R, VO> = Arc<dyn Fn(&L, Option<&R>) -> Option<VO> + Send + Sync>;

fn wire<K, L, R, VO>(
    left: KStream<K, L>,
    within: Within<K, L, R>,
    unmatched: Option<KvStore<Bytes, L>>,
    joiner: Pair<L, R, VO>,
) -> KStream<K, VO>
where
    K: Clone + 'static,
    L: Clone + 'static,
    R: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = left.draft.clone();
    let Within {
        right,
        before_ms,
        after_ms,
        grace_ms,
        left_buffer,
        right_buffer,
    } = within;
    let retention_ms = before_ms + after_ms + grace_ms;
    let (node, stores) = {
        let mut draft = draft.lock();
        if !left.draft.is(&right.draft) {
            draft.fail(Error::new(
                ErrorKind::Topology,
                "streams of two builders cannot meet; make both with one `StreamsBuilder`",
            ));
        }
        let node = draft
            .plan
            .add_node(NodeKind::StreamJoin, &[left.id, right.id]);
        draft.plan.copartition(&[left.id, right.id]);
        let buffer = |store: Arc<dyn StoreDefinition>, draft: &mut crate::builder::Draft| {
            draft.own_store(node, store)
        };
        let left = WindowDefinition {
            store: left_buffer,
            retention_ms,
            duplicates: true,
        };
        let right = WindowDefinition {
            store: right_buffer,
            retention_ms,
            duplicates: true,
        };
        let stores = Ids {
            left: buffer(Arc::new(left), &mut draft),
            right: buffer(Arc::new(right), &mut draft),
            unmatched: unmatched.map(|s| (draft.own_store(node, Arc::new(KvDefinition(s))), s)),
        };
        (node, stores)
    };
    let out: KStream<K, VO> = KStream::new(&draft, node, left.rekeyed || right.rekeyed);
    let times = Times {
        before_ms,
        after_ms,
        grace_ms,
    };

    let (port, ids, pair) = (out.port.clone(), stores.clone(), joiner.clone());
    left.port.subscribe(Arc::new(move |build| {
        let next = once_next(build, node, &port);
        let mut waiting = Waiting::of(&ids, build, left_buffer, times);
        let (mine, theirs) = (build.store(ids.left), build.store(ids.right));
        let pair = pair.clone();
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, L>| {
            let now = advance(cx, mine, record.timestamp);
            waiting.release(
                cx,
                now,
                record.timestamp,
                &mut |cx, l: Record<K, L>| match pair(&l.value, None) {
                    Some(value) => next.push(cx, l.with_value(value)),
                    None => Ok(()),
                },
            )?;
            let met = meet(
                cx,
                theirs,
                &right_buffer,
                &record,
                times.seen_from_left(&record),
            )?;
            let alone = met.is_empty();
            for (other, at) in met {
                if let Some(value) = pair(&record.value, Some(&other)) {
                    next.push(cx, result(&record, value, at))?;
                }
            }
            if alone && waiting.takes(now, record.timestamp) {
                waiting.add(cx, &record)?;
            } else if alone
                && waiting.exists()
                && let Some(value) = pair(&record.value, None)
            {
                next.push(cx, record.clone().with_value(value))?;
            }
            cx.state
                .window(mine, &left_buffer)
                .add(&record.key, record.timestamp, record.value)
        });
        build.node(node, body)
    }));

    let (port, ids, pair) = (out.port.clone(), stores, joiner);
    right.port.subscribe(Arc::new(move |build| {
        let next = once_next(build, node, &port);
        let mut waiting = Waiting::of(&ids, build, left_buffer, times);
        let (mine, theirs) = (build.store(ids.right), build.store(ids.left));
        let clock = theirs;
        let pair = pair.clone();
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, R>| {
            let now = advance(cx, clock, record.timestamp);
            waiting.release(
                cx,
                now,
                record.timestamp,
                &mut |cx, l: Record<K, L>| match pair(&l.value, None) {
                    Some(value) => next.push(cx, l.with_value(value)),
                    None => Ok(()),
                },
            )?;
            for (other, at) in meet(
                cx,
                theirs,
                &left_buffer,
                &record,
                times.seen_from_right(&record),
            )? {
                waiting.remove(cx, &record.key, at)?;
                if let Some(value) = pair(&other, Some(&record.value)) {
                    next.push(cx, result(&record, value, at))?;
                }
            }
            cx.state
                .window(mine, &right_buffer)
                .add(&record.key, record.timestamp, record.value)
        });
        build.node(node, body)
    }));
    out
}

/// The nodes behind a join, built once although two inputs lead to it.
fn once_next<K: 'static, V: 'static>(
    build: &mut crate::build::TaskBuild<'_>,
    node: NodeId,
    port: &Port<K, V>,
) -> Next<K, V> {
    build.once(node, |build| port.connect(build))
}

#[derive(Clone)]
struct Ids<L: 'static> {
    left: StoreId,
    right: StoreId,
    unmatched: Option<(StoreId, KvStore<Bytes, L>)>,
}

#[derive(Clone, Copy)]
struct Times {
    before_ms: i64,
    after_ms: i64,
    grace_ms: i64,
}

impl Times {
    /// Times of right records that a left record meets, both ends included.
    fn seen_from_left<K, V>(&self, record: &Record<K, V>) -> (i64, i64) {
        let at = record.timestamp;
        ((at - self.before_ms).max(0), (at + self.after_ms).max(0))
    }

    /// Times of left records that a right record meets, both ends included.
    fn seen_from_right<K, V>(&self, record: &Record<K, V>) -> (i64, i64) {
        let at = record.timestamp;
        ((at - self.after_ms).max(0), (at + self.before_ms).max(0))
    }
}

/// Moves the join's own stream time, which is kept with the left buffer.
fn advance(cx: &mut Cx<'_>, clock: usize, timestamp: i64) -> i64 {
    let now = cx.state.time(clock).max(timestamp);
    cx.state.set_time(clock, now);
    now
}

/// The values of the other side that a record meets, with their times.
fn meet<K, V, O: Clone + 'static>(
    cx: &mut Cx<'_>,
    theirs: usize,
    buffer: &WindowStore<K, O>,
    record: &Record<K, V>,
    (from, to): (i64, i64),
) -> Result<Vec<(O, i64)>> {
    let mut met = Vec::new();
    cx.state
        .window(theirs, buffer)
        .fetch(&record.key, from, to, &mut |at, value, _| {
            met.push((value.clone(), at));
            Ok(())
        })?;
    Ok(met)
}

fn result<K: Clone, V, VO>(cause: &Record<K, V>, value: VO, other_at: i64) -> Record<K, VO> {
    Record {
        key: cause.key.clone(),
        value,
        timestamp: cause.timestamp.max(other_at),
        headers: cause.headers.clone(),
    }
}

/// Left records that have met nobody yet, ordered by time, then key, then arrival.
///
/// A key of the store is the time (8 bytes, big-endian), the record's key, and a number (4 bytes,
/// big-endian) that tells records of one key and time apart.
struct Waiting<K: 'static, L: 'static> {
    store: Option<(usize, KvStore<Bytes, L>)>,
    keys: WindowStore<K, L>,
    times: Times,
}

/// Upper bound of records released in one go before the store is asked again.
const RELEASE_BATCH: usize = 256;
const TIME_BYTES: usize = 8;
const NUMBER_BYTES: usize = 4;

impl<K: Clone + 'static, L: Clone + 'static> Waiting<K, L> {
    fn of(
        ids: &Ids<L>,
        build: &crate::build::TaskBuild<'_>,
        keys: WindowStore<K, L>,
        times: Times,
    ) -> Self {
        let store = ids.unmatched.map(|(id, store)| (build.store(id), store));
        Self { store, keys, times }
    }

    fn exists(&self) -> bool {
        self.store.is_some()
    }

    /// True when a record of that time may still meet somebody.
    fn takes(&self, now: i64, timestamp: i64) -> bool {
        self.exists() && timestamp + self.times.after_ms + self.times.grace_ms >= now
    }

    fn prefix(&self, key: &K, timestamp: i64) -> Result<Vec<u8>> {
        let mut bytes = timestamp.to_be_bytes().to_vec();
        self.keys
            .key()
            .encode(key, &mut bytes)
            .map_err(crate::ops::source::bad("key"))?;
        Ok(bytes)
    }

    fn add(&mut self, cx: &mut Cx<'_>, record: &Record<K, L>) -> Result<()> {
        let mut key = self.prefix(&record.key, record.timestamp)?;
        let Some((index, store)) = &self.store else {
            return Ok(());
        };
        let mut waiting = cx.state.kv(*index, store);
        let number = same_key(waiting.prefix(&key, usize::MAX)?, key.len()).count() as u32;
        key.extend_from_slice(&number.to_be_bytes());
        waiting.put(&key.into(), record.value.clone(), record.timestamp)
    }

    fn remove(&mut self, cx: &mut Cx<'_>, key: &K, timestamp: i64) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let prefix = self.prefix(key, timestamp)?;
        let Some((index, store)) = &self.store else {
            return Ok(());
        };
        let mut waiting = cx.state.kv(*index, store);
        let met: Vec<Bytes> =
            same_key(waiting.prefix(&prefix, usize::MAX)?, prefix.len()).collect();
        met.iter()
            .try_for_each(|key| waiting.delete(key, timestamp))
    }

    /// Passes on what can meet nobody any more. Only a record that is not late itself moves the
    /// time.
    fn release(
        &mut self,
        cx: &mut Cx<'_>,
        now: i64,
        timestamp: i64,
        pass_on: &mut dyn FnMut(&mut Cx<'_>, Record<K, L>) -> Result<()>,
    ) -> Result<()> {
        let Some((index, store)) = self.store.filter(|_| timestamp == now) else {
            return Ok(());
        };
        // Closed is what satisfies `time + after + grace < now`.
        let closed = (now - self.times.after_ms - self.times.grace_ms).max(0);
        let end = Bytes::copy_from_slice(&closed.to_be_bytes());
        loop {
            let due = cx
                .state
                .kv(index, &store)
                .range(None, Some(&end), RELEASE_BATCH)?;
            for (key, value, at) in &due {
                let inner = &key[TIME_BYTES..key.len() - NUMBER_BYTES];
                let record_key = self
                    .keys
                    .key()
                    .decode(Some(inner))
                    .map_err(crate::ops::source::bad("key"))?;
                pass_on(cx, Record::new(record_key, value.clone(), *at))?;
                cx.state.kv(index, &store).delete(key, *at)?;
            }
            if due.len() < RELEASE_BATCH {
                return Ok(());
            }
        }
    }
}

/// The store's keys among `found` that belong to exactly the record key of the prefix.
fn same_key<L>(found: Vec<(Bytes, L, i64)>, prefix_length: usize) -> impl Iterator<Item = Bytes> {
    found
        .into_iter()
        .map(|(key, ..)| key)
        .filter(move |key| key.len() == prefix_length + NUMBER_BYTES)
}
