//! What is on disk stays, is checked, and goes when its time has come.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_broker::{
    Broker, Cleanup, Error, Start, TopicPartition,
    embedded::{Clock, EmbeddedBroker, EmbeddedConfig},
};

use super::{
    DEADLINE, KEEP, create, join, open, open_with, producer, read, read_from, send,
    take_assignment, texts, write,
};

#[test]
fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let [zero, one] = [0, 1].map(|p| TopicPartition::new("t", p));
    let cluster_id;
    {
        let log = open(dir.path());
        cluster_id = log.admin().expect("admin").cluster_id().expect("id");
        create(&log, "t", 2, KEEP);
        create(&log, "gone", 1, KEEP);
        write(
            &log,
            "t",
            &[
                (0, 5, "k", Some("a")),
                (1, 6, "k", Some("b")),
                (0, 7, "k", Some("c")),
            ],
        );
        let mut member = join(&log, "m", DEADLINE);
        take_assignment(&mut *member);
        let mut producer = producer(&log, "p");
        producer.begin().expect("begin");
        send(&mut *producer, "t", &[(0, 8, "k", Some("d"))]);
        let proof = member.group_metadata().expect("metadata");
        producer
            .send_offsets(&[(zero.clone(), 2), (one.clone(), 1)], &proof)
            .expect("offsets");
        producer.commit().expect("commit");
        let admin = log.admin().expect("admin");
        admin.delete_records(&[(zero.clone(), 1)]).expect("delete");
        admin.delete_topics(&["gone"]).expect("delete");
    }
    let log = open(dir.path());
    let admin = log.admin().expect("admin");
    assert_eq!(admin.cluster_id().expect("id"), cluster_id);
    let topics = admin.topics().expect("topics");
    assert_eq!(topics.len(), 1);
    assert_eq!((&*topics[0].name, topics[0].partitions), ("t", 2));
    assert_eq!(texts(&read(&log, &zero)), ["c", "d"]);
    let records = read(&log, &one);
    assert_eq!((records[0].offset, records[0].timestamp), (0, 6));
    let committed = admin
        .committed("g", &[zero.clone(), one])
        .expect("committed");
    assert_eq!(committed, [Some(2), Some(1)]);
    assert_eq!(admin.groups().expect("groups"), [("g".to_owned(), vec![])]);

    write(&log, "t", &[(0, 9, "k", Some("e"))]);
    let records = read(&log, &zero);
    assert_eq!(records.last().map(|r| r.offset), Some(3), "offsets go on");
}

#[test]
fn offsets_go_on_where_all_records_were_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = TopicPartition::new("t", 0);
    {
        let log = open(dir.path());
        create(&log, "t", 1, KEEP);
        write(&log, "t", &[(0, 5, "k", Some("a")), (0, 5, "k", Some("b"))]);
        log.admin()
            .expect("admin")
            .delete_records(&[(at.clone(), 2)])
            .expect("delete");
    }
    let log = open(dir.path());
    let marks = log
        .admin()
        .expect("admin")
        .watermarks(&at)
        .expect("watermarks");
    assert_eq!((marks.low, marks.high), (2, 2));
    write(&log, "t", &[(0, 5, "k", Some("c"))]);
    assert_eq!(read(&log, &at)[0].offset, 2);
}

#[test]
fn a_topic_of_an_old_name_has_nothing_of_the_old_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = TopicPartition::new("t", 0);
    let log = open(dir.path());
    create(&log, "t", 1, KEEP);
    let mut producer = producer(&log, "p");
    let mut commit = |value| {
        producer.begin().expect("begin");
        send(&mut *producer, "t", &[(0, 5, "k", Some(value))]);
        producer.commit().expect("commit");
    };
    commit("old");
    let admin = log.admin().expect("admin");
    admin.delete_topics(&["t"]).expect("delete");
    create(&log, "t", 1, KEEP);
    commit("new");
    let records = read(&log, &at);
    assert_eq!(
        (texts(&records), records[0].offset),
        (vec!["new".to_owned()], 0)
    );
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    let Err(refused) = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default()) else {
        panic!("opened twice");
    };
    assert!(
        refused.to_string().contains("is open in another program"),
        "{refused}"
    );
    drop(log);
    open(dir.path());
}

/// Changes the last byte of every stored block that `which` picks.
fn damage_blocks(dir: &Path, which: impl Fn(usize) -> bool) {
    let db = rocksdb::DB::open_default(dir).expect("the database opens");
    let blocks: Vec<_> = db
        .iterator(rocksdb::IteratorMode::Start)
        .map(|entry| entry.expect("entry"))
        .filter(|(key, _)| key.first() == Some(&b'r'))
        .collect();
    for (ix, (key, mut value)) in blocks.into_iter().enumerate() {
        if which(ix) {
            *value.last_mut().expect("a byte") ^= 1;
            db.put(key, value).expect("put");
        }
    }
}

#[test]
fn a_damaged_block_is_noticed_when_it_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let log = open(dir.path());
        create(&log, "t", 1, KEEP);
        for value in ["a", "b", "c"] {
            write(&log, "t", &[(0, 5, "k", Some(value))]);
        }
    }
    damage_blocks(dir.path(), |ix| ix == 1);
    let log = open(dir.path());
    let at = TopicPartition::new("t", 0);
    let damaged = read_from(&log, &at, Start::Earliest);
    assert!(matches!(damaged, Err(Error::Corrupt(_))), "{damaged:?}");
    assert_eq!(
        texts(&read_from(&log, &at, Start::Offset(2)).expect("whole")),
        ["c"]
    );
    drop(log);

    damage_blocks(dir.path(), |ix| ix == 2);
    let damaged = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default());
    assert!(matches!(damaged.err(), Some(Error::Corrupt(_))));
}

#[test]
fn a_damaged_file_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let log = open(dir.path());
        create(&log, "t", 1, KEEP);
        let large = "x".repeat(100_000);
        for _ in 0..3 {
            write(&log, "t", &[(0, 5, "k", Some(&large))]);
        }
    }
    {
        let mut options = rocksdb::Options::default();
        options.set_enable_blob_files(true);
        let db = rocksdb::DB::open(&options, dir.path()).expect("the database opens");
        db.flush().expect("flush");
    }
    let files = fs::read_dir(dir.path()).expect("a folder");
    let blobs: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "blob"))
        .collect();
    assert!(!blobs.is_empty(), "large blocks are in files of their own");
    for path in blobs {
        let mut bytes = fs::read(&path).expect("read");
        bytes[200] ^= 1;
        fs::write(&path, bytes).expect("write");
    }
    let read = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default())
        .and_then(|log| read_from(&log, &TopicPartition::new("t", 0), Start::Earliest));
    assert!(
        matches!(read, Err(Error::Corrupt(_))),
        "{:?}",
        read.map(|r| r.len())
    );
}

/// Ten transactions of a record each, still in the journal. Gives the journal's path and bytes.
fn journal_of_ten(dir: &Path) -> (PathBuf, Vec<u8>) {
    let log = open(dir);
    create(&log, "t", 1, KEEP);
    let value = "x".repeat(5_000);
    for _ in 0..10 {
        write(&log, "t", &[(0, 5, "k", Some(&value))]);
    }
    drop(log);
    journal(dir)
}

/// The journal with most in it.
fn journal(dir: &Path) -> (PathBuf, Vec<u8>) {
    let files = fs::read_dir(dir).expect("a folder");
    let journals = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .map(|path| (path.clone(), fs::read(path).expect("read")));
    journals
        .max_by_key(|(_, bytes)| bytes.len())
        .expect("a journal")
}

#[test]
fn a_journal_damaged_in_the_middle_is_only_opened_to_salvage() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, mut bytes) = journal_of_ten(dir.path());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("write");
    let refused = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default());
    assert!(matches!(refused.err(), Some(Error::Corrupt(_))));
    let salvage = EmbeddedConfig {
        salvage: true,
        ..EmbeddedConfig::default()
    };
    let log = open_with(dir.path(), salvage);
    let left = read(&log, &TopicPartition::new("t", 0));
    assert!((1..10).contains(&left.len()), "{} records", left.len());
}

#[test]
fn a_journal_that_ends_in_half_a_write_is_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, bytes) = journal_of_ten(dir.path());
    fs::write(path, &bytes[..bytes.len() - 1_000]).expect("write");
    let log = open(dir.path());
    let at = TopicPartition::new("t", 0);
    assert_eq!(read(&log, &at).len(), 9);
    write(&log, "t", &[(0, 5, "k", Some("next"))]);
    assert_eq!(read(&log, &at).last().map(|r| r.offset), Some(9));
}

#[test]
fn a_journal_whose_last_write_has_a_hole_is_opened() {
    // After a power cut some pages of a write that was not synced may be there and others not.
    let dir = tempfile::tempdir().expect("a folder");
    {
        let log = open(dir.path());
        create(&log, "t", 1, KEEP);
        for letter in ["a", "b"] {
            let value = letter.repeat(300_000);
            write(&log, "t", &[(0, 5, "k", Some(&value))]);
        }
    }
    let (path, bytes) = journal(dir.path());
    for hole in (bytes.len() - 280_000..bytes.len() - 10_000).step_by(50_000) {
        let copy = tempfile::tempdir().expect("a folder");
        for file in fs::read_dir(dir.path()).expect("a folder") {
            let file = file.expect("a file").path();
            let to = copy.path().join(file.file_name().expect("a name"));
            fs::copy(file, to).expect("copied");
        }
        let mut torn = bytes.clone();
        torn[hole..hole + 4096].fill(0);
        fs::write(copy.path().join(path.file_name().expect("a name")), torn).expect("written");
        let log = open(copy.path());
        let at = TopicPartition::new("t", 0);
        assert_eq!(read(&log, &at).len(), 1);
        write(&log, "t", &[(0, 5, "k", Some("next"))]);
        assert_eq!(read(&log, &at).last().map(|r| r.offset), Some(1));
        drop(log);
        assert_eq!(read(&open(copy.path()), &at).len(), 2);
    }
}

#[test]
fn records_are_deleted_when_they_are_old_enough() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Clock::default();
    let config = || EmbeddedConfig {
        clock: clock.clone(),
        ..EmbeddedConfig::default()
    };
    let log = open_with(dir.path(), config());
    let hour = Duration::from_secs(3600);
    let retention_ms = hour.as_millis() as i64;
    create(
        &log,
        "t",
        1,
        Cleanup::Delete {
            retention_ms: Some(retention_ms),
        },
    );
    create(&log, "kept", 1, KEEP);
    let now = clock.now_ms();
    write(&log, "kept", &[(0, 1, "k", Some("old"))]);
    write(
        &log,
        "t",
        &[(0, now, "k", Some("a")), (0, 1, "k", Some("b"))],
    );
    assert_eq!(
        log.expire_now().expect("expire"),
        0,
        "the newest of a block counts"
    );
    clock.advance(hour);
    write(&log, "t", &[(0, clock.now_ms(), "k", Some("c"))]);
    clock.advance(hour / 2);
    assert_eq!(log.expire_now().expect("expire"), 1);
    let at = TopicPartition::new("t", 0);
    assert_eq!(texts(&read(&log, &at)), ["c"]);
    drop(log);

    let log = open_with(dir.path(), config());
    assert_eq!(texts(&read(&log, &at)), ["c"]);
    clock.advance(hour);
    assert_eq!(log.expire_now().expect("expire"), 1);
    let marks = log
        .admin()
        .expect("admin")
        .watermarks(&at)
        .expect("watermarks");
    assert_eq!((marks.low, marks.high), (3, 3));
    assert_eq!(texts(&read(&log, &TopicPartition::new("kept", 0))), ["old"]);
}
