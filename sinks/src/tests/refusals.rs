//! Errors by code: what is waited for, what sets a record aside, and what ends a sink.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    chaos::{quick, start, written},
    databases::{TestDatabase, execute, until},
    log::ScriptedLog,
    outages::append,
    shop::{Letters, count},
    world::{State, log_of, make_world, partition, records},
};
use crate::Error;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn errors_that_pass_are_waited_for_whatever_their_code() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_world(&test.database).await;
    let database = &test.database;
    execute(database, "CREATE TABLE `fails` (`n` INT NOT NULL)").await;
    execute(database, "INSERT INTO `fails` VALUES (0)").await;
    let codes = [1213, 1205, 1020, 1290, 1836, 1053, 1927, 1040, 2006, 2013];
    let whens: Vec<String> = codes
        .iter()
        .map(|c| format!("WHEN {c} THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {c};"))
        .collect();
    let trigger = format!(
        "CREATE TRIGGER `fail` BEFORE UPDATE ON `sink_progress` FOR EACH ROW \
         CASE (SELECT MAX(`n`) FROM `fails`) {} ELSE BEGIN END; END CASE",
        whens.join(" ")
    );
    execute(database, &trigger).await;
    let all = records(12, 200, 2, false);
    let log = log_of(&[], 2);
    let sink = start(&log, database, quick("a", 8), &Letters::default());
    let metrics = sink.metrics().clone();
    until("the claim", || {
        metrics.partitions.load(Ordering::Relaxed) == 2
    })
    .await;
    let mut done = 0;
    for code in codes {
        execute(database, &format!("UPDATE `fails` SET `n` = {code}")).await;
        let retries = metrics.retries.load(Ordering::Relaxed);
        append(&log, &all[..done], &all[done..done + 20]);
        done += 20;
        until("tries", || {
            metrics.retries.load(Ordering::Relaxed) > retries + 1
        })
        .await;
        assert!(!sink.is_finished(), "{code}: {:?}", metrics.last_error());
        execute(database, "UPDATE `fails` SET `n` = 0").await;
        written(database, &all[..done], &[&sink]).await;
    }
    sink.stop(DEADLINE).await.expect("stops");
    let state = State::load(database).await.expect("loads");
    state.verify(&all).expect("holds");
    test.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_larger_than_the_servers_packets_is_set_aside() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_world(&test.database).await;
    let packet = "SELECT CAST(@@max_allowed_packet AS SIGNED)";
    let packet = count(&test.database, packet).await;
    let log = ScriptedLog::new(&[partition(0)]);
    log.append(&partition(0), 0, "a", Some("1 1"));
    log.append(&partition(0), 0, &"x".repeat(packet as usize), Some("1 1"));
    log.append(&partition(0), 0, "b", Some("1 1"));
    let letters = Letters::default();
    let sink = start(&log, &test.database, quick("a", 10), &letters);
    let metrics = sink.metrics().clone();
    until("all three", || metrics.records.load(Ordering::Relaxed) == 3).await;
    sink.stop(DEADLINE).await.expect("stops");
    let list = letters.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].1, 1);
    assert!(list[0].2.contains("too large"), "{}", list[0].2);
    assert_eq!(
        count(&test.database, "SELECT COUNT(*) FROM `prices`").await,
        2
    );
    test.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_table_that_is_not_there_ends_the_sink_with_what_to_do() {
    for test in TestDatabase::all().await {
        let records = records(14, 10, 1, false);
        let log = log_of(&records, 1);
        let sink = start(&log, &test.database, quick("a", 10), &Letters::default());
        until("the end", || sink.is_finished()).await;
        let result = sink.stop(DEADLINE).await;
        let Err(error @ Error::Refused { .. }) = result else {
            panic!("{result:?}");
        };
        assert!(error.to_string().contains("migrate the tables"), "{error}");
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_data_is_set_aside_whatever_its_code() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_world(&test.database).await;
    let codes = [
        (1406, "22001"),
        (1264, "22003"),
        (1366, "HY000"),
        (1292, "22007"),
        (1048, "23000"),
        (1062, "23000"),
        (1452, "23000"),
        (3819, "HY000"),
        (4025, "23000"),
        (1644, "45000"),
    ];
    let whens: Vec<String> = codes
        .iter()
        .map(|(c, s)| format!("WHEN {c} THEN SIGNAL SQLSTATE '{s}' SET MYSQL_ERRNO = {c};"))
        .collect();
    let trigger = format!(
        "CREATE TRIGGER `fail` BEFORE INSERT ON `prices` FOR EACH ROW \
         CASE NEW.`price` {} ELSE BEGIN END; END CASE",
        whens.join(" ")
    );
    execute(&test.database, &trigger).await;
    let log = ScriptedLog::new(&[partition(0)]);
    for (code, _) in codes {
        log.append(
            &partition(0),
            0,
            &format!("bad-{code}"),
            Some(&format!("{code} 1")),
        );
        log.append(&partition(0), 0, &format!("good-{code}"), Some("1 1"));
    }
    let letters = Letters::default();
    let sink = start(&log, &test.database, quick("a", 64), &letters);
    let metrics = sink.metrics().clone();
    until("everything", || {
        metrics.records.load(Ordering::Relaxed) == 20
    })
    .await;
    assert_eq!(metrics.retries.load(Ordering::Relaxed), 0);
    sink.stop(DEADLINE).await.expect("stops");
    let offsets: Vec<i64> = letters.list().iter().map(|l| l.1).collect();
    assert_eq!(offsets, (0..10).map(|n| 2 * n).collect::<Vec<_>>());
    assert_eq!(
        count(&test.database, "SELECT COUNT(*) FROM `prices`").await,
        10
    );
    test.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_no_retry_can_mend_ends_the_sink() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_world(&test.database).await;
    let records = records(18, 10, 1, false);
    let log = log_of(&records, 1);
    let ended = async |config| {
        let sink = start(&log, &test.database, config, &Letters::default());
        until("the end", || sink.is_finished()).await;
        sink.stop(DEADLINE)
            .await
            .expect_err("ends by an error")
            .to_string()
    };
    let mut long = quick("a", 10);
    long.name = "x".repeat(300);
    let error = ended(long).await;
    assert!(error.contains("refuses the sink"), "{error}");
    execute(
        &test.database,
        "ALTER TABLE `prices` ADD UNIQUE KEY `second` (`version`)",
    )
    .await;
    let error = ended(quick("a", 10)).await;
    assert!(error.contains("key=`second`"), "{error}");
    let state = State::load(&test.database).await.expect("loads");
    assert!(state.tables.seen.is_empty());
    test.remove().await;
}
