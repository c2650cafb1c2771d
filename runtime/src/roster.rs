//! `Roster`: the stream threads of an application by their indices: which there should be, and
//! which are about to leave.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::config::THREADS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Wanted,
    Leaving,
}

/// Who has which place. An index names a member of the group and a transactional id, so nobody gets
/// it before the thread that had it has left.
pub(crate) struct Roster(Mutex<BTreeMap<usize, Place>>);

impl Roster {
    /// So many threads are wanted.
    pub(crate) fn of(threads: usize) -> Self {
        let places = (0..threads).map(|index| (index, Place::Wanted));
        Self(Mutex::new(places.collect()))
    }

    // Nothing that runs under the lock panics half-way through a change.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest index that is free, for one more thread; `None` when there are too many already.
    pub(crate) fn add(&self) -> Option<usize> {
        let mut places = self.lock();
        let free = (0..THREADS_MAX).find(|index| !places.contains_key(index))?;
        places.insert(free, Place::Wanted);
        Some(free)
    }

    /// The thread of the highest index is not wanted any more; `None` when none is wanted anyway.
    pub(crate) fn dismiss(&self) -> Option<usize> {
        let mut places = self.lock();
        let mut wanted = places.iter_mut().filter(|(_, p)| **p == Place::Wanted);
        let (index, place) = wanted.next_back()?;
        *place = Place::Leaving;
        Some(*index)
    }

    /// The thread has left, or never came: another may have its index.
    pub(crate) fn free(&self, index: usize) {
        self.lock().remove(&index);
    }

    pub(crate) fn is_leaving(&self, index: usize) -> bool {
        self.lock().get(&index) == Some(&Place::Leaving)
    }

    /// How many threads there should be.
    pub(crate) fn wanted(&self) -> usize {
        let places = self.lock();
        places.values().filter(|p| **p == Place::Wanted).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_given_again_once_its_thread_has_left_and_not_before() {
        let roster = Roster::of(2);
        assert_eq!(roster.dismiss(), Some(1));
        assert!(roster.is_leaving(1) && !roster.is_leaving(0));
        assert_eq!(roster.add(), Some(2));
        roster.free(1);
        assert_eq!(roster.add(), Some(1));
        assert_eq!(roster.wanted(), 3);
    }

    #[test]
    fn who_leaves_already_is_not_asked_again() {
        let roster = Roster::of(2);
        let asked: Vec<_> = (0..3).map(|_| roster.dismiss()).collect();
        assert_eq!(asked, [Some(1), Some(0), None]);
        assert_eq!(roster.wanted(), 0);
    }

    #[test]
    fn those_who_leave_count_towards_the_bound() {
        let roster = Roster::of(THREADS_MAX);
        assert_eq!(roster.add(), None);
        let gone = roster.dismiss().expect("there are some");
        assert_eq!(roster.add(), None);
        roster.free(gone);
        assert_eq!(roster.add(), Some(gone));
    }
}
