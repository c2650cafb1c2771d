//! `ExpiryQueue`: which keys have windows that expire next.

use std::{collections::BTreeMap, mem};

use crate::blob::Blob;

/// A retention is cut into so many slices; memory of a window is held longer than its retention by
/// one at most.
const SLICES: i64 = 64;

/// Keys by slice of time, so that expiry touches what expires and nothing else.
pub(crate) struct ExpiryQueue {
    slice_ms: i64,
    slices: BTreeMap<i64, Vec<Blob>>,
}

impl ExpiryQueue {
    pub(crate) fn new(retention_ms: i64) -> Self {
        Self {
            slice_ms: (retention_ms / SLICES).max(1),
            slices: BTreeMap::new(),
        }
    }

    /// True when both starts expire together, so that one entry in the queue serves both.
    pub(crate) fn same_slice(&self, start: i64, other: i64) -> bool {
        start.div_euclid(self.slice_ms) == other.div_euclid(self.slice_ms)
    }

    pub(crate) fn push(&mut self, start: i64, key: Blob) {
        self.slices
            .entry(start.div_euclid(self.slice_ms))
            .or_default()
            .push(key);
    }

    /// Takes out the keys of all slices that lie wholly before `first_live`.
    pub(crate) fn pop_before(&mut self, first_live: i64) -> impl Iterator<Item = Blob> + use<> {
        let rest = self.slices.split_off(&first_live.div_euclid(self.slice_ms));
        mem::replace(&mut self.slices, rest).into_values().flatten()
    }

    pub(crate) fn clear(&mut self) {
        self.slices.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_expires_when_its_last_start_has() {
        let mut queue = ExpiryQueue::new(640);
        let key = |k: &[u8]| Blob::from(k);
        queue.push(0, key(b"a"));
        queue.push(9, key(b"b"));
        queue.push(10, key(b"c"));
        assert!(queue.same_slice(0, 9) && !queue.same_slice(9, 10));
        assert_eq!(queue.pop_before(9).count(), 0);
        assert_eq!(
            queue.pop_before(10).collect::<Vec<_>>(),
            [key(b"a"), key(b"b")]
        );
        assert_eq!(queue.pop_before(1000).collect::<Vec<_>>(), [key(b"c")]);
    }
}
