//! The rules of the tree that neither rustfmt nor clippy knows: which crate may depend on which,
//! how long a file may grow, and what has no place in a file that others read. Each rule is a
//! function from what is read to what is wrong, and is tried on a violation made for it as well.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

// ---- The rules' figures and tables

/// What each crate may depend on. The order is the order of the layers: a row names earlier rows
/// only, which is how "dependencies point one way" is kept. Tests inside a crate are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("topology", &[]),
    ("config", &[]),
    ("state", &["topology"]),
    ("operators", &["topology", "state"]),
    ("broker", &["topology"]),
    ("runtime", &["topology", "state", "operators", "broker"]),
    ("sinks", &["topology", "broker", "runtime", "config"]),
    (
        "api",
        &[
            "topology",
            "state",
            "operators",
            "broker",
            "runtime",
            "config",
        ],
    ),
    ("processors", ENGINE),
    (
        "conformance",
        &["topology", "state", "operators", "runtime"],
    ),
    ("verifier", VERIFIER),
    ("benches", EVERY),
    ("tests", EVERY),
    ("", PROGRAM),
];

const ENGINE: &[&str] = &[
    "topology",
    "state",
    "operators",
    "broker",
    "runtime",
    "sinks",
    "api",
    "config",
];

const EVERY: &[&str] = &[
    "topology",
    "state",
    "operators",
    "broker",
    "runtime",
    "sinks",
    "api",
    "config",
    "processors",
    "verifier",
    "",
];

/// The verifier looks at the shop from outside: nothing of the shop depends on it.
const VERIFIER: &[&str] = &[
    "topology",
    "operators",
    "broker",
    "runtime",
    "sinks",
    "processors",
];

/// The program measures, too.
const PROGRAM: &[&str] = &[
    "topology",
    "state",
    "operators",
    "broker",
    "runtime",
    "sinks",
    "api",
    "config",
    "processors",
    "verifier",
    "benches",
];

/// Foreign crates that would bring I/O, threads or `async` to a layer that has none.
const KEPT_OUT: &[(&str, &[&str])] = &[
    (
        "topology",
        &[
            "rocksdb",
            "rdkafka",
            "tokio",
            "sqlx",
            "axum",
            "reqwest",
            "crossbeam-channel",
        ],
    ),
    (
        "operators",
        &[
            "rocksdb",
            "rdkafka",
            "tokio",
            "sqlx",
            "axum",
            "reqwest",
            "crossbeam-channel",
        ],
    ),
    ("state", &["rdkafka", "tokio", "sqlx", "axum", "reqwest"]),
    ("runtime", &["rdkafka", "tokio", "sqlx", "axum", "reqwest"]),
    ("broker", &["sqlx", "axum", "reqwest"]),
    ("sinks", &["rdkafka", "rocksdb", "axum"]),
    ("api", &["rdkafka", "rocksdb", "sqlx"]),
];

const LINE_COLUMNS_MAX: usize = 100;
const CODE_LINES_MAX: usize = 600;
const ARCHITECTURE_LINES_MAX: usize = 200;
const README_LINES_MAX: usize = 400;

/// Files that may be longer than `CODE_LINES_MAX`, with the lines they have. Only ever lowered.
const LONGER_FILES: &[(&str, usize)] = &[
    ("processors/src/sql/tests.rs", 718),
    ("processors/tests/shop_pipeline.rs", 707),
];

// Spelled in two parts, so that this file passes its own rules.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];
const MACHINE_FOLDERS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/t", "mp/"),
];

// ---- What is read

struct SourceFile {
    path: String,
    text: String,
}

struct Manifest {
    package: String,
    /// Names of what the package itself needs, without what only its tests need.
    dependencies: Vec<String>,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output(command: &mut Command) -> String {
    let done = command
        .current_dir(top())
        .output()
        .expect("the program can be started");
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).expect("the output is UTF-8")
}

/// Every text file that is in git, or would be with the next `git add`.
fn files() -> Vec<SourceFile> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "ls-files", "-z"]);
    git.args([
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]);
    output(&mut git)
        .split_terminator('\0')
        .filter_map(|path| {
            let bytes = std::fs::read(top().join(path)).ok()?; // deleted, and not committed yet
            let text = String::from_utf8(bytes).ok()?; // compressed data
            Some(SourceFile {
                path: path.to_owned(),
                text,
            })
        })
        .collect()
}

fn manifests() -> Vec<Manifest> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let metadata: Value = serde_json::from_str(&output(&mut cargo)).expect("cargo prints JSON");
    array(&metadata["packages"])
        .iter()
        .map(|package| Manifest {
            package: string(&package["name"]),
            dependencies: array(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| string(&dependency["name"]))
                .collect(),
        })
        .collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("cargo's metadata has a list here")
}

fn string(value: &Value) -> String {
    value
        .as_str()
        .expect("cargo's metadata has a string here")
        .to_owned()
}

// ---- The rules

/// `millstream-state` is `state`, the root package is the empty name; other crates are not ours.
fn folder(package: &str) -> Option<&str> {
    let rest = package.strip_prefix("millstream")?;
    if rest.is_empty() {
        Some("")
    } else {
        rest.strip_prefix('-')
    }
}

fn forbidden_dependencies(manifests: &[Manifest]) -> Vec<String> {
    let mut wrong = Vec::new();
    for manifest in manifests {
        let name = &manifest.package;
        let row = folder(name).and_then(|own| ALLOWED.iter().find(|(layer, _)| *layer == own));
        let Some((layer, allowed)) = row else {
            wrong.push(format!("{name} has no row in ALLOWED"));
            continue;
        };
        for dependency in &manifest.dependencies {
            let fine = match folder(dependency) {
                Some(ours) => allowed.contains(&ours),
                None => !KEPT_OUT
                    .iter()
                    .any(|(kept, out)| kept == layer && out.contains(&dependency.as_str())),
            };
            if !fine {
                wrong.push(format!(
                    "{name} depends on {dependency}; of ours it may: {allowed:?}"
                ));
            }
        }
    }
    wrong
}

/// Code that only tests run: whole files, and what follows the inline test module's attribute.
fn is_test_file(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.any(|part| matches!(part, "tests" | "tests.rs" | "benches" | "examples"))
}

/// The lines with their numbers, up to the inline test module, which stands last in a file.
fn shipped_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let next = text.lines().skip(1).chain([""]);
    let lines = (1..).zip(text.lines().zip(next));
    let is_inline_module = |next: &str| next.starts_with("mod ") && next.ends_with('{');
    lines
        .take_while(move |(_, (line, next))| *line != "#[cfg(test)]" || !is_inline_module(next))
        .map(|(at, (line, _))| (at, line))
}

fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with("//")
}

/// A message in quotes may run on: broken in two, it would not be found by what a user reads.
fn long_lines(file: &SourceFile) -> Vec<String> {
    let lines = (1..).zip(file.text.lines());
    lines
        .filter(|(_, line)| line.chars().count() > LINE_COLUMNS_MAX)
        .filter(|(_, line)| !is_code(line) || !line.contains('"'))
        .map(|(at, _)| format!("{}:{at}: over {LINE_COLUMNS_MAX} columns", file.path))
        .collect()
}

fn long_files(file: &SourceFile, longer: &[(&str, usize)]) -> Vec<String> {
    let code = shipped_lines(&file.text)
        .filter(|(_, line)| is_code(line))
        .count();
    let exception = longer.iter().find(|(path, _)| *path == file.path);
    let max = exception.map_or(CODE_LINES_MAX, |(_, lines)| *lines);
    if code > max {
        return vec![format!("{}: {code} lines of code, over {max}", file.path)];
    }
    match exception {
        Some((_, lines)) if code < *lines => {
            vec![format!(
                "{}: {code} lines of code: lower its figure",
                file.path
            )]
        }
        _ => Vec::new(),
    }
}

fn unwraps(file: &SourceFile) -> Vec<String> {
    if is_test_file(&file.path) {
        return Vec::new();
    }
    shipped_lines(&file.text)
        .filter(|(_, line)| is_code(line) && line.contains(".unwrap()"))
        .map(|(at, _)| format!("{}:{at}: unwrap() outside tests", file.path))
        .collect()
}

fn unfinished(file: &SourceFile) -> Vec<String> {
    let has_word = |line: &str, word: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|part| part == word)
    };
    let lines = (1..).zip(file.text.lines());
    lines
        .filter(|(_, line)| UNFINISHED.iter().any(|word| has_word(line, word)))
        .map(|(at, _)| format!("{}:{at}: unfinished", file.path))
        .collect()
}

/// A folder counts where a path begins: not inside an address or a longer path.
fn machine_paths(file: &SourceFile) -> Vec<String> {
    let begins_with = |line: &str, folder: &str| {
        line.match_indices(folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && !"_-./}".contains(c))
        })
    };
    let lines = (1..).zip(file.text.lines());
    lines
        .filter(|(_, line)| {
            MACHINE_FOLDERS
                .iter()
                .any(|folder| begins_with(line, folder))
        })
        .map(|(at, _)| format!("{}:{at}: a path of one machine", file.path))
        .collect()
}

fn long_documents(file: &SourceFile) -> Vec<String> {
    let max = match file.path.as_str() {
        "ARCHITECTURE.md" => ARCHITECTURE_LINES_MAX,
        "README.md" => README_LINES_MAX,
        _ => return Vec::new(),
    };
    let lines = file.text.lines().count();
    if lines <= max {
        Vec::new()
    } else {
        vec![format!("{}: {lines} > {max} lines", file.path)]
    }
}

/// Every foreign crate of the workspace has its line, with the reason, in the list of them.
fn unexplained_dependencies(workspace_manifest: &str, list: &str) -> Vec<String> {
    let section = workspace_manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    let names: BTreeSet<&str> = section
        .filter_map(|line| Some(line.split_once(" =")?.0))
        .filter(|name| folder(name).is_none() && !name.starts_with('#'))
        .collect();
    let explained = |name: &str| {
        list.lines()
            .any(|line| line.starts_with(&format!("| `{name}` |")))
    };
    let missing = names.into_iter().filter(|name| !explained(name));
    missing
        .map(|name| format!("docs/decisions/dependencies.md has no line for {name}"))
        .collect()
}

// ---- The tree keeps them

#[track_caller]
fn none(wrong: impl IntoIterator<Item = String>) {
    let wrong = wrong.into_iter().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "  {line}");
        all
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn rust_files() -> impl Iterator<Item = SourceFile> {
    files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
}

#[test]
fn dependencies_point_one_way() {
    none(forbidden_dependencies(&manifests()));
}

#[test]
fn dependencies_are_explained() {
    let read = |path: &str| std::fs::read_to_string(top().join(path)).expect("the file is there");
    none(unexplained_dependencies(
        &read("Cargo.toml"),
        &read("docs/decisions/dependencies.md"),
    ));
}

#[test]
fn lines_fit_the_page() {
    none(rust_files().flat_map(|file| long_lines(&file)));
}

#[test]
fn files_hold_one_idea() {
    none(rust_files().flat_map(|file| long_files(&file, LONGER_FILES)));
}

#[test]
fn nothing_shipped_unwraps() {
    none(rust_files().flat_map(|file| unwraps(&file)));
}

#[test]
fn nothing_is_left_unfinished() {
    none(files().iter().flat_map(unfinished));
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    none(files().iter().flat_map(machine_paths));
}

#[test]
fn front_documents_stay_short() {
    none(files().iter().flat_map(long_documents));
}

// ---- And each rule sees a violation

fn file(path: &str, text: impl Into<String>) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        text: text.into(),
    }
}

fn manifest(package: &str, dependencies: &[&str]) -> Manifest {
    let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
    Manifest {
        package: package.to_owned(),
        dependencies,
    }
}

#[test]
fn allowed_dependencies_name_earlier_layers_only() {
    for (at, (layer, allowed)) in ALLOWED.iter().enumerate() {
        if !matches!(*layer, "benches" | "tests" | "") {
            for name in *allowed {
                let place = ALLOWED.iter().position(|(other, _)| other == name);
                assert!(
                    place.is_some_and(|place| place < at),
                    "{layer} may depend on {name}"
                );
            }
        }
    }
}

#[test]
fn dependency_against_the_direction_is_seen() {
    let check = |package, dependencies: &[&str], seen: usize| {
        let wrong = forbidden_dependencies(&[manifest(package, dependencies)]);
        assert_eq!(
            wrong.len(),
            seen,
            "{package} on {dependencies:?}: {wrong:?}"
        );
    };
    check(
        "millstream-state",
        &["millstream-topology", "rocksdb", "bytes"],
        0,
    );
    check("millstream-state", &["millstream-broker"], 1);
    check("millstream-topology", &["millstream-state", "tokio"], 2);
    check("millstream-broker", &["millstream-runtime"], 1);
    check("millstream-processors", &["millstream"], 1);
    check("millstream", &["millstream-processors", "tokio"], 0);
    check("millstream-new", &[], 1);
    check("stranger", &[], 1);
}

#[test]
fn dependency_without_a_reason_is_seen() {
    let manifest = "[workspace.dependencies]\nmillstream-state = { path = \"state\" }\nold = \"1\"\n\
                    new = { version = \"1\" }\n\n[package]\nname = \"x\"\n";
    let wrong = unexplained_dependencies(manifest, "| `old` | because |\n");
    assert_eq!(
        wrong,
        ["docs/decisions/dependencies.md has no line for new"]
    );
}

#[test]
fn long_line_is_seen() {
    let check = |line: String, seen| {
        assert_eq!(
            long_lines(&file("a.rs", format!("fine\n{line}\n"))).len(),
            seen,
            "{line}"
        );
    };
    check("é".repeat(LINE_COLUMNS_MAX), 0);
    check("e".repeat(LINE_COLUMNS_MAX + 1), 1);
    check(format!("warn!(\"{}\")", "e".repeat(LINE_COLUMNS_MAX)), 0);
    check(format!("// \"{}\"", "e".repeat(LINE_COLUMNS_MAX)), 1);
}

#[test]
fn long_file_is_seen() {
    let code = |lines: usize| file("a.rs", "let a = 1;\n\n// why\n".repeat(lines));
    assert!(long_files(&code(CODE_LINES_MAX), &[]).is_empty());
    assert_eq!(long_files(&code(CODE_LINES_MAX + 1), &[]).len(), 1);
    assert!(long_files(&code(700), &[("a.rs", 700)]).is_empty());
    assert_eq!(
        long_files(&code(690), &[("a.rs", 700)]).len(),
        1,
        "a ratchet goes down"
    );
    let tests = format!(
        "let a = 1;\n#[cfg(test)]\nmod tests {{\n{}",
        "let a = 1;\n".repeat(CODE_LINES_MAX)
    );
    assert!(long_files(&file("a.rs", tests), &[]).is_empty());
}

#[test]
fn unwrap_is_seen_outside_tests_only() {
    let text = "fn a() { b().unwrap() }\n// c.unwrap()\n#[cfg(test)]\nmod tests {\n    fn d() { e().unwrap() } }\n";
    assert_eq!(
        unwraps(&file("state/src/kv.rs", text)),
        ["state/src/kv.rs:1: unwrap() outside tests"]
    );
    for tests in [
        "state/tests/kv.rs",
        "state/src/tests.rs",
        "sinks/src/tests/mod.rs",
    ] {
        assert!(unwraps(&file(tests, text)).is_empty(), "{tests}");
    }
}

#[test]
fn unfinished_work_is_seen() {
    for word in UNFINISHED {
        assert_eq!(
            unfinished(&file("a.md", format!("fine\n{word}: rest\n"))),
            ["a.md:2: unfinished"]
        );
        assert!(unfinished(&file("a.md", format!("MY{word}S"))).is_empty());
    }
}

#[test]
fn path_of_one_machine_is_seen() {
    for folder in MACHINE_FOLDERS {
        let seen = |text: String| machine_paths(&file("a", text)).len();
        assert_eq!(seen(format!("{folder}main")), 1);
        assert_eq!(seen(format!("see \"{folder}x\"")), 1);
        assert_eq!(
            seen(format!("https://example.org{folder}x and src{folder}x")),
            0
        );
    }
}

#[test]
fn long_front_document_is_seen() {
    let document = |path, lines| long_documents(&file(path, "line\n".repeat(lines))).len();
    assert_eq!(document("ARCHITECTURE.md", ARCHITECTURE_LINES_MAX), 0);
    assert_eq!(document("ARCHITECTURE.md", ARCHITECTURE_LINES_MAX + 1), 1);
    assert_eq!(document("README.md", README_LINES_MAX + 1), 1);
    assert_eq!(document("docs/book.md", 10_000), 0);
}
