//! Who is silent or slow loses its partitions, and cannot commit any more.

use std::time::{Duration, Instant};

use millstream_broker::{
    Broker, Error, Event, ProducerError, TopicPartition,
    embedded::{Clock, EmbeddedBroker, EmbeddedConfig},
};

use super::{
    DEADLINE, KEEP, create, join, next_event, open_with, producer, read, send, take_assignment,
};

const SESSION: Duration = Duration::from_secs(60);

struct Bed {
    log: std::sync::Arc<EmbeddedBroker>,
    clock: Clock,
    _dir: tempfile::TempDir,
}

/// A log with a topic `t` of two partitions and a clock to turn.
fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Clock::default();
    let config = EmbeddedConfig {
        clock: clock.clone(),
        ..EmbeddedConfig::default()
    };
    let log = open_with(dir.path(), config);
    create(&log, "t", 2, KEEP);
    Bed {
        log,
        clock,
        _dir: dir,
    }
}

fn zero() -> TopicPartition {
    TopicPartition::new("t", 0)
}

#[test]
fn a_silent_member_loses_its_partitions_and_comes_back() {
    let bed = bed();
    let mut silent = join(&bed.log, "m1", SESSION);
    assert_eq!(take_assignment(&mut *silent), [0, 1]);
    let proof = silent.group_metadata().expect("metadata");
    bed.clock.advance(SESSION * 2);
    let mut heir = join(&bed.log, "m2", SESSION);
    assert_eq!(take_assignment(&mut *heir), [0, 1]);

    let mut producer = producer(&bed.log, "p");
    producer.begin().expect("begin");
    let refused = producer.send_offsets(&[(zero(), 1)], &proof);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );

    assert_eq!(next_event(&mut *silent), Event::Revoked { lost: true });
    let step = Duration::from_millis(1);
    let nothing = silent.poll(step, 10, &mut Vec::new()).expect("poll");
    assert_eq!(nothing, Event::Records, "it waits for the answer");
    silent.unassign().expect("unassign");
    assert_eq!(next_event(&mut *heir), Event::Revoked { lost: false });
    heir.unassign().expect("unassign");
    assert_eq!(take_assignment(&mut *silent), [0]);
    assert_eq!(take_assignment(&mut *heir), [1]);
}

#[test]
fn an_only_member_that_was_silent_is_told_so() {
    let bed = bed();
    let mut member = join(&bed.log, "m", SESSION);
    take_assignment(&mut *member);
    let proof = member.group_metadata().expect("metadata");
    bed.clock.advance(SESSION * 2);
    let mut producer = producer(&bed.log, "p");
    producer.begin().expect("begin");
    let refused = producer.send_offsets(&[(zero(), 1)], &proof);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    assert_eq!(next_event(&mut *member), Event::Revoked { lost: true });
    member.unassign().expect("unassign");
    assert_eq!(take_assignment(&mut *member), [0, 1]);
}

#[test]
fn a_member_that_does_not_give_back_is_dropped() {
    let bed = bed();
    let mut slow = join(&bed.log, "m1", SESSION);
    take_assignment(&mut *slow);
    let mut other = join(&bed.log, "m2", SESSION);
    assert_eq!(next_event(&mut *slow), Event::Revoked { lost: false });
    // Both poll, but the first never answers.
    let step = Duration::from_millis(1);
    for _ in 0..4 {
        bed.clock.advance(SESSION / 3);
        slow.poll(step, 10, &mut Vec::new()).expect("poll");
        if let Event::Assigned(partitions) = other.poll(step, 10, &mut Vec::new()).expect("poll") {
            assert_eq!(partitions.len(), 2);
            return;
        }
    }
    assert_eq!(take_assignment(&mut *other), [0, 1]);
}

#[test]
fn a_kept_place_ends_with_its_session() {
    let bed = bed();
    let mut stays = join(&bed.log, "m1", SESSION);
    let mut goes = join(&bed.log, "m2", SESSION);
    assert_eq!(take_assignment(&mut *stays), [0]);
    assert_eq!(take_assignment(&mut *goes), [1]);
    goes.close(true);
    bed.clock.advance(SESSION * 2 / 3);
    let step = Duration::from_millis(1);
    let event = stays.poll(step, 10, &mut Vec::new()).expect("poll");
    assert_eq!(event, Event::Records, "the place is kept");
    bed.clock.advance(SESSION * 2 / 3);
    assert_eq!(next_event(&mut *stays), Event::Revoked { lost: false });
    stays.unassign().expect("unassign");
    assert_eq!(take_assignment(&mut *stays), [0, 1]);
}

#[test]
fn a_rebalance_wakes_a_waiting_member() {
    let bed = bed();
    let mut first = join(&bed.log, "m1", DEADLINE * 100);
    take_assignment(&mut *first);
    let log = bed.log.clone();
    let joins = std::thread::spawn(move || {
        let mut second = join(&log, "m2", DEADLINE * 100);
        take_assignment(&mut *second)
    });
    let began = Instant::now();
    let event = first.poll(DEADLINE, 10, &mut Vec::new()).expect("poll");
    assert_eq!(event, Event::Revoked { lost: false });
    first.unassign().expect("unassign");
    let event = first.poll(DEADLINE, 10, &mut Vec::new()).expect("poll");
    assert!(matches!(event, Event::Assigned(_)), "{event:?}");
    assert!(began.elapsed() < DEADLINE / 2, "it slept on");
    assert_eq!(joins.join().expect("no panic"), [1]);
}

#[test]
fn members_that_join_together_share_the_first_assignment() {
    let bed = bed();
    let mut first = join(&bed.log, "m1", SESSION);
    let step = Duration::ZERO;
    let event = first.poll(step, 10, &mut Vec::new()).expect("poll");
    assert_eq!(event, Event::Records, "it waits for others");
    let mut second = join(&bed.log, "m2", SESSION);
    assert_eq!(take_assignment(&mut *first), [0]);
    assert_eq!(take_assignment(&mut *second), [1]);
}

#[test]
fn offsets_are_refused_when_the_generation_ends_before_the_commit() {
    let bed = bed();
    let mut old = join(&bed.log, "m1", SESSION);
    take_assignment(&mut *old);
    let mut producer = producer(&bed.log, "p");
    producer.begin().expect("begin");
    send(&mut *producer, "t", &[(1, 1, "k", Some("v"))]);
    let proof = old.group_metadata().expect("metadata");
    producer
        .send_offsets(&[(zero(), 1)], &proof)
        .expect("still its own");

    let mut new = join(&bed.log, "m2", SESSION);
    assert_eq!(next_event(&mut *old), Event::Revoked { lost: false });
    old.unassign().expect("unassign");
    take_assignment(&mut *new);
    let refused = producer.commit();
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    producer.abort().expect("abort");
    assert!(read(&bed.log, &TopicPartition::new("t", 1)).is_empty());
    let admin = bed.log.admin().expect("admin");
    assert_eq!(admin.committed("g", &[zero()]).expect("committed"), [None]);
}

#[test]
fn a_member_may_commit_until_it_has_given_back() {
    let bed = bed();
    let mut old = join(&bed.log, "m1", SESSION);
    take_assignment(&mut *old);
    let _new = join(&bed.log, "m2", SESSION);
    assert_eq!(next_event(&mut *old), Event::Revoked { lost: false });
    let mut producer = producer(&bed.log, "p");
    producer.begin().expect("begin");
    let proof = old.group_metadata().expect("metadata");
    producer
        .send_offsets(&[(zero(), 1)], &proof)
        .expect("still its own");
    producer.commit().expect("commit");
    old.unassign().expect("unassign");
    producer.begin().expect("begin");
    let refused = producer.send_offsets(&[(zero(), 2)], &proof);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    let committed = old.committed(&[zero()], DEADLINE).expect("committed");
    assert_eq!(committed, [Some(1)]);
}

#[test]
fn offsets_of_partitions_of_another_member_are_refused() {
    let bed = bed();
    let mut first = join(&bed.log, "m1", SESSION);
    let mut second = join(&bed.log, "m2", SESSION);
    assert_eq!(take_assignment(&mut *first), [0]);
    assert_eq!(take_assignment(&mut *second), [1]);
    let mut producer = producer(&bed.log, "p");
    producer.begin().expect("begin");
    let proof = second.group_metadata().expect("metadata");
    let refused = producer.send_offsets(&[(zero(), 1)], &proof);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
}

#[test]
fn a_topic_made_again_is_dealt_again() {
    let bed = bed();
    let mut member = join(&bed.log, "m", SESSION);
    assert_eq!(take_assignment(&mut *member), [0, 1]);
    let admin = bed.log.admin().expect("admin");
    admin.delete_topics(&["t"]).expect("deleted");
    assert_eq!(next_event(&mut *member), Event::Revoked { lost: false });
    member.unassign().expect("unassign");
    assert!(take_assignment(&mut *member).is_empty());
    create(&bed.log, "t", 3, KEEP);
    assert_eq!(next_event(&mut *member), Event::Revoked { lost: false });
    member.unassign().expect("unassign");
    assert_eq!(take_assignment(&mut *member), [0, 1, 2]);
}

#[test]
fn answers_out_of_order_are_refused() {
    let bed = bed();
    let mut member = join(&bed.log, "m", SESSION);
    assert!(matches!(member.assign(&[]), Err(Error::State(_))));
    assert!(matches!(member.unassign(), Err(Error::State(_))));
    take_assignment(&mut *member);
    assert!(matches!(member.unassign(), Err(Error::State(_))));
}
