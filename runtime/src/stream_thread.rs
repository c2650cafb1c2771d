//! A stream thread: joins the group, works, and joins again after what can be survived.

use std::time::{Duration, Instant};

use millstream_broker::ProducerError;
use millstream_topology::{Error, ErrorKind};
use tracing::{debug, warn};

use crate::{
    application::Shared,
    commit::Trouble,
    session::Session,
    status::{CommitTimes, ThreadStatus},
};

/// First and longest pause before joining again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A session that lasted this long counts as a success: the next pause is short again.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// So many failures of local state in a row are not an accident any more.
const STATE_FAILURES_MAX: u32 = 5;

/// Runs until the application stops or fails.
pub(crate) fn run(shared: &Shared, index: usize) {
    let mut times = CommitTimes::new();
    let mut pause = PAUSE_MIN;
    let mut state_failures = 0;
    loop {
        let started = Instant::now();
        let trouble = match Session::join(shared, index, times) {
            Ok(mut session) => {
                let ran = session.run();
                times = session.close();
                ran.err()
            }
            Err(trouble) => {
                times = CommitTimes::new();
                Some(trouble)
            }
        };
        shared.board.publish(
            ThreadStatus {
                index,
                commits: times.snapshot(),
                ..ThreadStatus::default()
            },
            Default::default(),
        );
        let Some(trouble) = trouble else { break };
        if started.elapsed() > SETTLED_AFTER {
            (pause, state_failures) = (PAUSE_MIN, 0);
        }
        match remedy(trouble) {
            Remedy::Join(why) => warn!(thread = index, why, "joins again"),
            Remedy::Rebuild(error) => {
                state_failures += 1;
                if state_failures > STATE_FAILURES_MAX {
                    shared.fail(error);
                    break;
                }
                warn!(thread = index, error = %error.chain(), "local state failed; joins again");
            }
            Remedy::Stop(error) => {
                shared.fail(error);
                break;
            }
        }
        times.stats.rejoins += 1;
        let until = Instant::now() + pause;
        while Instant::now() < until && !shared.stopping() {
            std::thread::park_timeout(PAUSE_MIN.min(pause));
        }
        pause = (pause * 2).min(PAUSE_MAX);
        if shared.stopping() {
            break;
        }
    }
    debug!(thread = index, "stream thread ends");
}

/// What to do about trouble.
enum Remedy {
    /// Join again with new clients.
    Join(String),
    /// Join again; local state may have been thrown away.
    Rebuild(Error),
    /// Nothing but a person can help.
    Stop(Error),
}

fn remedy(trouble: Trouble) -> Remedy {
    match trouble {
        Trouble::Producer(
            error @ (ProducerError::Abort(_) | ProducerError::Fenced(_) | ProducerError::Fatal(_)),
        ) => Remedy::Join(Error::from(error).chain()),
        Trouble::Error(error) => match error.kind() {
            ErrorKind::Broker | ErrorKind::Fenced => Remedy::Join(error.chain()),
            ErrorKind::State => Remedy::Rebuild(error),
            ErrorKind::Config | ErrorKind::Topology | ErrorKind::Data | ErrorKind::User => {
                Remedy::Stop(error)
            }
        },
    }
}
