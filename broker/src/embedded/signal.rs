//! A bell that a waiting client hears at once.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering, fence},
    },
    time::Duration,
};

/// Rung by the log when there is something new. Ringing costs little when nobody waits.
#[derive(Debug, Default)]
pub(super) struct Signal {
    rung: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Signal {
    pub(super) fn ring(&self) {
        // Either the waiter, having silenced the bell, sees the news, or this sees the bell silent.
        fence(Ordering::SeqCst);
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Taking the lock orders this behind a waiter's look at the flag.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }

    /// To be called before looking for news, so that what comes afterwards rings again.
    pub(super) fn silence(&self) {
        self.rung.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Waits until it is rung, or so long.
    pub(super) fn wait(&self, at_most: Duration) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self
            .bell
            .wait_timeout_while(lock, at_most, |()| !self.rung.load(Ordering::Acquire));
    }
}
