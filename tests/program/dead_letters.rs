//! A record that nobody can read is set aside, and the shop goes on.

use std::{
    path::Path,
    sync::mpsc::channel,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;

use crate::shop::{Shop, succeeds};

/// Appends a record to the log of a shop that is stopped.
fn append(data_dir: &str, topic: &str, key: &str, value: &str) {
    let folder = Path::new(data_dir).join("log");
    let log = EmbeddedBroker::open(&folder, EmbeddedConfig::default()).expect("it is free");
    let (done, durable) = channel();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let record = OwnedRecord {
        to: TopicPartition::new(topic, 0),
        // Older ones would be deleted by age.
        timestamp: now.as_millis() as i64,
        key: Some(Bytes::from(key.to_owned())),
        value: Some(Bytes::from(value.to_owned())),
        headers: Headers::default(),
    };
    let tell = Box::new(move |result| done.send(result).expect("somebody waits"));
    log.appender()
        .and_then(|appender| appender.append(record, tell))
        .expect("there is room");
    let result = durable
        .recv_timeout(Duration::from_secs(10))
        .expect("it is told");
    result.expect("it is durable");
}

#[test]
fn a_record_of_a_later_version_is_set_aside() {
    let mut shop = Shop::start(&[]);
    let data_dir = shop.data_dir();
    shop.stop();
    append(
        &data_dir,
        "shop.orders",
        "no-order",
        r#"{"type":"place","v":99}"#,
    );
    shop.start_again();
    succeeds(&["load", "--url", &shop.url(), "--orders", "10", "--setup"]);
    shop.stop_and_verify();

    let list = succeeds(&["dlq", "list", "--data-dir", &data_dir]);
    let row = list.lines().nth(1).expect("a dead letter");
    assert!(row.contains("shop.orders-0@0"), "{list}");
    let mut words = row.split_whitespace();
    let (partition, offset) = (words.next().expect("one"), words.next().expect("two"));
    let letter = succeeds(&["dlq", "show", partition, offset, "--data-dir", &data_dir]);
    assert!(letter.contains(r#"{"type":"place","v":99}"#), "{letter}");
    assert!(letter.contains("__streams.errors.message"), "{letter}");
}
