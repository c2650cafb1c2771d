//! Random errors at every step, old writers that go on, and bad records: whatever happens, the
//! tables are the projection of the topics.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use millstream_broker::Event;

use super::{
    databases::{TestDatabase, execute},
    faults::{self, Tally},
    log::ScriptedLog,
    shop::{Letters, Prices},
    world::{Record, State, ends, log_of, make_world, records, went_back},
};
use crate::{
    Backoff, BatchLimits, Database, Progress, RunningSink, Sink, SinkConfig, read_progress,
};

const DEADLINE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;
const RECORDS: usize = 60;

/// Small batches and short pauses.
pub(super) fn quick(instance: &str, records_max: usize) -> SinkConfig {
    let mut config = SinkConfig::new("test", "test-sink", instance);
    config.linger = Duration::ZERO;
    config.batch = BatchLimits {
        records_min: 1,
        records_start: records_max,
        records_max,
        bytes_max: 1 << 20,
    };
    config.backoff = Backoff::new(Duration::from_micros(200), Duration::from_millis(4));
    config.rejoin = config.backoff;
    config.check_every = Duration::from_millis(20);
    config
}

pub(super) fn start(
    log: &ScriptedLog,
    database: &Database,
    config: SinkConfig,
    letters: &Letters,
) -> RunningSink {
    Sink::new(
        config,
        Arc::new(log.clone()),
        database.clone(),
        vec![Arc::new(Prices)],
        Arc::new(letters.clone()),
    )
    .start()
}

/// Waits until the log is written, and fails with the sinks' last errors.
pub(super) async fn written(database: &Database, records: &[Record], sinks: &[&RunningSink]) {
    let ends = ends(records);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let progress = read_progress(database, "test").await.expect("reads");
        let at = |p: &Progress| (p.partition.partition, p.next_offset);
        if progress.iter().map(at).collect::<Vec<_>>()
            == ends.clone().into_iter().collect::<Vec<_>>()
        {
            return;
        }
        let errors: Vec<_> = sinks.iter().map(|s| s.metrics().last_error()).collect();
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "{progress:?} is not {ends:?}: {errors:?}");
        assert!(sinks.iter().all(|s| !s.is_finished()), "{errors:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Looks at the progress again and again until it is told to end; answers the number of looks.
async fn watch(database: Database, end: Arc<AtomicBool>) -> usize {
    let mut before = Vec::new();
    let mut looks = 0;
    while !end.load(Ordering::Acquire) {
        let now = read_progress(&database, "test").await.expect("reads");
        assert_eq!(went_back(&before, &now), None);
        before = now;
        looks += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    looks
}

/// What a run showed, for the sums over all runs.
struct Run {
    tally: [u32; 6],
    unanswered_commits: u32,
    fenced: u64,
    epochs: i64,
    letters: usize,
}

/// One run of a seed: the seed decides on rate, sizes, bad records and an old writer.
async fn run(seed: u64, test: &TestDatabase) -> Run {
    make_world(&test.database).await;
    let percent = 10 + seed % 21;
    let two = seed.is_multiple_of(3);
    let with_bad = seed.is_multiple_of(2);
    let records = records(seed, RECORDS, PARTITIONS, with_bad);
    let log = log_of(&records, PARTITIONS);
    let tally = Arc::new(Tally::default());
    let letters = Letters::unreliable(seed);
    let mut sinks = Vec::new();
    for n in 0..=u64::from(two) {
        // Each writer is a process with connections of its own.
        let database = Database::connect(&test.url).await.expect("connects");
        database.hook(faults::random(seed * 2 + n, percent, tally.clone()));
        let instance = format!("sink-{n}");
        // Both get everything, so each takes over from the other, which goes on until it is
        // refused. The first one does so twice and then stays away; the second one always.
        if two && n == 0 {
            log.script(&instance, vec![Event::Assigned(log.partitions())]);
            log.script(&instance, vec![Event::Assigned(log.partitions())]);
        }
        let size = 1 + (seed % 8) as usize * 2;
        let sink = start(&log, &database, quick(&instance, size), &letters);
        sinks.push((sink, database));
    }
    let end = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn(watch(test.database.clone(), end.clone()));
    // At any moment the tables are what the progress says.
    for _ in 0..3 {
        let state = State::load(&test.database).await.expect("loads");
        state
            .verify(&records)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let running: Vec<_> = sinks.iter().map(|s| &s.0).collect();
    written(&test.database, &records, &running).await;
    tally.calm.store(true, Ordering::Relaxed);
    end.store(true, Ordering::Release);
    assert!(watcher.await.expect("progress rises") > 0);
    let mut fenced = 0;
    for (sink, database) in sinks {
        fenced += sink.metrics().fenced.load(Ordering::Relaxed);
        sink.stop(DEADLINE).await.expect("stops");
        database.close().await;
    }
    let state = State::load(&test.database).await.expect("loads");
    state
        .verify(&records)
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let sent: Vec<(i32, i64)> = letters
        .list()
        .into_iter()
        .map(|l| (l.0.partition, l.1))
        .collect();
    let once: BTreeSet<(i32, i64)> = sent.iter().copied().collect();
    assert_eq!(once, state.tables.letters, "seed {seed}");
    if !two {
        assert_eq!(sent.len(), once.len(), "seed {seed}: a letter came twice");
        assert_eq!(fenced, 0, "seed {seed}: nobody else writes");
    }
    Run {
        tally: std::array::from_fn(|at| tally.failed[at].load(Ordering::Relaxed)),
        unanswered_commits: tally.unanswered_commits.load(Ordering::Relaxed),
        fenced,
        epochs: state.progress.iter().map(|p| p.epoch).sum(),
        letters: once.len(),
    }
}

/// Runs all seeds, some at a time, and makes sure that everything that should happen did.
async fn run_all<F: Future<Output = Run> + Send + 'static>(
    seeds: u64,
    at_a_time: usize,
    run: impl Fn(u64) -> F,
) {
    let runs: Vec<Run> = stream::iter(0..seeds)
        .map(|seed| tokio::spawn(run(seed)))
        .buffer_unordered(at_a_time)
        .map(|run| run.expect("the run is in order"))
        .collect()
        .await;
    let sum = |of: &dyn Fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
    let failed: Vec<u64> = (0..6).map(|at| sum(&|r| r.tally[at].into())).collect();
    let unanswered = sum(&|r| r.unanswered_commits.into());
    let fenced = sum(&|r| r.fenced);
    let letters = sum(&|r| r.letters as u64);
    let epochs = sum(&|r| r.epochs.unsigned_abs());
    eprintln!(
        "{seeds} seeds: failed at connect, begin, progress, rows, read, commit {failed:?}, \
         commits without an answer {unanswered}, fenced {fenced}, epochs {epochs}, \
         letters {letters}"
    );
    assert!(failed.iter().all(|n| *n > seeds / 4), "each step fails");
    assert!(unanswered > seeds / 4);
    assert!(fenced > seeds / 8, "old writers went on");
    assert!(letters > seeds / 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn errors_at_any_step_lose_and_double_nothing_in_sqlite() {
    run_all(200, 16, |seed| async move {
        let test = TestDatabase::sqlite().await;
        let run = run(seed, &test).await;
        test.remove().await;
        run
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn errors_at_any_step_lose_and_double_nothing_on_a_server() {
    if std::env::var("MILLSTREAM_TEST_MYSQL").is_err() {
        assert!(TestDatabase::server().await.is_none());
        return;
    }
    run_all(24, 4, |seed| async move {
        let test = TestDatabase::server().await.expect("the variable is set");
        let run = run(seed, &test).await;
        test.remove().await;
        run
    })
    .await;
}

/// The check itself: what it must not overlook.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_sees_what_is_lost_doubled_or_written_by_an_old_writer() {
    const VIOLATIONS: [(&str, &str); 9] = [
        ("a lost row", "DELETE FROM `seen` WHERE `offset` > 3"),
        ("a doubled write", "UPDATE `writes` SET `many` = `many` + 1"),
        (
            "a wrong row",
            "UPDATE `prices` SET `price` = `price` + 1 WHERE `sku` = 'sku-1'",
        ),
        (
            "a row too many",
            "INSERT INTO `prices` VALUES ('sku-99', 1, 1)",
        ),
        ("a lost letter", "DELETE FROM `sink_dead_letters`"),
        (
            "a letter of a good record",
            "INSERT INTO `sink_dead_letters` VALUES ('test', 'prices', 0, 100000, 'none')",
        ),
        (
            "a batch by an old epoch",
            "INSERT INTO `moves` (`partition`, `epoch`, `start`, `stop`) \
             SELECT `partition`, `epoch` - 1, `next_offset`, `next_offset` + 1 \
             FROM `sink_progress`",
        ),
        (
            "a batch from another offset",
            "UPDATE `moves` SET `start` = `start` - 1 WHERE `start` > 0",
        ),
        (
            "progress that moved alone",
            "UPDATE `sink_progress` SET `next_offset` = `next_offset` - 9",
        ),
    ];
    for test in TestDatabase::all().await {
        make_world(&test.database).await;
        let records = records(2, RECORDS, 2, true);
        let log = log_of(&records, 2);
        let sink = start(&log, &test.database, quick("a", 7), &Letters::default());
        written(&test.database, &records, &[&sink]).await;
        sink.stop(DEADLINE).await.expect("stops");
        let good = State::load(&test.database).await.expect("loads");
        good.verify(&records).expect("holds");
        let names = [
            "seen",
            "writes",
            "prices",
            "sink_dead_letters",
            "moves",
            "sink_progress",
        ];
        for name in names {
            execute(
                &test.database,
                &format!("CREATE TABLE `b_{name}` AS SELECT * FROM `{name}`"),
            )
            .await;
        }
        for (what, sql) in VIOLATIONS {
            execute(&test.database, sql).await;
            let bad = State::load(&test.database).await.expect("loads");
            assert!(bad.verify(&records).is_err(), "{what} is overlooked");
            // The trigger that counts writes fires at restoring too: that table comes last.
            for name in [
                "seen",
                "prices",
                "sink_dead_letters",
                "sink_progress",
                "moves",
                "writes",
            ] {
                let database = &test.database;
                execute(database, &format!("DELETE FROM `{name}`")).await;
                execute(
                    database,
                    &format!("INSERT INTO `{name}` SELECT * FROM `b_{name}`"),
                )
                .await;
            }
            let again = State::load(&test.database).await.expect("loads");
            again.verify(&records).expect("is restored");
        }
        let mut later = good.progress.clone();
        later[0].next_offset -= 1;
        assert!(went_back(&good.progress, &later).is_some());
        later[0].next_offset += 1;
        later[0].epoch -= 1;
        assert!(went_back(&good.progress, &later).is_some());
        assert!(went_back(&good.progress, &later[1..]).is_some());
        test.remove().await;
    }
}
