//! `Report`: what a run did and found.

use std::{collections::BTreeMap, time::Duration};

use crate::schedule::Step;

/// A kill, with what was done since the one before.
pub(crate) struct Kill {
    pub(crate) at: Duration,
    pub(crate) what: String,
    pub(crate) accepted: usize,
    pub(crate) confirmed: usize,
}

/// What a run did and found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) steps: Vec<Step>,
    pub(crate) kills: Vec<Kill>,
    pub(crate) accepted: usize,
    pub(crate) confirmed: usize,
    /// Times without a final order, the longest first: when each began, and how long it was.
    pub(crate) pauses: Vec<(Duration, Duration)>,
    pub(crate) times_to_ready: Vec<Duration>,
    pub(crate) tails: Vec<Duration>,
    pub(crate) errors_logged: Vec<String>,
    pub(crate) quiet_after: Duration,
    /// What must not be, in words.
    pub(crate) violations: Vec<String>,
}

/// Lines that are printed of what there may be many of.
const LINES_MAX: usize = 12;

impl Report {
    pub(crate) fn print(&self) {
        println!("\nFAULT                                    TIMES");
        let mut kinds = BTreeMap::<&str, usize>::new();
        for step in &self.steps {
            *kinds.entry(step.fault.kind()).or_default() += 1;
        }
        for (kind, times) in kinds {
            println!("{kind:<38} {times:>7}");
        }
        println!("\nKILL AT  OF            ACCEPTED  CONFIRMED  since the one before");
        for kill in &self.kills {
            let (at, what) = (kill.at.as_secs_f64(), &kill.what);
            println!(
                "{at:>6.1} s  {what:<12} {:>9} {:>10}",
                kill.accepted, kill.confirmed
            );
        }
        println!();
        row("faults", self.steps.len());
        row("kills", self.kills.len());
        row("accepted", self.accepted);
        row("confirmed while disturbed", self.confirmed);
        let longest = self.pauses.first().map_or(Duration::ZERO, |pause| pause.1);
        row("longest time without a final order", seconds(longest));
        let mut ready = self.times_to_ready.clone();
        ready.sort_unstable();
        let p50 = ready.get(ready.len() / 2).copied().unwrap_or_default();
        row("starts that came to be ready", ready.len());
        row("start to ready, p50", seconds(p50));
        row(
            "start to ready, max",
            seconds(ready.last().copied().unwrap_or_default()),
        );
        row("a real order at each instance, max", {
            seconds(self.tails.iter().max().copied().unwrap_or_default())
        });
        row(
            "at rest and verified after the heal",
            seconds(self.quiet_after),
        );
        row("errors logged", self.errors_logged.len());
        row("violations", self.violations.len());
        for (at, length) in &self.pauses {
            println!(
                "no final order for {} from {} on",
                seconds(*length),
                seconds(*at)
            );
        }
        for line in self.errors_logged.iter().take(LINES_MAX) {
            println!("logged: {line}");
        }
        for violation in self.violations.iter().take(LINES_MAX) {
            println!("violation: {violation}");
        }
    }
}

fn row(what: &str, value: impl std::fmt::Display) {
    println!("{what:<38} {:>9}", value.to_string());
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
