//! The background thread that writes committed state to disk.

use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use millstream_state::FlushJob;
use tracing::{debug, error};

/// Jobs that may wait; one more than this and the asking thread does its job itself, which slows it
/// down as it should.
const JOBS_WAITING_MAX: usize = 64;

pub(crate) struct FlushPool {
    jobs: Option<Sender<FlushJob>>,
    thread: Option<JoinHandle<()>>,
}

impl FlushPool {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, waiting) = bounded::<FlushJob>(JOBS_WAITING_MAX);
        let work = move || waiting.iter().for_each(run);
        let thread = std::thread::Builder::new()
            .name("millstream-flush".into())
            .spawn(work)?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub(crate) fn submit(&self, job: FlushJob) {
        let Some(jobs) = &self.jobs else {
            return run(job);
        };
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => run(job),
        }
    }
}

/// A failed job leaves its changes in memory, and the next one tries again.
pub(crate) fn run(job: FlushJob) {
    match job.run() {
        Ok(report) => debug!(
            entries = report.entries,
            bytes = report.bytes,
            "state is on disk"
        ),
        Err(failure) => error!(error = %failure.chain(), "state could not be written to disk"),
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
