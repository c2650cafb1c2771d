//! Compares what a driver did with what was recorded, and says where they differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    drive::Actual,
    scenario::{Describe, Expected, Input, Output, Scenario, StoreEntry},
};

/// One place in which two runs differ, told in lines: `-` is what was recorded, `+` what is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(pub String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Outputs, stores and dropped records, compared.
pub fn compare(scenario: &Scenario, expected: &Expected, actual: &Actual) -> Vec<Difference> {
    let mut found = Vec::new();
    for (at, input) in scenario.inputs.iter().enumerate() {
        let want = expected.outputs.get(at).map_or(&[][..], Vec::as_slice);
        let got = actual.outputs.get(at).map_or(&[][..], Vec::as_slice);
        let (want, got) = (by_topic(want), by_topic(got));
        let topics: BTreeSet<&str> = want.keys().chain(got.keys()).copied().collect();
        for topic in topics {
            let lines =
                |of: &BTreeMap<&str, Vec<String>>| of.get(topic).cloned().unwrap_or_default();
            if let Some(diff) = difference(&lines(&want), &lines(&got)) {
                let cause = shown_input(input);
                let head = format!("input {at} ({cause}), topic `{topic}`:");
                found.push(Difference(format!("{head}\n{diff}")));
            }
        }
    }
    let names: BTreeSet<&String> = expected.stores.keys().chain(actual.stores.keys()).collect();
    for name in names {
        let lines = |of: &BTreeMap<String, Vec<StoreEntry>>| {
            let mut entries = of.get(name).cloned().unwrap_or_default();
            entries.sort();
            entries.iter().map(shown_entry).collect::<Vec<_>>()
        };
        if let Some(diff) = difference(&lines(&expected.stores), &lines(&actual.stores)) {
            found.push(Difference(format!("store `{name}`:\n{diff}")));
        }
    }
    if expected.dropped != actual.dropped {
        let (want, got) = (expected.dropped, actual.dropped);
        found.push(Difference(format!(
            "dropped records:\n  - {want}\n  + {got}"
        )));
    }
    found
}

/// The shapes, compared.
pub fn compare_describe(expected: &Describe, actual: &Describe) -> Option<Difference> {
    let lines = |of: &Describe| {
        let mut parts = of.subtopologies.clone();
        parts.sort();
        let mut lines: Vec<String> = parts.iter().map(|part| format!("{part:?}")).collect();
        lines.push(format!("{} global stores", of.global_stores));
        lines
    };
    let diff = difference(&lines(expected), &lines(actual))?;
    Some(Difference(format!("sub-topologies:\n{diff}")))
}

fn by_topic(records: &[Output]) -> BTreeMap<&str, Vec<String>> {
    let mut topics: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for record in records {
        topics
            .entry(&record.topic)
            .or_default()
            .push(shown_output(record));
    }
    topics
}

fn shown(text: &Option<String>) -> String {
    text.as_ref()
        .map_or_else(|| "null".to_owned(), |text| format!("{text:?}"))
}

fn shown_window(window: Option<(i64, i64)>) -> String {
    window.map_or_else(String::new, |(start, end)| format!("[{start},{end}]"))
}

fn shown_headers(headers: &[(String, String)]) -> String {
    let each = headers.iter().map(|(name, text)| format!(" {name}:{text}"));
    each.collect()
}

fn shown_output(record: &Output) -> String {
    let Output {
        key,
        window,
        value,
        ts,
        headers,
        ..
    } = record;
    let (window, headers) = (shown_window(*window), shown_headers(headers));
    format!("{}{window} = {} @{ts}{headers}", shown(key), shown(value))
}

fn shown_entry(entry: &StoreEntry) -> String {
    let time = entry.ts.map_or_else(String::new, |ts| format!(" @{ts}"));
    format!(
        "{:?}{} = {:?}{time}",
        entry.key,
        shown_window(entry.window),
        entry.value
    )
}

fn shown_input(input: &Input) -> String {
    match input {
        Input::Clock(advance) => format!("clock + {}", advance.advance_wall_clock_ms),
        Input::Record(record) => {
            let (key, value) = (shown(&record.key), shown(&record.value));
            let headers = shown_headers(&record.headers);
            format!("{}: {key} = {value} @{}{headers}", record.topic, record.ts)
        }
    }
}

/// Both lists, common lines marked with nothing; `None` when they are equal.
fn difference(want: &[String], got: &[String]) -> Option<String> {
    if want == got {
        return None;
    }
    // The longest common subsequence, from the ends; the lists are short.
    let mut longest = vec![vec![0_usize; got.len() + 1]; want.len() + 1];
    for i in (0..want.len()).rev() {
        for j in (0..got.len()).rev() {
            longest[i][j] = match want[i] == got[j] {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < want.len() || j < got.len() {
        if i < want.len() && j < got.len() && want[i] == got[j] {
            lines.push(format!("    {}", want[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == got.len() || (i < want.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(format!("  - {}", want[i]));
            i += 1;
        } else {
            lines.push(format!("  + {}", got[j]));
            j += 1;
        }
    }
    Some(lines.join("\n"))
}
