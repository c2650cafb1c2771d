//! Thousands of seeds of small applications in which everything goes wrong by chance.

use std::{sync::Mutex, time::Duration};

use millstream_broker::sim::{Coverage, Rates, SimConfig};

use crate::{
    cases::{self, Case},
    checks::same_disks,
    machine::DiskPlan,
    seeds::each_seed,
    world::{Storm, World},
};

const SEEDS: u64 = 10_000;

pub(crate) fn rates() -> Rates {
    Rates {
        crash: 0.001,
        retriable: 0.003,
        abortable: 0.01,
        fatal: 0.002,
        fenced: 0.001,
        indeterminate: 0.02,
        rebalance: 0.001,
        short_poll: 0.1,
        full: 0.02,
        slow_markers: 0.1,
        slow_answer: 0.05,
        coordinator_away: 0.005,
        clock_jump: 0.0005,
        ..Rates::default()
    }
}

/// Seeds differ in what goes wrong: some have no faults but crashes, some late commits, some
/// transactions that end before sessions do.
pub(crate) fn storm(seed: u64) -> Storm {
    let calm = seed % 5 == 4;
    Storm {
        config: SimConfig {
            transaction_timeout: Duration::from_secs(if seed % 2 == 0 { 3 } else { 12 }),
            late_end_txn: seed % 7 == 3,
            init_after_late_end: true,
            rates: if calm { Rates::default() } else { rates() },
            ..SimConfig::default()
        },
        disk: DiskPlan {
            crash: 2,
            full: if calm { 0 } else { 20 },
            script: None,
        },
        instances: 1 + (seed % 3) as usize,
        records: 150,
        turns: 300,
        kills: 8,
        freezes: 5,
        doubles: if seed % 4 == 1 { 3 } else { 0 },
    }
}

/// One run of a case, checked.
pub(crate) fn run(
    case: &Case,
    seed: u64,
    storm: &Storm,
    sum: &Mutex<Option<Coverage>>,
) -> Result<(), String> {
    let mut world = World::new(seed, &case.feed, storm);
    world.storm();
    let healed = world.heal();
    {
        let mut sum = sum.lock().expect("no panic");
        match &mut *sum {
            None => *sum = Some(world.log.coverage()),
            Some(sum) => sum.merge(&world.log.coverage()),
        }
    }
    let checked = healed.and_then(|()| {
        if let Some(why) = world.broken.first() {
            return Err(why.clone());
        }
        world.log.check();
        (case.check)(&world)?;
        let kept = world.stop()?;
        let rebuilt = world.rebuild()?;
        same_disks(&kept, &rebuilt, case.retention_ms)
    });
    if std::env::var_os("SIM_DUMP").is_some() {
        for (topic, _) in &case.feed.topics {
            for (p, records) in world.records(topic).iter().enumerate() {
                for r in records {
                    let key = String::from_utf8_lossy(r.record.key.as_deref().unwrap_or_default())
                        .into_owned();
                    println!(
                        "{topic}-{p} {} {key} {:?} @{} {:?}",
                        r.offset, r.record.value, r.record.timestamp, r.writer
                    );
                }
            }
        }
    }
    checked.map_err(|why| format!("{} ({:?}): {why}", case.name, world.events))
}

#[test]
fn small_applications_lose_and_double_nothing() {
    let cases = cases::all();
    let sum = Mutex::new(None);
    each_seed("small applications", SEEDS, |seed| {
        let case = &cases[(seed / 3) as usize % cases.len()];
        run(case, seed, &storm(seed), &sum)
    });
    if let Some(sum) = sum.into_inner().expect("no panic") {
        println!("{sum}");
    }
}
