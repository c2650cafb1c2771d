//! A stream thread: joins the group, works, and joins again after what can be survived.

use std::{sync::Arc, time::Duration};

use millstream_broker::ProducerError;
use millstream_state::Fault;
use millstream_topology::{Error, ErrorKind};
use tracing::{debug, info, warn};

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

/// What a step of a stream thread came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There may be more to do.
    Worked,
    /// Nothing can be done before so much time has passed.
    Paused(Duration),
    /// The thread has ended, as it was told to leave, or the application stops or has failed.
    Ended,
}

pub(crate) struct StreamThread {
    shared: Arc<Shared>,
    index: usize,
    session: Option<Session>,
    /// Those of the sessions before, while there is no session.
    times: CommitTimes,
    /// When the session was begun.
    began: Duration,
    /// When the next one may begin.
    join_at: Duration,
    pause: Duration,
    state_failures: u32,
}

impl StreamThread {
    pub(crate) fn new(shared: &Arc<Shared>, index: usize) -> Self {
        Self {
            shared: shared.clone(),
            index,
            session: None,
            times: CommitTimes::new(),
            began: Duration::ZERO,
            join_at: Duration::ZERO,
            pause: PAUSE_MIN,
            state_failures: 0,
        }
    }

    /// Works until it is told to leave, or the application stops or fails.
    pub(crate) fn run(mut self) {
        loop {
            match self.step() {
                Step::Worked => {}
                Step::Paused(rest) => self.shared.clock.wait(rest.min(PAUSE_MIN)),
                Step::Ended => break,
            }
        }
        debug!(thread = self.index, "stream thread ends");
    }

    /// Joins the group, or does one turn of the session's work, or ends.
    pub(crate) fn step(&mut self) -> Step {
        let ending = self.shared.stopping() || self.shared.roster.is_leaving(self.index);
        let Some(session) = &mut self.session else {
            return match ending {
                true => self.end(),
                false => self.join(),
            };
        };
        let worked = match ending {
            true => session.commit(),
            false => session.step(),
        };
        match worked {
            Ok(()) if !ending => Step::Worked,
            Ok(()) => {
                self.leave();
                self.end()
            }
            Err(trouble) => {
                let mut remedy = remedy(trouble);
                // Whoever joins takes the place of its name: joining again would only make the
                // other process do the same.
                if !matches!(remedy, Remedy::Stop(_) | Remedy::Yield(_)) && session.is_replaced() {
                    let replaced = millstream_broker::Error::Fenced(session.member());
                    remedy = Remedy::Yield(replaced.into());
                }
                self.leave();
                self.recover(remedy)
            }
        }
    }

    fn join(&mut self) -> Step {
        let now = self.shared.now();
        if now < self.join_at {
            return Step::Paused(self.join_at - now);
        }
        self.began = now;
        match Session::join(&self.shared, self.index) {
            Ok(mut session) => {
                std::mem::swap(&mut session.times, &mut self.times);
                self.session = Some(session);
                Step::Worked
            }
            Err(trouble) => self.recover(remedy(trouble)),
        }
    }

    fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            self.times = session.close();
        }
    }

    /// Nothing of this thread is left but its place, which is free from now on if it was told to
    /// leave.
    fn end(&self) -> Step {
        let (shared, thread) = (&self.shared, self.index);
        if shared.roster.is_leaving(thread) {
            shared.board.retire(thread);
            shared.members.announce(thread, Vec::new());
            shared.roster.free(thread);
            info!(thread, "stream thread has left");
        }
        Step::Ended
    }

    fn recover(&mut self, remedy: Remedy) -> Step {
        self.times.stats.rejoins += 1;
        let commits = self.times.snapshot();
        let stalled = match &remedy {
            Remedy::Wait(why) => Some(why.clone()),
            Remedy::Join(_) | Remedy::Rebuild(_) | Remedy::Yield(_) | Remedy::Stop(_) => None,
        };
        self.shared.board.publish(
            ThreadStatus {
                index: self.index,
                commits,
                stalled,
                ..ThreadStatus::default()
            },
            Default::default(),
        );
        let now = self.shared.now();
        if now - self.began > SETTLED_AFTER {
            (self.pause, self.state_failures) = (PAUSE_MIN, 0);
        }
        let thread = self.index;
        match remedy {
            Remedy::Wait(why) => warn!(thread, why, "waits for room on the disk"),
            Remedy::Join(why) => warn!(thread, why, "joins again"),
            Remedy::Rebuild(error) => {
                self.state_failures += 1;
                if self.state_failures > STATE_FAILURES_MAX {
                    self.shared.fail(error);
                    return Step::Ended;
                }
                warn!(thread, error = %error.chain(), "local state failed; joins again");
            }
            Remedy::Yield(error) => {
                self.shared.members.fall_silent();
                let instance = &self.shared.config.instance_id;
                let what = format!(
                    "another process runs under this instance id: stop one of the two, or give each \
                     its own. instance_id=`{instance}`"
                );
                self.shared
                    .fail(Error::caused(ErrorKind::Fenced, what, error));
                return Step::Ended;
            }
            Remedy::Stop(error) => {
                self.shared.fail(error);
                return Step::Ended;
            }
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        self.join_at = now + pause;
        Step::Paused(pause)
    }
}

/// What to do about trouble.
enum Remedy {
    /// Join again with new clients.
    Join(String),
    /// Join again when the disk has room.
    Wait(String),
    /// Join again; local state may have been thrown away.
    Rebuild(Error),
    /// Another process has this one's place: leave it to that one.
    Yield(Error),
    /// Nothing but a person can help.
    Stop(Error),
}

fn remedy(trouble: Trouble) -> Remedy {
    match trouble {
        Trouble::Producer(
            error @ (ProducerError::Abort(_) | ProducerError::Fenced(_) | ProducerError::Fatal(_)),
        ) => Remedy::Join(Error::from(error).chain()),
        Trouble::Error(error) => match error.kind() {
            ErrorKind::Broker => Remedy::Join(error.chain()),
            ErrorKind::Fenced => Remedy::Yield(error),
            ErrorKind::State => match Fault::of(&error) {
                Some(Fault::Full { .. }) => Remedy::Wait(error.chain()),
                _ => Remedy::Rebuild(error),
            },
            ErrorKind::Config | ErrorKind::Topology | ErrorKind::Data | ErrorKind::User => {
                Remedy::Stop(error)
            }
        },
    }
}
