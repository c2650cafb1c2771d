//! Where reading starts, stops and goes on.

use millstream_broker::{Error, PartitionIx, Start, TopicPartition};

use super::{Bed, Member, STEP, Seen, send_all, until, wait_for};

pub(crate) fn a_paused_partition_goes_on_without_a_gap(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let numbers: Vec<String> = (0..500).map(|i| i.to_string()).collect();
    let values: Vec<&str> = numbers.iter().map(String::as_str).collect();
    bed.write(&topic, 0, &values);
    bed.write(&topic, 1, &values);
    let mut member = Member::join(bed, "g", "m", &[&topic]);
    let of = |member: &Member, partition: i32| -> Vec<String> {
        let records = member.seen.iter().filter(|s| s.at.partition == partition);
        records.map(Seen::text).collect()
    };
    until(&mut [&mut member], "some are read", |m| {
        !m[0].seen.is_empty()
    });
    let paused = member
        .owned
        .iter()
        .position(|p| p.partition == 0)
        .expect("owned");
    let paused = PartitionIx(paused as u32);
    member.consumer.pause(paused).expect("pause");
    let before = of(&member, 0).len();
    until(&mut [&mut member], "the other is read to its end", |m| {
        of(m[0], 1).len() == 500
    });
    for _ in 0..5 {
        member.step();
    }
    assert_eq!(of(&member, 0).len(), before, "nothing comes while paused");
    member.consumer.resume(paused).expect("resume");
    until(
        &mut [&mut member],
        "the paused one is read to its end",
        |m| of(m[0], 0).len() == 500,
    );
    assert_eq!(of(&member, 0), numbers);
    assert_eq!(of(&member, 1), numbers);
}

pub(crate) fn seek_goes_back_and_forth(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a", "b", "c", "d", "e"]);
    let mut member = Member::join(bed, "g", "m", &[&topic]);
    until(&mut [&mut member], "all are read", |m| m[0].seen.len() == 5);
    let offsets: Vec<i64> = member.seen.iter().map(|s| s.offset).collect();

    member.seen.clear();
    member
        .consumer
        .seek(PartitionIx(0), offsets[1])
        .expect("seek");
    until(&mut [&mut member], "four are read", |m| {
        m[0].texts() == ["b", "c", "d", "e"]
    });
    member.seen.clear();
    member
        .consumer
        .seek(PartitionIx(0), offsets[0])
        .expect("seek");
    member
        .consumer
        .seek(PartitionIx(0), offsets[3])
        .expect("seek");
    until(&mut [&mut member], "two are read", |m| {
        m[0].texts() == ["d", "e"]
    });
}

pub(crate) fn polls_are_limited(bed: &Bed) {
    let topic = bed.topic("t", 2);
    bed.write(&topic, 0, &["v"; 50]);
    bed.write(&topic, 1, &["v"; 50]);
    let mut reader = bed.broker.reader().expect("reader");
    let from = [0, 1].map(|p| (TopicPartition::new(topic.clone(), p), Start::Earliest));
    reader.assign(&from).expect("assign");
    let mut total = 0;
    wait_for("all are read", || {
        let mut batch = Vec::new();
        reader.poll(STEP, 7, &mut batch).expect("poll");
        assert!(batch.len() <= 7);
        total += batch.len();
        total == 100
    });
}

pub(crate) fn a_consumer_starts_at_the_oldest_record_where_its_offset_is_gone(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a", "b", "c"]);
    let at = TopicPartition::new(topic.clone(), 0);
    let oldest = bed.read(std::slice::from_ref(&at))[1].offset;
    let admin = bed.broker.admin().expect("admin");
    admin
        .delete_records(&[(at, oldest)])
        .expect("delete_records");

    let mut member = Member::join(bed, "g", "m", &[&topic]);
    member.start = Some(Start::Offset(0));
    until(&mut [&mut member], "the rest is read", |m| {
        m[0].texts() == ["b", "c"]
    });
}

pub(crate) fn a_reader_starts_where_told(bed: &Bed) {
    let topic = bed.topic("t", 3);
    for partition in 0..3 {
        bed.write(&topic, partition, &["a", "b"]);
    }
    let partitions = [0, 1, 2].map(|p| TopicPartition::new(topic.clone(), p));
    let second = bed.read(&partitions[1..2])[1].offset;
    let mut reader = bed.broker.reader().expect("reader");
    reader
        .assign(&[
            (partitions[0].clone(), Start::Earliest),
            (partitions[1].clone(), Start::Offset(second)),
            (partitions[2].clone(), Start::Latest),
        ])
        .expect("assign");
    let mut batch = Vec::new();
    wait_for("three are read", || {
        reader.poll(STEP, 100, &mut batch).expect("poll");
        batch.len() >= 3
    });
    // A log may resolve the newest offset only as it reads.
    wait_for("the newest offset is known", || {
        reader.poll(STEP, 100, &mut batch).expect("poll");
        reader.position(PartitionIx(2)).expect("position") > second
    });
    bed.write(&topic, 2, &["c"]);
    wait_for("the new one is read", || {
        reader.poll(STEP, 100, &mut batch).expect("poll");
        batch.len() >= 4
    });
    let mut seen: Vec<(i32, String)> = batch
        .into_iter()
        .map(|r| Seen::new(r, &partitions))
        .map(|s| (s.at.partition, s.text()))
        .collect();
    seen.sort();
    let wanted = [(0, "a"), (0, "b"), (1, "b"), (2, "c")];
    assert_eq!(seen, wanted.map(|(p, v)| (p, v.to_owned())));
}

pub(crate) fn a_reader_reaches_the_high_watermark_behind_an_abort(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["a"]);
    super::commit(&mut *producer);
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["b", "c"]);
    producer.drain().expect("drain");
    producer.abort().expect("abort");
    // `values` waits for the position to reach the high watermark.
    assert_eq!(bed.values(&topic, 0), ["a"]);
}

pub(crate) fn a_reader_sees_records_as_they_are_committed(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut reader = bed.broker.reader().expect("reader");
    let at = TopicPartition::new(topic.clone(), 0);
    reader.assign(&[(at, Start::Earliest)]).expect("assign");
    let mut producer = bed.producer("p");
    let mut batch = Vec::new();
    for round in 1..=5 {
        producer.begin().expect("begin");
        send_all(&mut *producer, &topic, 0, &["v"]);
        super::commit(&mut *producer);
        wait_for("it is read", || {
            reader.poll(STEP, 100, &mut batch).expect("poll");
            batch.len() == round
        });
    }
}

pub(crate) fn a_reader_refuses_an_offset_that_is_gone(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a", "b", "c"]);
    let at = TopicPartition::new(topic, 0);
    let oldest = bed.read(std::slice::from_ref(&at))[2].offset;
    let admin = bed.broker.admin().expect("admin");
    admin
        .delete_records(&[(at.clone(), oldest)])
        .expect("delete_records");
    let mut reader = bed.broker.reader().expect("reader");
    reader.assign(&[(at, Start::Offset(0))]).expect("assign");
    let mut batch = Vec::new();
    wait_for("the reader says so", || {
        match reader.poll(STEP, 100, &mut batch) {
            Ok(()) => assert!(batch.is_empty(), "read over the hole"),
            Err(Error::OffsetOutOfRange { .. }) => return true,
            Err(other) => panic!("{other}"),
        }
        false
    });
}
