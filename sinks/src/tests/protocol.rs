//! Exactly once, whatever breaks: crashes between steps, lost answers, old writers, bad rows,
//! rebalances.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream_broker::{Event, TopicPartition};
use proptest::prelude::*;
use tokio::sync::Notify;

use super::{
    databases::{TestDatabase, until},
    faults::{Act, lost_connection},
    log::ScriptedLog,
    shop::{Expected, Letters, PANIC, Prices, count, make_tables},
};
use crate::{
    BatchLimits, Database, Error, RunningSink, Sink, SinkConfig,
    progress::{self, Identity, Step},
    read_progress,
    transaction::At,
};

const DEADLINE: Duration = Duration::from_secs(30);

fn partition(n: i32) -> TopicPartition {
    TopicPartition::new("prices", n)
}

fn two_partitions() -> ScriptedLog {
    ScriptedLog::new(&[partition(0), partition(1)])
}

fn config(instance: &str, records_max: usize) -> SinkConfig {
    let mut config = SinkConfig::new("test", "test-sink", instance);
    config.linger = Duration::from_millis(1);
    config.batch = BatchLimits {
        records_min: 1,
        records_start: records_max,
        records_max,
        bytes_max: 1 << 20,
    };
    config
}

fn sink(log: &ScriptedLog, database: &Database, config: SinkConfig, letters: &Letters) -> Sink {
    Sink::new(
        config,
        Arc::new(log.clone()),
        database.clone(),
        vec![Arc::new(Prices)],
        Arc::new(letters.clone()),
    )
}

/// For the database, a process that dies and a connection that is dropped look the same.
fn death() -> sqlx::Error {
    sqlx::Error::PoolClosed
}

/// Appends `n` records with rising versions and says what the table must hold.
fn fill(log: &ScriptedLog, n: i64) -> Expected {
    let mut expected = Expected::default();
    for i in 0..n {
        let sku = format!("sku-{}", i % 7);
        log.append(
            &partition((i % 7 % 2) as i32),
            i % 3,
            &sku,
            Some(&format!("{i} {i}")),
        );
        expected.put(&sku, i, i);
    }
    expected
}

async fn done(running: &RunningSink, database: &Database, log: &ScriptedLog) {
    let ends: Vec<i64> = {
        use millstream_broker::Admin;
        let end = |p: &TopicPartition| log.watermarks(p).expect("exists").high;
        log.partitions().iter().map(end).collect()
    };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let progress = read_progress(database, "test").await.expect("reads");
        let next: Vec<i64> = progress.iter().map(|p| p.next_offset).collect();
        if next == ends {
            return;
        }
        let error = running.metrics().last_error();
        assert!(
            tokio::time::Instant::now() < deadline,
            "{next:?} is not {ends:?}: {error:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn run_to_the_end(log: &ScriptedLog, database: &Database, config: SinkConfig) -> RunningSink {
    let running = sink(log, database, config, &Letters::default()).start();
    done(&running, database, log).await;
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_equal_the_naive_projection() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = two_partitions();
        let expected = fill(&log, 20_000);
        let running = run_to_the_end(&log, &test.database, config("a", 4096)).await;
        until("the count", || {
            running.metrics().records.load(Ordering::Relaxed) == 20_000
        })
        .await;
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_connection_at_any_step_loses_and_doubles_nothing() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = two_partitions();
        let expected = fill(&log, 200);
        // Each step of the first transactions fails once, the answer to COMMIT included.
        let calls = Arc::new(AtomicUsize::new(0));
        let hooked = Database::connect(&test.url).await.expect("connects");
        hooked.hook({
            let calls = calls.clone();
            Arc::new(move |at| {
                let n = calls.load(Ordering::Relaxed);
                let fails = [
                    At::Connect,
                    At::Begin,
                    At::Progress,
                    At::Rows,
                    At::Commit,
                    At::Commit,
                ];
                if n >= 60 || fails.get(n % 7) != Some(&at) {
                    // A transaction in order stands between the rounds.
                    if at == At::Commit {
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                    return Act::Go;
                }
                calls.fetch_add(1, Ordering::Relaxed);
                match n % 7 {
                    5 => Act::Unanswered(lost_connection()),
                    _ => Act::Fail(lost_connection()),
                }
            })
        });
        let running = sink(&log, &hooked, config("a", 8), &Letters::default()).start();
        done(&running, &test.database, &log).await;
        assert!(calls.load(Ordering::Relaxed) >= 60);
        // The last answer to COMMIT may be lost too: then the sink learns of it a moment later than
        // we do.
        until("the count", || {
            running.metrics().records.load(Ordering::Relaxed) == 200
        })
        .await;
        assert_eq!(running.metrics().fenced.load(Ordering::Relaxed), 0);
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_dies_at_any_step_loses_and_doubles_nothing() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = two_partitions();
        let expected = fill(&log, 120);
        for (point, answered) in [
            (At::Begin, true),
            (At::Rows, true),
            (At::Commit, true),
            (At::Commit, false),
        ] {
            let left = Mutex::new(3);
            let hooked = Database::connect(&test.url).await.expect("connects");
            hooked.hook(Arc::new(move |at| {
                let mut left = left.lock().expect("no panic");
                *left -= i32::from(at == point);
                match (*left < 0, answered) {
                    (false, _) => Act::Go,
                    (true, true) => Act::Fail(death()),
                    (true, false) => Act::Unanswered(death()),
                }
            }));
            let running = sink(&log, &hooked, config("a", 10), &Letters::default()).start();
            until("death", || running.is_finished()).await;
            let result = running.stop(DEADLINE).await;
            assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
        }
        let running = run_to_the_end(&log, &test.database, config("a", 10)).await;
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_that_lost_its_partitions_writes_nothing() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = two_partitions();
        let expected = fill(&log, 100);
        // The old writer gets everything once, and nothing when it joins again.
        log.script("old", vec![Event::Assigned(log.partitions())]);
        let (asleep, wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        // Another process has connections of its own.
        let other = Database::connect(&test.url).await.expect("connects");
        read_progress(&other, "test").await.expect("migrates");
        let begun = AtomicUsize::new(0);
        other.hook({
            let (asleep, wake) = (asleep.clone(), wake.clone());
            Arc::new(move |at| {
                // The first transaction is the claim, the second one a batch.
                if at == At::Begin && begun.fetch_add(1, Ordering::Relaxed) == 1 {
                    asleep.notify_one();
                    return Act::Wait(wake.clone());
                }
                Act::Go
            })
        });
        let old = sink(&log, &other, config("old", 10), &Letters::default()).start();
        let slept = tokio::time::timeout(DEADLINE, asleep.notified()).await;
        slept.expect("the old writer begins a batch");

        let new = run_to_the_end(&log, &test.database, config("new", 10)).await;
        wake.notify_one();
        until("fencing", || {
            old.metrics().fenced.load(Ordering::Relaxed) == 1
        })
        .await;
        assert_eq!(old.metrics().rows.load(Ordering::Relaxed), 0);
        old.stop(DEADLINE).await.expect("stops");
        new.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        let progress = read_progress(&test.database, "test").await.expect("reads");
        assert!(progress.iter().all(|p| p.epoch == 2), "{progress:?}");
        other.close().await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_rows_are_found_and_set_aside_once_and_the_others_written() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = ScriptedLog::new(&[partition(0)]);
        let mut expected = Expected::default();
        for i in 0..300 {
            let sku = format!("sku-{i}");
            match i {
                7 | 150 | 299 => log.append(&partition(0), 0, &sku, Some("-1 1")),
                8 | 151 => log.append(&partition(0), 0, &sku, Some("what?")),
                200 => log.append(&partition(0), 0, &sku, Some(&format!("{PANIC} 1"))),
                _ => {
                    log.append(&partition(0), 0, &sku, Some(&format!("{i} 1")));
                    expected.put(&sku, i, 1);
                }
            }
        }
        let letters = Letters::default();
        let running = sink(&log, &test.database, config("a", 300), &letters).start();
        done(&running, &test.database, &log).await;
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        let mut list = letters.list();
        list.sort();
        let offsets: Vec<i64> = list.iter().map(|l| l.1).collect();
        assert_eq!(offsets, [7, 8, 150, 151, 200, 299]);
        assert_eq!(list[1].2, "no price");
        assert!(list[4].2.contains("panicked"), "{}", list[4].2);
        assert!(
            list[0].2.to_lowercase().contains("constraint"),
            "{}",
            list[0].2
        );
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rebalances_in_the_middle_lose_and_double_nothing() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = two_partitions();
        let mut expected = Expected::default();
        let mut version = 0;
        let running = sink(&log, &test.database, config("a", 16), &Letters::default()).start();
        for round in 0..20 {
            for _ in 0..50 {
                version += 1;
                let sku = format!("sku-{}", version % 5);
                let to = partition((version % 5 % 2) as i32);
                log.append(&to, 1, &sku, Some(&format!("{version} {version}")));
                expected.put(&sku, version, version);
            }
            log.tell(
                "a",
                Event::Revoked {
                    lost: round % 3 == 0,
                },
            );
            // The numbering of partitions changes with the assignment.
            let mut partitions = log.partitions();
            partitions.rotate_left(round % 2);
            log.tell("a", Event::Assigned(partitions));
        }
        done(&running, &test.database, &log).await;
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_connections_lose_and_double_nothing() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_tables(&test.database).await;
    let log = two_partitions();
    let expected = fill(&log, 3_000);
    let running = sink(&log, &test.database, config("a", 20), &Letters::default()).start();
    // A connection of its own, which is not killed.
    let killer = Database::connect(&test.url).await.expect("connects");
    let writers = "SELECT `ID` FROM information_schema.PROCESSLIST WHERE `DB` = DATABASE() \
        AND `ID` <> CONNECTION_ID() AND `COMMAND` <> 'Sleep'";
    for _ in 0..30 {
        let ids = killer
            .rows(writers, &[], |row| row.int(0))
            .await
            .unwrap_or_default();
        for id in ids {
            let mut lease = killer.lease().await.expect("connects");
            // It may have ended by itself.
            let _ = lease.execute(format!("KILL {id}")).await;
        }
    }
    done(&running, &test.database, &log).await;
    running.stop(DEADLINE).await.expect("stops");
    expected.check(&test.database).await;
    killer.close().await;
    test.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_another_holds_is_waited_for() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = two_partitions();
        let expected = fill(&log, 50);
        let mut lease = test.database.lease().await.expect("connects");
        let mut tx = lease.begin().await.expect("begins");
        tx.execute("UPDATE `writes` SET `many` = `many`", &[])
            .await
            .expect("updates");
        let running = sink(&log, &test.database, config("a", 10), &Letters::default()).start();
        if test.database.dialect() != crate::Dialect::Sqlite {
            until("claim", || {
                running.metrics().partitions.load(Ordering::Relaxed) == 2
            })
            .await;
        }
        tx.rollback().await.expect("rolls back");
        lease.give_back();
        done(&running, &test.database, &log).await;
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_log_and_a_log_without_the_next_record_are_refused() {
    let test = TestDatabase::sqlite().await;
    make_tables(&test.database).await;
    let log = two_partitions();
    fill(&log, 100);
    let running = run_to_the_end(&log, &test.database, config("a", 100)).await;
    running.stop(DEADLINE).await.expect("stops");

    log.rename_cluster("other");
    let result = ends(sink(
        &log,
        &test.database,
        config("a", 10),
        &Letters::default(),
    ))
    .await;
    assert!(matches!(result, Err(Error::OtherLog { .. })), "{result:?}");
    log.rename_cluster("cluster");

    log.append(&partition(0), 0, "sku-0", Some("1 1"));
    log.truncate_before(&partition(0), 10_000);
    let result = ends(sink(
        &log,
        &test.database,
        config("a", 10),
        &Letters::default(),
    ))
    .await;
    assert!(
        matches!(result, Err(Error::Missing { low: 10_000, .. })),
        "{result:?}"
    );

    let shorter = two_partitions();
    let result = ends(sink(
        &shorter,
        &test.database,
        config("a", 10),
        &Letters::default(),
    ))
    .await;
    assert!(
        matches!(result, Err(Error::Missing { high: 0, .. })),
        "{result:?}"
    );
    test.remove().await;
}

async fn ends(sink: Sink) -> Result<(), Error> {
    let running = sink.start();
    until("end", || running.is_finished()).await;
    running.stop(DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_sink_stops_at_once_and_a_missing_table_ends_it() {
    let test = TestDatabase::sqlite().await;
    let log = two_partitions();
    let running = sink(&log, &test.database, config("a", 10), &Letters::default()).start();
    until("claim", || {
        running.metrics().partitions.load(Ordering::Relaxed) == 2
    })
    .await;
    running.stop(Duration::from_secs(5)).await.expect("stops");

    fill(&log, 1);
    let result = ends(sink(
        &log,
        &test.database,
        config("a", 10),
        &Letters::default(),
    ))
    .await;
    assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
    test.remove().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Keys in several partitions, versions in any order, tombstones nowhere: only the guard keeps
    /// order.
    #[test]
    fn a_version_never_goes_back(
        records in proptest::collection::vec((0..5u8, 0..1000i64, 0..2i32), 1..200),
        batch in 1..50usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let test = TestDatabase::sqlite().await;
            make_tables(&test.database).await;
            let log = two_partitions();
            let mut expected = Expected::default();
            for (sku, version, to) in &records {
                // One price for one version, whatever partition it is in.
                let (sku, price) = (format!("sku-{sku}"), version * 2);
                log.append(&partition(*to), 0, &sku, Some(&format!("{price} {version}")));
                expected.put(&sku, price, *version);
            }
            // Empty partitions have no progress to wait for.
            let running = run_to_the_end(&log, &test.database, config("a", batch)).await;
            running.stop(DEADLINE).await.expect("stops");
            expected.check(&test.database).await;
            test.remove().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn names_that_differ_in_case_or_blanks_are_different_rows() {
    for test in TestDatabase::all().await {
        make_tables(&test.database).await;
        let log = ScriptedLog::new(&[partition(0)]);
        let mut expected = Expected::default();
        for sku in ["a", "A", "a ", "ä", "😀"] {
            log.append(&partition(0), 0, sku, Some("1 1"));
            expected.put(sku, 1, 1);
        }
        let running = run_to_the_end(&log, &test.database, config("a", 10)).await;
        running.stop(DEADLINE).await.expect("stops");
        expected.check(&test.database).await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backlog_larger_than_the_queue_is_held_back_and_written() {
    let test = TestDatabase::sqlite().await;
    make_tables(&test.database).await;
    let log = two_partitions();
    let expected = fill(&log, 40_000);
    let running = run_to_the_end(&log, &test.database, config("a", 512)).await;
    running.stop(DEADLINE).await.expect("stops");
    expected.check(&test.database).await;
    assert_eq!(
        count(&test.database, "SELECT COUNT(*) FROM `prices`").await,
        7
    );
    test.remove().await;
}

#[tokio::test]
async fn a_step_counts_once_and_only_for_the_newest_claim() {
    for test in TestDatabase::all().await {
        let database = &test.database;
        database
            .migrate(progress::COMPONENT, progress::MIGRATIONS)
            .await
            .expect("migrates");
        let mut lease = database.lease().await.expect("connects");
        let mut tx = lease.begin().await.expect("begins");
        let identity = Identity::default();
        let mut claims = Vec::new();
        for _ in 0..2 {
            let claim = progress::claim(&mut tx, "test", &partition(0), &identity).await;
            claims.push(claim.expect("claims"));
        }
        assert_eq!(claims.iter().map(|c| c.epoch).collect::<Vec<_>>(), [1, 2]);
        let step = |epoch, from, to| Step {
            partition: partition(0),
            epoch,
            from,
            to,
        };
        // Old claim, right claim, the same again, a gap, the next one.
        let cases = [
            (step(1, 0, 5), false),
            (step(2, 0, 5), true),
            (step(2, 0, 5), false),
            (step(2, 6, 9), false),
            (step(2, 5, 9), true),
        ];
        for (step, moves) in cases {
            let moved = progress::advance(&mut tx, "test", &step)
                .await
                .expect("answers");
            assert_eq!(moved, moves, "{step:?}");
        }
        tx.commit().await.expect("commits");
        lease.give_back();
        test.remove().await;
    }
}
