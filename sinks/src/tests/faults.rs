//! What tests make of the steps of a database connection.

use std::{
    borrow::Cow,
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::error::{DatabaseError, ErrorKind};
use tokio::sync::Notify;

use crate::transaction::At;

/// Asked before each step of a lease.
pub(crate) type Hook = Arc<dyn Fn(At) -> Act + Send + Sync>;

/// What becomes of a step.
pub(crate) enum Act {
    Go,
    /// It does not reach the database.
    Fail(sqlx::Error),
    /// The database does it, and its answer is lost.
    Unanswered(sqlx::Error),
    Late(Duration),
    /// It waits until the test says go.
    Wait(Arc<Notify>),
    /// It never happens: the process is about to die.
    Hang,
}

impl Act {
    pub(crate) async fn apply<T>(
        self,
        step: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match self {
            Self::Go => step.await,
            Self::Fail(error) => Err(error),
            Self::Unanswered(error) => step.await.and(Err(error)),
            Self::Late(pause) => {
                tokio::time::sleep(pause).await;
                step.await
            }
            Self::Wait(go) => {
                go.notified().await;
                step.await
            }
            Self::Hang => std::future::pending().await,
        }
    }
}

pub(super) fn lost_connection() -> sqlx::Error {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

/// An error with one of SQLite's codes, which are told apart in every database.
#[derive(Debug)]
pub(super) struct Coded(&'static str);

/// SQLite's BUSY, SCHEMA, READONLY and FULL.
const PASSING: [&str; 4] = ["5", "17", "8", "13"];

impl Coded {
    pub(super) fn error(code: &'static str) -> sqlx::Error {
        sqlx::Error::Database(Box::new(Self(code)))
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "made by the test. code={}", self.0)
    }
}

impl std::error::Error for Coded {}

impl DatabaseError for Coded {
    fn message(&self) -> &'static str {
        "made by the test"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// SplitMix64: the same numbers for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// How many of each step failed.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) failed: [AtomicU32; 6],
    pub(super) unanswered_commits: AtomicU32,
    /// Nothing fails any more.
    pub(super) calm: AtomicBool,
}

/// Lets each step fail with that chance, in one of the ways a database can.
pub(super) fn random(seed: u64, percent: u64, tally: Arc<Tally>) -> Hook {
    let chance = Mutex::new(Chance::new(seed));
    Arc::new(move |at| {
        let mut chance = chance.lock().expect("no test panics with it");
        if tally.calm.load(Ordering::Relaxed) || chance.below(100) >= percent {
            return Act::Go;
        }
        tally.failed[at as usize].fetch_add(1, Ordering::Relaxed);
        let error = match chance.below(3) {
            0 => Coded::error(PASSING[chance.below(4) as usize]),
            _ => lost_connection(),
        };
        match chance.below(10) {
            0 => Act::Late(Duration::from_micros(chance.below(3000))),
            1..5 => {
                if at == At::Commit {
                    tally.unanswered_commits.fetch_add(1, Ordering::Relaxed);
                }
                Act::Unanswered(error)
            }
            _ => Act::Fail(error),
        }
    })
}
