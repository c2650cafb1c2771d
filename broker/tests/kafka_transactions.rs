//! Transactions on a real Kafka broker: zombies, time-outs, and how long a commit takes.

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Cluster, accept, assigned, cluster, send, text, wait_for};
use millstream_broker::{Broker, Producer, ProducerError, TopicPartition};

/// A step of a producer that does not know yet that it has been replaced.
type Step = fn(&Cluster, &mut dyn Producer) -> Result<(), ProducerError>;

fn check_zombie(step: Step) {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let mut zombie = cluster.producer("id");
    let ix = zombie.topic(&topic);
    zombie.begin().expect("begin");
    send(&mut *zombie, ix, 0, "old").expect("send");
    zombie.drain().expect("drain");

    let mut heir = cluster.producer("id");
    let error = step(&cluster, &mut *zombie).expect_err("the zombie is fenced");
    assert!(matches!(error, ProducerError::Fenced(_)), "{error:?}");

    let ix = heir.topic(&topic);
    heir.begin().expect("begin");
    send(&mut *heir, ix, 0, "new").expect("send");
    heir.drain().expect("drain");
    heir.commit().expect("commit");
    let seen: Vec<_> = cluster.read(&topic, 0, 1).iter().map(text).collect();
    assert_eq!(seen, ["new"]);
}

#[test]
fn a_zombie_is_fenced_at_its_commit() {
    check_zombie(|_, zombie| zombie.commit());
}

#[test]
fn a_zombie_is_fenced_at_its_abort() {
    check_zombie(|_, zombie| zombie.abort());
}

#[test]
fn a_zombie_is_fenced_at_its_next_record() {
    check_zombie(|cluster, zombie| {
        let ix = zombie.topic(&cluster.name("t"));
        send(zombie, ix, 0, "late").expect("queued");
        zombie.drain()
    });
}

#[test]
fn a_zombie_is_fenced_when_it_sends_offsets() {
    check_zombie(|cluster, zombie| {
        let input = cluster.topic("in", 1);
        let mut member = cluster.member("g", "m", &input);
        let partitions = assigned(&mut *member);
        accept(&mut *member, &partitions);
        let proof = member.group_metadata().expect("metadata");
        zombie.send_offsets(&[(TopicPartition::new(input, 0), 1)], &proof)
    });
}

#[test]
fn a_transaction_that_expired_is_fenced_and_its_records_are_never_seen() {
    let Some(cluster) = cluster(|config| config.transaction_timeout = Duration::from_secs(1))
    else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let mut slow = cluster.producer("slow");
    let ix = slow.topic(&topic);
    slow.begin().expect("begin");
    send(&mut *slow, ix, 0, "too late").expect("send");
    slow.drain().expect("drain");

    let mut other = cluster.producer("other");
    let ix = other.topic(&topic);
    other.begin().expect("begin");
    send(&mut *other, ix, 0, "behind").expect("send");
    other.drain().expect("drain");
    other.commit().expect("commit");
    // The open transaction holds up readers until the brokers give it up.
    let seen: Vec<_> = cluster.read(&topic, 0, 1).iter().map(text).collect();
    assert_eq!(seen, ["behind"]);

    let error = slow.commit().expect_err("expired");
    assert!(matches!(error, ProducerError::Fenced(_)), "{error:?}");
    drop(slow);
    let mut again = cluster.producer("slow");
    let ix = again.topic(&topic);
    again.begin().expect("begin");
    send(&mut *again, ix, 0, "again").expect("send");
    again.drain().expect("drain");
    again.commit().expect("commit");
}

#[test]
fn an_abort_leaves_unsent_records_behind_and_the_next_transaction_is_clean() {
    let Some(cluster) = cluster(|config| config.linger = Duration::from_millis(500)) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&topic);
    producer.begin().expect("begin");
    for _ in 0..1000 {
        send(&mut *producer, ix, 0, "aborted").expect("send");
    }
    producer.abort().expect("abort");
    producer.begin().expect("begin");
    send(&mut *producer, ix, 0, "kept").expect("send");
    producer.drain().expect("drain");
    producer.commit().expect("commit");
    let seen: Vec<_> = cluster.read(&topic, 0, 1).iter().map(text).collect();
    assert_eq!(seen, ["kept"]);
}

#[test]
fn an_initialised_producer_can_be_initialised_again() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&topic);
    for value in ["a", "b"] {
        producer.begin().expect("begin");
        send(&mut *producer, ix, 0, value).expect("send");
        producer.drain().expect("drain");
        producer.commit().expect("commit");
        producer.init().expect("init");
    }
    let seen: Vec<_> = cluster.read(&topic, 0, 2).iter().map(text).collect();
    assert_eq!(seen, ["a", "b"]);
    let mut ends = Vec::new();
    producer.ends(&mut |topic, partition, end| ends.push((topic, partition, end)));
    assert_eq!(ends, [(ix, 0, 3)], "the account survives the client");
}

#[test]
fn a_drained_commit_takes_milliseconds() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let input = cluster.topic("in", 4);
    let output = cluster.topic("out", 4);
    let mut member = cluster.member("g", "m", &input);
    let partitions = assigned(&mut *member);
    accept(&mut *member, &partitions);
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&output);
    let offsets: Vec<_> = partitions.into_iter().map(|of| (of, 0)).collect();
    let mut took = Vec::new();
    for _ in 0..25 {
        producer.begin().expect("begin");
        for n in 0..400 {
            send(&mut *producer, ix, n % 4, "value").expect("send");
        }
        let start = Instant::now();
        producer.drain().expect("drain");
        let drained = start.elapsed();
        let proof = member.group_metadata().expect("metadata");
        producer.send_offsets(&offsets, &proof).expect("offsets");
        producer.commit().expect("commit");
        took.push((start.elapsed(), drained));
    }
    took.sort_unstable();
    let (median, drained) = took[took.len() / 2];
    println!("commit of 400 records and 4 offsets: median {median:?}, of it draining {drained:?}");
    assert!(median < Duration::from_millis(40), "median {median:?}");
}

#[test]
fn small_transactions_follow_each_other_without_a_pause() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&topic);
    let start = Instant::now();
    const COUNT: u32 = 50;
    for _ in 0..COUNT {
        producer.begin().expect("begin");
        send(&mut *producer, ix, 0, "value").expect("send");
        producer.drain().expect("drain");
        producer.commit().expect("commit");
    }
    let each = start.elapsed() / COUNT;
    println!("a transaction of one record takes {each:?}");
    // One that is refused because of the markers before it costs 20 ms more.
    assert!(each < Duration::from_millis(40), "{each:?}");
}

#[test]
fn records_larger_than_the_brokers_take_do_not_end_the_producer() {
    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let mut producer = cluster.producer("id");
    let ix = producer.topic(&topic);
    producer.begin().expect("begin");
    let error = send(&mut *producer, ix, 0, &"x".repeat(4 << 20)).expect_err("too large");
    assert!(matches!(error, ProducerError::Abort(_)), "{error:?}");
    producer.abort().expect("abort");
    producer.begin().expect("begin");
    send(&mut *producer, ix, 0, "small").expect("send");
    producer.drain().expect("drain");
    producer.commit().expect("commit");
}

#[test]
fn appended_bytes_keep_null_and_empty_apart() {
    use bytes::Bytes;
    use millstream_broker::OwnedRecord;
    use millstream_topology::Headers;

    let Some(cluster) = cluster(|_| {}) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let appender = cluster.broker.appender().expect("appender");
    let bytes = [None, Some(Bytes::new()), Some(Bytes::from_static(b"x"))];
    let (done, outcomes) = std::sync::mpsc::channel();
    for key in &bytes {
        for value in &bytes {
            let mut headers = Headers::default();
            headers.push("null", None::<Bytes>);
            headers.push("empty", Bytes::new());
            let record = OwnedRecord {
                to: TopicPartition::new(topic.clone(), 0),
                timestamp: 77,
                key: key.clone(),
                value: value.clone(),
                headers,
            };
            let done = done.clone();
            let told = Box::new(move |result| done.send(result).expect("somebody waits"));
            appender.append(record, told).expect("append");
        }
    }
    for offset in 0..9 {
        let outcome = outcomes
            .recv_timeout(cluster::DEADLINE)
            .expect("an outcome");
        assert_eq!(outcome.expect("durable"), offset);
    }
    let seen = cluster.read(&topic, 0, 9);
    let mut expect = bytes
        .iter()
        .flat_map(|key| bytes.iter().map(move |value| (key, value)));
    for record in &seen {
        assert_eq!(expect.next(), Some((&record.key, &record.value)));
        assert_eq!(record.timestamp, 77);
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|h| (&*h.name, &h.value))
            .collect();
        assert_eq!(headers, [("null", &None), ("empty", &Some(Bytes::new()))]);
    }
}

#[test]
fn a_full_appender_refuses_at_once() {
    use millstream_broker::{Error, OwnedRecord};
    use millstream_topology::Headers;

    let Some(cluster) = cluster(|config| config.append_buffer_records = 10) else {
        return;
    };
    let topic = cluster.topic("t", 1);
    let appender = cluster.broker.appender().expect("appender");
    let (done, outcomes) = std::sync::mpsc::channel();
    let mut accepted = 0;
    let mut refused = false;
    wait_for("the appender is full", || {
        let record = OwnedRecord {
            to: TopicPartition::new(topic.clone(), 0),
            timestamp: 1,
            key: None,
            value: Some("v".into()),
            headers: Headers::default(),
        };
        let done = done.clone();
        let told = Box::new(move |result| done.send(result).expect("somebody waits"));
        match appender.append(record, told) {
            Ok(()) => accepted += 1,
            Err(error) => {
                assert!(matches!(error, Error::Full), "{error:?}");
                refused = true;
            }
        }
        refused
    });
    for _ in 0..accepted {
        let outcome = outcomes
            .recv_timeout(cluster::DEADLINE)
            .expect("an outcome");
        outcome.expect("durable");
    }
}
