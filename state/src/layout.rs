//! Where entries lie in a base: store ids, the reserved prefix, window keys, timestamped values.
//!
//! ```text
//! 0x0000 ‖ 0                  format version
//! 0x0000 ‖ 1 ‖ store name     store id (2), kind (1)
//! 0x0000 ‖ 2 ‖ store id       changelog position (8), stream time (8), observed time (8)
//! id ‖ key                    timestamp (8) ‖ value                    of a key-value store
//! id ‖ key ‖ start (8) ‖ sequence (4)      timestamp (8) ‖ value       of a window store
//! ```
//! Integers are big-endian. Behind the id, keys and values are those of Kafka Streams.

use std::sync::atomic::{AtomicI64, Ordering};

use millstream_topology::{StoreKind, StoreSpec};

use crate::{ByteStore, Fault, Result};

/// The version that this program writes and the only one that it reads.
pub(crate) const FORMAT_VERSION: u8 = 1;
/// Bytes of the store id in front of every key.
pub(crate) const ID_BYTES: usize = 2;
/// Bytes of the timestamp in front of every value.
pub(crate) const TIMESTAMP_BYTES: usize = 8;
const START_BYTES: usize = 8;
const SEQUENCE_BYTES: usize = 4;
/// Bytes of start and sequence behind the key of a window.
pub(crate) const WINDOW_BYTES: usize = START_BYTES + SEQUENCE_BYTES;

const RESERVED: [u8; ID_BYTES] = [0, 0];
const VERSION_KEY: [u8; 3] = [0, 0, 0];
const NAMES: [u8; 3] = [0, 0, 1];
const METAS: [u8; 3] = [0, 0, 2];
const FIRST_ID: u16 = 1;
/// The greatest id has no successor, so it is never given.
const IDS_END: u16 = u16::MAX;

/// What is kept for a store beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Changelog offset behind the last record that the entries reflect.
    pub(crate) position: Option<i64>,
    /// The time that the operator keeps with the store; -1 at first.
    pub(crate) time: i64,
    /// Greatest start put into a window store; -1 at first.
    pub(crate) observed: i64,
}

impl Meta {
    pub(crate) const NONE: Self = Self {
        position: None,
        time: -1,
        observed: -1,
    };

    fn to_bytes(self) -> Vec<u8> {
        [self.position.unwrap_or(-1), self.time, self.observed]
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect()
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (position, rest) = bytes.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let position = Some(i64::from_be_bytes(*position)).filter(|at| *at >= 0);
        let observed = i64::from_be_bytes(rest.try_into().ok()?);
        Some(Self {
            position,
            time: i64::from_be_bytes(*time),
            observed,
        })
    }
}

/// Checks the version and gives each store its id: the one it had, or the next.
///
/// New ids become durable with the first flush, together with the first entries that use them.
pub(crate) fn assign_ids(base: &dyn ByteStore, specs: &[StoreSpec]) -> Result<Vec<u16>> {
    match base.get(&VERSION_KEY)?.as_deref() {
        Some([FORMAT_VERSION]) => {}
        None if base.is_empty()? => {}
        found => {
            let found = found.and_then(|version| version.first().copied());
            return Err(Fault::Format {
                found,
                known: FORMAT_VERSION,
            }
            .into());
        }
    }
    let mut next = FIRST_ID;
    for entry in base.scan(&NAMES, Some(&METAS))? {
        let (_, value) = entry?;
        next = next.max(parse_name_entry(&value)?.0 + 1);
    }
    specs
        .iter()
        .map(|spec| id_of(base, spec, &mut next))
        .collect()
}

fn id_of(base: &dyn ByteStore, spec: &StoreSpec, next: &mut u16) -> Result<u16> {
    let store = || spec.name.to_string();
    if let Some(value) = base.get(&name_key(spec))? {
        let (id, kind) = parse_name_entry(&value)?;
        if kind != kind_byte(spec) {
            return Err(Fault::KindChanged { store: store() }.into());
        }
        return Ok(id);
    }
    if *next == IDS_END {
        return Err(Fault::TooManyStores { store: store() }.into());
    }
    *next += 1;
    Ok(*next - 1)
}

fn parse_name_entry(value: &[u8]) -> Result<(u16, u8)> {
    match *value {
        [high, low, kind] => Ok((u16::from_be_bytes([high, low]), kind)),
        _ => Err(Fault::Corrupt {
            source: "name of a store has no id".into(),
        }
        .into()),
    }
}

fn name_key(spec: &StoreSpec) -> Vec<u8> {
    [&NAMES, spec.name.as_bytes()].concat()
}

fn kind_byte(spec: &StoreSpec) -> u8 {
    match spec.kind {
        StoreKind::KeyValue => 0,
        StoreKind::Window {
            duplicates: false, ..
        } => 1,
        StoreKind::Window {
            duplicates: true, ..
        } => 2,
    }
}

/// What is kept for the store of that id.
pub(crate) fn read_meta(base: &dyn ByteStore, id: u16) -> Result<Meta> {
    match base.get(&meta_key(id))? {
        None => Ok(Meta::NONE),
        Some(bytes) => Meta::of(&bytes).ok_or_else(|| {
            Fault::Corrupt {
                source: "position is too short".into(),
            }
            .into()
        }),
    }
}

fn meta_key(id: u16) -> Vec<u8> {
    [&METAS[..], &id.to_be_bytes()].concat()
}

/// The entries under the reserved prefix, ascending. Every flush writes all of them.
pub(crate) fn reserved_entries(stores: &[(StoreSpec, u16, Meta)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = vec![(VERSION_KEY.to_vec(), vec![FORMAT_VERSION])];
    for (spec, id, meta) in stores {
        let [high, low] = id.to_be_bytes();
        entries.push((name_key(spec), vec![high, low, kind_byte(spec)]));
        entries.push((meta_key(*id), meta.to_bytes()));
    }
    entries.sort_unstable();
    assert!(
        entries.iter().all(|(key, _)| key.starts_with(&RESERVED)),
        "the prefix is reserved"
    );
    entries
}

/// The keys of a store: from the first to the second, which is not one of them.
pub(crate) fn bounds_of(id: u16) -> ([u8; ID_BYTES], [u8; ID_BYTES]) {
    (id.to_be_bytes(), (id + 1).to_be_bytes())
}

/// The first key behind all that begin with `prefix`, which begins with a store's id.
pub(crate) fn behind_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    unreachable!("no store has the greatest id")
}

/// Appends start and sequence to a key.
#[inline]
pub(crate) fn push_window(key: &mut Vec<u8>, start: i64, sequence: u32) {
    key.extend_from_slice(&start.to_be_bytes());
    key.extend_from_slice(&sequence.to_be_bytes());
}

/// Splits a window's key as [`StoreView::range`](crate::StoreView::range) and changelogs hold it
/// into record key, start and sequence number; `None` when it is too short.
#[inline]
pub fn split_window_key(key: &[u8]) -> Option<(&[u8], i64, u32)> {
    let (rest, sequence) = key.split_last_chunk()?;
    let (key, start) = rest.split_last_chunk()?;
    Some((
        key,
        i64::from_be_bytes(*start),
        u32::from_be_bytes(*sequence),
    ))
}

/// Appends a value as it is stored: timestamp, then the value that `encode` appends.
#[inline]
pub(crate) fn push_timestamp(out: &mut Vec<u8>, timestamp: i64) {
    out.extend_from_slice(&timestamp.to_be_bytes());
}

/// Splits a stored value into timestamp and value.
#[inline]
pub(crate) fn split_timestamp(stored: &[u8]) -> Option<(i64, &[u8])> {
    let (timestamp, value) = stored.split_first_chunk()?;
    Some((i64::from_be_bytes(*timestamp), value))
}

/// How long windows are kept; `None` for a store without windows.
pub(crate) fn retention_of(spec: &StoreSpec) -> Option<i64> {
    match spec.kind {
        StoreKind::KeyValue => None,
        StoreKind::Window { retention_ms, .. } => Some(retention_ms),
    }
}

/// The first start that is not expired when `observed` is the greatest start put.
#[inline]
pub(crate) fn first_live_start(observed: i64, retention_ms: i64) -> i64 {
    observed
        .saturating_sub(retention_ms)
        .saturating_add(1)
        .max(0)
}

/// The first live start of each window store.
pub(crate) struct FirstLiveStarts(Vec<(u16, AtomicI64)>);

impl FirstLiveStarts {
    pub(crate) fn of<'a>(stores: impl Iterator<Item = &'a (StoreSpec, u16, Meta)>) -> Self {
        let mut starts: Vec<_> = stores
            .filter_map(|(spec, id, meta)| {
                let retention_ms = retention_of(spec)?;
                Some((
                    *id,
                    AtomicI64::new(first_live_start(meta.observed, retention_ms)),
                ))
            })
            .collect();
        starts.sort_unstable_by_key(|(id, _)| *id);
        Self(starts)
    }

    fn cell(&self, id: u16) -> Option<&AtomicI64> {
        let at = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.0[at].1)
    }

    /// Takes over what is later in `other`.
    pub(crate) fn advance_to(&self, other: &Self) {
        for (id, start) in &other.0 {
            if let Some(cell) = self.cell(*id) {
                cell.fetch_max(start.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// True when the entry belongs to an expired window.
    pub(crate) fn is_expired(&self, key: &[u8]) -> bool {
        let Some((id, rest)) = key.split_first_chunk() else {
            return false;
        };
        let Some(cell) = self.cell(u16::from_be_bytes(*id)) else {
            return false;
        };
        split_window_key(rest).is_some_and(|(_, start, _)| start < cell.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_every_key_with_it() {
        assert_eq!(behind_prefix(&[0, 1]), [0, 2]);
        assert_eq!(behind_prefix(&[0, 1, 7, 255, 255]), [0, 1, 8]);
        assert_eq!(behind_prefix(&[0, 1, 255]), [0, 2]);
    }

    #[test]
    fn a_meta_survives_a_round_trip() {
        for position in [None, Some(0), Some(i64::MAX)] {
            let meta = Meta {
                position,
                time: -1,
                observed: 7,
            };
            assert_eq!(Meta::of(&meta.to_bytes()), Some(meta));
        }
        assert_eq!(Meta::of(&[0; 23]), None);
    }

    #[test]
    fn only_windows_of_window_stores_expire() {
        let spec = |kind| StoreSpec {
            name: "s".into(),
            kind,
            logged: true,
        };
        let window = spec(StoreKind::Window {
            retention_ms: 5,
            duplicates: false,
        });
        let at = |observed| Meta {
            observed,
            ..Meta::NONE
        };
        let of = |observed| {
            let stores = [
                (window.clone(), 3, at(observed)),
                (spec(StoreKind::KeyValue), 2, at(observed)),
            ];
            FirstLiveStarts::of(stores.iter())
        };
        let starts = of(-1);
        starts.advance_to(&of(14));
        starts.advance_to(&of(9));
        let key = |id: u8, start| {
            let mut key = vec![0, id, b'k'];
            push_window(&mut key, start, 0);
            key
        };
        assert!(starts.is_expired(&key(3, 9)));
        assert!(!starts.is_expired(&key(3, 10)));
        assert!(!starts.is_expired(&key(2, 9)));
    }
}
