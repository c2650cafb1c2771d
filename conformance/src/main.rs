//! `conformance [FILES]`: compares with Kafka Streams, scenario by scenario.
//! `conformance --accept [FILES]`: takes what the listed deviations do now for what is expected of
//! them; look at the change before it is committed.
//!
//! Prints each mismatch, one line on differences of shape, one on each known deviation, and `N
//! passed, N failed` at the end. Exit status: 0 nothing failed, 1 something did, 2 unusable files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use millstream_conformance::report::{Tally, accept_files, check_files};

/// Where the scenarios lie in the repository.
fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance")
}

fn main() -> ExitCode {
    // A panic is reported with its scenario; the hook's message would come in between.
    std::panic::set_hook(Box::new(|_| {}));
    let mut named: Vec<String> = env::args().skip(1).collect();
    let accept = named.first().is_some_and(|argument| argument == "--accept");
    named.drain(..usize::from(accept));
    let deviations = vectors().join("deviations.jsonl");
    let checked = files(&named).and_then(|files| {
        if accept {
            accept_files(&files, &deviations)?;
        }
        check_files(&files, &deviations)
    });
    match checked {
        Ok(tally) => report(&tally),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// The files named, as they are or in the repository's folder; all of those without names.
fn files(named: &[String]) -> Result<Vec<PathBuf>, String> {
    let found = |name: &String| {
        let here = PathBuf::from(name);
        if here.exists() {
            here
        } else {
            vectors().join(name)
        }
    };
    if !named.is_empty() {
        return Ok(named.iter().map(found).collect());
    }
    let entries = fs::read_dir(vectors()).map_err(|e| format!("{}: {e}", vectors().display()))?;
    let mut all: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    all.retain(|path| {
        path.extension().is_some_and(|e| e == "jsonl") && !path.ends_with("deviations.jsonl")
    });
    all.sort();
    Ok(all)
}

fn report(tally: &Tally) -> ExitCode {
    for outcome in tally
        .outcomes
        .iter()
        .filter(|outcome| !outcome.failures.is_empty())
    {
        println!("FAILED {} ({})", outcome.name, outcome.file);
        for failure in &outcome.failures {
            println!("  {}", failure.replace('\n', "\n  "));
        }
    }
    for outcome in &tally.outcomes {
        if let Some(reason) = &outcome.deviation {
            println!("deviation {}: {reason}", outcome.name);
        }
        for difference in &outcome.unlisted {
            println!("  {}", difference.replace('\n', "\n  "));
        }
    }
    for (file, (passed, failed)) in tally.files() {
        println!("{file}: {passed} passed, {failed} failed");
    }
    let shapes: Vec<_> = tally
        .outcomes
        .iter()
        .filter(|o| o.describe.is_some())
        .collect();
    if env::var_os("DESCRIBE").is_some() {
        for outcome in &shapes {
            let diff = outcome
                .describe
                .as_ref()
                .map_or_else(String::new, ToString::to_string);
            println!("{}: {}", outcome.name, diff);
        }
    }
    let names: Vec<&str> = shapes.iter().map(|outcome| &*outcome.name).collect();
    println!("describe: {} differ: {}", names.len(), names.join(", "));
    println!("{} passed, {} failed", tally.passed(), tally.failed());
    ExitCode::from(u8::from(tally.failed() > 0))
}
