//! Many seeds: nothing is lost or doubled, and one seed is one run.

use std::time::Duration;

use millstream_broker::sim::{Coverage, Rates, SimConfig};

use super::copying::{Plan, copy};

const SEEDS: u64 = 300;

/// Transactions of every other seed expire before sessions do, so that a sleeper may still be a
/// member when its transaction is gone, and the other way round.
fn storm(seed: u64) -> Plan {
    let transaction_timeout = Duration::from_secs(if seed.is_multiple_of(2) { 3 } else { 12 });
    Plan {
        config: SimConfig {
            transaction_timeout,
            ..SimConfig::default()
        },
        rates: Rates {
            crash: 0.005,
            retriable: 0.01,
            abortable: 0.02,
            fatal: 0.005,
            fenced: 0.005,
            indeterminate: 0.05,
            rebalance: 0.005,
            short_poll: 0.2,
            full: 0.05,
            slow_markers: 0.2,
            slow_answer: 0.1,
            coordinator_away: 0.01,
            clock_jump: 0.001,
            ..Rates::default()
        },
        frozen: 5,
        script: Vec::new(),
    }
}

#[test]
fn no_seed_loses_or_doubles_a_record() {
    let mut sum: Option<Coverage> = None;
    for seed in 0..SEEDS {
        let done = copy(seed, &storm(seed)).unwrap_or_else(|why| panic!("seed={seed}: {why}"));
        match &mut sum {
            None => sum = Some(done.coverage),
            Some(sum) => sum.merge(&done.coverage),
        }
    }
    let sum = sum.expect("there are seeds");
    println!("{sum}");
    for (point, passes) in &sum.0 {
        let used = passes.passed > SEEDS && *point != "broker.admin.after";
        assert!(
            !used || passes.hit > 0,
            "nothing ever went wrong at {point}"
        );
    }
}

#[test]
fn one_seed_is_one_run() {
    let mut plan = storm(0);
    plan.config.history_calls_max = 100_000;
    for seed in 0..20 {
        let one = copy(seed, &plan).expect("right");
        let two = copy(seed, &plan).expect("right");
        assert_eq!(format!("{one:?}"), format!("{two:?}"), "seed={seed}");
        let other = copy(seed + 1, &plan).expect("right");
        assert_ne!(one.digest, other.digest);
        assert_ne!(one.history, other.history);
        assert_ne!(one.records, other.records);
        assert!(one.history.iter().any(|call| call.fault.is_some()));
        assert!(one.history.len() > 100);
    }
}

/// How many of a hundred seeds go wrong.
fn late_ends(init_after_late_end: bool) -> usize {
    let wrong = |seed: &u64| {
        let mut plan = storm(*seed);
        plan.config.late_end_txn = true;
        plan.config.init_after_late_end = init_after_late_end;
        copy(*seed, &plan).is_err()
    };
    (0..100).filter(wrong).count()
}

#[test]
fn late_ends_do_harm_unless_producers_are_made_anew() {
    assert!(late_ends(false) > 0, "the guard is off, and nobody noticed");
    assert_eq!(late_ends(true), 0);
}
