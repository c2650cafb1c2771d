//! Windows over event time: tumbling and hopping, with grace.

use std::{fmt, time::Duration};

use ::serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Milliseconds, as a duration.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
/// Seconds, as a duration.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
/// Minutes, as a duration.
pub const fn mins(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}
/// Hours, as a duration.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}
/// Days of 24 hours, as a duration.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

/// A key within a window `[start, end)`, in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// First millisecond of the window.
    pub start: i64,
    /// First millisecond after the window.
    pub end: i64,
}

impl<K: fmt::Display> fmt::Display for Windowed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.key, self.start, self.end)
    }
}

/// Windows of one size that follow each other without gap or overlap, aligned at the epoch.
///
/// ```
/// use millstream_topology::{mins, secs, TimeWindows, Tumbling};
/// let windows: TimeWindows = Tumbling::of(mins(1)).grace(secs(10)).into();
/// assert_eq!(windows.starts(61_000).collect::<Vec<_>>(), [60_000]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tumbling(TimeWindows);

impl Tumbling {
    /// Windows of that size, without grace.
    pub const fn of(size: Duration) -> Self {
        let size_ms = size.as_millis() as i64;
        Self(TimeWindows {
            size_ms,
            advance_ms: size_ms,
            grace_ms: 0,
        })
    }

    /// Late records are taken up to this long after the window's end.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.0.grace_ms = grace.as_millis() as i64;
        self
    }
}

/// Windows of one size that start every `advance`, so that they overlap.
///
/// ```
/// use millstream_topology::{millis, Hopping, TimeWindows};
/// let windows: TimeWindows = Hopping::of(millis(10)).advance_by(millis(5)).into();
/// assert_eq!(windows.starts(12).collect::<Vec<_>>(), [5, 10]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Hopping(TimeWindows);

impl Hopping {
    /// Windows of that size; without [`advance_by`](Self::advance_by) they tumble.
    pub const fn of(size: Duration) -> Self {
        Self(Tumbling::of(size).0)
    }

    /// A window starts every `advance`.
    pub const fn advance_by(mut self, advance: Duration) -> Self {
        self.0.advance_ms = advance.as_millis() as i64;
        self
    }

    /// Late records are taken up to this long after the window's end.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.0.grace_ms = grace.as_millis() as i64;
        self
    }
}

impl From<Tumbling> for TimeWindows {
    fn from(windows: Tumbling) -> Self {
        windows.0
    }
}
impl From<Hopping> for TimeWindows {
    fn from(windows: Hopping) -> Self {
        windows.0
    }
}

/// The arithmetic of tumbling and hopping windows. Windows never start before the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindows {
    size_ms: i64,
    advance_ms: i64,
    grace_ms: i64,
}

impl TimeWindows {
    /// Length of a window.
    pub const fn size_ms(&self) -> i64 {
        self.size_ms
    }

    /// How long after its end a window takes late records.
    pub const fn grace_ms(&self) -> i64 {
        self.grace_ms
    }

    /// How long a window is kept: size and grace.
    pub const fn retention_ms(&self) -> i64 {
        self.size_ms + self.grace_ms
    }

    /// The starts of the windows that hold `timestamp`, ascending.
    pub fn starts(&self, timestamp: i64) -> impl Iterator<Item = i64> + use<> {
        let (size, advance) = (self.size_ms, self.advance_ms);
        let first = (timestamp - size + advance).max(0) / advance * advance;
        (0..)
            .map(move |n| first + n * advance)
            .take_while(move |start| *start <= timestamp)
    }

    /// Refuses windows that cannot be.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when the size or the advance is zero, or the advance exceeds the
    /// size.
    pub fn check(&self, node: &str) -> Result<()> {
        if self.size_ms <= 0 {
            return Err(Error::new(
                ErrorKind::Topology,
                format!("a window must last at least a millisecond. node=`{node}`"),
            ));
        }
        if self.advance_ms <= 0 || self.advance_ms > self.size_ms {
            return Err(Error::new(
                ErrorKind::Topology,
                format!(
                    "a window must advance by more than nothing and by no more than its size. \
                     node=`{node}`, size_ms={}, advance_ms={}",
                    self.size_ms, self.advance_ms
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(size: u64, advance: u64, timestamp: i64, expect: &[i64]) {
        let windows: TimeWindows = Hopping::of(millis(size)).advance_by(millis(advance)).into();
        assert_eq!(windows.starts(timestamp).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn early_records_have_no_window_before_the_epoch() {
        check(10, 5, 0, &[0]);
        check(10, 5, 4, &[0]);
        check(10, 5, 5, &[0, 5]);
        check(10, 10, 9, &[0]);
        check(10, 10, 10, &[10]);
        check(12, 5, 11, &[0, 5, 10]);
    }

    #[test]
    fn impossible_windows_are_refused() {
        let zero: TimeWindows = Tumbling::of(millis(0)).into();
        let gap: TimeWindows = Hopping::of(millis(5)).advance_by(millis(6)).into();
        assert_eq!(
            zero.check("n").expect_err("zero").kind(),
            ErrorKind::Topology
        );
        assert_eq!(gap.check("n").expect_err("gap").kind(), ErrorKind::Topology);
    }

    proptest! {
        #[test]
        fn a_window_starts_here_iff_it_holds_the_record(size in 1i64..50, hop in 1i64..50, ts in 0i64..500) {
            prop_assume!(hop <= size);
            let windows = TimeWindows { size_ms: size, advance_ms: hop, grace_ms: 0 };
            let naive: Vec<i64> = (0..=ts).filter(|s| s % hop == 0 && s + size > ts).collect();
            prop_assert_eq!(windows.starts(ts).collect::<Vec<_>>(), naive);
        }
    }
}
