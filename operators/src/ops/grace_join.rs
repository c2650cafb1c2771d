//! Stream–table join with grace: a record waits until late updates of the table have come.

use std::sync::Arc;

use bytes::Bytes;
use millstream_state::BufferDefinition;
use millstream_topology::{BoxError, Header, Headers, KvStore, NodeId, NodeKind, Record, Result};

use crate::{
    Cx, KStream, MaybeNull,
    edge::edge,
    join::WithGrace,
    ops::{
        source::bad,
        table_join::{Alone, Lookup, connect, look_up},
    },
};

/// Upper bound of records released in one go before the buffer is asked again.
const RELEASE_BATCH: usize = 256;

/// A record that waits is joined when the operator's time has passed it by grace; one that is later
/// than that, at once. A record without a value is dropped and counted; neither it nor one without
/// a key moves the time.
pub(crate) fn grace_join<NK, NV, K, OK, V, T, VO>(
    stream: KStream<NK, NV>,
    with_grace: WithGrace<K, V, T>,
    alone: Alone,
    joiner: Lookup<OK, V, T, VO>,
) -> KStream<OK, VO>
where
    NK: MaybeNull<K>,
    NV: MaybeNull<V>,
    K: Clone + 'static,
    OK: MaybeNull<K>,
    V: Clone + 'static,
    T: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = stream.draft.clone();
    let left = stream.id;
    let WithGrace {
        table,
        grace_ms,
        waiting,
    } = with_grace;
    let node = NodeId(draft.lock().plan.nodes().len());
    let entries = bytes_of(&waiting);
    let found_in = look_up(&table);
    let out = stream.unary(NodeKind::StreamTableJoin, move |build, next| {
        let buffer = Buffer {
            index: build.store(build.stores_of(node)[0]),
            entries,
            waiting,
        };
        let (look_up, joiner) = (found_in(build), joiner.clone());
        let join = move |cx: &mut Cx<'_>, key: OK, record: Record<(), V>| -> Result<()> {
            let found = match key.as_present() {
                Some(key) => look_up(cx, key, record.timestamp)?,
                None => None,
            };
            match joiner(&key, &record.value, found.as_ref()) {
                Some(value) => next.push(cx, record.with_key(key).with_value(value)),
                None => Ok(()),
            }
        };
        edge(move |cx: &mut Cx<'_>, record: Record<NK, NV>| {
            let (key, value) = (record.key.present(), record.value.present());
            let null = OK::null().filter(|_| alone == Alone::Joined);
            let (value, null) = match (value, &key, null) {
                (Some(value), Some(_), _) => (value, None),
                (Some(value), None, Some(null)) => (value, Some(null)),
                _ => {
                    cx.counters.dropped += 1;
                    return Ok(());
                }
            };
            let record = Record {
                key: (),
                value,
                timestamp: record.timestamp,
                headers: record.headers,
            };
            let now = cx.state.time(buffer.index).max(record.timestamp);
            let Some(key) = key else {
                return null.map_or(Ok(()), |null| join(cx, null, record));
            };
            cx.state.set_time(buffer.index, now);
            match record.timestamp < now.saturating_sub(grace_ms) {
                true => join(cx, OK::of(key), record)?,
                false => buffer.add(cx, &record.with_key(key))?,
            }
            buffer.release(cx, now.saturating_sub(grace_ms), &mut |cx, key, record| {
                join(cx, OK::of(key), record)
            })
        })
    });
    assert_eq!(out.id, node, "one node was added");
    {
        let mut draft = draft.lock();
        draft.own_store(node, Arc::new(BufferDefinition(entries)));
        match &table.history {
            None => {
                let what = "a join with grace asks for the past; keep the table in a \
                            `VersionedStore`";
                draft.refuse(node, what);
            }
            Some(history) if history.ms < grace_ms => {
                let what = format!(
                    "a join waits for longer than its table remembers; give the `VersionedStore` a \
                     history of at least the grace. history_ms={}, grace_ms={grace_ms}",
                    history.ms
                );
                draft.refuse(node, what);
            }
            Some(_) => {}
        }
    }
    connect(&draft, node, left, &table, alone);
    out
}

/// The entries of a buffer as the operator writes them, under the user's name.
fn bytes_of<K, V>(store: &KvStore<K, V>) -> KvStore<Bytes, Bytes> {
    let (key, value) = (millstream_topology::bytes(), millstream_topology::bytes());
    let entries = KvStore::new(store.name(), key, value);
    match store.is_logged() {
        true => entries,
        false => entries.without_changelog(),
    }
}

/// First byte of a key: no key of a buffer begins with a zero.
const ENTRY: u8 = 1;
/// Bytes in front of a record's key: [`ENTRY`] and the time.
const HEAD_BYTES: usize = 9;
/// Bytes behind it: a number that tells records of one key and time apart.
const NUMBER_BYTES: usize = 4;

/// Records that wait, by time, then key, then arrival.
struct Buffer<K: 'static, V: 'static> {
    index: usize,
    entries: KvStore<Bytes, Bytes>,
    waiting: KvStore<K, V>,
}

impl<K: 'static, V: 'static> Buffer<K, V> {
    fn add(&self, cx: &mut Cx<'_>, record: &Record<K, V>) -> Result<()> {
        let mut place = head(record.timestamp);
        let keyed = self.waiting.key().encode(&record.key, &mut place);
        keyed.map_err(bad("key"))?;
        let mut bytes = Vec::new();
        write_headers(&record.headers, &mut bytes);
        let written = self.waiting.value().encode(&record.value, &mut bytes);
        written.map_err(bad("value"))?;
        let mut entries = cx.state.kv(self.index, &self.entries);
        let length = place.len() + NUMBER_BYTES;
        let same = entries.prefix(&place, usize::MAX)?.into_iter();
        let last = same.filter(|(key, ..)| key.len() == length).last();
        let number = last.map_or(0, |(key, ..)| number_of(&key) + 1);
        place.extend_from_slice(&number.to_be_bytes());
        entries.put(&place.into(), bytes.into(), record.timestamp)
    }

    /// Takes out the records up to that time.
    fn release(
        &self,
        cx: &mut Cx<'_>,
        until: i64,
        pass_on: &mut dyn FnMut(&mut Cx<'_>, K, Record<(), V>) -> Result<()>,
    ) -> Result<()> {
        if until < 0 {
            return Ok(());
        }
        let end = Bytes::from(head(until.saturating_add(1)));
        loop {
            let mut entries = cx.state.kv(self.index, &self.entries);
            let due = entries.range(None, Some(&end), RELEASE_BATCH)?;
            for (place, bytes, timestamp) in &due {
                let key = &place[HEAD_BYTES..place.len() - NUMBER_BYTES];
                let key = self.waiting.key().decode(Some(key)).map_err(bad("key"))?;
                let (headers, rest) = read_headers(bytes).map_err(bad("header"))?;
                let value = self.waiting.value().decode(Some(rest));
                let record = Record {
                    key: (),
                    value: value.map_err(bad("value"))?,
                    timestamp: *timestamp,
                    headers,
                };
                cx.state
                    .kv(self.index, &self.entries)
                    .delete(place, *timestamp)?;
                pass_on(cx, key, record)?;
            }
            if due.len() < RELEASE_BATCH {
                return Ok(());
            }
        }
    }
}

fn head(timestamp: i64) -> Vec<u8> {
    let mut bytes = vec![ENTRY];
    bytes.extend_from_slice(&timestamp.to_be_bytes());
    bytes
}

fn number_of(place: &[u8]) -> u32 {
    let number = place.last_chunk().copied();
    number.map_or(0, u32::from_be_bytes)
}

/// Length of a header's value that is null.
const NULL: u32 = u32::MAX;

fn write_headers(headers: &Headers, out: &mut Vec<u8>) {
    out.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    for Header { name, value } in headers {
        out.extend_from_slice(&(name.len() as u32).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        let length = value.as_ref().map_or(NULL, |value| value.len() as u32);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
}

/// The headers, and what stands behind them.
fn read_headers(bytes: &[u8]) -> Result<(Headers, &[u8]), BoxError> {
    let (count, mut rest) = number(bytes)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let (length, behind) = number(rest)?;
        let (name, behind) = behind.split_at_checked(length as usize).ok_or(CUT_SHORT)?;
        let (length, behind) = number(behind)?;
        let (value, behind) = match length {
            NULL => (None, behind),
            length => {
                let split = behind.split_at_checked(length as usize);
                let (value, behind) = split.ok_or(CUT_SHORT)?;
                (Some(Bytes::copy_from_slice(value)), behind)
            }
        };
        headers.push(std::str::from_utf8(name)?, value);
        rest = behind;
    }
    Ok((headers, rest))
}

const CUT_SHORT: &str = "an entry is shorter than it says";

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), BoxError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(CUT_SHORT)?;
    Ok((u32::from_be_bytes(*number), rest))
}
