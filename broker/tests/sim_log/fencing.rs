//! Epochs, generations, sessions and transactions that expire, and who must not write any more.

use std::time::Duration;

use millstream_broker::{
    Broker, Event, PartitionIx, Producer, ProducerError, Start, sim::SimConfig,
};

use super::{INSTANT, SESSION, at, join, log, poll, producer, send, values, write};

#[test]
fn a_newer_epoch_fences_every_call_of_the_older() {
    type Try = fn(&mut dyn Producer) -> Result<(), ProducerError>;
    let tries: [Try; 4] = [
        |p| send(p, "late"),
        |p| p.drain(),
        |p| p.commit(),
        |p| p.abort(),
    ];
    for attempt in tries {
        let (log, client) = log();
        let mut old = producer(&client, "p");
        old.begin().expect("begin");
        send(&mut *old, "open").expect("send");
        let _new = producer(&client, "p");
        let refused = attempt(&mut *old);
        assert!(
            matches!(refused, Err(ProducerError::Fenced(_))),
            "{refused:?}"
        );
        assert!(values(&log).is_empty());
        assert!(log.open_transactions().is_empty());
    }
}

#[test]
fn an_older_generation_cannot_commit_offsets() {
    let (log, client) = log();
    let mut first = join(&client, "a");
    assert_eq!(poll(&mut *first), Event::Assigned(vec![at(0), at(1)]));
    let stale = first.group_metadata().expect("metadata");
    let mut second = join(&client, "b");
    assert_eq!(poll(&mut *first), Event::Revoked { lost: false });
    assert_eq!(poll(&mut *second), Event::Assigned(vec![at(1)]));
    assert_eq!(poll(&mut *first), Event::Assigned(vec![at(0)]));
    assert_eq!(log.group("g").generation, 2);

    let mut p = producer(&client, "p");
    p.begin().expect("begin");
    let refused = p.send_offsets(&[(at(0), 5)], &stale);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    p.abort().expect("abort");
    let fresh = first.group_metadata().expect("metadata");
    p.begin().expect("begin");
    p.send_offsets(&[(at(0), 6)], &fresh).expect("send_offsets");
    let pending = first.committed(&[at(0)], INSTANT);
    assert!(pending.is_err(), "an open transaction has others");
    p.commit().expect("commit");
    let committed = first.committed(&[at(0)], INSTANT).expect("committed");
    assert_eq!(committed, [Some(6)]);
}

#[test]
fn a_silent_member_loses_its_partitions_and_learns_of_it() {
    let (log, client) = log();
    let mut silent = join(&client, "a");
    poll(&mut *silent);
    let mut other = join(&client, "b");
    log.advance(SESSION / 2);
    poll(&mut *other);
    log.advance(SESSION / 2);
    assert_eq!(poll(&mut *other), Event::Assigned(vec![at(0), at(1)]));
    assert_eq!(poll(&mut *silent), Event::Revoked { lost: true });
    assert_eq!(poll(&mut *other), Event::Revoked { lost: false });
    assert_eq!(poll(&mut *silent), Event::Assigned(vec![at(0)]));
}

#[test]
fn an_expired_transaction_is_aborted_and_its_producer_fenced() {
    let (log, client) = log();
    let mut p = producer(&client, "p");
    p.begin().expect("begin");
    send(&mut *p, "slow").expect("send");
    log.advance(SimConfig::default().transaction_timeout - Duration::from_millis(1));
    assert_eq!(log.open_transactions().len(), 1);
    log.advance(Duration::from_millis(1));
    assert!(log.open_transactions().is_empty());
    let refused = p.commit();
    assert!(
        matches!(refused, Err(ProducerError::Fenced(_))),
        "{refused:?}"
    );
    assert!(values(&log).is_empty());
}

#[test]
fn an_open_transaction_holds_back_what_was_committed_behind_it() {
    let (log, client) = log();
    let mut slow = producer(&client, "slow");
    slow.begin().expect("begin");
    send(&mut *slow, "first").expect("send");
    write(&mut *producer(&client, "quick"), "second");
    let mut reader = client.reader().expect("reader");
    reader.assign(&[(at(0), Start::Earliest)]).expect("assign");
    let mut read = Vec::new();
    reader.poll(INSTANT, 10, &mut read).expect("poll");
    assert!(read.is_empty());
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 0);
    slow.abort().expect("abort");
    reader.poll(INSTANT, 10, &mut read).expect("poll");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].offset, 1);
    assert_eq!(reader.position(PartitionIx(0)).expect("position"), 4);
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 4);
}

#[test]
fn a_zombie_that_wakes_commits_nothing_of_what_others_own_by_now() {
    let (log, client) = log();
    let mut frozen = join(&client, "a");
    poll(&mut *frozen);
    let stale = frozen.group_metadata().expect("metadata");
    let mut its = producer(&client, "a");
    its.begin().expect("begin");
    send(&mut *its, "zombie").expect("send");

    // It sleeps past its session, and another instance takes over.
    let mut heir = join(&log.client("b"), "b");
    log.advance(SESSION / 2);
    assert_eq!(poll(&mut *heir), Event::Records);
    log.advance(SESSION / 2);
    assert_eq!(poll(&mut *heir), Event::Assigned(vec![at(0), at(1)]));
    let refused = its.send_offsets(&[(at(0), 1)], &stale);
    assert!(
        matches!(refused, Err(ProducerError::Abort(_))),
        "{refused:?}"
    );
    // Its transaction keeps readers waiting for no longer than transactions may take.
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 0);
    log.advance(SimConfig::default().transaction_timeout - SESSION);
    assert_eq!(log.last_stable_offset(&at(0)).expect("stable"), 2);
    let refused = its.abort();
    assert!(
        matches!(refused, Err(ProducerError::Fenced(_))),
        "{refused:?}"
    );
    assert_eq!(log.group("g").offsets.get(&at(0)), None);
    assert!(values(&log).is_empty());
}

#[test]
fn the_heir_waits_for_offsets_that_a_zombie_may_still_commit() {
    let (log, client) = log();
    let mut frozen = join(&client, "a");
    poll(&mut *frozen);
    let mut its = producer(&client, "a");
    its.begin().expect("begin");
    send(&mut *its, "slow").expect("send");
    let proof = frozen.group_metadata().expect("metadata");
    its.send_offsets(&[(at(0), 1)], &proof).expect("in time");
    let mut heir = join(&log.client("b"), "b");
    log.advance(SESSION / 2);
    assert_eq!(poll(&mut *heir), Event::Records);
    log.advance(SESSION / 2);
    assert_eq!(poll(&mut *heir), Event::Assigned(vec![at(0), at(1)]));
    assert!(heir.committed(&[at(0)], INSTANT).is_err());
    its.commit().expect("nobody has begun with the same input");
    let committed = heir.committed(&[at(0)], INSTANT).expect("committed");
    assert_eq!(committed, [Some(1)]);
    assert_eq!(values(&log), ["slow"]);
}

#[test]
#[should_panic(expected = "a committed offset went back")]
fn an_offset_that_goes_back_is_found() {
    let (log, client) = log();
    let mut member = join(&client, "a");
    poll(&mut *member);
    let mut p = producer(&client, "p");
    for offset in [7, 6] {
        let proof = member.group_metadata().expect("metadata");
        p.begin().expect("begin");
        p.send_offsets(&[(at(0), offset)], &proof).expect("offsets");
        p.commit().expect("commit");
    }
    log.check();
}
