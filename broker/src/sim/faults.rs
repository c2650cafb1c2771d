//! What goes wrong, where and when: by rates drawn from the seed, or by script.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{Error, ProducerError};

/// What a call through the seam may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The client dies: this call and all later ones through it fail.
    Crash,
    /// The call fails; the client can go on.
    Retriable,
    /// [`ProducerError::Abort`].
    Abortable,
    /// [`ProducerError::Fatal`]; an open transaction stays open.
    Fatal,
    /// The log fences this producer or takes this member's place.
    Fenced,
    /// The call fails as when an answer is lost.
    Indeterminate {
        /// Whether its effect took place.
        applied: bool,
    },
    /// All groups begin a new generation; the call goes on.
    Rebalance,
    /// A poll brings fewer records than there are, or none.
    ShortPoll,
    /// [`Error::Full`].
    Full,
    /// The commit succeeds by its repetition; its first request arrives in the next transaction.
    LateEndTxn,
    /// The transaction's end is decided, but partitions learn of it later, each at its own time.
    SlowMarkers,
    /// The record is written, but its writer is told later.
    SlowAnswer,
    /// Nobody coordinates groups and transactions for a while.
    CoordinatorAway,
    /// The wall clock of the caller's machine is set to another time.
    ClockJump,
}

impl Fault {
    /// Whether it can happen at that point.
    pub fn fits(self, point: &str) -> bool {
        points().any(|(call, phase)| call.point(phase) == point && call.allows(phase, self))
    }

    /// From 1; each has its own.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Crash => 1,
            Self::Retriable => 2,
            Self::Abortable => 3,
            Self::Fatal => 4,
            Self::Fenced => 5,
            Self::Indeterminate { applied: true } => 6,
            Self::Indeterminate { applied: false } => 7,
            Self::Rebalance => 8,
            Self::ShortPoll => 9,
            Self::Full => 10,
            Self::LateEndTxn => 11,
            Self::SlowMarkers => 12,
            Self::SlowAnswer => 13,
            Self::CoordinatorAway => 14,
            Self::ClockJump => 15,
        }
    }
}

/// How often each fault happens at each point where it can, from 0 to 1.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "each is the rate of the fault of its name")]
pub struct Rates {
    pub crash: f64,
    pub retriable: f64,
    pub abortable: f64,
    pub fatal: f64,
    pub fenced: f64,
    /// Half of them are applied.
    pub indeterminate: f64,
    pub rebalance: f64,
    pub short_poll: f64,
    pub full: f64,
    pub late_end_txn: f64,
    pub slow_markers: f64,
    pub slow_answer: f64,
    pub coordinator_away: f64,
    pub clock_jump: f64,
}

impl Rates {
    fn of(&self) -> [(f64, Fault); 15] {
        let half = self.indeterminate / 2.0;
        [
            (self.crash, Fault::Crash),
            (self.retriable, Fault::Retriable),
            (self.abortable, Fault::Abortable),
            (self.fatal, Fault::Fatal),
            (self.fenced, Fault::Fenced),
            (half, Fault::Indeterminate { applied: true }),
            (half, Fault::Indeterminate { applied: false }),
            (self.rebalance, Fault::Rebalance),
            (self.short_poll, Fault::ShortPoll),
            (self.full, Fault::Full),
            (self.late_end_txn, Fault::LateEndTxn),
            (self.slow_markers, Fault::SlowMarkers),
            (self.slow_answer, Fault::SlowAnswer),
            (self.coordinator_away, Fault::CoordinatorAway),
            (self.clock_jump, Fault::ClockJump),
        ]
    }

    /// For each point what can happen there, each with the chance below which it does.
    fn odds(&self) -> Vec<Vec<(f64, Fault)>> {
        let at = |(call, phase): (Call, Phase)| {
            let mut sum = 0.0;
            let possible = self
                .of()
                .into_iter()
                .filter(|&(rate, fault)| rate > 0.0 && call.allows(phase, fault));
            let summed = possible.map(|(rate, fault)| {
                sum += rate;
                (sum, fault)
            });
            summed.collect()
        };
        points().map(at).collect()
    }
}

/// How often a point was passed, and how often a fault hit there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Calls that came by.
    pub passed: u64,
    /// Those that met a fault.
    pub hit: u64,
}

/// All points by name; one that was never passed is there with zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<&'static str, Passes>);

impl Coverage {
    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (point, more) in &other.0 {
            let sum = self.0.entry(point).or_default();
            sum.passed += more.passed;
            sum.hit += more.hit;
        }
    }
}

/// A table with a line for each point.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32}{:>12}{:>12}", "point", "passed", "hit")?;
        for (point, Passes { passed, hit }) in &self.0 {
            writeln!(f, "{point:<32}{passed:>12}{hit:>12}")?;
        }
        Ok(())
    }
}

/// Before or after a call's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Before,
    After,
}

const PHASES: [Phase; 2] = [Phase::Before, Phase::After];

/// All points, in the order of [`index`].
fn points() -> impl Iterator<Item = (Call, Phase)> {
    let of = |&call| PHASES.map(|phase| (call, phase));
    Call::ALL.iter().flat_map(of)
}

fn index(call: Call, phase: Phase) -> usize {
    call as usize * PHASES.len() + phase as usize
}

macro_rules! calls {
    ($($call:ident = $name:literal,)*) => {
        /// A call through the seam.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Call { $($call),* }

        impl Call {
            const ALL: &[Self] = &[$(Self::$call),*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$call => $name),* }
            }

            fn point(self, phase: Phase) -> &'static str {
                match (self, phase) {
                    $((Self::$call, Phase::Before) => concat!($name, ".before"),
                    (Self::$call, Phase::After) => concat!($name, ".after"),)*
                }
            }
        }
    };
}

calls! {
    MakeAdmin = "broker.admin",
    MakeConsumer = "broker.consumer",
    MakeProducer = "broker.producer",
    MakeReader = "broker.reader",
    MakeAppender = "broker.appender",
    Poll = "consumer.poll",
    Assign = "consumer.assign",
    Unassign = "consumer.unassign",
    Pause = "consumer.pause",
    Resume = "consumer.resume",
    Seek = "consumer.seek",
    Committed = "consumer.committed",
    GroupMetadata = "consumer.group_metadata",
    Close = "consumer.close",
    Init = "producer.init",
    Begin = "producer.begin",
    Send = "producer.send",
    Drain = "producer.drain",
    SendOffsets = "producer.send_offsets",
    Commit = "producer.commit",
    Abort = "producer.abort",
    ReaderAssign = "reader.assign",
    ReaderPoll = "reader.poll",
    Position = "reader.position",
    Append = "appender.append",
    ClusterId = "admin.cluster_id",
    Topics = "admin.topics",
    CreateTopics = "admin.create_topics",
    DeleteTopics = "admin.delete_topics",
    AdminWatermarks = "admin.watermarks",
    AdminCommitted = "admin.committed",
    SetCommitted = "admin.set_committed",
    OffsetAt = "admin.offset_at",
    DeleteRecords = "admin.delete_records",
    Groups = "admin.groups",
}

impl Call {
    fn of_producer(self) -> bool {
        self.name().starts_with("producer.")
    }

    /// Whether it is answered by the coordinator of a group or of a transaction, there and then.
    pub(super) fn is_coordinated(self) -> bool {
        matches!(
            self,
            Self::Committed
                | Self::Init
                | Self::SendOffsets
                | Self::Commit
                | Self::Abort
                | Self::AdminCommitted
                | Self::SetCommitted
                | Self::Groups
        )
    }

    /// Whether the seam lets a log answer this call so. A commit that took place must not say that
    /// it can be aborted, and records that were handed out must not be lost to an error.
    fn allows(self, phase: Phase, fault: Fault) -> bool {
        let before = phase == Phase::Before;
        let polls = matches!(self, Self::Poll | Self::ReaderPoll);
        match fault {
            Fault::Crash | Fault::Rebalance => true,
            Fault::Retriable => {
                !self.of_producer()
                    && self != Self::Close
                    && (before || !polls)
                    && (before || self != Self::Append)
            }
            Fault::Abortable => match self {
                Self::Send | Self::Drain | Self::SendOffsets => true,
                Self::Commit => before,
                _ => false,
            },
            Fault::Fatal => self.of_producer(),
            Fault::Fenced => match self {
                Self::Begin | Self::Send | Self::Drain | Self::SendOffsets => true,
                Self::Commit | Self::Abort | Self::Poll => before,
                _ => false,
            },
            Fault::Indeterminate { .. } => {
                let lost = matches!(
                    self,
                    Self::Init | Self::SendOffsets | Self::Commit | Self::Abort | Self::Append
                );
                before && lost
            }
            Fault::ShortPoll => before && polls,
            Fault::Full | Fault::SlowAnswer => before && self == Self::Append,
            Fault::SlowMarkers => before && matches!(self, Self::Commit | Self::Abort),
            Fault::CoordinatorAway => before && self.is_coordinated(),
            Fault::ClockJump => before,
            Fault::LateEndTxn => before && self == Self::Commit,
        }
    }
}

/// SplitMix64: all chance of a simulation comes from one of these.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }

    /// A number from 0 up to 1, without it.
    fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time from a nanosecond up to `most`.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.fraction()).max(Duration::from_nanos(1))
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end + 1));
        }
    }
}

pub(super) struct Faults {
    pub rng: Rng,
    odds: Vec<Vec<(f64, Fault)>>,
    script: BTreeMap<(usize, u64), Fault>,
    passes: Vec<Passes>,
}

impl Faults {
    pub(super) fn new(seed: u64, rates: &Rates) -> Self {
        Self {
            rng: Rng(seed),
            odds: rates.odds(),
            script: BTreeMap::new(),
            passes: points().map(|_| Passes::default()).collect(),
        }
    }

    pub(super) fn set_rates(&mut self, rates: &Rates) {
        self.odds = rates.odds();
    }

    pub(super) fn stop(&mut self) {
        self.set_rates(&Rates::default());
        self.script.clear();
    }

    pub(super) fn coverage(&self) -> Coverage {
        let names = points().map(|(call, phase)| call.point(phase));
        Coverage(names.zip(self.passes.iter().copied()).collect())
    }

    pub(super) fn script(&mut self, point: &str, nth: u64, fault: Fault) {
        let (call, phase) = points()
            .find(|(call, phase)| call.point(*phase) == point)
            .unwrap_or_else(|| panic!("no such point. point=`{point}`"));
        assert!(
            call.allows(phase, fault),
            "the seam has no such answer here. point=`{point}`, fault={fault:?}"
        );
        assert!(nth > 0, "calls are counted from 1. point=`{point}`");
        let at = index(call, phase);
        self.script
            .insert((at, self.passes[at].passed + nth), fault);
    }

    /// A call comes by.
    #[inline]
    pub(super) fn strike(&mut self, call: Call, phase: Phase) -> Option<Fault> {
        let at = index(call, phase);
        // Drawn always, so that a script does not change what else the seed does.
        let chance = self.rng.fraction();
        let count = &mut self.passes[at];
        count.passed += 1;
        let scripted = if self.script.is_empty() {
            None
        } else {
            self.script.remove(&(at, count.passed))
        };
        let drawn = || {
            let odds = self.odds[at].iter().find(|(below, _)| chance < *below);
            odds.map(|(_, fault)| *fault)
        };
        let fault = scripted.or_else(drawn);
        count.hit += u64::from(fault.is_some());
        fault
    }
}

/// Why a call failed that the log itself had nothing against.
#[derive(Debug)]
pub(super) struct Failure {
    pub call: Call,
    /// `None`: its client is dead.
    pub fault: Option<Fault>,
}

impl Failure {
    fn reason(&self) -> String {
        match self.fault {
            None => "the client was killed".to_owned(),
            Some(fault) => format!("the simulation says so. fault={fault:?}"),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.fault {
            Some(Fault::Fenced) => Self::Fenced(failure.call.name().to_owned()),
            Some(Fault::Full) => Self::Full,
            _ => Self::client(failure.call.name(), failure.reason()),
        }
    }
}

impl From<Failure> for ProducerError {
    fn from(failure: Failure) -> Self {
        let fault = failure.fault;
        let why = Box::new(Error::client(failure.call.name(), failure.reason()));
        match fault {
            Some(Fault::Abortable) => Self::Abort(why),
            Some(Fault::Fenced) => Self::Fenced(why),
            _ => Self::Fatal(why),
        }
    }
}
