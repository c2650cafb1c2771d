//! Topics, their ends and their end.

use std::{sync::Arc, time::Duration};

use millstream_broker::{Admin, Cleanup, Error, NewTopic, Outgoing, TopicPartition};
use millstream_topology::Headers;

use super::{Bed, commit, wait_for};

fn new_topic(bed: &Bed, name: &str, partitions: u32) -> NewTopic {
    NewTopic {
        name: bed.name(name).into(),
        partitions,
        cleanup: Cleanup::Compact,
    }
}

/// How many partitions the log lists for a topic of this test.
fn listed(bed: &Bed, admin: &Arc<dyn Admin>, name: &str) -> Option<u32> {
    let name = bed.name(name);
    let topics = admin.topics().expect("topics");
    assert!(topics.is_sorted_by(|a, b| a.name < b.name), "by name");
    let topic = topics.iter().find(|t| *t.name == *name)?;
    Some(topic.partitions)
}

pub(crate) fn topics_are_created_once(bed: &Bed) {
    let admin = bed.broker.admin().expect("admin");
    let both = [new_topic(bed, "a", 2), new_topic(bed, "b", 3)];
    admin.create_topics(&both[..1]).expect("create");
    admin.create_topics(&both).expect("one exists already");
    admin.create_topics(&both).expect("both exist already");
    wait_for("both are listed", || {
        listed(bed, &admin, "a") == Some(2) && listed(bed, &admin, "b") == Some(3)
    });
}

pub(crate) fn another_number_of_partitions_is_refused(bed: &Bed) {
    let admin = bed.broker.admin().expect("admin");
    admin
        .create_topics(&[new_topic(bed, "t", 2)])
        .expect("create");
    let refused = admin.create_topics(&[new_topic(bed, "t", 4)]);
    let Err(Error::PartitionCount { has, wanted, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((has, wanted), (2, 4));
}

pub(crate) fn unknown_partitions_have_no_watermarks(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let admin = bed.broker.admin().expect("admin");
    for unknown in [
        TopicPartition::new(topic, 7),
        TopicPartition::new(bed.name("nowhere"), 0),
    ] {
        assert!(admin.watermarks(&unknown).is_err(), "{unknown}");
    }
}

pub(crate) fn watermarks_follow_the_records(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let admin = bed.broker.admin().expect("admin");
    let [zero, one] = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    let empty = admin.watermarks(&zero).expect("watermarks");
    assert_eq!((empty.low, empty.high), (0, 0));
    bed.write(&topic, 0, &["a", "b"]);
    let newest = bed.read(std::slice::from_ref(&zero))[1].offset;
    let marks = admin.watermarks(&zero).expect("watermarks");
    assert_eq!(marks.low, 0);
    assert!(marks.high > newest, "{marks:?}");
    assert_eq!(admin.watermarks(&one).expect("watermarks"), empty);
}

pub(crate) fn the_retention_of_tombstones_is_known(bed: &Bed) {
    const SOME_DAY: Duration = Duration::from_secs(3600);
    let admin = bed.broker.admin().expect("admin");
    let deleted = Cleanup::Delete { retention_ms: None };
    let both = Cleanup::CompactAndDelete {
        retention_ms: SOME_DAY.as_millis() as i64,
    };
    let kept = |name: &str, cleanup| {
        let topic = bed.topic_with(name, 1, cleanup);
        admin.tombstone_retention(&topic).expect("known")
    };
    assert_eq!(kept("deleted", deleted), None);
    let compacted = kept("compacted", Cleanup::Compact);
    assert!(
        compacted.is_some_and(|kept| !kept.is_zero()),
        "{compacted:?}"
    );
    assert_eq!(kept("both", both), compacted);
    let nowhere = admin.tombstone_retention(&bed.name("nowhere"));
    assert!(nowhere.is_err(), "{nowhere:?}");
}

pub(crate) fn ends_of_transactions_take_an_offset_or_none(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let at = TopicPartition::new(topic.clone(), 0);
    let admin = bed.broker.admin().expect("admin");
    for round in 1..3 {
        bed.write(&topic, 0, &["a", "b"]);
        let records = bed.read(std::slice::from_ref(&at));
        let newest = records.last().expect("written").offset;
        let after = admin.watermarks(&at).expect("watermarks").high - newest - 1;
        assert_eq!(after, i64::from(admin.ends_take_offsets()), "round {round}");
    }
}

pub(crate) fn deleted_records_are_gone(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a", "b", "c", "d"]);
    let at = TopicPartition::new(topic.clone(), 0);
    let third = bed.read(std::slice::from_ref(&at))[2].offset;
    let admin = bed.broker.admin().expect("admin");
    admin
        .delete_records(&[(at.clone(), third)])
        .expect("delete_records");
    assert_eq!(admin.watermarks(&at).expect("watermarks").low, third);
    assert_eq!(bed.values(&topic, 0), ["c", "d"]);
    admin
        .delete_records(&[(at.clone(), third - 1)])
        .expect("already gone");
    assert_eq!(admin.watermarks(&at).expect("watermarks").low, third);

    let high = admin.watermarks(&at).expect("watermarks").high;
    admin
        .delete_records(&[(at.clone(), high)])
        .expect("delete all");
    assert_eq!(admin.watermarks(&at).expect("watermarks").low, high);
    bed.write(&topic, 0, &["e"]);
    assert_eq!(bed.values(&topic, 0), ["e"]);
}

pub(crate) fn deleting_behind_the_end_is_refused(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a"]);
    let admin = bed.broker.admin().expect("admin");
    let at = TopicPartition::new(topic.clone(), 0);
    assert!(admin.delete_records(&[(at, 1_000)]).is_err());
    assert_eq!(bed.values(&topic, 0), ["a"]);
}

pub(crate) fn a_deleted_topic_is_gone(bed: &Bed) {
    let admin = bed.broker.admin().expect("admin");
    let topic = bed.topic("t", 2);
    bed.write(&topic, 1, &["a"]);
    let unknown = bed.name("nowhere");
    admin.delete_topics(&[&topic, &unknown]).expect("delete");
    wait_for("it is not listed", || {
        std::thread::park_timeout(Duration::from_millis(5));
        listed(bed, &admin, "t").is_none()
    });
    // Deleting goes on in the background at some logs, and until then the name is taken.
    wait_for("it can be created again", || {
        std::thread::park_timeout(Duration::from_millis(5));
        admin.create_topics(&[new_topic(bed, "t", 3)]).is_ok()
    });
    wait_for("it is listed", || listed(bed, &admin, "t") == Some(3));
    assert!(bed.values(&topic, 1).is_empty());
}

pub(crate) fn an_offset_is_found_by_its_time(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    let ix = producer.topic(&topic);
    for timestamp in [10, 30, 20, 40] {
        producer
            .send(Outgoing {
                topic: ix,
                partition: 0,
                timestamp,
                key: None,
                value: Some(b"v"),
                headers: &Headers::default(),
            })
            .expect("send");
    }
    commit(&mut *producer);
    let [zero, one] = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    let offsets: Vec<i64> = bed
        .read(std::slice::from_ref(&zero))
        .iter()
        .map(|seen| seen.offset)
        .collect();
    let admin = bed.broker.admin().expect("admin");
    let at = |time| admin.offset_at(&zero, time).expect("offset_at");
    assert_eq!(at(0), Some(offsets[0]));
    assert_eq!(at(10), Some(offsets[0]));
    assert_eq!(at(15), Some(offsets[1]), "the first that is late enough");
    assert_eq!(at(31), Some(offsets[3]));
    assert!(at(41).is_none_or(|at| at > offsets[3]), "none, or behind");
    assert_eq!(admin.offset_at(&one, 0).expect("empty"), None);
    let nowhere = TopicPartition::new(bed.name("nowhere"), 0);
    assert!(admin.offset_at(&nowhere, 0).is_err());
}

pub(crate) fn the_cluster_keeps_its_id(bed: &Bed) {
    let admin = bed.broker.admin().expect("admin");
    let id = admin.cluster_id().expect("cluster_id");
    assert!(!id.is_empty());
    let again = bed.broker.admin().expect("admin");
    assert_eq!(again.cluster_id().expect("cluster_id"), id);
}
