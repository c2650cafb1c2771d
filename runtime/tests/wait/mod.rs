//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Long, as everything else that the machine does goes on meanwhile.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

#[track_caller]
pub(crate) fn wait(condition: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < until,
            "the condition did not come true in time"
        );
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
