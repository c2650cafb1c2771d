//! Windows over event time: tumbling, hopping, sliding, session and unlimited ones.

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

/// A key within a window, in milliseconds since the Unix epoch.
///
/// Whether `end` is part of the window is a matter of its kind: of tumbling and hopping windows it
/// is the first millisecond behind, of sliding windows and sessions the last one inside. An
/// unlimited window ends at `i64::MAX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// First millisecond of the window.
    pub start: i64,
    /// End of the window.
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
    pub fn check(&self) -> Result<()> {
        if self.size_ms <= 0 {
            return Err(Error::new(
                ErrorKind::Topology,
                "a window must last at least a millisecond; give it a size of 1 ms or more",
            ));
        }
        if self.advance_ms <= 0 || self.advance_ms > self.size_ms {
            return Err(Error::new(
                ErrorKind::Topology,
                format!(
                    "windows must advance by more than nothing and by no more than their size; \
                     give `advance_by` 1 ms up to the size. size_ms={}, advance_ms={}",
                    self.size_ms, self.advance_ms
                ),
            ));
        }
        Ok(())
    }
}

/// A window around each record: it holds the records of a key whose times differ by no more than
/// the difference, both ends included.
///
/// A record makes the window that ends with it, and with a later record the one that begins right
/// behind it. Windows never start before the epoch: records younger than the difference share the
/// window `[0, difference]`.
///
/// ```
/// use millstream_topology::{mins, secs, Sliding};
/// const LAST_MINUTE: Sliding = Sliding::of(mins(1)).grace(secs(10));
/// assert_eq!(LAST_MINUTE.difference_ms(), 60_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    difference_ms: i64,
    grace_ms: i64,
}

impl Sliding {
    /// Windows in which times differ by no more than that, without grace.
    pub const fn of(difference: Duration) -> Self {
        Self {
            difference_ms: difference.as_millis() as i64,
            grace_ms: 0,
        }
    }

    /// Late records are taken up to this long after the window's end.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace_ms = grace.as_millis() as i64;
        self
    }

    /// Greatest difference between the times of a window, in milliseconds.
    pub const fn difference_ms(&self) -> i64 {
        self.difference_ms
    }

    /// How long after its end a window takes late records, in milliseconds.
    pub const fn grace_ms(&self) -> i64 {
        self.grace_ms
    }

    /// How long a window must be kept, in milliseconds: twice the difference, and grace.
    pub const fn retention_ms(&self) -> i64 {
        2 * self.difference_ms + self.grace_ms
    }

    /// Refuses windows that cannot be.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when the difference is zero.
    pub fn check(&self) -> Result<()> {
        if self.difference_ms > 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Topology,
            "a sliding window needs a difference of at least a millisecond; to fold records of one \
             instant use `Tumbling::of(millis(1))`",
        ))
    }
}

/// Sessions: a key's records form one as long as no pause between them is longer than the gap.
///
/// ```
/// use millstream_topology::{hours, mins, Sessions};
/// const VISIT: Sessions = Sessions::of(mins(30)).grace(hours(1));
/// assert_eq!(VISIT.gap_ms(), 1_800_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    gap_ms: i64,
    grace_ms: i64,
}

impl Sessions {
    /// Sessions that end when a key falls silent for longer than the gap, without grace.
    pub const fn of(gap: Duration) -> Self {
        Self {
            gap_ms: gap.as_millis() as i64,
            grace_ms: 0,
        }
    }

    /// Late records are taken up to this long after a session could go on no more.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace_ms = grace.as_millis() as i64;
        self
    }

    /// Longest pause within a session, in milliseconds.
    pub const fn gap_ms(&self) -> i64 {
        self.gap_ms
    }

    /// How long a session takes late records after it could go on no more, in milliseconds.
    pub const fn grace_ms(&self) -> i64 {
        self.grace_ms
    }

    /// How long a session must be kept behind its end, in milliseconds: gap and grace.
    pub const fn retention_ms(&self) -> i64 {
        self.gap_ms + self.grace_ms
    }
}

/// One window for each key that begins at a time and never ends; records before it have none.
///
/// ```
/// use millstream_topology::Unlimited;
/// const SINCE_2024: Unlimited = Unlimited::since(1_704_067_200_000);
/// assert_eq!(SINCE_2024.start_ms(), 1_704_067_200_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlimited {
    start_ms: i64,
}

impl Unlimited {
    /// The end of every unlimited window.
    pub const END_MS: i64 = i64::MAX;

    /// A window that begins at that time, in milliseconds since the Unix epoch.
    pub const fn since(start_ms: i64) -> Self {
        Self { start_ms }
    }

    /// When the window begins, in milliseconds since the Unix epoch.
    pub const fn start_ms(&self) -> i64 {
        self.start_ms
    }

    /// Refuses windows that cannot be.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when the start lies before the epoch.
    pub fn check(&self) -> Result<()> {
        if self.start_ms >= 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Topology,
            format!(
                "a window cannot start before 1970; start it at 0 or later. start_ms={}",
                self.start_ms
            ),
        ))
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
        assert_eq!(zero.check().expect_err("zero").kind(), ErrorKind::Topology);
        assert_eq!(gap.check().expect_err("gap").kind(), ErrorKind::Topology);
        let (instant, early) = (Sliding::of(millis(0)), Unlimited::since(-1));
        assert!(instant.check().is_err() && Sliding::of(millis(1)).check().is_ok());
        assert!(early.check().is_err() && Unlimited::since(0).check().is_ok());
    }

    proptest! {
        #[test]
        fn a_window_starts_here_iff_it_holds_the_record(
            size in 1i64..50, hop in 1i64..50, ts in 0i64..500,
        ) {
            prop_assume!(hop <= size);
            let windows = TimeWindows { size_ms: size, advance_ms: hop, grace_ms: 0 };
            let naive: Vec<i64> = (0..=ts).filter(|s| s % hop == 0 && s + size > ts).collect();
            prop_assert_eq!(windows.starts(ts).collect::<Vec<_>>(), naive);
        }
    }
}
