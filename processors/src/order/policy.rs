//! How long orders wait.

use std::time::Duration;

/// How long an order waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// An order that is not final this long after it was taken up is cancelled.
    pub deadline: Duration,
    /// Pause before the first repeated call of the gateway; each later one is twice as long …
    pub retry_first: Duration,
    /// … up to this.
    pub retry_max: Duration,
    /// The gateway is asked what became of an authorisation until this long after the deadline.
    pub query_for: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(5 * 60),
            query_for: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Policy {
    pub(super) fn deadline_ms(&self) -> i64 {
        millis(self.deadline)
    }

    pub(super) fn query_for_ms(&self) -> i64 {
        millis(self.query_for)
    }

    /// The pause after that attempt: doubled each time, up to the longest.
    pub(super) fn pause_ms(&self, attempt: u32) -> i64 {
        let doubled = 1u32
            .checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        millis(self.retry_first.saturating_mul(doubled).min(self.retry_max))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
