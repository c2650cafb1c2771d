//! Compares what stands in a partition with what tasks should have written there.

use std::collections::{HashMap, VecDeque};

use super::mark::{Due, Found, Mark};

/// Ways in which the records of several tasks may be interleaved, while they are told apart. Equal
/// records of several tasks make them many.
const WAYS_MAX: usize = 4_096;

/// What is wrong with a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    /// A record that is due does not stand there.
    Lost(Due),
    /// A record stands there once more.
    Twice(Found),
    /// A record stands there that nothing makes.
    Extra(Found),
    /// A record is not what it should be.
    Differs { due: Due, found: Found },
    /// A record stands where the order of some task does not allow it.
    Order(Found),
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) wrong: Vec<Wrong>,
    /// Too many tasks write equal records to tell which is whose: that each is there is checked,
    /// and not the order.
    pub(crate) order_unknown: bool,
}

/// Compares a partition with the sequences that its tasks should have written: it must be an
/// interleaving of them.
pub(crate) fn every(tasks: &[&[Due]], found: &[Found]) -> Compared {
    let marks = |dues: &&[Due]| dues.iter().map(|due| due.mark).collect();
    let sequences: Vec<Vec<Mark>> = tasks.iter().map(marks).collect();
    match interleaved(&sequences, found) {
        Interleaved::Yes => return Compared::default(),
        Interleaved::Unknown | Interleaved::Not(_) => {}
    }
    let mut counted = count(tasks, found);
    let mut order_unknown = false;
    match interleaved(&counted.sequences, &counted.found) {
        Interleaved::Yes => {}
        Interleaved::Unknown => order_unknown = true,
        Interleaved::Not(at) => {
            let at = counted.found[at];
            counted.wrong.push(Wrong::Order(at));
        }
    }
    Compared {
        wrong: counted.wrong,
        order_unknown,
    }
}

/// As [`every`], without any order.
pub(crate) fn pool(dues: &[Due], found: &[Found]) -> Compared {
    Compared {
        wrong: count(&[dues], found).wrong,
        order_unknown: false,
    }
}

enum Interleaved {
    Yes,
    /// The record at that place cannot stand there, or is the last before one is missing.
    Not(usize),
    Unknown,
}

fn interleaved(tasks: &[Vec<Mark>], found: &[Found]) -> Interleaved {
    let mut ways: Vec<Vec<usize>> = vec![vec![0; tasks.len()]];
    for (place, record) in found.iter().enumerate() {
        let fits = |way: &[usize], task: usize| tasks[task].get(way[task]) == Some(&record.mark);
        if let [way] = ways.as_mut_slice() {
            let mut fitting = (0..tasks.len()).filter(|task| fits(way, *task));
            if let (Some(only), None) = (fitting.next(), fitting.next()) {
                way[only] += 1;
                continue;
            }
        }
        let mut next: Vec<Vec<usize>> = Vec::new();
        for way in &ways {
            for task in (0..tasks.len()).filter(|task| fits(way, *task)) {
                let mut further = way.clone();
                further[task] += 1;
                next.push(further);
            }
        }
        next.sort_unstable();
        next.dedup();
        if next.is_empty() {
            return Interleaved::Not(place);
        }
        if next.len() > WAYS_MAX {
            return Interleaved::Unknown;
        }
        ways = next;
    }
    let due: usize = tasks.iter().map(Vec::len).sum();
    if due == found.len() {
        Interleaved::Yes
    } else {
        Interleaved::Not(found.len().saturating_sub(1))
    }
}

/// What is left of dues and records when those that do not fit are put right.
struct Counted {
    wrong: Vec<Wrong>,
    sequences: Vec<Vec<Mark>>,
    found: Vec<Found>,
}

/// Looks for each record among the dues, wherever they stand.
fn count(tasks: &[&[Due]], found: &[Found]) -> Counted {
    let mut open: HashMap<Mark, usize> = HashMap::new();
    for due in tasks.iter().copied().flatten() {
        *open.entry(due.mark).or_default() += 1;
    }
    let mut spare: Vec<Found> = Vec::new();
    let mut twice: Vec<Found> = Vec::new();
    let mut fits = vec![false; found.len()];
    for (record, fits) in found.iter().zip(&mut fits) {
        match open.get_mut(&record.mark) {
            Some(0) => twice.push(*record),
            Some(left) => {
                *left -= 1;
                *fits = true;
            }
            None => spare.push(*record),
        }
    }
    // The last copies of what is missing are missing.
    let mut lost: HashMap<u64, VecDeque<Due>> = HashMap::new();
    let mut sequences: Vec<Vec<Mark>> = Vec::new();
    for dues in tasks {
        let mut kept = Vec::with_capacity(dues.len());
        for due in dues.iter().rev() {
            match open.get_mut(&due.mark) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    lost.entry(due.mark.key).or_default().push_front(*due);
                }
                Some(_) | None => kept.push(due.mark),
            }
        }
        kept.reverse();
        sequences.push(kept);
    }
    let mut wrong: Vec<Wrong> = twice.into_iter().map(Wrong::Twice).collect();
    for record in spare {
        let of_key = lost.get_mut(&record.mark.key);
        wrong.push(match of_key.and_then(VecDeque::pop_front) {
            Some(due) => Wrong::Differs { due, found: record },
            None => Wrong::Extra(record),
        });
    }
    let mut lost: Vec<Due> = lost.into_values().flatten().collect();
    lost.sort_unstable_by_key(|due| due.origin);
    wrong.extend(lost.into_iter().map(Wrong::Lost));
    let fitting = found.iter().zip(&fits).filter(|(_, fits)| **fits);
    let found = fitting.map(|(record, _)| *record).collect();
    Counted {
        wrong,
        sequences,
        found,
    }
}

/// Compares a partition with what its tasks may write of each key: some of the changes in their
/// order, and the last one for certain.
pub(crate) fn latest(tasks: &[&[Due]], found: &[Found]) -> Compared {
    let mut keys: HashMap<u64, Key<'_>> = HashMap::new();
    for dues in tasks {
        for due in *dues {
            keys.entry(due.mark.key).or_default().dues.push(due);
        }
    }
    let mut compared = Compared::default();
    for record in found {
        match keys.get_mut(&record.mark.key) {
            Some(key) => compared.wrong.extend(key.take(*record)),
            None => compared.wrong.push(Wrong::Extra(*record)),
        }
    }
    let mut lost: Vec<Due> = keys.into_values().filter_map(|key| key.lost()).collect();
    lost.sort_unstable_by_key(|due| due.origin);
    compared.wrong.extend(lost.into_iter().map(Wrong::Lost));
    compared
}

/// The changes of one key. All of them are of one task: equal keys are of one task.
#[derive(Default)]
struct Key<'a> {
    dues: Vec<&'a Due>,
    /// How many of them have been told or passed over.
    passed: usize,
    last: Option<Mark>,
    /// One record differed from what was due: that explains a last change that is missing.
    differed: bool,
}

impl Key<'_> {
    fn take(&mut self, found: Found) -> Option<Wrong> {
        let ahead = &self.dues[self.passed..];
        if let Some(at) = ahead.iter().position(|due| due.mark == found.mark) {
            self.passed += at + 1;
            self.last = Some(found.mark);
            return None;
        }
        let before = &self.dues[..self.passed];
        if self.last == Some(found.mark) {
            return Some(Wrong::Twice(found));
        }
        if before.iter().any(|due| due.mark == found.mark) {
            return Some(Wrong::Order(found));
        }
        self.differed = true;
        Some(match ahead.last().or(before.last()) {
            Some(due) => Wrong::Differs { due: **due, found },
            None => Wrong::Extra(found),
        })
    }

    fn lost(&self) -> Option<Due> {
        let last = self.dues.last()?;
        let told = self.last == Some(last.mark) || self.differed;
        (!told).then_some(**last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::mark::Origin;

    fn mark(key: u64, value: u64) -> Mark {
        Mark {
            key,
            value,
            timestamp: 0,
            headers: 0,
        }
    }

    fn dues(records: &[(u64, u64)]) -> Vec<Due> {
        let due = |(offset, (key, value)): (i64, &(u64, u64))| Due {
            mark: mark(*key, *value),
            origin: Origin {
                partition: 0,
                offset,
            },
        };
        (0..).zip(records).map(due).collect()
    }

    fn found(records: &[(u64, u64)]) -> Vec<Found> {
        let found = |(offset, (key, value)): (i64, &(u64, u64))| Found {
            mark: mark(*key, *value),
            offset,
            partition: 0,
        };
        (0..).zip(records).map(found).collect()
    }

    /// What is wrong, in short, with the offset in the output or else in the input.
    fn short(compared: &Compared) -> Vec<(&'static str, i64)> {
        let short = |wrong: &Wrong| match wrong {
            Wrong::Lost(due) => ("lost", due.origin.offset),
            Wrong::Twice(found) => ("twice", found.offset),
            Wrong::Extra(found) => ("extra", found.offset),
            Wrong::Differs { found, .. } => ("differs", found.offset),
            Wrong::Order(found) => ("order", found.offset),
        };
        compared.wrong.iter().map(short).collect()
    }

    #[track_caller]
    fn check_every(
        tasks: [&[(u64, u64)]; 2],
        records: &[(u64, u64)],
        wrong: &[(&'static str, i64)],
    ) {
        let tasks = tasks.map(dues);
        let compared = every(&[&tasks[0], &tasks[1]], &found(records));
        assert_eq!(short(&compared), wrong);
        assert!(!compared.order_unknown);
    }

    #[test]
    fn tasks_may_be_interleaved_in_any_way() {
        let tasks: [&[_]; 2] = [&[(1, 1), (1, 2)], &[(2, 1), (2, 2)]];
        check_every(tasks, &[(1, 1), (2, 1), (2, 2), (1, 2)], &[]);
        check_every(tasks, &[(2, 1), (2, 2), (1, 1), (1, 2)], &[]);
        check_every(tasks, &[(2, 2), (2, 1), (1, 1), (1, 2)], &[("order", 0)]);
    }

    #[test]
    fn equal_records_of_two_tasks_are_looked_at_in_both_ways() {
        let tasks: [&[_]; 2] = [&[(1, 1), (1, 2)], &[(1, 1), (1, 3)]];
        check_every(tasks, &[(1, 1), (1, 3), (1, 1), (1, 2)], &[]);
        check_every(tasks, &[(1, 1), (1, 1), (1, 3), (1, 2)], &[]);
        check_every(tasks, &[(1, 3), (1, 1), (1, 1), (1, 2)], &[("order", 0)]);
        check_every(tasks, &[(1, 1), (1, 3), (1, 2)], &[("lost", 0)]);
    }

    #[test]
    fn several_things_may_be_wrong_at_once() {
        let tasks: [&[_]; 2] = [&[(1, 1), (1, 2), (1, 3)], &[(2, 1), (2, 2)]];
        let records = [(1, 2), (1, 1), (2, 9), (2, 2), (2, 2), (5, 5)];
        let wrong = [
            ("twice", 4),
            ("differs", 2),
            ("extra", 5),
            ("lost", 2),
            ("order", 0),
        ];
        check_every(tasks, &records, &wrong);
    }

    #[test]
    fn too_many_ways_leave_the_order_open_and_nothing_else() {
        let same = vec![(1, 1); 40];
        let tasks: Vec<Vec<Due>> = (0..6).map(|_| dues(&same)).collect();
        let tasks: Vec<&[Due]> = tasks.iter().map(|dues| &**dues).collect();
        let compared = every(&tasks, &found(&vec![(1, 1); 240]));
        assert!(compared.order_unknown && compared.wrong.is_empty());
        let compared = every(&tasks, &found(&vec![(1, 1); 239]));
        assert_eq!(compared.wrong.len(), 1);
    }

    #[test]
    fn latest_needs_the_last_change_of_each_key_and_their_order() {
        let due = dues(&[(1, 1), (1, 2), (2, 1), (1, 3)]);
        let check = |records: &[(u64, u64)], wrong: &[(&'static str, i64)]| {
            assert_eq!(
                short(&latest(&[&due], &found(records))),
                wrong,
                "{records:?}"
            );
        };
        check(&[(2, 1), (1, 3)], &[]);
        check(&[(1, 1), (1, 2), (1, 3), (2, 1)], &[]);
        check(&[(1, 1), (2, 1)], &[("lost", 3)]);
        check(&[(1, 3)], &[("lost", 2)]);
        check(&[(2, 1), (1, 3), (1, 3)], &[("twice", 2)]);
        check(&[(2, 1), (1, 2), (1, 1), (1, 3)], &[("order", 2)]);
        check(&[(2, 1), (1, 9)], &[("differs", 1)]);
        check(&[(2, 1), (1, 3), (3, 1)], &[("extra", 2)]);
    }

    #[test]
    fn a_pool_has_no_order() {
        let due = dues(&[(1, 1), (1, 2)]);
        assert!(pool(&due, &found(&[(1, 2), (1, 1)])).wrong.is_empty());
        assert_eq!(short(&pool(&due, &found(&[(1, 2)]))), [("lost", 0)]);
    }
}
