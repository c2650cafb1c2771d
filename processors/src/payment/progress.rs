//! `Progress`: how far a partition is done when its records are done in any order.

use std::collections::BTreeSet;

/// The records of one partition that are under way.
///
/// Invariant: every record before [`done_before`](Self::done_before) is done, however many later
/// ones are.
#[derive(Debug)]
pub(super) struct Progress {
    open: BTreeSet<i64>,
    next: i64,
    committed: i64,
}

impl Progress {
    /// Reading starts at that offset.
    pub(super) fn starting_at(offset: i64) -> Self {
        Self {
            open: BTreeSet::new(),
            next: offset,
            committed: offset,
        }
    }

    /// A record was read. `false` when it was read before.
    pub(super) fn begin(&mut self, offset: i64) -> bool {
        if offset < self.next {
            return false;
        }
        self.next = offset + 1;
        self.open.insert(offset)
    }

    /// A record is done.
    pub(super) fn done(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// How many records were read and are not done.
    pub(super) fn under_way(&self) -> usize {
        self.open.len()
    }

    /// All records before this offset are done.
    pub(super) fn done_before(&self) -> i64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// The offset that is to be committed, if it has moved.
    pub(super) fn to_commit(&self) -> Option<i64> {
        let done = self.done_before();
        (done > self.committed).then_some(done)
    }

    /// That offset was committed.
    pub(super) fn committed(&mut self, offset: i64) {
        self.committed = self.committed.max(offset);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_record_holds_the_ones_behind_it() {
        let mut progress = Progress::starting_at(3);
        assert_eq!(progress.to_commit(), None);
        for offset in [3, 5, 6] {
            assert!(progress.begin(offset));
        }
        assert!(!progress.begin(5));
        progress.done(5);
        assert_eq!(progress.to_commit(), None);
        progress.done(3);
        assert_eq!(progress.to_commit(), Some(6));
        progress.committed(6);
        assert_eq!(progress.to_commit(), None);
        progress.done(6);
        assert_eq!(progress.to_commit(), Some(7));
    }

    proptest! {
        #[test]
        fn what_is_committed_is_done(order in Just((0i64..50).collect::<Vec<_>>()).prop_shuffle()) {
            let mut progress = Progress::starting_at(0);
            (0..50).for_each(|offset| assert!(progress.begin(offset)));
            let mut done = BTreeSet::new();
            for offset in order {
                progress.done(offset);
                done.insert(offset);
                let expect = (0..50).find(|o| !done.contains(o)).unwrap_or(50);
                prop_assert_eq!(progress.done_before(), expect);
            }
        }
    }
}
