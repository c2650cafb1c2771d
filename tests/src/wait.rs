//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks until there is an answer, and returns it.
///
/// ```
/// use std::time::Duration;
/// let mut asked = 0;
/// let answer = millstream_tests::eventually(Duration::from_secs(5), "the third time", || {
///     asked += 1;
///     (asked == 3).then_some(asked)
/// });
/// assert_eq!(answer, 3);
/// ```
///
/// # Panics
/// When there is none within that time.
#[track_caller]
pub fn eventually<T>(within: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}
