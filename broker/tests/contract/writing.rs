//! Records that were written come back as they were.

use std::{sync::mpsc, time::Duration};

use bytes::Bytes;
use millstream_broker::{Error, Outgoing, OwnedRecord, TopicPartition};
use millstream_topology::Headers;

use super::{Bed, DEADLINE, commit, send_all};

pub(crate) fn nulls_headers_and_timestamps_come_back(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut headers = Headers::default();
    headers.push("trace", Bytes::from("7f"));
    headers.push("empty", Bytes::new());
    headers.push("null", None);
    headers.push("trace", Bytes::from("again"));
    let none = Headers::default();
    type Case<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, i64, &'a Headers);
    let cases: [Case<'_>; 5] = [
        (Some(b"k"), Some(b"v"), 1_700_000_000_123, &none),
        (None, Some(b"v"), 1, &headers),
        (Some(b"k"), None, 5, &none),
        (None, None, 1_700_000_000_000, &headers),
        (Some(b""), Some(b""), 7, &none),
    ];

    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    let ix = producer.topic(&topic);
    for (key, value, timestamp, headers) in cases {
        producer
            .send(Outgoing {
                topic: ix,
                partition: 0,
                timestamp,
                key,
                value,
                headers,
            })
            .expect("send");
    }
    commit(&mut *producer);

    let seen = bed.read(&[TopicPartition::new(topic, 0)]);
    assert_eq!(seen.len(), cases.len());
    for (seen, (key, value, timestamp, headers)) in seen.iter().zip(cases) {
        assert_eq!(seen.key.as_deref(), key);
        assert_eq!(seen.value.as_deref(), value);
        assert_eq!(seen.timestamp, timestamp);
        assert_eq!(&seen.headers, headers);
    }
}

pub(crate) fn records_of_a_partition_keep_their_order(bed: &Bed) {
    let topic = bed.topic("t", 3);
    let mut producer = bed.producer("p");
    let mut wanted = [Vec::new(), Vec::new(), Vec::new()];
    for transaction in 0..3 {
        producer.begin().expect("begin");
        for i in 0..200 {
            let partition = (i * 7 + transaction) % 3;
            let value = format!("{transaction}-{i}");
            send_all(&mut *producer, &topic, partition, &[&value]);
            wanted[partition as usize].push(value);
        }
        commit(&mut *producer);
    }
    for (partition, wanted) in wanted.iter().enumerate() {
        assert_eq!(&bed.values(&topic, partition as i32), wanted);
    }
    let partitions = [0, 1, 2].map(|p| TopicPartition::new(topic.clone(), p));
    let seen = bed.read(&partitions);
    for partition in &partitions {
        let offsets: Vec<_> = seen
            .iter()
            .filter(|s| s.at == *partition)
            .map(|s| s.offset)
            .collect();
        assert_eq!(offsets.len(), 200);
        assert!(offsets.is_sorted_by(|a, b| a < b), "offsets grow");
    }
}

pub(crate) fn large_records_and_transactions_come_back(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let wanted: Vec<String> = (0..40)
        .map(|i| {
            format!(
                "{i}-{}",
                "x".repeat(if i % 8 == 0 { 500_000 } else { i * 100 })
            )
        })
        .collect();
    let values: Vec<&str> = wanted.iter().map(String::as_str).collect();
    bed.write(&topic, 0, &values);
    assert!(bed.values(&topic, 0) == wanted, "values differ");
}

pub(crate) fn appended_records_are_acknowledged_with_their_offset(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let appender = bed.broker.appender().expect("appender");
    let (done, acknowledged) = mpsc::channel();
    for i in 0..100_i32 {
        let done = done.clone();
        let to = TopicPartition::new(topic.clone(), i % 2);
        appender
            .append(
                OwnedRecord {
                    to: to.clone(),
                    timestamp: i64::from(i) + 1,
                    key: Some(Bytes::from(i.to_string())),
                    value: (i != 50).then(|| Bytes::from("v")),
                    headers: Headers::default(),
                },
                Box::new(move |offset| {
                    let _ = done.send((to, i, offset.expect("appended")));
                }),
            )
            .expect("queued");
    }
    let mut offsets = Vec::new();
    for _ in 0..100 {
        offsets.push(acknowledged.recv_timeout(DEADLINE).expect("acknowledged"));
    }
    let seen = bed.read(&[0, 1].map(|p| TopicPartition::new(topic.clone(), p)));
    assert_eq!(seen.len(), 100);
    for (to, i, offset) in offsets {
        let record = seen
            .iter()
            .find(|s| s.at == to && s.offset == offset)
            .expect("record at its offset");
        assert_eq!(record.key, Some(Bytes::from(i.to_string())));
        assert_eq!(record.timestamp, i64::from(i) + 1);
        assert_eq!(record.value.is_none(), i == 50);
    }
}

pub(crate) fn appending_to_an_unknown_topic_fails(bed: &Bed) {
    let appender = bed.broker.appender().expect("appender");
    let (done, result) = mpsc::channel();
    let queued = appender.append(
        OwnedRecord {
            to: TopicPartition::new(bed.name("nowhere"), 0),
            timestamp: 1,
            key: None,
            value: Some(Bytes::from("v")),
            headers: Headers::default(),
        },
        Box::new(move |offset| {
            let _ = done.send(offset);
        }),
    );
    // A log may know at once, or only when its broker answers.
    let wait = DEADLINE + Duration::from_secs(30);
    let failure = match queued {
        Err(error) => error,
        Ok(()) => {
            let answer = result.recv_timeout(wait).expect("an answer");
            answer.expect_err("no such topic")
        }
    };
    assert!(!matches!(failure, Error::Full), "{failure}");
}

pub(crate) fn ends_are_the_offsets_behind_the_newest_committed_records(bed: &Bed) {
    let topic = bed.topic("t", 3);
    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["a", "b"]);
    send_all(&mut *producer, &topic, 2, &["c"]);
    commit(&mut *producer);
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["d"]);
    commit(&mut *producer);

    let ix = producer.topic(&topic);
    let mut ends = Vec::new();
    producer.ends(&mut |topic, partition, end| ends.push((topic, partition, end)));
    ends.sort_unstable();
    let seen = bed.read(&[0, 1, 2].map(|p| TopicPartition::new(topic.clone(), p)));
    let behind = |value: &str| {
        seen.iter()
            .find(|s| s.text() == value)
            .expect("record")
            .offset
            + 1
    };
    assert_eq!(ends, [(ix, 0, behind("d")), (ix, 2, behind("c"))]);
}
