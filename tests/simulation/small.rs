//! Thousands of seeds of small applications in which everything goes wrong by chance.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use millstream_broker::sim::{Rates, SimConfig};

use crate::{
    cases::{self, Case},
    checks::come_to_rest,
    seeds::each_seed,
    spots::SpotPlan,
    tally::{PROMOTIONS, Tally},
    world::{Storm, World},
};

const SEEDS: u64 = 10_000;
const MOVEMENT_SEEDS: u64 = 1_000;

fn rates() -> Rates {
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
            transaction_timeout: Duration::from_secs(if seed.is_multiple_of(2) { 3 } else { 12 }),
            late_end_txn: seed % 7 == 3,
            init_after_late_end: true,
            rates: if calm { Rates::default() } else { rates() },
            ..SimConfig::default()
        },
        spots: SpotPlan {
            crash: 2,
            full: if calm { 0 } else { 20 },
            script: None,
        },
        instances: 1 + (seed % 3) as usize,
        records: 150,
        turns: 300,
        turn_ms_max: 60,
        kills: 8,
        freezes: 5,
        doubles: if seed % 4 == 1 { 3 } else { 0 },
        moves: if (seed / 4).is_multiple_of(3) { 15 } else { 0 },
        standbys: usize::from(seed % 5 < 2),
        standby_steps: if seed % 10 < 2 { 100 } else { 1000 },
    }
}

/// Lets everything come to rest, and checks it.
pub(crate) fn check(case: &Case, world: &mut World<'_>) -> Result<(), String> {
    let checked = come_to_rest(world, |world| case.judge(world));
    checked.map_err(|why| format!("{}: {why}", case.name))
}

/// One run of a case.
fn run(case: &Case, seed: u64, storm: &Storm, tally: &Tally) -> Result<(), String> {
    let mut world = World::new(seed, &case.feed, storm);
    world.storm();
    check(case, &mut world)?;
    tally.add(&world);
    Ok(())
}

#[test]
fn small_applications_lose_and_double_nothing() {
    let cases = cases::all();
    let tally = Tally::default();
    each_seed("small applications", SEEDS, |seed| {
        let case = &cases[(seed / 3) as usize % cases.len()];
        run(case, seed, &storm(seed), &tally)
    });
    tally.tell("small applications", &PROMOTIONS);
}

/// Hardly anything but movement.
fn movement(seed: u64) -> Storm {
    let storm = storm(seed);
    Storm {
        config: SimConfig {
            rates: Rates {
                short_poll: 0.1,
                slow_markers: 0.1,
                ..Rates::default()
            },
            ..storm.config
        },
        spots: SpotPlan::default(),
        kills: 1,
        freezes: 1,
        doubles: 0,
        moves: 60,
        ..storm
    }
}

#[test]
fn threads_that_come_and_go_and_pauses_lose_and_double_nothing() {
    let cases = cases::all();
    let tally = Tally::default();
    each_seed("movement", MOVEMENT_SEEDS, |seed| {
        let case = &cases[seed as usize % cases.len()];
        run(case, seed, &movement(seed), &tally)
    });
    tally.tell("movement", &["added", "removed", "pauses", "resumes"]);
}

#[test]
fn of_two_processes_of_one_name_the_older_gives_up() {
    let cases = cases::all();
    let tally = Tally::default();
    each_seed("two of a name", 300, |seed| {
        let case = &cases[seed as usize % cases.len()];
        let storm = Storm {
            config: SimConfig::default(),
            spots: SpotPlan::default(),
            kills: 0,
            freezes: 0,
            doubles: 10,
            ..storm(seed)
        };
        run(case, seed, &storm, &tally)
    });
    tally.tell("two of a name", &["given up"]);
}

#[test]
fn one_seed_is_one_run() {
    let cases = cases::all();
    for seed in 0..20 {
        let case = &cases[seed as usize % cases.len()];
        let digest = || {
            let mut world = World::new(seed, &case.feed, &storm(seed));
            world.storm();
            check(case, &mut world).expect("right");
            world.log.digest()
        };
        assert_eq!(digest(), digest(), "seed={seed}");
    }
}

/// How many of two hundred seeds go wrong when the first request of each commit arrives late (F11).
fn late_ends(init_after_late_end: bool) -> usize {
    let (cases, tally) = (cases::all(), Tally::default());
    let wrong = |seed: &u64| {
        let mut storm = storm(*seed);
        storm.config.late_end_txn = true;
        storm.config.init_after_late_end = init_after_late_end;
        let case = &cases[*seed as usize % cases.len()];
        let ran = catch_unwind(AssertUnwindSafe(|| run(case, *seed, &storm, &tally)));
        !matches!(ran, Ok(Ok(())))
    };
    (0..200).filter(wrong).count()
}

#[test]
fn late_ends_of_transactions_do_harm_unless_producers_are_made_anew() {
    assert!(late_ends(false) > 0, "the guard is off, and nobody noticed");
    assert_eq!(late_ends(true), 0);
}
