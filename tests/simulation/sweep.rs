//! A crash at each point of the log's seam and at each spot beside it, each at several moments:
//! before and after every step of the commit, of a flush, of a rebalance, of a restore, of a
//! standby's life and of its promotion.

use std::{collections::BTreeMap, fmt, sync::Mutex, time::Duration};

use millstream_broker::sim::{Fault, Rates, SimConfig, SimLog};

use crate::{
    cases,
    seeds::{each_seed, is_single},
    small::check,
    spots::{Spot, SpotPlan},
    world::{Storm, World},
};

/// The application makes no such calls.
const NOT_CALLED: &[&str] = &[
    "admin.cluster_id",
    "admin.delete_topics",
    "admin.groups",
    "admin.offset_at",
    "admin.set_committed",
];
/// Calls that only some cases make.
const ONLY_BY: &[(&str, &str)] = &[
    ("admin.committed", "tables"),
    ("admin.delete_records", "purging"),
];
/// At which pass of its point a process dies.
const NTH: [u64; 6] = [1, 2, 3, 5, 9, 20];
/// How often each point has its turn with each of these.
const ROUNDS: usize = 4;

/// Where a process dies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Log(&'static str),
    Beside(Spot),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(point) => f.write_str(point),
            Self::Beside(spot) => spot.fmt(f),
        }
    }
}

/// Without a few aborts and rebalances, some points would hardly be passed. Standbys become tasks
/// where instances come and go.
fn storm(round: usize, script: Option<(Spot, u64)>) -> Storm {
    let is_rare = script.is_some_and(|(spot, _)| spot.is_rare());
    let moves = script.is_some_and(|(spot, _)| spot.needs_standbys());
    Storm {
        config: SimConfig {
            rates: Rates {
                abortable: 0.02,
                fatal: 0.003,
                fenced: if script.is_some() { 0.002 } else { 0.0 },
                rebalance: if moves { 0.003 } else { 0.0005 },
                ..Rates::default()
            },
            transaction_timeout: Duration::from_secs(3),
            ..SimConfig::default()
        },
        spots: SpotPlan {
            crash: 0,
            full: 0,
            script,
        },
        instances: if moves { 3 } else { 2 },
        records: 120,
        turns: 250,
        // Long enough for sessions to end.
        turn_ms_max: if is_rare { 250 } else { 60 },
        kills: if moves { 8 } else { 0 },
        freezes: if script.is_some() { 20 } else { 2 },
        doubles: 0,
        moves: 0,
        standbys: usize::from(moves || round.is_multiple_of(2)),
        standby_steps: if round.is_multiple_of(3) { 100 } else { 1000 },
    }
}

fn points() -> Vec<Point> {
    let log = SimLog::new(0, SimConfig::default());
    let all = log.coverage().0.into_keys();
    let called = all.filter(|point| !NOT_CALLED.iter().any(|not| point.starts_with(not)));
    let spots = Spot::all().into_iter();
    called
        .map(Point::Log)
        .chain(spots.map(Point::Beside))
        .collect()
}

#[test]
fn a_crash_at_any_point_harms_nothing() {
    let cases = cases::all();
    let points = points();
    let deaths: Mutex<BTreeMap<&Point, u64>> = Mutex::default();
    let runs = points.len() * NTH.len() * ROUNDS;
    each_seed("crash points", runs as u64, |seed| {
        let (round, at) = (seed as usize / points.len(), seed as usize % points.len());
        let point = &points[at];
        let nth = match point {
            Point::Beside(spot) if spot.is_rare() => 1 + round as u64 % 2,
            Point::Beside(_) | Point::Log(_) => NTH[round % NTH.len()],
        };
        let only = ONLY_BY.iter().find(|(call, _)| match point {
            Point::Log(point) => point.starts_with(call),
            Point::Beside(_) => false,
        });
        let case = match only {
            Some((_, name)) => cases.iter().find(|case| case.name == *name),
            // Each point meets all cases, and with each `nth` others, however many there are.
            None => cases.get((at + round + round / NTH.len()) % cases.len()),
        };
        let case = case.expect("there is such a case");
        let storm = storm(
            round,
            match point {
                Point::Beside(spot) => Some((*spot, nth)),
                Point::Log(_) => None,
            },
        );
        let mut world = World::new(seed, &case.feed, &storm);
        if let Point::Log(point) = point {
            world.log.script(point, nth, Fault::Crash);
        }
        world.storm();
        let passed = match point {
            Point::Log(point) => world.log.coverage().0[point].passed,
            Point::Beside(spot) => world.passes(*spot),
        };
        if passed >= nth {
            *deaths.lock().expect("no panic").entry(point).or_default() += 1;
        }
        check(case, &mut world).map_err(|why| format!("crash at {point}, pass {nth}: {why}"))
    });
    let deaths = deaths.into_inner().expect("no panic");
    if is_single() {
        return;
    }
    println!("{:<42}{:>8}", "a process died at", "times");
    for point in &points {
        let name = point.to_string();
        println!("{name:<42}{:>8}", deaths.get(point).unwrap_or(&0));
    }
    let never: Vec<_> = points.iter().filter(|p| !deaths.contains_key(p)).collect();
    assert!(never.is_empty(), "nobody died at {never:?}");
}
