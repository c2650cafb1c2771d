//! What a failed write does, which cannot be tried from outside.

use std::{sync::atomic::Ordering, time::Duration};

use millstream_topology::Headers;

use super::*;
use crate::{
    Cleanup, Error, NewTopic, Outgoing, OwnedRecord, ProducerError, Start, TopicPartition,
};

fn outgoing<'a>(topic: crate::TopicIx, value: &'a [u8], headers: &'a Headers) -> Outgoing<'a> {
    Outgoing {
        topic,
        partition: 0,
        timestamp: 1,
        key: None,
        value: Some(value),
        headers,
    }
}

#[test]
fn a_failed_write_stops_the_log_until_it_can_write_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default()).expect("opens");
    let admin = log.admin().expect("admin");
    let topic = NewTopic {
        name: "t".into(),
        partitions: 1,
        cleanup: Cleanup::Delete { retention_ms: None },
    };
    admin.create_topics(&[topic]).expect("created");
    let headers = Headers::default();
    let mut producer = log.producer("p").expect("producer");
    producer.init().expect("init");
    let ix = producer.topic("t");
    producer.begin().expect("begin");
    producer
        .send(outgoing(ix, b"kept", &headers))
        .expect("send");
    producer.commit().expect("commit");
    let at = TopicPartition::new("t", 0);
    let mut reader = log.reader().expect("reader");
    reader
        .assign(&[(at.clone(), Start::Latest)])
        .expect("assign");
    let appender = log.appender().expect("appender");

    let disk_is_gone = &log.running.log.disk_is_gone;
    disk_is_gone.store(true, Ordering::SeqCst);
    producer.begin().expect("begin");
    producer
        .send(outgoing(ix, b"lost", &headers))
        .expect("send");
    let failed = producer.commit();
    assert!(matches!(failed, Err(ProducerError::Fatal(_))), "{failed:?}");

    let failed = producer.begin();
    assert!(matches!(failed, Err(ProducerError::Fatal(_))), "{failed:?}");
    let failed = reader.poll(Duration::from_secs(30), 1, &mut Vec::new());
    let text = failed.expect_err("it stopped").to_string();
    assert_eq!(text, "the log stopped after a failed write");
    let record = OwnedRecord {
        to: at.clone(),
        timestamp: 1,
        key: None,
        value: None,
        headers,
    };
    let refused = appender.append(record, Box::new(|_| {}));
    assert!(matches!(refused, Err(Error::Client { .. })), "{refused:?}");
    assert!(admin.delete_records(&[(at.clone(), 1)]).is_err());

    // By itself, as soon as it can.
    disk_is_gone.store(false, Ordering::SeqCst);
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while log.admin().is_err() {
        assert!(std::time::Instant::now() < until, "it is not opened again");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let failed = producer.begin();
    assert!(matches!(failed, Err(ProducerError::Fatal(_))), "{failed:?}");
    assert_eq!(admin.watermarks(&at).expect("watermarks").high, 1);
    producer = log.producer("p").expect("producer");
    producer.init().expect("init");
    let ix = producer.topic("t");
    producer.begin().expect("begin");
    let headers = Headers::default();
    producer
        .send(outgoing(ix, b"next", &headers))
        .expect("send");
    producer.commit().expect("commit");
    let mut records = Vec::new();
    reader
        .poll(Duration::from_secs(30), 9, &mut records)
        .expect("polls");
    assert_eq!(records[0].value.as_deref(), Some(&b"next"[..]));
    assert_eq!(records[0].offset, 1);
    drop((log, admin, producer, reader, appender));

    let log = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default()).expect("opens");
    let marks = log
        .admin()
        .expect("admin")
        .watermarks(&at)
        .expect("watermarks");
    assert_eq!(marks.high, 2);
}
