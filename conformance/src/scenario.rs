//! `Scenario`: one line of a file, as `FORMAT.md` defines it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A topology, its inputs, and what Kafka Streams did with them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique.
    pub name: String,
    /// The operators that it is about.
    pub family: String,
    /// The name of the file that it was read from, without ending.
    #[serde(skip)]
    pub file: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Settings of the whole topology.
    #[serde(default)]
    pub config: Config,
    /// The steps, each an object with an `op`.
    pub topology: Vec<serde_json::Map<String, Json>>,
    /// What is fed, in order.
    pub inputs: Vec<Input>,
    /// What Kafka Streams did.
    pub expected: Expected,
    /// What other reasonable behaviour would change.
    #[serde(default)]
    pub sensitive: Vec<String>,
    /// Oddities of the JVM that it may show.
    #[serde(default)]
    pub quirks: Vec<String>,
    /// Outputs under another reasonable behaviour.
    #[serde(default)]
    pub alternatives: BTreeMap<String, Vec<Vec<Output>>>,
}

impl Scenario {
    /// The timestamps of all inputs.
    pub fn input_times(&self) -> Vec<i64> {
        let time = |input: &Input| match input {
            Input::Record(record) => Some(record.ts),
            Input::Clock(_) => None,
        };
        self.inputs.iter().filter_map(time).collect()
    }
}

/// Settings of the whole topology.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The JVM's topology optimisation.
    #[serde(default)]
    pub optimize: bool,
    /// The JVM's record cache, flushed after every record.
    #[serde(default)]
    pub caching: bool,
    /// Numbers of partitions by topic; 1 where there is none.
    #[serde(default)]
    pub partitions: HashMap<String, u32>,
}

/// A record, or a move of the wall clock.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// The wall clock moves on.
    Clock(Advance),
    /// A record arrives.
    Record(Incoming),
}

/// A move of the wall clock.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// By how much.
    #[serde(rename = "advanceWallClockMs")]
    pub advance_wall_clock_ms: u64,
}

/// A record that arrives.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    /// Where.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: Option<String>,
    /// Its timestamp.
    pub ts: i64,
    /// Names and texts.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// What Kafka Streams did.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// True when it refused the topology.
    #[serde(default)]
    pub error: bool,
    /// Its message, for people.
    #[serde(default)]
    pub error_text: String,
    /// For each input the records written because of it.
    #[serde(default)]
    pub outputs: Vec<Vec<Output>>,
    /// The named stores at the end.
    #[serde(default)]
    pub stores: BTreeMap<String, Vec<StoreEntry>>,
    /// How many records operators dropped.
    #[serde(default)]
    pub dropped: u64,
    /// The shape of the topology.
    pub describe: Option<Describe>,
}

/// A record that was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Where.
    pub topic: String,
    /// Its key, without the window.
    pub key: Option<String>,
    /// The window of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<(i64, i64)>,
    /// Its value.
    pub value: Option<String>,
    /// Its timestamp.
    pub ts: i64,
    /// Names and texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// An entry of a store, as a scenario tells it: fields that its kind of store has not are absent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoreEntry {
    /// The key, without the window.
    pub key: String,
    /// The window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<(i64, i64)>,
    /// The timestamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<i64>,
    /// The value.
    pub value: String,
}

/// The shape of a topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Describe {
    /// Its parts, in no order that counts.
    pub subtopologies: Vec<DescribedPart>,
    /// The number of global stores.
    pub global_stores: usize,
}

/// A part of a topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribedPart {
    /// The external topics that it reads; a pattern as `/…/`.
    pub sources: Vec<String>,
    /// The external topics that it writes.
    pub sinks: Vec<String>,
    /// Its named stores.
    pub stores: Vec<String>,
}

/// Reads a file of scenarios.
///
/// # Errors
/// A message that names file and line when a line is no scenario.
pub fn read_file(path: &Path) -> Result<Vec<Scenario>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty());
    let file = path
        .file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    lines
        .map(|(at, line)| {
            let bad = |e| format!("{}:{at}: {e}", path.display());
            let scenario: Scenario = serde_json::from_str(line).map_err(bad)?;
            Ok(Scenario {
                file: file.clone(),
                ..scenario
            })
        })
        .collect()
}
