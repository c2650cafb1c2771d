//! Groups on a real Kafka broker: rebalances that are answered late, pauses under load, places kept
//! and left.

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Cluster, STEP, accept, assigned, cluster, send, text, wait_for};
use millstream_broker::{Broker, Consumer, Event, PartitionIx, Start, TopicPartition};

/// Longer than two heartbeats of a member with a session of six seconds.
const A_WHILE: Duration = Duration::from_secs(2);

fn fill(cluster: &Cluster, topic: &std::sync::Arc<str>, partitions: i32, each: usize) {
    let mut producer = cluster.producer("filler");
    let ix = producer.topic(topic);
    producer.begin().expect("begin");
    for n in 0..each {
        for partition in 0..partitions {
            send(&mut *producer, ix, partition, &n.to_string()).expect("send");
        }
    }
    producer.drain().expect("drain");
    producer.commit().expect("commit");
}

fn revoked(consumer: &mut dyn Consumer) -> bool {
    let mut lost = None;
    wait_for("partitions are revoked", || {
        let event = consumer.poll(STEP, 0, &mut Vec::new()).expect("poll");
        if let Event::Revoked { lost: l } = event {
            lost = Some(l);
        }
        lost.is_some()
    });
    lost.expect("just seen")
}

#[test]
fn offsets_can_be_committed_between_a_revocation_and_its_answer() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 2);
    fill(&cluster, &topic, 2, 10);
    let mut old = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *old);
    accept(&mut *old, &partitions);
    let mut seen = Vec::new();
    wait_for("all records are read", || {
        old.poll(STEP, 100, &mut seen).expect("poll");
        seen.len() == 20
    });

    let mut new = cluster.member("g", "b", &topic);
    assert!(!revoked(&mut *old), "given up in good order");
    // The group waits for the answer, however long the member takes.
    let start = Instant::now();
    while start.elapsed() < A_WHILE {
        let event = new.poll(STEP, 10, &mut Vec::new()).expect("poll");
        assert_eq!(
            event,
            Event::Records,
            "nothing is assigned before the answer"
        );
        let mut records = Vec::new();
        let event = old.poll(STEP, 10, &mut records).expect("poll");
        assert_eq!((event, records.len()), (Event::Records, 0));
    }
    let mut producer = cluster.producer("id");
    producer.begin().expect("begin");
    let offsets: Vec<_> = partitions.iter().map(|of| (of.clone(), 10)).collect();
    let proof = old.group_metadata().expect("still a member");
    producer
        .send_offsets(&offsets, &proof)
        .expect("the old generation still counts");
    producer.commit().expect("commit");
    old.unassign().expect("unassign");

    let mut shares = Vec::new();
    for member in [&mut old, &mut new] {
        // Both must poll for the group to settle, so each is driven until its own share comes.
        shares.extend(assigned(&mut **member));
    }
    shares.sort_unstable();
    assert_eq!(shares, partitions);
    let committed = new
        .committed(&partitions, cluster::DEADLINE)
        .expect("committed");
    assert_eq!(committed, [Some(10), Some(10)]);
}

#[test]
fn an_assignment_can_be_answered_late_while_others_join() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 2);
    let mut first = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *first);
    assert_eq!(partitions.len(), 2);
    let mut second = cluster.member("g", "b", &topic);
    let start = Instant::now();
    while start.elapsed() < A_WHILE {
        for member in [&mut first, &mut second] {
            let event = member.poll(STEP, 10, &mut Vec::new()).expect("poll");
            assert_eq!(event, Event::Records);
        }
    }
    accept(&mut *first, &partitions);
    revoked(&mut *first);
    first.unassign().expect("unassign");
    assert_eq!(assigned(&mut *first).len(), 1);
    assert_eq!(assigned(&mut *second).len(), 1);
}

#[test]
fn answers_that_nobody_waits_for_are_refused() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let mut member = cluster.member("g", "a", &topic);
    assert!(member.group_metadata().is_err(), "not a member yet");
    let of = TopicPartition::new(topic.clone(), 0);
    member
        .assign(&[(of.clone(), Start::Earliest)])
        .expect_err("nothing was assigned");
    member.unassign().expect_err("nothing was revoked");
    let partitions = assigned(&mut *member);
    accept(&mut *member, &partitions);
    member.group_metadata().expect("a member now");
    member
        .assign(&[(of, Start::Earliest)])
        .expect_err("already answered");
}

#[test]
fn pauses_under_load_lose_and_repeat_nothing() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    const PARTITIONS: u32 = 3;
    const EACH: usize = 20_000;
    let topic = cluster.topic("in", PARTITIONS);
    fill(&cluster, &topic, PARTITIONS as i32, EACH);
    let mut member = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *member);
    accept(&mut *member, &partitions);
    let mut next = vec![0_usize; PARTITIONS as usize];
    let mut paused = vec![false; PARTITIONS as usize];
    let mut batch = Vec::new();
    let mut round = 0_u32;
    wait_for("all records are read", || {
        batch.clear();
        member.poll(STEP, 333, &mut batch).expect("poll");
        for record in &batch {
            let ix = record.partition.0 as usize;
            assert!(!paused[ix], "a record of a paused partition");
            assert_eq!(text(record), next[ix].to_string());
            next[ix] += 1;
        }
        // One partition after another is paused and resumed, in the middle of what was fetched.
        round += 1;
        let ix = PartitionIx(round % PARTITIONS);
        let was = &mut paused[ix.0 as usize];
        if *was {
            member.resume(ix).expect("resume");
        } else {
            member.pause(ix).expect("pause");
        }
        *was = !*was;
        next.iter().all(|n| *n == EACH)
    });
}

#[test]
fn a_seek_under_load_goes_exactly_there() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    const EACH: usize = 20_000;
    let topic = cluster.topic("in", 1);
    fill(&cluster, &topic, 1, EACH);
    let mut member = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *member);
    accept(&mut *member, &partitions);
    for target in [5000_usize, 10, 15_000, 0, 1, 19_999] {
        let mut batch = Vec::new();
        wait_for("records are read", || {
            member.poll(STEP, 10, &mut batch).expect("poll");
            !batch.is_empty()
        });
        member.pause(PartitionIx(0)).expect("pause");
        member.poll(STEP, 1000, &mut Vec::new()).expect("poll");
        member.seek(PartitionIx(0), target as i64).expect("seek");
        member.resume(PartitionIx(0)).expect("resume");
        batch.clear();
        wait_for("records are read", || {
            member.poll(STEP, 10, &mut batch).expect("poll");
            !batch.is_empty()
        });
        assert_eq!(text(&batch[0]), target.to_string());
    }
}

#[test]
fn a_member_that_leaves_hands_over_at_once() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let mut first = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *first);
    accept(&mut *first, &partitions);
    let start = Instant::now();
    first.close(false);
    let left = start.elapsed();
    let mut second = cluster.member("g", "b", &topic);
    assert_eq!(assigned(&mut *second), partitions);
    println!("left in {left:?}, handed over in {:?}", start.elapsed());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "faster than the session timeout"
    );
}

#[test]
fn a_member_that_keeps_its_place_comes_back_to_it() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let mut first = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *first);
    accept(&mut *first, &partitions);
    let start = Instant::now();
    first.close(true);
    let closed = start.elapsed();
    let mut again = cluster.member("g", "a", &topic);
    assert_eq!(assigned(&mut *again), partitions);
    println!("closed in {closed:?}, back in {:?}", start.elapsed());
    // Closing before anything was answered does not hang either.
    let start = Instant::now();
    again.close(true);
    assert!(start.elapsed() < Duration::from_secs(5), "closing hangs");
}

#[test]
fn a_reader_follows_many_partitions_at_once() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 8);
    fill(&cluster, &topic, 8, 1000);
    let admin = cluster.broker.admin().expect("admin");
    let mut reader = cluster.broker.reader().expect("reader");
    let partitions: Vec<_> = (0..8)
        .map(|n| TopicPartition::new(topic.clone(), n))
        .collect();
    // A commit returns before its markers are in the log; each takes an offset.
    wait_for("the markers are written", || {
        let end = |of| admin.watermarks(of).expect("ends").high;
        partitions.iter().all(|of| end(of) == 1001)
    });
    let from: Vec<_> = partitions
        .into_iter()
        .map(|of| (of, Start::Offset(500)))
        .collect();
    reader.assign(&from).expect("assign");
    let mut seen = Vec::new();
    wait_for("all partitions are read to their end", || {
        reader.poll(STEP, 700, &mut seen).expect("poll");
        let mut positions =
            (0_u32..8).map(|ix| reader.position(PartitionIx(ix)).expect("position"));
        positions.all(|position| position == 1001)
    });
    assert_eq!(seen.len(), 8 * 500);
}

#[test]
fn a_reader_is_told_of_the_end_at_once_and_never_too_far() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let admin = cluster.broker.admin().expect("admin");
    let of = TopicPartition::new(topic.clone(), 0);
    let mut reader = cluster.broker.reader().expect("reader");
    reader
        .assign(&[(of.clone(), Start::Earliest)])
        .expect("assign");
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&topic);
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    for round in 0..20 {
        producer.begin().expect("begin");
        send(&mut *producer, ix, 0, &round.to_string()).expect("send");
        producer.drain().expect("drain");
        // Every third transaction is aborted: its record and its marker only move the position.
        if round % 3 == 2 {
            producer.abort().expect("abort");
        } else {
            producer.commit().expect("commit");
            count += 1;
        }
        let end = 2 * (round + 1);
        wait_for("the marker is written", || {
            admin.watermarks(&of).expect("ends").high == end
        });
        let start = Instant::now();
        let mut seen = Vec::new();
        wait_for("the end is reached", || {
            reader.poll(STEP, 10, &mut seen).expect("poll");
            let position = reader.position(PartitionIx(0)).expect("position");
            assert!(
                position <= end,
                "position {position} is behind the end {end}"
            );
            position == end
        });
        count -= seen.len();
        assert_eq!(count, 0, "the end was told before its records");
        slowest = slowest.max(start.elapsed());
        // A reader that starts again knows nothing of where it was.
        if round % 5 == 4 {
            reader
                .assign(&[(of.clone(), Start::Offset(end - 2))])
                .expect("assign");
            assert_eq!(reader.position(PartitionIx(0)).expect("position"), end - 2);
            count += usize::from(round % 3 != 2);
            let mut seen = Vec::new();
            wait_for("the end is reached", || {
                reader.poll(STEP, 10, &mut seen).expect("poll");
                reader.position(PartitionIx(0)).expect("position") == end
            });
            count -= seen.len();
            assert_eq!(count, 0);
        }
    }
    println!("the end is reached in at most {slowest:?}");
}

#[test]
fn a_member_starts_at_the_oldest_record_where_its_offset_was_never_reached() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    fill(&cluster, &topic, 1, 10);
    let mut member = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *member);
    let of = partitions.first().expect("one partition").clone();
    // As after a topic was deleted and made again under the same name.
    member
        .assign(&[(of, Start::Offset(1_000_000))])
        .expect("assign");
    let mut seen = Vec::new();
    wait_for("all records are read", || {
        member.poll(STEP, 100, &mut seen).expect("poll");
        seen.len() == 10
    });
    assert_eq!(text(&seen[0]), "0");
}
