//! Checks scenarios and counts: what the runner prints, and what the test asserts.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    compare::{Difference, compare, compare_describe},
    deviation::Deviations,
    drive::{Actual, Variant, run},
    interpreter::Stop,
    scenario::{Expected, Scenario, read_file},
};

/// How a scenario went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// The file that it stands in.
    pub file: String,
    /// Why it failed; empty when it passed.
    pub failures: Vec<String>,
    /// Where the shape differs.
    pub describe: Option<Difference>,
    /// Why it differs from the JVM on purpose.
    pub deviation: Option<String>,
    /// How it differs, where it shows an oddity that Millstream does not copy, but is not listed.
    pub unlisted: Vec<String>,
}

/// Outcomes, counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In the order of the files.
    pub outcomes: Vec<Outcome>,
}

impl Tally {
    /// How many passed.
    pub fn passed(&self) -> usize {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.failures.is_empty())
            .count()
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.outcomes.len() - self.passed()
    }

    /// By file, how many passed and how many failed.
    pub fn files(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut files: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for outcome in &self.outcomes {
            let (passed, failed) = files.entry(&outcome.file).or_default();
            match outcome.failures.is_empty() {
                true => *passed += 1,
                false => *failed += 1,
            }
        }
        files
    }
}

/// Runs a scenario in all variants.
pub fn check(scenario: &Scenario, deviations: &Deviations) -> Outcome {
    let mut outcome = Outcome {
        name: scenario.name.clone(),
        file: scenario.file.clone(),
        failures: Vec::new(),
        describe: None,
        deviation: None,
        unlisted: Vec::new(),
    };
    let mut expected = scenario.expected.clone();
    let mut listed = false;
    match deviations.of(scenario) {
        Ok(None) => {}
        Ok(Some(deviation)) => {
            listed = true;
            outcome.deviation = Some(deviations.reason(deviation));
            expected = deviation.expected(scenario);
        }
        Err(why) => {
            let why = format!("listed as a deviation: {why}");
            outcome.failures.push(why);
        }
    }
    for variant in Variant::ALL {
        let ran = catch_unwind(AssertUnwindSafe(|| run_one(scenario, &expected, variant)));
        let found = ran.unwrap_or_else(|panic| Found::failure(panic_text(&*panic)));
        outcome.describe = outcome.describe.or(found.describe);
        if found.failures.is_empty() {
            continue;
        }
        let name = variant.name();
        let told = found
            .failures
            .into_iter()
            .map(|why| format!("{name}: {why}"));
        let oddity = deviations.oddity_of(scenario).filter(|_| !listed);
        if let (Some(oddity), Some(actual), None) = (oddity, found.actual, &outcome.deviation) {
            // It may differ, and only as much: all variants do the same.
            outcome.deviation = Some(format!("{oddity} (not listed)"));
            outcome.unlisted = told.collect();
            expected.outputs = actual.outputs;
            expected.stores = actual.stores;
            expected.dropped = actual.dropped;
            continue;
        }
        outcome.failures.extend(told);
        let oddities = [&scenario.quirks[..], &scenario.sensitive[..]].concat();
        if !listed && !oddities.is_empty() {
            outcome.failures.push(format!(
                "it shows an oddity of the JVM: {}. If the difference is deliberate, list it",
                oddities.join(", ")
            ));
        }
        // The other variants would mostly say the same again.
        break;
    }
    outcome
}

#[derive(Default)]
struct Found {
    failures: Vec<String>,
    describe: Option<Difference>,
    /// What the driver did, where it ran to the end.
    actual: Option<Actual>,
}

impl Found {
    fn failure(why: String) -> Self {
        Self {
            failures: vec![why],
            ..Self::default()
        }
    }
}

fn run_one(scenario: &Scenario, expected: &Expected, variant: Variant) -> Found {
    match (run(scenario, variant), expected.error) {
        (Err(Stop::Refused(_)), true) => Found::default(),
        (Err(Stop::Refused(why)), false) => Found::failure(format!("refused: {why}")),
        (Err(Stop::Missing(why) | Stop::Malformed(why) | Stop::Failed(why)), _) => {
            Found::failure(why)
        }
        (Ok(_), true) => Found::failure(format!("was not refused: {}", expected.error_text)),
        (Ok(actual), false) => {
            let differences = compare(scenario, expected, &actual);
            let mut failures: Vec<String> = differences.iter().map(ToString::to_string).collect();
            if !failures.is_empty() {
                let like = scenario.alternatives.iter().filter(|(_, outputs)| {
                    let mut other = expected.clone();
                    other.outputs = (*outputs).clone();
                    compare(scenario, &other, &actual).is_empty()
                });
                let like = like.map(|(name, _)| format!("it is the alternative `{name}`"));
                failures.extend(like);
            }
            let shape = expected.describe.as_ref();
            let describe = shape.and_then(|shape| compare_describe(shape, &actual.describe));
            Found {
                failures,
                describe,
                actual: Some(actual),
            }
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a message"))
}

/// Takes what the listed deviations among these scenarios do now for what is expected of them.
///
/// # Errors
/// A message when a file cannot be read or written, or a scenario cannot be run.
pub fn accept_files(files: &[PathBuf], deviations: &Path) -> Result<(), String> {
    let mut listed = Deviations::read(deviations)?;
    for file in files {
        for scenario in read_file(file)? {
            if listed.of(&scenario)?.is_some() {
                let actual = run(&scenario, Variant::Memory)
                    .map_err(|stop| format!("{}: {stop:?}", scenario.name))?;
                listed.accept(&scenario, &actual);
            }
        }
    }
    listed.write(deviations)
}

/// Reads the files and checks all their scenarios, on all cores.
///
/// # Errors
/// A message when a file cannot be read.
pub fn check_files(files: &[PathBuf], deviations: &Path) -> Result<Tally, String> {
    let deviations = Deviations::read(deviations)?;
    let mut scenarios = Vec::new();
    for file in files {
        scenarios.extend(read_file(file)?);
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = check(scenario, &deviations);
                    done.lock()
                        .expect("no panic while an outcome is added")
                        .push(outcome);
                }
            });
        }
    });
    let done = done
        .into_inner()
        .expect("no panic while an outcome is added");
    let mut by_name: BTreeMap<String, Outcome> = done
        .into_iter()
        .map(|outcome| (outcome.name.clone(), outcome))
        .collect();
    if by_name.len() != scenarios.len() {
        return Err("two scenarios have one name".to_owned());
    }
    let outcomes = scenarios
        .iter()
        .filter_map(|scenario| by_name.remove(&scenario.name));
    Ok(Tally {
        outcomes: outcomes.collect(),
    })
}
