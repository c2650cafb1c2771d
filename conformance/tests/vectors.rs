//! All vectors, in every variant.

use std::{fs, path::Path};

use millstream_conformance::check_files;

#[test]
fn every_scenario_does_what_kafka_streams_did_or_is_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let entries = fs::read_dir(&folder).expect("the folder can be read");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .filter(|path| !path.ends_with("deviations.jsonl"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 23, "one file a family");
    let tally = check_files(&files, &folder.join("deviations.jsonl")).expect("files can be read");
    assert_eq!(tally.outcomes.len(), 670);
    // What Millstream does instead of an oddity of the JVM is pinned, too.
    let bad = tally
        .outcomes
        .iter()
        .filter(|outcome| !outcome.failures.is_empty() || !outcome.unlisted.is_empty());
    let bad: Vec<String> = bad
        .map(|outcome| {
            let why = [&outcome.failures[..], &outcome.unlisted[..]].concat();
            format!("{}\n  {}", outcome.name, why.join("\n  "))
        })
        .collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}
