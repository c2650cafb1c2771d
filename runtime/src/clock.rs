//! The wall clock, the one place where the engine asks for the time and waits for it.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Tells the time, and lets it pass.
///
/// A clock that is not the machine's overrides all three, so that a test decides what time it is.
pub trait WallClock: Send + Sync {
    /// Milliseconds since the Unix epoch. May jump, as people and time servers set clocks.
    fn now_ms(&self) -> i64;

    /// The time since some moment in the past, for measuring: it never goes back.
    fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    /// Waits for so long, or a little less.
    fn wait(&self, time: Duration) {
        std::thread::park_timeout(time);
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}
