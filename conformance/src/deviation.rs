//! Known deviations: scenarios with an oddity of the JVM that Millstream does not copy.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::scenario::{Expected, Output, Scenario, StoreEntry};

/// One scenario in which Millstream deliberately differs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The scenario.
    pub name: String,
    /// Why.
    pub reason: String,
    /// The page that decides it, under `docs/decisions/`.
    pub decision: String,
    /// The scenario's alternative that holds, if it has one.
    pub alternative: Option<String>,
    /// The outputs that hold instead.
    pub outputs: Option<Vec<Vec<Output>>>,
    /// The stores that hold instead.
    pub stores: Option<BTreeMap<String, Vec<StoreEntry>>>,
    /// The dropped records that hold instead.
    pub dropped: Option<u64>,
}

/// The file of known deviations.
#[derive(Clone, Debug, Default)]
pub struct Deviations(Vec<Deviation>);

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
        let all = lines.map(|(at, line)| {
            serde_json::from_str(line).map_err(|e| format!("{}:{at}: {e}", path.display()))
        });
        Ok(Self(all.collect::<Result<_, String>>()?))
    }

    /// The deviation of a scenario.
    ///
    /// # Errors
    /// When the scenario shows no oddity, so that it must not deviate, or has no such alternative.
    pub fn of(&self, scenario: &Scenario) -> Result<Option<&Deviation>, String> {
        let Some(found) = self.0.iter().find(|d| d.name == scenario.name) else {
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
