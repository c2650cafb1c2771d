//! The contract, kept by the log on Kafka under the group protocol of KIP-848.
//! `MILLSTREAM_TEST_KAFKA` names a broker for it, from version 4.0 on.

mod cluster;
#[macro_use]
mod contract;

use std::time::{Duration, Instant};

use cluster::{STEP, assigned, cluster, wait_for};
use contract::Bed;
use millstream_broker::{
    Broker, Consumer, Error, Event, Start,
    kafka::{GroupProtocol, KafkaConfig},
};

fn new_protocol(config: &mut KafkaConfig) {
    config.group_protocol = GroupProtocol::Consumer;
}

fn bed(test: &str) -> Option<Bed> {
    let cluster = cluster(new_protocol)?;
    let mut bed = Bed::new(cluster.broker.clone(), cluster.name(test), ());
    bed.second_waits = true;
    Some(bed)
}

contract_tests!(bed);

#[test]
fn partitions_that_stay_are_read_on_without_a_gap_while_others_move() {
    let Some(cluster) = cluster(new_protocol) else {
        return;
    };
    const PARTITIONS: i32 = 4;
    const EACH: i64 = 5000;
    let topic = cluster.topic("in", PARTITIONS as u32);
    let mut producer = cluster.producer("filler");
    let ix = producer.topic(&topic);
    producer.begin().expect("begin");
    for n in 0..EACH {
        for partition in 0..PARTITIONS {
            cluster::send(&mut *producer, ix, partition, &n.to_string()).expect("send");
        }
    }
    producer.drain().expect("drain");
    producer.commit().expect("commit");

    // Each member reads on where it was told to, which is where the partition was read up to.
    let mut next = vec![0_i64; PARTITIONS as usize];
    let mut members: Vec<(Box<dyn Consumer>, Vec<i32>)> = Vec::new();
    let (mut moves, mut round) = (0, 0_u32);
    wait_for("all records are read", || {
        // Reading goes on, but slowly, until the group has settled: brokers take seconds for it.
        let settled = members.iter().all(|(_, owned)| !owned.is_empty());
        round += 1;
        let limit = match (settled, round % 2) {
            (true, _) => 100,
            (false, 0) => 10,
            (false, _) => 0,
        };
        let seen: i64 = next.iter().sum();
        if (members.len() as i64) < 1 + 3 * seen / (EACH * i64::from(PARTITIONS)) {
            let name = format!("m{}", members.len());
            members.push((cluster.member("g", &name, &topic), Vec::new()));
        }
        for (member, owned) in &mut members {
            let mut batch = Vec::new();
            match member.poll(STEP, limit, &mut batch).expect("poll") {
                Event::Records => {}
                Event::Revoked { lost } => {
                    assert!(!lost, "nobody was silent");
                    member.unassign().expect("unassign");
                    owned.clear();
                    moves += 1;
                }
                Event::Assigned(partitions) => {
                    let from = |p: &millstream_broker::TopicPartition| {
                        (p.clone(), Start::Offset(next[p.partition as usize]))
                    };
                    let from: Vec<_> = partitions.iter().map(from).collect();
                    member.assign(&from).expect("assign");
                    *owned = partitions.iter().map(|p| p.partition).collect();
                }
            }
            for record in batch {
                let partition = owned[record.partition.0 as usize] as usize;
                assert_eq!(record.offset, next[partition], "partition {partition}");
                next[partition] += 1;
            }
        }
        next.iter().all(|n| *n == EACH)
    });
    println!("{} members, {moves} revocations", members.len());
    assert!(moves > 0, "partitions moved");
}

#[test]
fn a_member_more_than_there_are_partitions_is_told_that_it_has_none() {
    let Some(cluster) = cluster(new_protocol) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let mut first = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *first);
    assert_eq!(partitions.len(), 1);
    cluster::accept(&mut *first, &partitions);
    let mut second = cluster.member("g", "b", &topic);
    wait_for("it is told", || {
        let event = first.poll(STEP, 0, &mut Vec::new()).expect("poll");
        assert_eq!(event, Event::Records, "nothing moves");
        let event = second.poll(STEP, 0, &mut Vec::new()).expect("poll");
        event == Event::Assigned(Vec::new())
    });
    second.assign(&[]).expect("assign");
}

#[test]
fn a_member_whose_name_another_one_keeps_is_told_so_in_the_end() {
    let Some(cluster) = cluster(|config| {
        new_protocol(config);
        config.release_wait = Duration::from_secs(2);
    }) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let mut first = cluster.member("g", "a", &topic);
    let partitions = assigned(&mut *first);
    cluster::accept(&mut *first, &partitions);
    let mut second = cluster.member("g", "a", &topic);
    let start = Instant::now();
    wait_for("the second is told", || {
        let event = first.poll(STEP, 0, &mut Vec::new()).expect("poll");
        assert_eq!(event, Event::Records, "the first notices nothing");
        match second.poll(STEP, 0, &mut Vec::new()) {
            Ok(event) => {
                assert_eq!(event, Event::Records);
                false
            }
            Err(error) => {
                assert!(matches!(error, Error::Fenced(_)), "{error:?}");
                true
            }
        }
    });
    assert!(start.elapsed() >= Duration::from_secs(2), "it waited");
    assert!(second.is_replaced(STEP).expect("it knows"));
    assert!(!first.is_replaced(STEP).expect("it knows"));
}

#[test]
fn a_member_of_either_protocol_is_listed_by_its_name() {
    let Some(cluster) = cluster(new_protocol) else {
        return;
    };
    let topic = cluster.topic("in", 1);
    let mut member = cluster.member("g", "by-name", &topic);
    assigned(&mut *member);
    let groups = cluster.broker.admin().expect("admin").groups();
    let groups = groups.expect("groups");
    let group = groups.iter().find(|(name, _)| *name == cluster.name("g"));
    assert_eq!(group.expect("listed").1, ["by-name"]);
}
