//! All vectors, in every variant. Families whose operators are still missing are named here, and
//! only they may fail.

use std::path::Path;

use millstream_conformance::check_files;

/// Families in which every scenario passes.
const IMPLEMENTED: &[&str] = &[
    "aggregate-stream",
    "join-table-table",
    "kstream-stateless",
    "processors",
    "windows-hopping",
];

#[test]
fn every_scenario_of_an_implemented_family_does_what_kafka_streams_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let files: Vec<_> = IMPLEMENTED
        .iter()
        .map(|family| folder.join(format!("{family}.jsonl")))
        .collect();
    let tally = check_files(&files, &folder.join("deviations.jsonl")).expect("files can be read");
    let failed: Vec<String> = tally
        .outcomes
        .iter()
        .filter(|outcome| !outcome.failures.is_empty())
        .map(|outcome| format!("{}\n  {}", outcome.name, outcome.failures.join("\n  ")))
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}
