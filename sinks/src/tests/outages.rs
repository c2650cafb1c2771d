//! Databases that are away, slow, read-only, set back to an earlier state or held by a dead writer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Appender, Broker, Cleanup, NewTopic, OwnedRecord,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;
use tokio::sync::Notify;

use super::{
    chaos::{quick, start, written},
    databases::{TestDatabase, execute, until},
    faults::{Act, Coded, lost_connection},
    log::ScriptedLog,
    shop::{Letters, Prices, count},
    world::{Record, State, log_of, make_world, partition, records},
};
use crate::{
    Backoff, Database, Message, Output, Projection, Sink, caught_up,
    feed::IN_MEMORY_MAX,
    progress::{self, Identity},
    read_progress,
    transaction::At,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Appends records to a log that has those before already.
pub(super) fn append(log: &ScriptedLog, before: &[Record], records: &[Record]) {
    let mut next: BTreeMap<i32, i64> = super::world::ends(before);
    for record in records {
        let next = next.entry(record.partition).or_insert(0);
        let gap = record.offset - *next;
        *next = record.offset + 1;
        let to = partition(record.partition);
        log.append(&to, gap, &record.sku, record.value.as_deref());
    }
}

const ALL: [&str; 6] = [
    "seen",
    "prices",
    "sink_dead_letters",
    "sink_progress",
    "moves",
    "writes",
];

async fn back_up(database: &Database) {
    for name in ALL {
        execute(
            database,
            &format!("CREATE TABLE `b_{name}` AS SELECT * FROM `{name}`"),
        )
        .await;
    }
}

/// Sets all tables back at once, as a restored backup or a replica without the tail would.
async fn restore(database: &Database) {
    let mut lease = database.lease().await.expect("connects");
    let mut tx = lease.begin().await.expect("begins");
    // The lock on the progress comes first, as in a sink.
    tx.execute("UPDATE `sink_progress` SET `epoch` = `epoch`", &[])
        .await
        .expect("locks");
    for name in ALL {
        let delete = format!("DELETE FROM `{name}`");
        tx.execute(delete, &[]).await.expect("deletes");
        let insert = format!("INSERT INTO `{name}` SELECT * FROM `b_{name}`");
        tx.execute(insert, &[]).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
    lease.give_back();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_is_set_back_is_filled_again_without_new_records() {
    for test in TestDatabase::all().await {
        make_world(&test.database).await;
        let records = records(4, 300, 2, true);
        let log = log_of(&records[..100], 2);
        let sink = start(&log, &test.database, quick("a", 9), &Letters::default());
        written(&test.database, &records[..100], &[&sink]).await;
        back_up(&test.database).await;
        append(&log, &records[..100], &records[100..200]);
        written(&test.database, &records[..200], &[&sink]).await;
        // Idle: nothing but the sink's own look can tell.
        restore(&test.database).await;
        written(&test.database, &records[..200], &[&sink]).await;
        // Busy: it happens between two batches.
        append(&log, &records[..200], &records[200..]);
        restore(&test.database).await;
        written(&test.database, &records, &[&sink]).await;
        assert!(sink.metrics().fenced.load(Ordering::Relaxed) >= 2);
        sink.stop(DEADLINE).await.expect("stops");
        let state = State::load(&test.database).await.expect("loads");
        state.verify(&records).expect("holds");
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_writer_that_hangs_in_a_transaction_is_disconnected() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_world(&test.database).await;
    let records = records(6, 60, 2, false);
    let log = log_of(&records, 2);
    let old = Database::connect(&test.url).await.expect("connects");
    let (hangs, hung) = mpsc::channel();
    // Progress is changed and locked when the rows never come.
    old.hook(Arc::new(move |at| {
        if at != At::Rows {
            return Act::Go;
        }
        let _ = hangs.send(());
        Act::Hang
    }));
    let zombie = start(&log, &old, quick("old", 10), &Letters::default());
    let hung = tokio::task::spawn_blocking(move || hung.recv_timeout(DEADLINE));
    hung.await.expect("no panic").expect("it hangs");
    let began = Instant::now();
    let new = start(&log, &test.database, quick("new", 10), &Letters::default());
    written(&test.database, &records, &[&new]).await;
    // The server itself would have waited for 30 s.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    new.stop(DEADLINE).await.expect("stops");
    drop(zombie);
    let state = State::load(&test.database).await.expect("loads");
    state.verify(&records).expect("holds");
    assert!(
        state.progress.iter().all(|p| p.epoch == 2),
        "{:?}",
        state.progress
    );
    test.remove().await;
}

#[tokio::test]
async fn only_the_connection_of_an_unfinished_transaction_holds_a_lock() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    make_world(&test.database).await;
    let database = &test.database;
    let holder = async || {
        let mut lease = database.lease().await.expect("connects");
        progress::holder(&mut lease, "test", &partition(0))
            .await
            .expect("reads")
    };
    let identity = Identity::default();
    assert_eq!(holder().await, None);
    // The first claim, and one of a row that is there.
    for _ in 0..2 {
        let mut lease = database.lease().await.expect("connects");
        let own = lease.rows("SELECT CAST(CONNECTION_ID() AS SIGNED)", &[], |row| {
            row.int(0)
        });
        let own = own.await.expect("reads")[0];
        let mut tx = lease.begin().await.expect("begins");
        let claim = progress::claim(&mut tx, "test", &partition(0), &identity).await;
        claim.expect("claims");
        assert_eq!(holder().await, Some(own));
        tx.commit().await.expect("commits");
        // Committed, its id means nothing.
        assert_eq!(holder().await, None);
    }
    test.remove().await;
}

/// The embedded log with the topic of prices.
fn embedded(dir: &std::path::Path) -> Arc<EmbeddedBroker> {
    let log = EmbeddedBroker::open(dir, EmbeddedConfig::default()).expect("opens");
    let topic = NewTopic {
        name: "prices".into(),
        partitions: 2,
        cleanup: Cleanup::Delete { retention_ms: None },
    };
    let admin = log.admin().expect("admin");
    admin.create_topics(&[topic]).expect("creates");
    log
}

/// Appends so many records and waits until they are durable; answers how long that took.
fn append_durably(appender: &dyn Appender, range: std::ops::Range<i64>) -> Duration {
    let began = Instant::now();
    let (done, acks) = mpsc::channel();
    for n in range.clone() {
        let sku = n % 10;
        let record = OwnedRecord {
            to: partition((sku % 2) as i32),
            timestamp: 0,
            key: Some(Bytes::from(format!("sku-{sku}"))),
            value: Some(Bytes::from(format!("{n} {n}"))),
            headers: Headers::default(),
        };
        let done = done.clone();
        let ack = Box::new(move |result| drop(done.send(result)));
        appender.append(record, ack).expect("room");
    }
    for _ in range {
        let ack = acks.recv_timeout(DEADLINE).expect("an answer");
        ack.expect("is durable");
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_database_is_away_the_log_goes_on_memory_is_bounded_and_membership_kept() {
    const SESSION: Duration = Duration::from_millis(400);
    const CHUNK: i64 = 1_000;
    for test in TestDatabase::all().await {
        make_world(&test.database).await;
        let dir = tempfile::tempdir().expect("a folder");
        let log = embedded(dir.path());
        let appender = log.appender().expect("appender");
        let away = Arc::new(AtomicBool::new(false));
        let database = Database::connect(&test.url).await.expect("connects");
        database.hook({
            let away = away.clone();
            Arc::new(move |_| match away.load(Ordering::Relaxed) {
                true => Act::Fail(lost_connection()),
                false => Act::Go,
            })
        });
        let mut config = quick("a", 512);
        config.session_timeout = SESSION;
        let batch = config.batch.records_max;
        let sink = Sink::new(
            config,
            log.clone(),
            database.clone(),
            vec![Arc::new(Prices)],
            Arc::new(Letters::default()),
        )
        .start();
        let before = append_durably(&*appender, 0..CHUNK);
        let metrics = sink.metrics().clone();
        until("the first records", || {
            metrics.records.load(Ordering::Relaxed) == CHUNK as u64
        })
        .await;

        away.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let mut appended = CHUNK;
        let mut slowest = Duration::ZERO;
        let most = IN_MEMORY_MAX + 2 * batch;
        let mut held = 0;
        while began.elapsed() < 4 * SESSION || appended < 2 * most as i64 {
            // More than fits into memory, and then a little all the time.
            let many = if appended < 2 * most as i64 {
                CHUNK
            } else {
                10
            };
            let chunk = appended..appended + many;
            let appender = appender.clone();
            let took = tokio::task::spawn_blocking(move || append_durably(&*appender, chunk));
            slowest = slowest.max(took.await.expect("no panic"));
            appended += many;
            held = held.max(metrics.waiting.load(Ordering::Relaxed));
            assert!(held <= most as u64, "{held} records in memory");
        }
        assert_eq!(metrics.records.load(Ordering::Relaxed), CHUNK as u64);
        assert!(metrics.retries.load(Ordering::Relaxed) > 0);
        // Reading stopped because of the bound, not because nothing was there.
        assert!(held > 4096, "{held} records in memory");
        eprintln!(
            "{}: away {:?}, {appended} appended, at most {held} in memory, 1000 records durable in \
             {before:?} before and at most {slowest:?} meanwhile",
            database.dialect().name(),
            began.elapsed(),
        );

        away.store(false, Ordering::Relaxed);
        let back = Instant::now();
        let topics = ["prices".into()];
        while !caught_up(log.clone(), &test.database, "test", &topics)
            .await
            .expect("answers")
        {
            assert!(back.elapsed() < DEADLINE, "{:?}", metrics.last_error());
        }
        eprintln!("caught up after {:?}", back.elapsed());
        sink.stop(DEADLINE).await.expect("stops");
        let seen = count(&test.database, "SELECT COUNT(*) FROM `seen`").await;
        let writes = count(&test.database, "SELECT `many` FROM `writes`").await;
        assert_eq!((seen, writes), (appended, appended));
        let prices = "SELECT `price` FROM `prices` ORDER BY `price`";
        let prices = test.database.rows(prices, &[], |row| row.int(0)).await;
        let last: Vec<i64> = (appended - 10..appended).collect();
        assert_eq!(prices.expect("reads"), last);
        // It polled all the time, so nobody took its partitions away.
        let progress = read_progress(&test.database, "test").await.expect("reads");
        assert!(progress.iter().all(|p| p.epoch == 1), "{progress:?}");
        database.close().await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sink_whose_database_is_away_stops_at_once() {
    // Refused connections with long pauses, and connections that never come about.
    for hangs in [false, true] {
        let test = TestDatabase::sqlite().await;
        make_world(&test.database).await;
        let records = records(8, 20, 1, false);
        let log = log_of(&records, 1);
        let tried = Arc::new(AtomicUsize::new(0));
        test.database.hook({
            let tried = tried.clone();
            Arc::new(move |at| {
                if at != At::Connect {
                    return Act::Go;
                }
                tried.fetch_add(1, Ordering::Relaxed);
                if hangs {
                    Act::Hang
                } else {
                    Act::Fail(lost_connection())
                }
            })
        });
        let mut config = quick("a", 10);
        let long = Duration::from_secs(1000);
        config.backoff = Backoff {
            min: long,
            max: long,
        };
        let sink = start(&log, &test.database, config, &Letters::default());
        until("the first try", || tried.load(Ordering::Relaxed) > 0).await;
        let began = Instant::now();
        sink.stop(DEADLINE).await.expect("stops");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        test.database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_that_conflicts_is_tried_again_in_smaller_parts() {
    for test in TestDatabase::all().await {
        make_world(&test.database).await;
        let records = records(10, 64, 1, false);
        let log = log_of(&records, 1);
        let left = Arc::new(AtomicU32::new(3));
        let database = Database::connect(&test.url).await.expect("connects");
        database.hook({
            let left = left.clone();
            Arc::new(move |at| {
                // The claim's commit is not a batch's, so rows are what conflicts.
                let conflicts = at == At::Rows
                    && left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok();
                if conflicts {
                    Act::Fail(Coded::error("5"))
                } else {
                    Act::Go
                }
            })
        });
        let mut config = quick("a", 64);
        config.linger = Duration::from_secs(5);
        let sink = start(&log, &database, config, &Letters::default());
        written(&test.database, &records, &[&sink]).await;
        let metrics = sink.metrics().clone();
        until("the count", || {
            metrics.records.load(Ordering::Relaxed) == 64
        })
        .await;
        sink.stop(DEADLINE).await.expect("stops");
        // 64, 32, 16 conflict; 8 and what is left of each half are written.
        assert_eq!(metrics.batches.load(Ordering::Relaxed), 4);
        assert_eq!(metrics.retries.load(Ordering::Relaxed), 3);
        State::load(&test.database)
            .await
            .expect("loads")
            .verify(&records)
            .expect("holds");
        database.close().await;
        test.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_way_to_the_database_makes_transactions_larger() {
    let test = TestDatabase::sqlite().await;
    make_world(&test.database).await;
    let records = records(16, 300, 1, false);
    let log = log_of(&records, 1);
    let database = Database::connect(&test.url).await.expect("connects");
    // A transaction takes 400 ms, more than one whose rows are slow may.
    database.hook(Arc::new(|_| Act::Late(Duration::from_millis(80))));
    let mut config = quick("a", 512);
    config.batch.records_start = 64;
    let sink = start(&log, &database, config, &Letters::default());
    written(&test.database, &records, &[&sink]).await;
    let metrics = sink.metrics().clone();
    until("the count", || {
        metrics.records.load(Ordering::Relaxed) == 300
    })
    .await;
    sink.stop(DEADLINE).await.expect("stops");
    assert_eq!(metrics.batch_records.load(Ordering::Relaxed), 256);
    assert_eq!(metrics.batches.load(Ordering::Relaxed), 3);
    State::load(&test.database)
        .await
        .expect("loads")
        .verify(&records)
        .expect("holds");
    database.close().await;
    test.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_arrives_after_its_fate_was_asked_counts_once() {
    for test in TestDatabase::all().await {
        make_world(&test.database).await;
        let records = records(20, 10, 1, false);
        let log = log_of(&records, 1);
        let hooked = Database::connect(&test.url).await.expect("connects");
        let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begun, committed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        hooked.hook({
            let (asked, go) = (asked.clone(), go.clone());
            Arc::new(move |at| match at {
                // The claim, the batch, its fate, the batch again.
                At::Begin if begun.fetch_add(1, Ordering::Relaxed) == 3 => {
                    asked.notify_one();
                    Act::Wait(go.clone())
                }
                At::Commit if committed.fetch_add(1, Ordering::Relaxed) == 1 => {
                    Act::Fail(lost_connection())
                }
                _ => Act::Go,
            })
        });
        let mut config = quick("a", 10);
        config.batch.records_min = 10;
        config.linger = DEADLINE;
        let sink = start(&log, &hooked, config, &Letters::default());
        let waits = tokio::time::timeout(DEADLINE, asked.notified()).await;
        waits.expect("the batch is tried again");

        // What the server did with the first COMMIT, a little later.
        let to = records.last().expect("records").offset + 1;
        let step = progress::Step {
            partition: partition(0),
            epoch: 1,
            from: 0,
            to,
        };
        let message = |record: &Record| {
            let mut message = Message::new("prices", 0, record.offset);
            message.key = Some(record.sku.clone().into());
            message.value = record.value.clone().map(Bytes::from);
            message
        };
        let messages: Vec<Message> = records.iter().map(message).collect();
        let mut out = Output::default();
        Prices.project(&messages.iter().collect::<Vec<_>>(), &mut out);
        let mut lease = test.database.lease().await.expect("connects");
        let mut tx = lease.begin().await.expect("begins");
        let moved = progress::advance(&mut tx, "test", &step).await;
        assert!(moved.expect("answers"));
        out.changes.settle().write(&mut tx).await.expect("writes");
        tx.commit().await.expect("commits");
        lease.give_back();

        go.notify_one();
        let metrics = sink.metrics().clone();
        until("the count", || {
            metrics.records.load(Ordering::Relaxed) == 10
        })
        .await;
        assert_eq!(metrics.fenced.load(Ordering::Relaxed), 0);
        sink.stop(DEADLINE).await.expect("stops");
        let state = State::load(&test.database).await.expect("loads");
        state.verify(&records).expect("holds");
        hooked.close().await;
        test.remove().await;
    }
}
