//! `Tally`: what befell all the worlds of a run, so that a run in which nothing happened fails.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use millstream_broker::sim::Coverage;

use crate::{seeds::is_single, world::World};

#[derive(Default)]
struct Sums {
    storms: u64,
    with_standbys: u64,
    /// Storms in which standbys have become tasks.
    with_promotions: u64,
    events: BTreeMap<&'static str, u64>,
    coverage: Option<Coverage>,
}

/// What standbys are for: without these, a run has not shown that they can be trusted.
pub(crate) const PROMOTIONS: [&str; 3] = [
    "promotions",
    "promotions of dirty standbys",
    "promotions that read the rest",
];

#[derive(Default)]
pub(crate) struct Tally(Mutex<Sums>);

impl Tally {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().expect("no panic")
    }

    /// Adds a world that has come to rest.
    pub(crate) fn add(&self, world: &World<'_>) {
        let sums = &mut *self.sums();
        sums.storms += 1;
        sums.with_standbys += u64::from(world.has_standbys());
        let promotions = world.events.get("promotions").copied().unwrap_or(0);
        sums.with_promotions += u64::from(promotions > 0);
        for (event, times) in &world.events {
            *sums.events.entry(event).or_default() += times;
        }
        let coverage = world.log.coverage();
        match &mut sums.coverage {
            Some(sum) => sum.merge(&coverage),
            none => *none = Some(coverage),
        }
    }

    /// Prints all, and fails if one of these events never happened in a whole run.
    pub(crate) fn tell(&self, what: &str, events: &[&str]) {
        let sums = self.sums();
        if let Some(coverage) = &sums.coverage {
            println!("{coverage}");
        }
        let Sums {
            storms,
            with_standbys,
            with_promotions,
            ..
        } = *sums;
        println!(
            "{what}: {storms} storms, {with_standbys} with standbys, {with_promotions} in which \
             some became tasks"
        );
        for (event, times) in &sums.events {
            println!("{event:<42}{times:>10}");
        }
        for event in events {
            let times = sums.events.get(event).copied().unwrap_or(0);
            assert!(is_single() || times > 0, "{what}: there were no {event}");
        }
    }
}
