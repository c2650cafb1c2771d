//! Where entries lie in a base: store ids, the reserved prefix, window keys, timestamped values.
//!
//! ```text
//! 0x0000 ‖ 0                  format version
//! 0x0000 ‖ 1 ‖ store name     store id (2), kind (1)
//! 0x0000 ‖ 2 ‖ store id       changelog position (8), stream time (8), observed time (8),
//!                             stream times of further inputs (8 each)
//! 0x0000 ‖ 3 ‖ store id       when it was level with its changelog, in ms since the epoch (8)
//! id ‖ key                    timestamp (8) ‖ value                    of a key-value store
//! id ‖ key ‖ start (8) ‖ sequence (4)      timestamp (8) ‖ value       of a window store
//! id ‖ key ‖ end (8) ‖ start (8)           timestamp (8) ‖ value       of a session store
//! ```
//! Integers are big-endian. Behind the id, keys and values are those of Kafka Streams.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI64, Ordering},
};

use millstream_topology::{StoreKind, StoreSpec};

use crate::{ByteStore, Fault, Result};

/// The version that this program writes and the only one that it reads.
pub(crate) const FORMAT_VERSION: u8 = 1;
/// Bytes of the store id in front of every key.
pub(crate) const ID_BYTES: usize = 2;
/// Bytes of the timestamp in front of every value.
pub(crate) const TIMESTAMP_BYTES: usize = 8;

const RESERVED: [u8; ID_BYTES] = [0, 0];
const VERSION_KEY: [u8; 3] = [0, 0, 0];
const NAMES: [u8; 3] = [0, 0, 1];
const METAS: [u8; 3] = [0, 0, 2];
/// Behind the metas, and beside them: what wrote only those is still read.
const LEVELS: [u8; 3] = [0, 0, 3];
const FIRST_ID: u16 = 1;
/// The greatest id has no successor, so it is never given.
const IDS_END: u16 = u16::MAX;

/// What is kept for a store beside its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Changelog offset behind the last record that the entries reflect.
    pub(crate) position: Option<i64>,
    /// What operators keep with the store.
    pub(crate) times: Times,
    /// Greatest start put into a window store, greatest end put into a session store; -1 at first.
    pub(crate) observed: i64,
    /// When the entries were last known to reflect all of the changelog, in milliseconds since the
    /// Unix epoch.
    pub(crate) level_ms: Option<i64>,
}

/// The stream times that operators keep with a store: one for each input that shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    first: i64,
    others: Vec<i64>,
}

impl Times {
    pub(crate) const NONE: Self = Self::one(-1);

    /// The time of a store with one input.
    pub(crate) const fn one(first: i64) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }

    /// The time of an input; -1 at first.
    #[inline]
    pub(crate) fn of(&self, input: usize) -> i64 {
        match input.checked_sub(1) {
            None => self.first,
            Some(other) => self.others.get(other).copied().unwrap_or(-1),
        }
    }

    #[inline]
    pub(crate) fn set(&mut self, input: usize, time: i64) {
        match input.checked_sub(1) {
            None => self.first = time,
            Some(other) => {
                if self.others.len() <= other {
                    self.others.resize(other + 1, -1);
                }
                self.others[other] = time;
            }
        }
    }

    /// True when several inputs share the store, so that none of their times can be told from its
    /// entries.
    pub(crate) fn are_several(&self) -> bool {
        !self.others.is_empty()
    }

    /// Greatest of them.
    pub(crate) fn latest(&self) -> i64 {
        self.others
            .iter()
            .fold(self.first, |latest, other| latest.max(*other))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// The times that [`iter`](Self::iter) gave; `None` when there is none.
    pub(crate) fn collect(mut times: impl Iterator<Item = i64>) -> Option<Self> {
        Some(Self {
            first: times.next()?,
            others: times.collect(),
        })
    }
}

impl Meta {
    pub(crate) const NONE: Self = Self {
        position: None,
        times: Times::NONE,
        observed: -1,
        level_ms: None,
    };

    /// All but [`level_ms`](Self::level_ms), which lies beside it.
    fn to_bytes(&self) -> Vec<u8> {
        let Times { first, others } = &self.times;
        let fixed = [self.position.unwrap_or(-1), *first, self.observed];
        let numbers = fixed.iter().chain(others);
        numbers.flat_map(|n| n.to_be_bytes()).collect()
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let mut numbers = numbers(bytes)?;
        let (position, first, observed) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self {
            position: Some(position).filter(|at| *at >= 0),
            times: Times {
                first,
                others: numbers.collect(),
            },
            observed,
            level_ms: None,
        })
    }
}

/// Big-endian numbers of eight bytes; `None` when bytes are left.
pub(crate) fn numbers(bytes: &[u8]) -> Option<impl Iterator<Item = i64> + '_> {
    let (chunks, rest) = bytes.as_chunks();
    rest.is_empty()
        .then(|| chunks.iter().map(|chunk| i64::from_be_bytes(*chunk)))
}

/// A store's place in a base.
pub(crate) struct Place {
    pub(crate) id: u16,
    pub(crate) meta: Meta,
    /// True when there is no entry.
    pub(crate) is_empty: bool,
}

/// Checks the version and gives each store its place: the one it had, or the next.
///
/// New ids become durable with the first flush, together with the first entries that use them.
///
/// Invariant: name and meta of a store are written with its entries, so no base has one without the
/// others.
pub(crate) fn places_of(base: &dyn ByteStore, specs: &[StoreSpec]) -> Result<Vec<Place>> {
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
    let mut ids = BTreeSet::new();
    for entry in base.scan(&NAMES, Some(&METAS))? {
        let (_, value) = entry?;
        ids.insert(parse_name_entry(&value)?.0);
    }
    for entry in base.scan(&METAS, Some(&LEVELS))? {
        let (key, _) = entry?;
        let id = key[METAS.len()..].try_into().map(u16::from_be_bytes);
        if !id.is_ok_and(|id| ids.contains(&id)) {
            return Err(Fault::corrupt("there is a position without a store"));
        }
    }
    let mut next = ids.last().map_or(FIRST_ID, |last| last + 1);
    specs
        .iter()
        .map(|spec| place_of(base, spec, &mut next))
        .collect()
}

fn place_of(base: &dyn ByteStore, spec: &StoreSpec, next: &mut u16) -> Result<Place> {
    let known = id_of(base, spec)?;
    let id = known.map_or_else(|| next_id(spec, next), Ok)?;
    let (first, end) = bounds_of(id);
    let is_empty = base.scan(&first, Some(&end))?.next().transpose()?.is_none();
    let meta = match (read_meta(base, id)?, known) {
        (Some(meta), Some(_)) => meta,
        (None, None) if is_empty => Meta::NONE,
        (Some(_), None) | (None, None) => {
            return Err(Fault::corrupt(
                "there are entries of a store without a name",
            ));
        }
        (None, Some(_)) => {
            let store = &spec.name;
            return Err(Fault::corrupt(format!(
                "store has no position. store=`{store}`"
            )));
        }
    };
    Ok(Place { id, meta, is_empty })
}

fn id_of(base: &dyn ByteStore, spec: &StoreSpec) -> Result<Option<u16>> {
    let Some(value) = base.get(&name_key(spec))? else {
        return Ok(None);
    };
    let (id, kind) = parse_name_entry(&value)?;
    if kind != kind_byte(spec) {
        let store = spec.name.to_string();
        return Err(Fault::KindChanged { store }.into());
    }
    Ok(Some(id))
}

fn next_id(spec: &StoreSpec, next: &mut u16) -> Result<u16> {
    if *next == IDS_END {
        let store = spec.name.to_string();
        return Err(Fault::TooManyStores { store }.into());
    }
    *next += 1;
    Ok(*next - 1)
}

fn parse_name_entry(value: &[u8]) -> Result<(u16, u8)> {
    match *value {
        [high, low, kind] => Ok((u16::from_be_bytes([high, low]), kind)),
        _ => Err(Fault::corrupt("name of a store has no id")),
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
        StoreKind::Session { .. } => 3,
        StoreKind::Buffer => 4,
    }
}

/// What is kept for the store of that id.
fn read_meta(base: &dyn ByteStore, id: u16) -> Result<Option<Meta>> {
    let Some(bytes) = base.get(&meta_key(id))? else {
        return Ok(None);
    };
    let mut meta = Meta::of(&bytes).ok_or_else(|| Fault::corrupt("position is too short"))?;
    if let Some(bytes) = base.get(&level_key(id))? {
        let bytes = bytes[..].try_into();
        let bytes = bytes.map_err(|_| Fault::corrupt("time of a store has no eight bytes"))?;
        meta.level_ms = Some(i64::from_be_bytes(bytes));
    }
    Ok(Some(meta))
}

fn meta_key(id: u16) -> Vec<u8> {
    [&METAS[..], &id.to_be_bytes()].concat()
}

fn level_key(id: u16) -> Vec<u8> {
    [&LEVELS[..], &id.to_be_bytes()].concat()
}

/// The entries under the reserved prefix, ascending. Every flush writes all of them.
pub(crate) fn reserved_entries(stores: &[(StoreSpec, u16, Meta)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = vec![(VERSION_KEY.to_vec(), vec![FORMAT_VERSION])];
    for (spec, id, meta) in stores {
        let [high, low] = id.to_be_bytes();
        entries.push((name_key(spec), vec![high, low, kind_byte(spec)]));
        entries.push((meta_key(*id), meta.to_bytes()));
        let level = meta.level_ms.map(|at| at.to_be_bytes().to_vec());
        entries.extend(level.map(|at| (level_key(*id), at)));
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

/// What lies behind the key where entries expire: the time that they expire by, and the rank, which
/// orders those of one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suffix {
    /// Start of a window, and a sequence number.
    Window,
    /// End of a session, and its start.
    Session,
}

impl Suffix {
    /// That of a kind of store; `None` where nothing expires.
    pub(crate) fn of(kind: StoreKind) -> Option<Self> {
        match kind {
            StoreKind::KeyValue | StoreKind::Buffer => None,
            StoreKind::Window { .. } => Some(Self::Window),
            StoreKind::Session { .. } => Some(Self::Session),
        }
    }

    /// How many bytes it has.
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Window => 12,
            Self::Session => 16,
        }
    }

    /// Appends it to a key.
    #[inline]
    pub(crate) fn push(self, key: &mut Vec<u8>, time: i64, rank: i64) {
        key.extend_from_slice(&time.to_be_bytes());
        match self {
            Self::Window => key.extend_from_slice(&(rank as u32).to_be_bytes()),
            Self::Session => key.extend_from_slice(&rank.to_be_bytes()),
        }
    }

    /// Splits what [`push`](Self::push) made into key, time and rank; `None` when it is too short.
    #[inline]
    pub(crate) fn split(self, key: &[u8]) -> Option<(&[u8], i64, i64)> {
        match self {
            Self::Window => {
                let (key, start, sequence) = split_window_key(key)?;
                Some((key, start, i64::from(sequence)))
            }
            Self::Session => {
                let (key, start, end) = split_session_key(key)?;
                Some((key, end, start))
            }
        }
    }

    /// How long entries are kept where reads show them for `retention_ms`. A session is hidden from
    /// its operator a millisecond before it is passed on as closed, and so outlives that.
    pub(crate) const fn kept_ms(self, retention_ms: i64) -> i64 {
        match self {
            Self::Window => retention_ms,
            Self::Session => retention_ms.saturating_add(1),
        }
    }
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

/// Splits a session's key as [`StoreView::range`](crate::StoreView::range) and changelogs hold it
/// into record key, start and end; `None` when it is too short.
#[inline]
pub fn split_session_key(key: &[u8]) -> Option<(&[u8], i64, i64)> {
    let (rest, start) = key.split_last_chunk()?;
    let (key, end) = rest.split_last_chunk()?;
    Some((key, i64::from_be_bytes(*start), i64::from_be_bytes(*end)))
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

/// How long reads show windows and sessions; `None` for a store without them.
pub(crate) fn retention_of(kind: StoreKind) -> Option<i64> {
    match kind {
        StoreKind::KeyValue | StoreKind::Buffer => None,
        StoreKind::Window { retention_ms, .. } | StoreKind::Session { retention_ms } => {
            Some(retention_ms)
        }
    }
}

/// The first time that is not expired when `observed` is the greatest one put.
#[inline]
pub(crate) fn first_live_time(observed: i64, retention_ms: i64) -> i64 {
    observed
        .saturating_sub(retention_ms)
        .saturating_add(1)
        .max(0)
}

/// The first time that is kept, of each store whose entries expire.
pub(crate) struct FirstKept(Vec<(u16, Suffix, AtomicI64)>);

impl FirstKept {
    pub(crate) fn of<'a>(stores: impl Iterator<Item = &'a (StoreSpec, u16, Meta)>) -> Self {
        let mut times: Vec<_> = stores
            .filter_map(|(spec, id, meta)| {
                let suffix = Suffix::of(spec.kind)?;
                let kept_ms = suffix.kept_ms(retention_of(spec.kind)?);
                let first = AtomicI64::new(first_live_time(meta.observed, kept_ms));
                Some((*id, suffix, first))
            })
            .collect();
        times.sort_unstable_by_key(|(id, ..)| *id);
        Self(times)
    }

    fn cell(&self, id: u16) -> Option<(Suffix, &AtomicI64)> {
        let at = self.0.binary_search_by_key(&id, |(id, ..)| *id).ok()?;
        let (_, suffix, cell) = &self.0[at];
        Some((*suffix, cell))
    }

    /// Takes over what is later in `other`.
    pub(crate) fn advance_to(&self, other: &Self) {
        for (id, _, first) in &other.0 {
            if let Some((_, cell)) = self.cell(*id) {
                cell.fetch_max(first.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// True when the entry has expired.
    pub(crate) fn is_expired(&self, key: &[u8]) -> bool {
        let Some((id, rest)) = key.split_first_chunk() else {
            return false;
        };
        let Some((suffix, cell)) = self.cell(u16::from_be_bytes(*id)) else {
            return false;
        };
        let entry = suffix.split(rest);
        entry.is_some_and(|(_, time, _)| time < cell.load(Ordering::Relaxed))
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
            for inputs in 1..3 {
                let mut times = Times::NONE;
                times.set(inputs, 9);
                let meta = Meta {
                    position,
                    times,
                    observed: 7,
                    level_ms: None,
                };
                assert_eq!(meta.times.of(inputs), 9);
                assert_eq!(Meta::of(&meta.to_bytes()), Some(meta));
            }
        }
        assert_eq!(Meta::of(&Meta::NONE.to_bytes()), Some(Meta::NONE));
        assert_eq!(Meta::of(&[0; 23]), None);
    }

    #[test]
    fn only_windows_and_sessions_expire() {
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
                (
                    spec(StoreKind::Session { retention_ms: 5 }),
                    4,
                    at(observed),
                ),
            ];
            FirstKept::of(stores.iter())
        };
        let starts = of(-1);
        starts.advance_to(&of(14));
        starts.advance_to(&of(9));
        let key = |id: u8, start| {
            let mut key = vec![0, id, b'k'];
            Suffix::Window.push(&mut key, start, 0);
            key
        };
        let session = |end| {
            let mut key = vec![0, 4, b'k'];
            Suffix::Session.push(&mut key, end, 0);
            key
        };
        assert!(starts.is_expired(&key(3, 9)));
        assert!(!starts.is_expired(&key(3, 10)));
        assert!(!starts.is_expired(&key(2, 9)));
        assert!(starts.is_expired(&session(8)));
        assert!(
            !starts.is_expired(&session(9)),
            "kept for a millisecond more"
        );
    }
}
