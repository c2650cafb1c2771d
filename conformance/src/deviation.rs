//! Known deviations: oddities of the JVM that Millstream does not copy, and the scenarios that show
//! them.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    drive::Actual,
    scenario::{Expected, Output, Scenario, StoreEntry},
};

/// An oddity of the JVM that Millstream does not copy.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Oddity {
    /// The tag of the scenarios that may show it.
    pub oddity: String,
    /// What Millstream does instead.
    pub reason: String,
    /// The page that decides it, under `docs/decisions/`.
    pub decision: String,
}

/// One scenario in which Millstream deliberately differs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The scenario.
    pub name: String,
    /// Why: one of the oddities.
    pub because: String,
    /// The scenario's alternative that holds, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternative: Option<String>,
    /// The outputs that hold instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<Vec<Output>>>,
    /// The stores that hold instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stores: Option<BTreeMap<String, Vec<StoreEntry>>>,
    /// The dropped records that hold instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Oddity(Oddity),
    Deviation(Deviation),
}

/// The file of known deviations: first the oddities, then the scenarios.
#[derive(Clone, Debug, Default)]
pub struct Deviations {
    oddities: Vec<Oddity>,
    listed: Vec<Deviation>,
}

impl Deviations {
    /// Reads the file; there are none where there is no file.
    ///
    /// # Errors
    /// A message that names file and line when a line is no deviation.
    pub fn read(path: &Path) -> Result<Self, String> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty());
        let mut all = Self::default();
        for (at, line) in lines {
            let line = serde_json::from_str(line);
            match line.map_err(|e| format!("{}:{at}: {e}", path.display()))? {
                Line::Oddity(oddity) => all.oddities.push(oddity),
                Line::Deviation(deviation) => {
                    if all.oddity(&deviation.because).is_none() {
                        return Err(format!(
                            "{}:{at}: there is no oddity `{}` above",
                            path.display(),
                            deviation.because
                        ));
                    }
                    all.listed.push(deviation);
                }
            }
        }
        Ok(all)
    }

    fn oddity(&self, tag: &str) -> Option<&Oddity> {
        self.oddities.iter().find(|oddity| oddity.oddity == tag)
    }

    /// The first oddity that a scenario may show and Millstream does not copy.
    pub fn oddity_of(&self, scenario: &Scenario) -> Option<&Oddity> {
        let tags = scenario.quirks.iter().chain(&scenario.sensitive);
        tags.flat_map(|tag| self.oddity(tag)).next()
    }

    /// Why a listed scenario differs.
    pub fn reason(&self, deviation: &Deviation) -> String {
        self.oddity(&deviation.because)
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A message when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        fn line(entry: &impl Serialize) -> serde_json::Result<String> {
            serde_json::to_string(entry).map(|line| line + "\n")
        }
        let lines = self.oddities.iter().map(line);
        let text: Result<String, _> = lines.chain(self.listed.iter().map(line)).collect();
        let text = text.map_err(|e| e.to_string())?;
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Takes what a listed scenario does now for what is expected of it.
    pub fn accept(&mut self, scenario: &Scenario, actual: &Actual) {
        let Some(listed) = self.listed.iter_mut().find(|d| d.name == scenario.name) else {
            return;
        };
        let jvm = &scenario.expected;
        let alternative = listed.alternative.as_ref();
        let known = alternative.and_then(|name| scenario.alternatives.get(name));
        let same = |outputs: &Vec<Vec<Output>>| *outputs == actual.outputs;
        let as_known = known.map_or(same(&jvm.outputs), same);
        listed.outputs = (!as_known).then(|| actual.outputs.clone());
        let mut stores = actual.stores.clone();
        stores.retain(|name, entries| jvm.stores.get(name) != Some(entries));
        listed.stores = (!stores.is_empty()).then_some(stores);
        listed.dropped = (jvm.dropped != actual.dropped).then_some(actual.dropped);
    }

    /// The deviation of a scenario.
    ///
    /// # Errors
    /// When the scenario shows no oddity, so that it must not deviate, or has no such alternative.
    pub fn of(&self, scenario: &Scenario) -> Result<Option<&Deviation>, String> {
        let Some(found) = self.listed.iter().find(|d| d.name == scenario.name) else {
            return Ok(None);
        };
        if scenario.quirks.is_empty() && scenario.sensitive.is_empty() && scenario.file != "quirks"
        {
            return Err("it shows no oddity of the JVM, so it must not deviate".to_owned());
        }
        if let Some(alternative) = &found.alternative
            && !scenario.alternatives.contains_key(alternative)
        {
            return Err(format!("it has no alternative `{alternative}`"));
        }
        Ok(Some(found))
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.oddity, self.reason, self.decision)
    }
}

impl Deviation {
    /// What is expected of Millstream.
    pub fn expected(&self, scenario: &Scenario) -> Expected {
        let mut expected = scenario.expected.clone();
        let alternative = self.alternative.as_ref();
        if let Some(outputs) = alternative.and_then(|name| scenario.alternatives.get(name)) {
            expected.outputs = outputs.clone();
        }
        if let Some(outputs) = &self.outputs {
            expected.outputs = outputs.clone();
        }
        if let Some(stores) = &self.stores {
            expected.stores.extend(stores.clone());
        }
        expected.dropped = self.dropped.unwrap_or(expected.dropped);
        expected
    }
}
