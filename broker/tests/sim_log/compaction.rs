//! What compaction and retention leave.

use millstream_broker::{Broker, Cleanup, sim::SimConfig};

use super::{at, log_with, producer, send, values, write};

#[test]
fn compaction_keeps_the_newest_committed_record_of_a_key() {
    let (log, client) = log_with(1, SimConfig::default(), Cleanup::Compact);
    let mut p = producer(&client, "p");
    write(&mut *p, "a");
    write(&mut *p, "b");
    p.begin().expect("begin");
    send(&mut *p, "aborted").expect("send");
    p.abort().expect("abort");
    log.compact();
    assert_eq!(values(&log), ["b"]);
    assert_eq!(log.committed_records(&at(0))[0].offset, 2);
    write(&mut *p, "");
    log.compact();
    assert_eq!(values(&log), [""], "a null value stays for a while");
    log.advance(SimConfig::default().tombstones);
    log.compact();
    assert!(values(&log).is_empty());
}

#[test]
fn retention_deletes_old_records() {
    let retention_ms = Some(1_000);
    let (log, client) = log_with(1, SimConfig::default(), Cleanup::Delete { retention_ms });
    write(&mut *producer(&client, "p"), "old");
    log.compact();
    assert!(values(&log).is_empty());
    let admin = client.admin().expect("admin");
    let marks = admin.watermarks(&at(0)).expect("watermarks");
    assert_eq!((marks.low, marks.high), (2, 2));
}
