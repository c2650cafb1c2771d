//! `Stage`: the steps by which tasks and standbys come, are brought up to date, and go.

use millstream_topology::TaskId;

use crate::application::Shared;

/// A step in the life of a task's state, or of a standby. [`Bases`](crate::Bases) hear when each
/// begins and when it has ended, well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The group takes its partitions back, and what was done is committed.
    Revoke,
    /// The partitions are others' already, and what was not committed is dropped.
    Lose,
    /// A task that went elsewhere is closed.
    Close,
    /// A stream thread says that a task is its, so that no standby of it is opened.
    Claim,
    /// A task is opened, over its standby if there is one.
    Open,
    /// A standby becomes the task.
    Take,
    /// What is to be restored of all tasks is found out.
    RestoreBegin,
    /// Some of it is read and applied.
    RestoreRead,
    /// The processors of restored tasks start.
    RestoreStart,
    /// Queries and the other instances are told of the tasks.
    RestoreAnnounce,
    /// A standby is opened.
    StandbyOpen,
    /// The reader of all standbys begins where each stands.
    StandbyFollow,
    /// Some records are read.
    StandbyRead,
    /// Those of one store are applied.
    StandbyApply,
    /// What standbys hold is handed over to be written to disk.
    StandbyFlush,
    /// The other instances are told of the standbys.
    StandbyTell,
    /// A standby is closed, and written to disk.
    StandbyClose,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Revoke,
        Self::Lose,
        Self::Close,
        Self::Claim,
        Self::Open,
        Self::Take,
        Self::RestoreBegin,
        Self::RestoreRead,
        Self::RestoreStart,
        Self::RestoreAnnounce,
        Self::StandbyOpen,
        Self::StandbyFollow,
        Self::StandbyRead,
        Self::StandbyApply,
        Self::StandbyFlush,
        Self::StandbyTell,
        Self::StandbyClose,
    ];

    /// Its name, such as `rebalance.open`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoke => "rebalance.revoke",
            Self::Lose => "rebalance.lose",
            Self::Close => "rebalance.close",
            Self::Claim => "rebalance.claim",
            Self::Open => "rebalance.open",
            Self::Take => "standby.take",
            Self::RestoreBegin => "restore.begin",
            Self::RestoreRead => "restore.read",
            Self::RestoreStart => "restore.start",
            Self::RestoreAnnounce => "restore.announce",
            Self::StandbyOpen => "standby.open",
            Self::StandbyFollow => "standby.follow",
            Self::StandbyRead => "standby.read",
            Self::StandbyApply => "standby.apply",
            Self::StandbyFlush => "standby.flush",
            Self::StandbyTell => "standby.tell",
            Self::StandbyClose => "standby.close",
        }
    }
}

/// The beginning of a step, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Nothing of it has happened.
    Before,
    /// All of it has happened, or it has failed.
    After,
}

impl Shared {
    /// A step of a task begins; `None` when it is one of several tasks at once.
    pub(crate) fn before(&self, stage: Stage, task: Option<TaskId>) {
        self.bases.passes(stage, Moment::Before, task);
    }

    /// That step has ended.
    pub(crate) fn after(&self, stage: Stage, task: Option<TaskId>) {
        self.bases.passes(stage, Moment::After, task);
    }
}
