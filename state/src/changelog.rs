//! Changelog records become entries of the committed layer.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::{
    blob::Blob,
    committed::Change,
    layout::{push_timestamp, split_window_key},
};

/// What records amount to: the last change of each key, and the times that they tell.
pub(crate) struct Folded {
    /// Strictly ascending by key.
    pub(crate) changes: Vec<Change>,
    /// Greatest timestamp or window start; -1 when there was no record.
    pub(crate) time: i64,
    /// Greatest window start; -1 for a store without windows.
    pub(crate) observed: i64,
}

/// Folds the records of the store with that id; later ones win.
pub(crate) fn fold<'a>(
    id: u16,
    windowed: bool,
    records: &mut (dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>, i64)> + 'a),
) -> Folded {
    let mut last: HashMap<Blob, Option<Blob>, RandomState> = HashMap::default();
    let (mut time, mut observed) = (-1, -1);
    let (mut full_key, mut stored) = (Vec::new(), Vec::new());
    for (key, value, timestamp) in records {
        time = time.max(timestamp);
        if windowed && let Some((_, start, _)) = split_window_key(key) {
            observed = observed.max(start);
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::push_window;

    type LogRecord = (&'static [u8], Option<&'static [u8]>, i64);

    #[test]
    fn the_last_record_of_a_key_wins_and_keys_ascend() {
        let records: [LogRecord; 4] = [
            (b"b", Some(b"1"), 5),
            (b"a", Some(b"2"), 9),
            (b"b", None, 6),
            (b"a", Some(b"3"), 7),
        ];
        let folded = fold(1, false, &mut records.into_iter());
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
        push_window(&mut key, 60, 0);
        let mut records = [(&key[..], Some(&b"1"[..]), 12)].into_iter();
        let folded = fold(1, true, &mut records);
        assert_eq!((folded.time, folded.observed), (60, 60));
    }
}
