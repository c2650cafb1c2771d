//! The schedule: what fault, when, on whom. A pure function of the seed and the length.

use std::time::Duration;

/// Instances of the shop.
pub(crate) const INSTANCES: usize = 3;
/// No fault before this: there must be something to disturb.
const QUIET_START: Duration = Duration::from_secs(3);
/// The longest time for which the broker is stopped with SIGSTOP.
pub(crate) const KAFKA_PAUSE_MS_MAX: u64 = 8_000;
/// Bounds of the pause between the beginnings of two faults.
const PAUSE_MS: (u64, u64) = (3_500, 7_500);

/// A direction of a connection, seen from the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the instance to the server.
    Out,
    /// From the server to the instance.
    In,
}

/// What an instance talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Kafka,
    Database,
}

/// What is done to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Connections are closed and none is made.
    Cut,
    /// Nothing arrives that way.
    Stall(Way),
    /// Everything arrives so much later, both ways.
    Delay(Duration),
}

/// A fault. It is over after its duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9` of an instance, which is started again afterwards.
    Kill(usize),
    /// SIGSTOP for longer than a session lasts, then SIGCONT.
    Zombie(usize),
    /// The connections between an instance and a server.
    Link(usize, Server, Harm),
    /// SIGTERM, then a start.
    Stop(Server),
    /// `kill -9`, then a start.
    Crash(Server),
    /// SIGSTOP, then SIGCONT.
    Pause(Server),
}

impl Fault {
    /// The name of its kind.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "instance killed",
            Self::Zombie(_) => "instance stopped beyond its session",
            Self::Link(_, Server::Kafka, Harm::Cut) => "kafka link cut",
            Self::Link(_, Server::Kafka, Harm::Stall(_)) => "kafka link stalled one way",
            Self::Link(_, Server::Kafka, Harm::Delay(_)) => "kafka link delayed",
            Self::Link(_, Server::Database, Harm::Cut) => "database link cut",
            Self::Link(_, Server::Database, Harm::Stall(_)) => "database link stalled one way",
            Self::Link(_, Server::Database, Harm::Delay(_)) => "database link delayed",
            Self::Stop(Server::Kafka) => "broker restarted",
            Self::Crash(Server::Kafka) => "broker killed",
            Self::Pause(Server::Kafka) => "broker paused",
            Self::Stop(Server::Database) => "database restarted",
            Self::Crash(Server::Database) => "database killed",
            Self::Pause(Server::Database) => "database paused",
        }
    }

    /// True when a process is killed.
    pub(crate) fn is_kill(self) -> bool {
        match self {
            Self::Kill(_) | Self::Crash(_) => true,
            Self::Zombie(_) | Self::Link(..) | Self::Stop(_) | Self::Pause(_) => false,
        }
    }
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// From the start of the schedule.
    pub(crate) at: Duration,
    /// How long it lasts.
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

/// The kinds of a round; each round has all of them in an order of its own.
const KINDS: usize = 18;
/// Places of a round that kill an instance.
const KILLS: usize = 5;

/// All faults of a run.
pub(crate) fn schedule(seed: u64, length: Duration) -> Vec<Step> {
    let mut chance = Chance(seed);
    let mut steps = Vec::new();
    let mut round = Vec::new();
    let mut at = QUIET_START;
    while at < length {
        if round.is_empty() {
            round = (0..KINDS).collect();
            chance.shuffle(&mut round);
        }
        let kind = round.pop().expect("it was filled");
        let (fault, lasts) = draw(kind, &mut chance);
        steps.push(Step { at, lasts, fault });
        at += Duration::from_millis(chance.between(PAUSE_MS.0, PAUSE_MS.1));
    }
    steps
}

fn draw(kind: usize, chance: &mut Chance) -> (Fault, Duration) {
    let on = chance.between(0, INSTANCES as u64 - 1) as usize;
    let way = [Way::Out, Way::In][chance.between(0, 1) as usize];
    let delay = Harm::Delay(Duration::from_millis(chance.between(50, 400)));
    let (fault, lasts) = match kind {
        0..KILLS => (Fault::Kill(on), (0, 4_000)),
        5 => (Fault::Zombie(on), (8_000, 14_000)),
        6 => (Fault::Link(on, Server::Kafka, Harm::Cut), (200, 12_000)),
        7 => (
            Fault::Link(on, Server::Kafka, Harm::Stall(way)),
            (2_000, 15_000),
        ),
        8 => (Fault::Link(on, Server::Kafka, delay), (4_000, 12_000)),
        9 => (Fault::Link(on, Server::Database, Harm::Cut), (200, 12_000)),
        10 => (
            Fault::Link(on, Server::Database, Harm::Stall(way)),
            (2_000, 15_000),
        ),
        11 => (Fault::Link(on, Server::Database, delay), (4_000, 12_000)),
        12 => (Fault::Stop(Server::Kafka), (0, 3_000)),
        13 => (Fault::Crash(Server::Kafka), (0, 3_000)),
        14 => (Fault::Pause(Server::Kafka), (2_000, KAFKA_PAUSE_MS_MAX)),
        15 => (Fault::Stop(Server::Database), (0, 5_000)),
        16 => (Fault::Crash(Server::Database), (0, 5_000)),
        _ => (Fault::Pause(Server::Database), (2_000, 8_000)),
    };
    (
        fault,
        Duration::from_millis(chance.between(lasts.0, lasts.1)),
    )
}

/// SplitMix64: the same numbers for the same seed, on every machine and in every version.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `least` to `most`.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.between(0, last as u64) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let length = Duration::from_secs(600);
        assert_eq!(schedule(7, length), schedule(7, length));
        assert_ne!(schedule(7, length), schedule(8, length));
        let short = schedule(7, Duration::from_secs(60));
        assert!(
            schedule(7, length).starts_with(&short),
            "a longer run begins the same"
        );
    }

    #[test]
    fn ten_minutes_have_every_kind_and_twenty_kills_of_instances() {
        for seed in 0..200 {
            let steps = schedule(seed, Duration::from_secs(600));
            let kinds: BTreeSet<_> = steps.iter().map(|step| step.fault.kind()).collect();
            assert_eq!(kinds.len(), KINDS - KILLS + 1, "seed {seed}");
            let is_kill = |step: &&Step| matches!(step.fault, Fault::Kill(_));
            assert!(steps.iter().filter(is_kill).count() >= 20, "seed {seed}");
        }
    }
}
