//! The only place of the embedded log that asks what time it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The machine's time, which can be moved forward to try what time does to a log.
///
/// ```
/// # use std::time::Duration;
/// let clock = millstream_broker::embedded::Clock::default();
/// let before = clock.now_ms();
/// clock.advance(Duration::from_secs(3600));
/// assert!(clock.now_ms() >= before + 3_600_000);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        (since + self.ahead()).as_millis() as i64
    }

    /// Moves this clock and its clones forward.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms
            .fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// For measuring spans; moves with [`advance`](Self::advance).
    pub(super) fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }
}
