//! `Share`: what a group of the new protocol has given to a member. The group changes it piece by
//! piece; the caller is told whole assignments.

use crate::{Event, TopicPartition};

/// A change that the group waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// These partitions come in addition.
    Give(Vec<TopicPartition>),
    /// These partitions go.
    Take {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
}

/// What to do next about a change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    /// Tell the caller, and wait for its answer.
    Tell(Event),
    /// The caller has nothing to say about it: answer the group.
    Answer(Change),
}

/// Invariant: a partition is in `held` exactly while librdkafka has it assigned.
#[derive(Debug, Default)]
pub(super) struct Share {
    held: Vec<TopicPartition>,
    change: Option<Change>,
}

impl Share {
    /// The group wants a change. `told` says whether the caller has an assignment.
    pub(super) fn hear(&mut self, change: Change, told: bool) -> Next {
        let lost = matches!(change, Change::Take { lost: true, .. });
        match (told, change) {
            (true, change) => {
                self.change = Some(change);
                Next::Tell(Event::Revoked { lost })
            }
            (false, change @ Change::Give(_)) => {
                self.change = Some(change);
                Next::Tell(Event::Assigned(self.whole()))
            }
            (false, change @ Change::Take { .. }) => {
                self.forget(&change);
                Next::Answer(change)
            }
        }
    }

    /// The caller has let go of everything. What is to be answered, if anything.
    pub(super) fn let_go(&mut self) -> Option<Change> {
        let change = self
            .change
            .take_if(|change| matches!(change, Change::Take { .. }))?;
        self.forget(&change);
        Some(change)
    }

    /// The caller has let go, so that it can be given more: what it is told now.
    pub(super) fn to_tell(&self) -> Option<Event> {
        let waits = matches!(self.change, Some(Change::Give(_)));
        waits.then(|| Event::Assigned(self.whole()))
    }

    /// The caller has taken the whole: what of it is new to the client.
    pub(super) fn taken(&mut self) -> Option<Vec<TopicPartition>> {
        match self.change.take()? {
            Change::Give(added) => {
                self.held.extend(added.iter().cloned());
                Some(added)
            }
            change @ Change::Take { .. } => {
                self.change = Some(change);
                None
            }
        }
    }

    /// What was not answered yet, at the end.
    pub(super) fn unanswered(&mut self) -> Option<Change> {
        self.change.take()
    }

    fn forget(&mut self, change: &Change) {
        if let Change::Take { partitions, .. } = change {
            self.held.retain(|held| !partitions.contains(held));
        }
    }

    /// What the caller has when it agrees.
    pub(super) fn whole(&self) -> Vec<TopicPartition> {
        let added = match &self.change {
            Some(Change::Give(added)) => &added[..],
            Some(Change::Take { .. }) | None => &[],
        };
        let mut whole: Vec<_> = self.held.iter().chain(added).cloned().collect();
        whole.sort_unstable();
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(partitions: &[i32]) -> Vec<TopicPartition> {
        let of = |p: &i32| TopicPartition::new("t", *p);
        partitions.iter().map(of).collect()
    }

    fn take(partitions: &[i32], lost: bool) -> Change {
        Change::Take {
            partitions: of(partitions),
            lost,
        }
    }

    #[test]
    fn partitions_that_come_in_addition_are_told_with_those_kept() {
        let mut share = Share::default();
        let give = |partitions| Change::Give(of(partitions));
        let told = share.hear(give(&[2]), false);
        assert_eq!(told, Next::Tell(Event::Assigned(of(&[2]))));
        assert_eq!(share.taken(), Some(of(&[2])));

        let told = share.hear(give(&[0, 1]), true);
        assert_eq!(told, Next::Tell(Event::Revoked { lost: false }));
        assert_eq!(share.let_go(), None, "the group takes nothing");
        assert_eq!(share.to_tell(), Some(Event::Assigned(of(&[0, 1, 2]))));
        assert_eq!(share.taken(), Some(of(&[0, 1])));
        assert_eq!(share.to_tell(), None);
    }

    #[test]
    fn partitions_that_go_are_answered_when_the_caller_has_let_go() {
        let mut share = Share::default();
        share.hear(Change::Give(of(&[0, 1])), false);
        share.taken();
        let told = share.hear(take(&[1], false), true);
        assert_eq!(told, Next::Tell(Event::Revoked { lost: false }));
        assert_eq!(share.let_go(), Some(take(&[1], false)));
        // The group gives what it has in exchange, be it nothing.
        let told = share.hear(Change::Give(of(&[])), false);
        assert_eq!(told, Next::Tell(Event::Assigned(of(&[0]))));
    }

    #[test]
    fn a_caller_without_an_assignment_is_not_asked_for_it() {
        let mut share = Share::default();
        share.hear(Change::Give(of(&[0])), false);
        share.taken();
        share.hear(take(&[0], true), true);
        assert_eq!(share.let_go(), Some(take(&[0], true)));
        let told = share.hear(take(&[], true), false);
        assert_eq!(told, Next::Answer(take(&[], true)));
        assert_eq!(share.to_tell(), None);
    }
}
