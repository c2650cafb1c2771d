//! `Spot`: where a process can die beside the calls of the log, and what it is doing there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
};

use millstream_runtime::{Moment, Stage};
use millstream_topology::TaskId;

use crate::chance::Chance;

/// What a process is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Opens a folder of the disk.
    Open,
    /// Writes to it.
    Write,
    /// A step of the engine's own.
    Stage(Stage),
}

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    Task,
    Standby,
    /// A task that was a standby, until it has told that it runs.
    Promoted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    act: Act,
    moment: Moment,
    whose: Whose,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match self.act {
            Act::Open => "disk.open",
            Act::Write => "disk.write",
            Act::Stage(stage) => stage.name(),
        };
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::After => "after",
        };
        match self.whose {
            Whose::Task => write!(f, "{act}.{moment}"),
            Whose::Standby if act.starts_with("standby") => write!(f, "{act}.{moment}"),
            Whose::Standby => write!(f, "standby: {act}.{moment}"),
            Whose::Promoted => write!(f, "promotion: {act}.{moment}"),
        }
    }
}

/// Whose a stage of the engine can be.
fn doers(stage: Stage) -> &'static [Whose] {
    match stage {
        Stage::Revoke | Stage::Lose | Stage::Close => &[Whose::Task],
        Stage::Claim
        | Stage::Open
        | Stage::RestoreBegin
        | Stage::RestoreRead
        | Stage::RestoreStart
        | Stage::RestoreAnnounce => &[Whose::Task, Whose::Promoted],
        Stage::Take => &[Whose::Promoted],
        Stage::StandbyOpen
        | Stage::StandbyFollow
        | Stage::StandbyRead
        | Stage::StandbyApply
        | Stage::StandbyFlush
        | Stage::StandbyTell
        | Stage::StandbyClose => &[Whose::Standby],
    }
}

impl Spot {
    /// All that there are.
    pub(crate) fn all() -> Vec<Self> {
        let disk = [
            (Act::Open, Moment::Before, Whose::Task),
            (Act::Write, Moment::Before, Whose::Task),
            (Act::Write, Moment::After, Whose::Task),
            (Act::Write, Moment::Before, Whose::Standby),
            (Act::Write, Moment::After, Whose::Standby),
        ];
        let stages = Stage::ALL.iter().flat_map(|stage| {
            let each = |whose: &Whose| {
                [Moment::Before, Moment::After].map(|moment| (Act::Stage(*stage), moment, *whose))
            };
            doers(*stage).iter().flat_map(each)
        });
        let all = disk.into_iter().chain(stages);
        all.map(|(act, moment, whose)| Self { act, moment, whose })
            .collect()
    }

    /// Whether a storm passes it once or twice, if at all.
    pub(crate) fn is_rare(&self) -> bool {
        self.whose == Whose::Promoted || self.act == Act::Stage(Stage::Lose)
    }

    /// Whether only those come by that have standbys.
    pub(crate) fn needs_standbys(&self) -> bool {
        self.whose != Whose::Task
    }
}

/// What goes wrong at spots and with disks: chances in a thousand, or the `nth` pass of a spot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpotPlan {
    pub(crate) crash: u64,
    pub(crate) full: u64,
    pub(crate) script: Option<(Spot, u64)>,
}

/// What befalls the processes of a world at spots.
pub(crate) struct SpotFaults {
    plan: SpotPlan,
    chance: Chance,
    passes: BTreeMap<Spot, u64>,
}

impl SpotFaults {
    pub(crate) fn new(seed: u64, plan: SpotPlan) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            plan,
            chance: Chance::new(seed ^ 0xd15c),
            passes: BTreeMap::new(),
        }))
    }

    pub(crate) fn stop(&mut self) {
        self.plan = SpotPlan::default();
    }

    /// How often a process came by.
    pub(crate) fn passes(&self, spot: Spot) -> u64 {
        self.passes.get(&spot).copied().unwrap_or(0)
    }

    /// Whether the process dies here. Of the engine's own steps only the script says so: most of
    /// them lie between two calls of the log, which have their chances.
    fn strike(&mut self, spot: Spot) -> bool {
        let drawn = match spot.act {
            Act::Open | Act::Write => self.chance.hits(self.plan.crash),
            Act::Stage(_) => false,
        };
        let passed = self.passes.entry(spot).or_default();
        *passed += 1;
        drawn || self.plan.script == Some((spot, *passed))
    }

    pub(crate) fn disk_is_full(&mut self) -> bool {
        let full = self.plan.full;
        self.chance.hits(full)
    }
}

/// What a process has told of its tasks and standbys.
#[derive(Default)]
struct Seen {
    /// Tasks of which it has a standby, with whether that knows more than its disk.
    standbys: BTreeMap<TaskId, bool>,
    opening: BTreeSet<TaskId>,
    /// Tasks that were standbys and do not run yet.
    promoted: BTreeSet<TaskId>,
    /// Those that run since the last look.
    running: Vec<TaskId>,
    promotions: u64,
    dirty: u64,
}

/// How standbys of a process have become tasks since the last look.
#[derive(Default)]
pub(crate) struct Promotions {
    pub(crate) count: u64,
    /// Those whose disk did not have all yet.
    pub(crate) dirty: u64,
    /// Those that run now.
    pub(crate) running: Vec<TaskId>,
}

/// Follows one process from spot to spot.
#[derive(Clone)]
pub(crate) struct Watch {
    faults: Arc<Mutex<SpotFaults>>,
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    pub(crate) fn new(faults: &Arc<Mutex<SpotFaults>>) -> Self {
        Self {
            faults: faults.clone(),
            seen: Arc::default(),
        }
    }

    pub(crate) fn disk_is_full(&self) -> bool {
        self.faults.lock().expect("no panic").disk_is_full()
    }

    /// Whether the process dies at an act of its disk.
    pub(crate) fn disk(&self, act: Act, moment: Moment, task: TaskId) -> bool {
        let mut seen = self.seen.lock().expect("no panic");
        let whose = match seen.standbys.get_mut(&task) {
            Some(is_dirty) => {
                // What is applied from now on is not in this write.
                *is_dirty &= (act, moment) != (Act::Write, Moment::Before);
                Whose::Standby
            }
            None => Whose::Task,
        };
        // It is not known yet whose it will be.
        let whose = match act {
            Act::Open => Whose::Task,
            Act::Write | Act::Stage(_) => whose,
        };
        drop(seen);
        self.strike(Spot { act, moment, whose })
    }

    /// Whether the process dies at a step of the engine's.
    pub(crate) fn stage(&self, stage: Stage, moment: Moment, task: Option<TaskId>) -> bool {
        let whose = match doers(stage) {
            [whose] => *whose,
            _ => self.whose(task),
        };
        self.follow(stage, moment, task);
        self.strike(Spot {
            act: Act::Stage(stage),
            moment,
            whose,
        })
    }

    fn strike(&self, spot: Spot) -> bool {
        self.faults.lock().expect("no panic").strike(spot)
    }

    fn whose(&self, task: Option<TaskId>) -> Whose {
        let seen = self.seen.lock().expect("no panic");
        let is_promoted = match task {
            Some(task) => seen.standbys.contains_key(&task) || seen.promoted.contains(&task),
            None => !seen.promoted.is_empty(),
        };
        match is_promoted {
            true => Whose::Promoted,
            false => Whose::Task,
        }
    }

    fn follow(&self, stage: Stage, moment: Moment, task: Option<TaskId>) {
        let seen = &mut *self.seen.lock().expect("no panic");
        let Some(task) = task else {
            if (stage, moment) == (Stage::RestoreAnnounce, Moment::After) {
                seen.running.extend(std::mem::take(&mut seen.promoted));
            }
            return;
        };
        match (stage, moment) {
            (Stage::StandbyOpen, Moment::Before) => drop(seen.opening.insert(task)),
            (Stage::StandbyOpen, Moment::After) => {
                let is_open = !seen.opening.remove(&task);
                seen.standbys.extend(is_open.then_some((task, false)));
            }
            (Stage::StandbyApply, Moment::After) => drop(seen.standbys.insert(task, true)),
            (Stage::Take, Moment::Before) => {
                let is_dirty = seen.standbys.remove(&task);
                seen.promoted.insert(task);
                seen.promotions += 1;
                seen.dirty += u64::from(is_dirty == Some(true));
            }
            (Stage::StandbyClose, Moment::After) => drop(seen.standbys.remove(&task)),
            (Stage::Close, Moment::After) => drop(seen.promoted.remove(&task)),
            (Stage::Open, Moment::Before) => drop(seen.promoted.remove(&task)),
            _ => {}
        }
    }

    /// A folder was opened.
    pub(crate) fn opened(&self, task: TaskId) {
        let mut seen = self.seen.lock().expect("no panic");
        seen.opening.remove(&task);
    }

    /// What standbys have become tasks since the last look.
    pub(crate) fn promotions(&self) -> Promotions {
        let mut seen = self.seen.lock().expect("no panic");
        Promotions {
            count: std::mem::take(&mut seen.promotions),
            dirty: std::mem::take(&mut seen.dirty),
            running: std::mem::take(&mut seen.running),
        }
    }
}
