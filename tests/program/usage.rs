//! Wrong use and what the program says about it, and the small tools.

use crate::shop::{Shop, millstream, succeeds, text};

#[track_caller]
fn refused(arguments: &[&str], say: &str) {
    let output = millstream(arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(errors.contains(say), "{arguments:?}: {errors}");
}

#[test]
fn wrong_use_ends_with_exit_code_2_and_a_reason() {
    refused(
        &["shop", "--listen", "0.0.0.0:8080"],
        "listen is wrong. value=`0.0.0.0:8080`",
    );
    refused(
        &["shop", "--threads", "0"],
        "allowed: 1 to 64, from: flag --threads",
    );
    refused(&["shop", "--database-url", "postgres://h/db"], "mysql://");
    refused(&["shop", "--roles", "door"], "door together with streams");
    refused(&["shop", "--no-such-flag"], "--no-such-flag");
    refused(
        &["verify", "--data-dir", "no-such-folder"],
        "no such data folder",
    );
    refused(&["load", "--url", "ftp://host"], "http://host:port");
    refused(&["bench", "run", "--workload", "w9"], "no such workload");
}

#[test]
fn two_shops_do_not_share_a_folder() {
    let shop = Shop::start(&[]);
    let data_dir = shop.data_dir();
    let output = millstream(&[
        "shop",
        "--data-dir",
        &data_dir,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("another process works in the data folder"),
        "{errors}"
    );
}

#[test]
fn the_topology_is_printed_for_people_and_for_programs() {
    assert!(succeeds(&["topology"]).contains("sub-topology 0"));
    assert!(succeeds(&["topology", "--format", "mermaid"]).starts_with("flowchart"));
    let json = succeeds(&["topology", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        json["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() > 10),
        "{json}"
    );
}

#[test]
fn a_small_demo_keeps_all_promises() {
    let demo = succeeds(&[
        "demo",
        "--orders",
        "200",
        "--exit",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    for line in [
        "listening http://",
        "admin http://",
        "accepted         200",
        "all promises hold",
    ] {
        assert!(demo.contains(line), "{demo}");
    }
}

#[test]
fn a_workload_runs_on_a_log_of_its_own() {
    let bench = succeeds(&["bench", "w2", "--records", "20000", "--keys", "100"]);
    assert!(
        bench.contains("records/s") && bench.contains("CPU-seconds per million"),
        "{bench}"
    );
}

#[test]
fn a_reset_says_what_it_does_and_does_it_when_told_twice() {
    let mut shop = Shop::start(&[]);
    let data_dir = shop.data_dir();
    let reset = |more: &[&str]| {
        let fixed = ["reset", "--data-dir", &*data_dir, "--to", "earliest"];
        millstream(&[&fixed[..], more].concat())
    };
    let running = reset(&["--yes"]);
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    shop.stop();
    refused(
        &["reset", "--data-dir", &data_dir, "--to", "noon"],
        "earliest",
    );
    refused(&["reset", "--data-dir", &data_dir], "--to");
    let topics = || succeeds(&["topics", "--data-dir", &data_dir]);
    let before = topics();
    assert!(before.contains("-changelog"), "{before}");
    let plan = reset(&["--dry-run"]);
    assert_eq!(plan.status.code(), Some(0), "{plan:?}");
    let untold = reset(&[]);
    assert_eq!(untold.status.code(), Some(2), "{untold:?}");
    assert_eq!(text(&untold.stdout), text(&plan.stdout), "the same plan");
    assert_eq!(topics(), before, "nothing was done");
    let done = reset(&["--yes"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let plan = text(&plan.stdout);
    let after = topics();
    for line in before.lines().filter(|line| !line.starts_with("TOPIC")) {
        let name = line.split_whitespace().next().expect("a name");
        let goes = plan.contains(&format!("delete topic {name}\n"));
        let stays = after.lines().any(|l| l.starts_with(&format!("{name} ")));
        let own = ["-changelog", "-repartition", "shop-members"];
        let is_own = own.iter().any(|end| name.ends_with(end));
        assert_eq!(goes, is_own, "{name}");
        assert_ne!(goes, stays, "{name}");
    }
    shop.start_again();
    shop.stop();
}
