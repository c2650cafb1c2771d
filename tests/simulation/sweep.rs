//! A crash at each point of the log's seam and of the disk, each at several moments: before and
//! after every step of the commit, of a restore, of a rebalance, of a flush.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use millstream_broker::sim::{Fault, Rates, SimConfig, SimLog};

use crate::{
    cases,
    machine::{DiskPlan, DiskPoint},
    seeds::each_seed,
    small::check,
    world::{Storm, World},
};

/// The application makes no such calls.
const NOT_CALLED: &[&str] = &[
    "admin.cluster_id",
    "admin.committed",
    "admin.delete_records",
    "admin.delete_topics",
    "admin.groups",
    "admin.offset_at",
    "admin.set_committed",
];
/// At which pass of its point a process dies.
const NTH: [u64; 6] = [1, 2, 3, 5, 9, 20];

/// Where a process dies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Log(&'static str),
    Disk(DiskPoint),
}

/// Without a few aborts and rebalances, some points would hardly be passed.
fn storm(script: Option<(DiskPoint, u64)>) -> Storm {
    Storm {
        config: SimConfig {
            rates: Rates {
                abortable: 0.02,
                fatal: 0.003,
                rebalance: 0.0005,
                ..Rates::default()
            },
            transaction_timeout: Duration::from_secs(3),
            ..SimConfig::default()
        },
        disk: DiskPlan {
            crash: 0,
            full: 0,
            script,
        },
        instances: 2,
        records: 120,
        turns: 250,
        turn_ms_max: 60,
        kills: 0,
        freezes: 2,
        doubles: 0,
        moves: 0,
        standbys: 0,
    }
}

fn points() -> Vec<Point> {
    let log = SimLog::new(0, SimConfig::default());
    let all = log.coverage().0.into_keys();
    let called = all.filter(|point| !NOT_CALLED.iter().any(|not| point.starts_with(not)));
    let disk = [
        DiskPoint::BeforeOpen,
        DiskPoint::BeforeIngest,
        DiskPoint::AfterIngest,
    ];
    called
        .map(Point::Log)
        .chain(disk.map(Point::Disk))
        .collect()
}

#[test]
fn a_crash_at_any_point_harms_nothing() {
    let cases = cases::all();
    let points = points();
    let deaths: Mutex<BTreeMap<&Point, u64>> = Mutex::default();
    let runs = points.len() * NTH.len() * 5;
    each_seed("crash points", runs as u64, |seed| {
        let point = &points[seed as usize % points.len()];
        let round = seed as usize / points.len();
        let nth = NTH[round % NTH.len()];
        let case = &cases[(seed as usize + round) % cases.len()];
        let storm = storm(match point {
            Point::Disk(point) => Some((*point, nth)),
            Point::Log(_) => None,
        });
        let mut world = World::new(seed, &case.feed, &storm);
        if let Point::Log(point) = point {
            world.log.script(point, nth, Fault::Crash);
        }
        world.storm();
        let passed = match point {
            Point::Log(point) => world.log.coverage().0[point].passed,
            Point::Disk(point) => world.disk_passes().get(point).map_or(0, |passes| passes.0),
        };
        if passed >= nth {
            *deaths.lock().expect("no panic").entry(point).or_default() += 1;
        }
        check(case, &mut world).map_err(|why| format!("crash at {point:?}, pass {nth}: {why}"))
    });
    let deaths = deaths.into_inner().expect("no panic");
    if std::env::var_os("MILLSTREAM_SIM_SEED").is_some() {
        return;
    }
    println!("{:<34}{:>8}", "a process died at", "times");
    for point in &points {
        let name = match point {
            Point::Log(name) => (*name).to_owned(),
            Point::Disk(point) => format!("disk: {point:?}"),
        };
        println!("{name:<34}{:>8}", deaths.get(point).unwrap_or(&0));
    }
    let never: Vec<_> = points.iter().filter(|p| !deaths.contains_key(p)).collect();
    assert!(never.is_empty(), "nobody died at {never:?}");
}
