//! Records and offsets of a transaction are seen together or not at all.

use millstream_broker::{ProducerError, TopicPartition};

use super::{Bed, Member, commit, is_fenced, send_all, until};

pub(crate) fn records_and_offsets_become_visible_together(bed: &Bed) {
    let input = bed.topic("in", 1);
    let output = bed.topic("out", 1);
    bed.write(&input, 0, &["a", "b", "c"]);
    let mut member = Member::join(bed, "g", "m", &[&input]);
    until(&mut [&mut member], "three records are read", |m| {
        m[0].seen.len() == 3
    });
    let from = TopicPartition::new(input, 0);
    let next = member.seen[2].offset + 1;

    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    send_all(&mut *producer, &output, 0, &["A", "B", "C"]);
    producer.drain().expect("drain");
    let proof = member.consumer.group_metadata().expect("metadata");
    producer
        .send_offsets(&[(from.clone(), next)], &proof)
        .expect("send_offsets");
    producer.commit().expect("commit");

    assert_eq!(bed.values(&output, 0), ["A", "B", "C"]);
    let admin = bed.broker.admin().expect("admin");
    let partitions = [from];
    let committed = admin
        .committed(&bed.name("g"), &partitions)
        .expect("committed");
    assert_eq!(committed, [Some(next)]);
    let committed = member.consumer.committed(&partitions, super::DEADLINE);
    assert_eq!(committed.expect("committed"), [Some(next)]);
}

pub(crate) fn aborted_records_and_offsets_are_never_seen(bed: &Bed) {
    let input = bed.topic("in", 1);
    let output = bed.topic("out", 2);
    let mut member = Member::join(bed, "g", "m", &[&input]).joined();
    let mut producer = bed.producer("p");

    producer.begin().expect("begin");
    send_all(&mut *producer, &output, 0, &["kept 1"]);
    commit(&mut *producer);

    producer.begin().expect("begin");
    send_all(&mut *producer, &output, 0, &["dropped"]);
    send_all(&mut *producer, &output, 1, &["dropped"]);
    producer.drain().expect("drain");
    let from = TopicPartition::new(input, 0);
    member.step();
    let proof = member.consumer.group_metadata().expect("metadata");
    producer
        .send_offsets(&[(from.clone(), 0)], &proof)
        .expect("send_offsets");
    producer.abort().expect("abort");
    producer.abort().expect("nothing to abort is fine");

    producer.begin().expect("begin");
    send_all(&mut *producer, &output, 0, &["kept 2"]);
    commit(&mut *producer);

    assert_eq!(bed.values(&output, 0), ["kept 1", "kept 2"]);
    assert!(bed.values(&output, 1).is_empty());
    let admin = bed.broker.admin().expect("admin");
    assert_eq!(
        admin.committed(&bed.name("g"), &[from]).expect("committed"),
        [None]
    );
}

pub(crate) fn an_open_transaction_is_not_seen(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut member = Member::join(bed, "g", "m", &[&topic]).joined();
    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["a"]);
    producer.drain().expect("drain");
    for _ in 0..10 {
        member.step();
    }
    assert!(member.seen.is_empty());
    producer.commit().expect("commit");
    until(&mut [&mut member], "the record is read", |m| {
        m[0].texts() == ["a"]
    });
}

pub(crate) fn an_empty_transaction_commits(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    commit(&mut *producer);
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["a"]);
    commit(&mut *producer);
    assert_eq!(bed.values(&topic, 0), ["a"]);
}

pub(crate) fn a_new_producer_fences_the_one_before(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut old = bed.producer("p");
    old.begin().expect("begin");
    send_all(&mut *old, &topic, 0, &["first"]);
    commit(&mut *old);

    let mut new = bed.producer("p");
    new.begin().expect("begin");
    send_all(&mut *new, &topic, 0, &["second"]);
    commit(&mut *new);

    // A log may notice only when the old one wants to commit.
    let late = old.begin().and_then(|()| {
        let ix = old.topic(&topic);
        let headers = millstream_topology::Headers::default();
        old.send(millstream_broker::Outgoing {
            topic: ix,
            partition: 0,
            timestamp: 1,
            key: None,
            value: Some(b"late"),
            headers: &headers,
        })?;
        old.drain()?;
        old.commit()
    });
    assert!(is_fenced(&late), "{late:?}");

    new.begin().expect("begin");
    send_all(&mut *new, &topic, 0, &["third"]);
    commit(&mut *new);
    assert_eq!(bed.values(&topic, 0), ["first", "second", "third"]);
}

pub(crate) fn a_new_producer_ends_the_open_transaction_before(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut old = bed.producer("p");
    old.begin().expect("begin");
    send_all(&mut *old, &topic, 0, &["open"]);
    old.drain().expect("drain");

    let mut new = bed.producer("p");
    new.begin().expect("begin");
    send_all(&mut *new, &topic, 0, &["new"]);
    commit(&mut *new);

    assert_eq!(bed.values(&topic, 0), ["new"]);
    let late = old.commit();
    assert!(is_fenced(&late), "{late:?}");
    assert_eq!(bed.values(&topic, 0), ["new"]);
}

pub(crate) fn offsets_of_a_stale_generation_are_refused(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let mut first = Member::join(bed, "g", "m1", &[&topic]).joined();
    let stale = first.consumer.group_metadata().expect("metadata");
    let mut second = Member::join(bed, "g", "m2", &[&topic]);
    until(
        &mut [&mut first, &mut second],
        "both own a partition",
        |m| m.iter().all(|m| m.owned.len() == 1),
    );

    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 1, &["zombie"]);
    producer.drain().expect("drain");
    let at = [(TopicPartition::new(topic.clone(), 1), 5)];
    let refused = producer.send_offsets(&at, &stale);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    producer.abort().expect("abort");

    // Keeping the session alive, the member that is up to date goes on.
    until(&mut [&mut first, &mut second], "both still own one", |m| {
        m.iter().all(|m| m.owned.len() == 1)
    });
    let fresh = first.consumer.group_metadata().expect("metadata");
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["fresh"]);
    producer.drain().expect("drain");
    let at = [(TopicPartition::new(topic.clone(), 0), 1)];
    producer.send_offsets(&at, &fresh).expect("send_offsets");
    producer.commit().expect("commit");
    assert_eq!(bed.values(&topic, 0), ["fresh"]);
    assert!(bed.values(&topic, 1).is_empty());
}

pub(crate) fn offsets_of_a_member_that_left_are_refused(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let leaver = Member::join(bed, "g", "m1", &[&topic]).joined();
    let stale = leaver.consumer.group_metadata().expect("metadata");
    leaver.consumer.close(false);
    let _heir = Member::join(bed, "g", "m2", &[&topic]).joined();

    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    send_all(&mut *producer, &topic, 0, &["zombie"]);
    producer.drain().expect("drain");
    let at = [(TopicPartition::new(topic.clone(), 0), 5)];
    let refused = producer.send_offsets(&at, &stale);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    producer.abort().expect("abort");
    assert!(bed.values(&topic, 0).is_empty());
}
