//! The background thread that writes committed state to disk.

use std::{thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use millstream_state::{FlushJob, FlushReport, Replica};
use tracing::{debug, error, info};

use crate::clock::WallClock;

/// Jobs that may wait; one more than this and the asking thread does its job itself, which slows it
/// down as it should.
const JOBS_WAITING_MAX: usize = 64;
/// How long closing a task may take to write its state to disk.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

pub(crate) struct FlushPool {
    jobs: Option<Sender<FlushJob>>,
    waiting: Receiver<FlushJob>,
    thread: Option<JoinHandle<()>>,
}

impl FlushPool {
    /// A pool without a thread: jobs wait for [`help`](Self::help).
    pub(crate) fn idle() -> Self {
        let (jobs, waiting) = bounded(JOBS_WAITING_MAX);
        Self {
            jobs: Some(jobs),
            waiting,
            thread: None,
        }
    }

    pub(crate) fn start() -> std::io::Result<Self> {
        let mut pool = Self::idle();
        let waiting = pool.waiting.clone();
        let work = move || {
            for job in waiting {
                run(job);
            }
        };
        let thread = std::thread::Builder::new()
            .name("millstream-flush".into())
            .spawn(work)?;
        pool.thread = Some(thread);
        Ok(pool)
    }

    pub(crate) fn submit(&self, job: FlushJob) {
        let jobs = self.jobs.as_ref();
        match jobs.expect("the pool is not dropped yet").try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                run(job);
            }
        }
    }

    /// Writes to disk all that stores which are about to be closed still hold, if that is possible
    /// in time.
    pub(crate) fn write_out(&self, replica: &Replica, clock: &dyn WallClock) {
        let deadline = clock.monotonic() + CLOSE_WAIT;
        while clock.monotonic() < deadline {
            match replica.start_flush() {
                Some(job) => {
                    // What a failing disk does not take is in the changelogs.
                    if !run(job) {
                        break;
                    }
                }
                None if replica.committed_bytes() == 0 => break,
                // An earlier job waits or runs; what it leaves is for the next turn.
                None if self.help() => {}
                None => clock.wait(Duration::from_millis(2)),
            }
        }
    }

    /// Does one of the jobs that wait, on the caller's thread; `false` when none waits.
    pub(crate) fn help(&self) -> bool {
        let job = self.waiting.try_recv();
        job.is_ok_and(|job| {
            run(job);
            true
        })
    }
}

/// A failed job leaves its changes in memory, and the next one tries again. Says whether it was
/// done. That it was not is logged once, not with every try.
pub(crate) fn run(job: FlushJob) -> bool {
    let is_retry = job.is_retry();
    match job.run() {
        Ok(report) => {
            let FlushReport { entries, bytes } = report;
            match is_retry {
                true => info!(entries, bytes, "state can be written to disk again"),
                false => debug!(entries, bytes, "state is on disk"),
            }
            true
        }
        Err(failure) => {
            let error = failure.chain();
            match is_retry {
                true => debug!(error, "state can still not be written to disk"),
                false => error!(error, "state cannot be written to disk; it is tried again"),
            }
            false
        }
    }
}

impl Drop for FlushPool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported by its own thread.
            let _ = thread.join();
        }
    }
}
