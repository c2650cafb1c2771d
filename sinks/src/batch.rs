//! How many records one transaction takes: adapted to the database, within bounds.

use std::time::Duration;

/// A transaction whose rows take less than this may grow …
const SHORT: Duration = Duration::from_millis(60);
/// … and one whose rows take longer than this shrinks.
const LONG: Duration = Duration::from_millis(250);
/// No transaction grows beyond this, whatever the time is spent on: locks are held meanwhile.
const ALL: Duration = Duration::from_secs(5);

/// Bounds of one transaction.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Fewest records when the database is slow.
    pub records_min: usize,
    /// Records at the start.
    pub records_start: usize,
    /// Most records.
    pub records_max: usize,
    /// Most bytes of keys and values; a single larger record makes a batch of its own.
    pub bytes_max: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            records_min: 32,
            records_start: 512,
            records_max: 16_384,
            bytes_max: 8 << 20,
        }
    }
}

/// Doubles what goes fast, halves what goes slowly.
#[derive(Debug)]
pub(crate) struct BatchSize {
    limits: BatchLimits,
    records: usize,
}

impl BatchSize {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        assert!(0 < limits.records_min && limits.records_min <= limits.records_max);
        Self {
            records: limits
                .records_start
                .clamp(limits.records_min, limits.records_max),
            limits,
        }
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.limits.bytes_max
    }

    /// Learns from a transaction: how long it took, and how much of that is the same for any number
    /// of rows. Smaller transactions make a distant server no faster, only slow rows.
    pub(crate) fn committed(&mut self, records: usize, took: Duration, ways: Duration) {
        let rows = took.saturating_sub(ways);
        if rows > LONG {
            self.shrink();
        } else if rows < SHORT && took < ALL && records >= self.records {
            self.records = (self.records * 2).min(self.limits.records_max);
        }
    }

    pub(crate) fn shrink(&mut self) {
        self.records = (self.records / 2).max(self.limits.records_min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_full_and_fast_and_never_leaves_its_bounds() {
        let mut size = BatchSize::new(BatchLimits::default());
        let ms = Duration::from_millis;
        size.committed(10, ms(0), ms(0));
        assert_eq!(size.records(), 512, "not full");
        for _ in 0..10 {
            size.committed(size.records(), ms(5), ms(1));
        }
        assert_eq!(size.records(), 16_384);
        for _ in 0..20 {
            size.committed(1, ms(1000), ms(10));
        }
        assert_eq!(size.records(), 32);
    }

    #[test]
    fn a_distant_database_is_no_reason_for_small_transactions() {
        let ms = Duration::from_millis;
        let mut size = BatchSize::new(BatchLimits::default());
        for _ in 0..3 {
            size.committed(size.records(), ms(2550), ms(2500));
        }
        assert_eq!(size.records(), 4096);
        size.committed(size.records(), ms(6000), ms(5990));
        assert_eq!(size.records(), 4096, "locks are held for long enough");
        size.committed(size.records(), ms(2800), ms(2500));
        assert_eq!(size.records(), 2048);
    }
}
