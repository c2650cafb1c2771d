//! `Backoff`: how long to wait before something is tried again.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Bounds of the pauses between tries. Each pause is about twice the one before; chance takes up
/// to half of it away, so that writers that failed together come back one by one.
///
/// How often is not bounded: a sink tries as long as it owns its partitions and is not stopped, as
/// giving up would lose records.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause, at most.
    pub min: Duration,
    /// Any pause, at most.
    pub max: Duration,
}

impl Backoff {
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max }
    }

    pub(crate) fn pauses(self) -> Pauses {
        Pauses {
            next: self.min,
            max: self.max,
        }
    }
}

/// The pauses of one thing that is tried.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    max: Duration,
}

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        let most = self.next.min(self.max);
        self.next = (self.next * 2).min(self.max);
        // Each state has random keys, so what it makes of nothing is random too.
        let chance = RandomState::new().hash_one(()) % 1024;
        let part = u32::try_from(chance).expect("below 1024");
        most - most * part / 2048
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_differ_by_chance() {
        let ms = Duration::from_millis;
        let mut all = Vec::new();
        for _ in 0..20 {
            let mut pauses = Backoff::new(ms(10), ms(80)).pauses();
            for most in [10, 20, 40, 80, 80, 80].map(ms) {
                let pause = pauses.next();
                assert!(most / 2 <= pause && pause <= most, "{pause:?} of {most:?}");
                all.push(pause);
            }
        }
        all.sort();
        all.dedup();
        assert!(all.len() > 20, "no chance in {all:?}");
    }
}
