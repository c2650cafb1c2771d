//! `Config`: how an application runs.

use std::{path::PathBuf, time::Duration};

use millstream_topology::{Error, ErrorKind, Result};

use crate::Policies;

/// Where the stores of tasks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// On disk, in RocksDB, below this folder.
    Disk(PathBuf),
    /// In memory: restored from the changelogs at every start.
    Memory,
}

/// How an application runs. `Config::new` gives what suits most; every field may be changed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the consumer group, the internal topics and the transactional ids. Two applications on
    /// one log need two names; all instances of one application share it.
    pub application_id: String,
    /// Names this process among the instances, the same after a restart, so that it gets its tasks
    /// and its transactional ids back. Of two processes with one name only one goes on; the other
    /// fails with [`ErrorKind::Fenced`].
    pub instance_id: String,
    /// How many stream threads there are at the start; each is a member of the group.
    pub threads: usize,
    /// Where state is kept.
    pub state: StateKind,
    /// The longest time between two commits under load. When the input runs dry, a commit comes at
    /// once.
    pub commit_interval: Duration,
    /// The shortest time between two commits, so that a trickle of records shares them.
    pub commit_pause: Duration,
    /// Bytes that stores, their caches and the log's buffers together should take.
    pub memory_budget: usize,
    /// How long a committed change may wait in memory before it is written to disk; bounds what a
    /// restart has to replay.
    pub flush_interval: Duration,
    /// How long a silent instance keeps its tasks. On Kafka with the group protocol of KIP-848 that
    /// is the brokers' to say.
    pub session_timeout: Duration,
    /// How many other instances keep a copy of each task's stores up to date, as far as there are
    /// so many. A copy makes a task start at once where it lands on the instance that has it, and
    /// answers reads that put up with its age ([`Queries::copies`](crate::Queries::copies)).
    pub num_standby_replicas: usize,
    /// Records of one partition that wait in memory; reading it pauses above.
    pub buffered_records_max: usize,
    /// Records of one task in a row before other tasks and the clock are looked at.
    pub records_per_turn: usize,
    /// How often records of repartition topics that are done with are deleted.
    pub purge_interval: Duration,
    /// What becomes of records that fail.
    pub policies: Policies,
    /// Stores, repartition topics and inputs of stores that may be missing from the topology though
    /// the application had them: without being named here, they are taken for mistakes and the
    /// start is refused.
    pub accept_removed: Vec<String>,
    /// Where other instances reach this one's queries, such as `127.0.0.1:8081`.
    pub endpoint: Option<String>,
}

/// More stream threads than this in one instance are a mistake.
pub(crate) const THREADS_MAX: usize = 256;
/// Kafka's limit on a client's name leaves this much for ours.
const ID_LENGTH_MAX: usize = 100;
/// More copies than this are a mistake.
const STANDBYS_MAX: usize = 16;

impl Config {
    /// The usual settings for an application whose state is kept below `state_dir`.
    pub fn new(application_id: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            application_id: application_id.into(),
            instance_id: "0".to_owned(),
            threads: 1,
            state: StateKind::Disk(state_dir.into()),
            commit_interval: Duration::from_millis(100),
            commit_pause: Duration::from_millis(5),
            memory_budget: 256 << 20,
            flush_interval: Duration::from_secs(2),
            session_timeout: Duration::from_secs(10),
            num_standby_replicas: 0,
            buffered_records_max: 4000,
            records_per_turn: 500,
            purge_interval: Duration::from_secs(30),
            policies: Policies::default(),
            accept_removed: Vec::new(),
            endpoint: None,
        }
    }

    /// Checks what can be checked without a log.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the field and what it must be.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Config, what));
        for (name, id) in [
            ("application_id", &self.application_id),
            ("instance_id", &self.instance_id),
        ] {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if id.is_empty() || id.len() > ID_LENGTH_MAX || !id.chars().all(legal) {
                return wrong(format!(
                    "{name} must be 1 to {ID_LENGTH_MAX} letters, digits, dots, underscores and \
                     dashes. {name}=`{id}`"
                ));
            }
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            let threads = self.threads;
            return wrong(format!(
                "threads must be 1 to {THREADS_MAX}. threads={threads}"
            ));
        }
        if self.num_standby_replicas > STANDBYS_MAX {
            let wanted = self.num_standby_replicas;
            return wrong(format!(
                "num_standby_replicas must be at most {STANDBYS_MAX}. num_standby_replicas={wanted}"
            ));
        }
        if self.commit_interval < self.commit_pause {
            return wrong("commit_interval must not be shorter than commit_pause".to_owned());
        }
        if self.buffered_records_max == 0 || self.records_per_turn == 0 {
            return wrong(
                "buffered_records_max and records_per_turn must be at least 1".to_owned(),
            );
        }
        Ok(())
    }
}
