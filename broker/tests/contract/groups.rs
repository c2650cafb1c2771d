//! Members of a group share the partitions, and hand them over in good order.

use millstream_broker::{Cleanup, Error, NewTopic, TopicPartition};

use super::{Bed, DEADLINE, Member, until, wait_for};

/// How often two members of one name poll while the second one waits: several heartbeats.
const WAITING_POLLS: u32 = 100;

pub(crate) fn one_member_owns_all_partitions_and_reads_them(bed: &Bed) {
    let topic = bed.topic("t", 3);
    for partition in 0..3 {
        bed.write(&topic, partition, &[&format!("r{partition}")]);
    }
    let mut member = Member::join(bed, "g", "m", &[&topic]);
    until(&mut [&mut member], "three records are read", |m| {
        m[0].seen.len() == 3
    });
    assert_eq!(member.partitions_of(&topic), [0, 1, 2]);
    for record in &member.seen {
        assert_eq!(record.text(), format!("r{}", record.at.partition));
    }
}

pub(crate) fn ranges_are_co_partitioned(bed: &Bed) {
    let orders = bed.topic("orders", 5);
    let payments = bed.topic("payments", 5);
    let small = bed.topic("small", 1);
    let topics = [&orders, &payments, &small];
    // Joining in another order than that of the names makes no difference.
    let mut c = Member::join(bed, "g", "c", &topics);
    let mut a = Member::join(bed, "g", "a", &topics);
    let mut b = Member::join(bed, "g", "b", &topics);
    until(&mut [&mut a, &mut b, &mut c], "the group settles", |m| {
        let shares: Vec<usize> = m.iter().map(|m| m.owned.len()).collect();
        shares == [5, 4, 2]
    });
    for topic in [&orders, &payments] {
        assert_eq!(a.partitions_of(topic), [0, 1]);
        assert_eq!(b.partitions_of(topic), [2, 3]);
        assert_eq!(c.partitions_of(topic), [4]);
    }
    assert_eq!(a.partitions_of(&small), [0]);
}

pub(crate) fn joining_and_leaving_revoke_and_assign_again(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let mut first = Member::join(bed, "g", "m1", &[&topic]).joined();
    assert_eq!(first.partitions_of(&topic), [0, 1, 2, 3]);

    let mut second = Member::join(bed, "g", "m2", &[&topic]);
    until(&mut [&mut first, &mut second], "both own two", |m| {
        m.iter().all(|m| m.owned.len() == 2)
    });
    assert!(
        first.revocations > 0,
        "the first gave up its partitions before"
    );
    assert_eq!(first.partitions_of(&topic), [0, 1]);
    assert_eq!(second.partitions_of(&topic), [2, 3]);

    second.consumer.close(false);
    until(&mut [&mut first], "the first owns all again", |m| {
        m[0].owned.len() == 4
    });
    assert_eq!(first.assignments, first.revocations + 1);
}

pub(crate) fn records_go_on_behind_committed_offsets_after_a_rebalance(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a", "b", "c", "d"]);
    let mut first = Member::join(bed, "g", "m1", &[&topic]);
    until(&mut [&mut first], "all are read", |m| m[0].seen.len() == 4);
    let next = first.seen[1].offset + 1;
    let mut producer = bed.producer("p");
    producer.begin().expect("begin");
    producer.drain().expect("drain");
    let proof = first.consumer.group_metadata().expect("metadata");
    producer
        .send_offsets(&[(TopicPartition::new(topic.clone(), 0), next)], &proof)
        .expect("send_offsets");
    producer.commit().expect("commit");
    first.consumer.close(false);

    let mut second = Member::join(bed, "g", "m2", &[&topic]);
    until(&mut [&mut second], "the rest is read", |m| {
        m[0].texts() == ["c", "d"]
    });
}

pub(crate) fn a_kept_place_is_taken_again_without_a_rebalance(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let mut stays = Member::join(bed, "g", "m1", &[&topic]);
    let mut restarts = Member::join(bed, "g", "m2", &[&topic]);
    until(&mut [&mut stays, &mut restarts], "both own one", |m| {
        m.iter().all(|m| m.owned.len() == 1)
    });
    let revocations = stays.revocations;
    restarts.consumer.close(true);

    let mut again = Member::join(bed, "g", "m2", &[&topic]);
    until(&mut [&mut stays, &mut again], "it is back", |m| {
        m[1].owned.len() == 1
    });
    assert_eq!(again.partitions_of(&topic), [1]);
    assert_eq!(stays.partitions_of(&topic), [0]);
    assert_eq!(
        stays.revocations, revocations,
        "nothing moved at the other member"
    );
}

pub(crate) fn a_place_is_one_member_s_at_a_time(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut old = Member::join(bed, "g", "m", &[&topic]).joined();
    let replaced = |member: &mut Member| member.consumer.is_replaced(DEADLINE).expect("told");
    assert!(!replaced(&mut old), "it is alone");
    let mut new = Member::join(bed, "g", "m", &[&topic]);
    if bed.second_waits {
        for _ in 0..WAITING_POLLS {
            old.step();
            new.step();
        }
        assert!(!replaced(&mut old), "it was there first");
        assert_eq!(old.partitions_of(&topic), [0]);
        assert_eq!((old.revocations, new.assignments), (0, 0));
        drop(old);
        until(&mut [&mut new], "the place is taken when it is free", |m| {
            m[0].partitions_of(&topic) == [0]
        });
        return;
    }
    let mut ignored = Vec::new();
    let mut fenced = false;
    wait_for("the old one is fenced and the new one owns all", || {
        new.step();
        if !fenced {
            match old.consumer.poll(super::STEP, 10, &mut ignored) {
                Ok(_) => {}
                Err(Error::Fenced(_)) => fenced = true,
                Err(other) => panic!("{other}"),
            }
        }
        fenced && new.partitions_of(&topic) == [0]
    });
    assert!(replaced(&mut old));
    assert!(!replaced(&mut new));
}

pub(crate) fn a_place_that_nobody_took_is_not_replaced(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let silent = Member::join(bed, "g", "a", &[&topic]).joined();
    silent.consumer.close(true);
    // What happens to others is none of its business.
    let mut other = Member::join(bed, "g", "b", &[&topic]);
    let mut again = Member::join(bed, "g", "a", &[&topic]);
    until(&mut [&mut other, &mut again], "both are told", |m| {
        m.iter().all(|m| m.assignments > m.revocations)
    });
    for member in [&mut other, &mut again] {
        assert!(!member.consumer.is_replaced(DEADLINE).expect("told"));
    }
}

pub(crate) fn members_are_listed(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut member = Member::join(bed, "g", "m", &[&topic]).joined();
    member.step();
    let admin = bed.broker.admin().expect("admin");
    let groups = admin.groups().expect("groups");
    let (_, members) = groups
        .iter()
        .find(|(name, _)| *name == bed.name("g"))
        .expect("the group is listed");
    assert_eq!(members.len(), 1, "{members:?}");
}

pub(crate) fn no_offsets_are_committed_at_first(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let partitions = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    let mut member = Member::join(bed, "g", "m", &[&topic]).joined();
    let committed = member.consumer.committed(&partitions, DEADLINE);
    assert_eq!(committed.expect("committed"), [None, None]);
    let admin = bed.broker.admin().expect("admin");
    let committed = admin.committed(&bed.name("other"), &partitions);
    assert_eq!(committed.expect("committed"), [None, None]);
}

pub(crate) fn offsets_of_a_group_without_members_are_set(bed: &Bed) {
    let topic = bed.topic("t", 2);
    bed.write(&topic, 0, &["a", "b", "c"]);
    let [zero, one] = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    let admin = bed.broker.admin().expect("admin");
    let group = bed.name("g");
    let set = |at: &TopicPartition, offset| admin.set_committed(&group, &[(at.clone(), offset)]);
    let committed = || {
        let of = [zero.clone(), one.clone()];
        admin.committed(&group, &of).expect("committed")
    };
    set(&zero, 2).expect("a group that never was");
    assert_eq!(committed(), [Some(2), None]);
    set(&zero, 1).expect("back");
    set(&one, 0).expect("another partition");
    assert_eq!(committed(), [Some(1), Some(0)]);
    let nowhere = TopicPartition::new(bed.name("nowhere"), 0);
    assert!(set(&nowhere, 0).is_err());

    let mut member = Member::join(bed, "g", "m", &[&topic]);
    until(&mut [&mut member], "the rest is read", |m| {
        m[0].texts() == ["b", "c"]
    });
}

pub(crate) fn offsets_of_a_group_with_members_are_not_set(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut member = Member::join(bed, "g", "m", &[&topic]).joined();
    member.step();
    let at = TopicPartition::new(topic.clone(), 0);
    let admin = bed.broker.admin().expect("admin");
    let set = || admin.set_committed(&bed.name("g"), &[(at.clone(), 0)]);
    assert!(set().is_err(), "the group has a member");
    member.consumer.close(false);
    wait_for("the member is gone", || set().is_ok());
}

pub(crate) fn offsets_of_a_deleted_topic_are_forgotten(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&topic, 0, &["a"]);
    let at = TopicPartition::new(topic.clone(), 0);
    let admin = bed.broker.admin().expect("admin");
    let group = bed.name("g");
    admin
        .set_committed(&group, &[(at.clone(), 1)])
        .expect("set_committed");
    admin.delete_topics(&[&topic]).expect("delete");
    wait_for("it can be created again", || {
        std::thread::park_timeout(super::STEP);
        let again = NewTopic {
            name: topic.clone(),
            partitions: 1,
            cleanup: Cleanup::Compact,
        };
        admin.create_topics(&[again]).is_ok()
    });
    let committed = admin.committed(&group, std::slice::from_ref(&at));
    assert_eq!(committed.expect("committed"), [None]);
}
