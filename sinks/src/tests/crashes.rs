//! Processes that die between two statements: their tasks vanish, nothing is cleaned up, and the
//! next process goes on from what is in the database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};

use super::{
    chaos::{quick, start, written},
    databases::TestDatabase,
    faults::{Act, Chance},
    log::ScriptedLog,
    shop::Letters,
    world::{Record, State, log_of, make_world, records, went_back},
};
use crate::Database;

const DEADLINE: Duration = Duration::from_secs(240);
/// Most deaths of one run.
const DEATHS_MAX: usize = 6;

/// A process of its own, as far as sink and database can tell: it runs until its connection has
/// made so many steps, and is gone. Answers `false` when it got everything written before.
fn process(
    url: &str,
    log: &ScriptedLog,
    records: &[Record],
    steps: i64,
    letters: &Letters,
) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (dies, death) = mpsc::channel();
    let left = AtomicI64::new(steps);
    let (url, log, letters) = (url.to_owned(), log.clone(), letters.clone());
    let done = dies.clone();
    let records = records.to_vec();
    runtime.spawn(async move {
        let database = Database::connect(&url).await.expect("connects");
        database.hook(Arc::new(move |_| {
            if left.fetch_sub(1, Ordering::Relaxed) > 0 {
                return Act::Go;
            }
            let _ = dies.send(true);
            Act::Hang
        }));
        let sink = start(&log, &database, quick("a", 6), &letters);
        written(&database, &records, &[&sink]).await;
        let _ = done.send(false);
    });
    let died = death.recv_timeout(DEADLINE).expect("it dies or gets there");
    // Drops every task where it stands; connections are torn down by whoever holds the other end.
    runtime.shutdown_background();
    died
}

/// One run: processes that die at random steps, one after the other, and one that lives.
async fn run(seed: u64, test: TestDatabase, deaths: Arc<AtomicUsize>) {
    make_world(&test.database).await;
    let records = records(seed, 60, 2, seed.is_multiple_of(2));
    let log = log_of(&records, 2);
    let letters = Letters::default();
    let mut chance = Chance::new(seed);
    let mut before = Vec::new();
    for _ in 0..DEATHS_MAX {
        let steps = 1 + chance.below(40).cast_signed();
        let (url, log, records) = (test.url.clone(), log.clone(), records.clone());
        let letters = letters.clone();
        let died = tokio::task::spawn_blocking({
            let records = records.clone();
            move || process(&url, &log, &records, steps, &letters)
        })
        .await
        .expect("no panic");
        let state = State::load(&test.database).await.expect("loads");
        state
            .verify(&records)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(went_back(&before, &state.progress), None, "seed {seed}");
        before = state.progress;
        if !died {
            break;
        }
        deaths.fetch_add(1, Ordering::Relaxed);
    }
    let sink = start(&log, &test.database, quick("a", 6), &letters);
    written(&test.database, &records, &[&sink]).await;
    sink.stop(DEADLINE).await.expect("stops");
    let state = State::load(&test.database).await.expect("loads");
    state
        .verify(&records)
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    // A letter may come again after a crash, but none is missing, and its row is there once.
    let sent = letters
        .list()
        .into_iter()
        .map(|l| (l.0.partition, l.1))
        .collect();
    assert_eq!(state.tables.letters, sent, "seed {seed}");
    test.remove().await;
}

async fn run_all(tests: impl Iterator<Item = (u64, TestDatabase)>, seeds: usize) {
    let deaths = Arc::new(AtomicUsize::new(0));
    stream::iter(tests)
        .map(|(seed, test)| tokio::spawn(run(seed, test, deaths.clone())))
        .buffer_unordered(4)
        .for_each(async |run| run.expect("the run is in order"))
        .await;
    let deaths = deaths.load(Ordering::Relaxed);
    eprintln!("{seeds} seeds, {deaths} deaths");
    assert!(deaths > seeds * 2, "{deaths} deaths");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_killed_between_statements_loses_and_doubles_nothing_in_sqlite() {
    let mut tests = Vec::new();
    for seed in 0..100 {
        tests.push((seed, TestDatabase::sqlite().await));
    }
    run_all(tests.into_iter(), 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_killed_between_statements_loses_and_doubles_nothing_on_a_server() {
    let mut tests = Vec::new();
    for seed in 0..12 {
        let Some(test) = TestDatabase::server().await else {
            return;
        };
        tests.push((seed, test));
    }
    run_all(tests.into_iter(), 12).await;
}
