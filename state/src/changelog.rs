//! Changelog records become entries of the committed layer.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use millstream_topology::StoreKind;

use crate::{
    blob::Blob,
    committed::Change,
    layout::{Suffix, Times, numbers, push_timestamp},
};

/// The key of the record that tells the times of a store whose operator keeps one. It is too short
/// for the key of a window or a session, and no key of a buffer begins with a zero byte.
pub(crate) const TIMES_KEY: &[u8] = &[0];

/// The value of the record with [`TIMES_KEY`]: the observed time, then those of the inputs.
pub(crate) fn times_value(times: &Times, observed: i64) -> Vec<u8> {
    let numbers = std::iter::once(observed).chain(times.iter());
    numbers.flat_map(i64::to_be_bytes).collect()
}

fn read_times(value: &[u8]) -> Option<(Times, i64)> {
    let mut numbers = numbers(value)?;
    let observed = numbers.next()?;
    Some((Times::collect(numbers)?, observed))
}

/// True when the times of stores of that kind are logged.
pub(crate) fn logs_times(kind: StoreKind) -> bool {
    match kind {
        StoreKind::KeyValue => false,
        StoreKind::Window { .. } | StoreKind::Session { .. } | StoreKind::Buffer => true,
    }
}

/// What records amount to: the last change of each key, and the times that they tell.
pub(crate) struct Folded {
    /// Strictly ascending by key.
    pub(crate) changes: Vec<Change>,
    /// Greatest timestamp, window start or session end; -1 when there was no record.
    pub(crate) time: i64,
    /// Greatest window start or session end; -1 for a store without them.
    pub(crate) observed: i64,
    /// What the last record that tells times says.
    pub(crate) times: Option<Times>,
}

/// Folds the records of the store with that id; later ones win.
pub(crate) fn fold<'a>(
    id: u16,
    kind: StoreKind,
    records: &mut (dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>, i64)> + 'a),
) -> Folded {
    let mut last: HashMap<Blob, Option<Blob>, RandomState> = HashMap::default();
    let (mut time, mut observed, mut told) = (-1, -1, None);
    let suffix = Suffix::of(kind);
    let (mut full_key, mut stored) = (Vec::new(), Vec::new());
    for (key, value, timestamp) in records {
        if key == TIMES_KEY && logs_times(kind) {
            if let Some((times, at)) = value.and_then(read_times) {
                observed = observed.max(at);
                told = Some(times);
            }
            continue;
        }
        time = time.max(timestamp);
        if let Some((_, at, _)) = suffix.and_then(|suffix| suffix.split(key)) {
            observed = observed.max(at);
        }
        full_key.clear();
        full_key.extend_from_slice(&id.to_be_bytes());
        full_key.extend_from_slice(key);
        let value = value.map(|value| {
            stored.clear();
            push_timestamp(&mut stored, timestamp);
            stored.extend_from_slice(value);
            Blob::from(&stored[..])
        });
        match last.get_mut(&full_key[..]) {
            Some(present) => *present = value,
            None => drop(last.insert(Blob::from(&full_key[..]), value)),
        }
    }
    let mut changes: Vec<_> = last.into_iter().collect();
    changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Folded {
        changes,
        time: time.max(observed),
        observed,
        times: told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: StoreKind = StoreKind::Window {
        retention_ms: 100,
        duplicates: false,
    };

    type LogRecord = (&'static [u8], Option<&'static [u8]>, i64);

    #[test]
    fn the_last_record_of_a_key_wins_and_keys_ascend() {
        let records: [LogRecord; 4] = [
            (b"b", Some(b"1"), 5),
            (b"a", Some(b"2"), 9),
            (b"b", None, 6),
            (b"a", Some(b"3"), 7),
        ];
        let folded = fold(1, StoreKind::KeyValue, &mut records.into_iter());
        let keys: Vec<&[u8]> = folded.changes.iter().map(|(key, _)| &key[2..]).collect();
        assert_eq!(keys, [b"a", b"b"]);
        let value = folded.changes[0].1.as_deref();
        assert_eq!(value, Some(&[0, 0, 0, 0, 0, 0, 0, 7, b'3'][..]));
        assert_eq!(folded.changes[1].1.as_deref(), None);
        assert_eq!((folded.time, folded.observed), (9, -1));
    }

    #[test]
    fn window_starts_move_both_times() {
        let mut key = b"k".to_vec();
        Suffix::Window.push(&mut key, 60, 0);
        let mut records = [(&key[..], Some(&b"1"[..]), 12)].into_iter();
        let folded = fold(1, WINDOWS, &mut records);
        assert_eq!((folded.time, folded.observed, folded.times), (60, 60, None));
    }

    #[test]
    fn a_record_of_times_is_no_entry() {
        let mut times = Times::one(7);
        times.set(1, 5);
        let value = times_value(&times, 9);
        let records: [(&[u8], Option<&[u8]>, i64); 1] = [(TIMES_KEY, Some(&value), 90)];
        let folded = fold(1, WINDOWS, &mut records.into_iter());
        assert_eq!((folded.changes.len(), folded.observed), (0, 9));
        assert_eq!(folded.times, Some(times));

        let folded = fold(1, StoreKind::KeyValue, &mut records.into_iter());
        assert_eq!(
            (folded.changes.len(), folded.times),
            (1, None),
            "a key like any other"
        );
    }
}
