//! What every log promises, one function per behaviour, run over each log by a test file of its
//! own.
//!
//! The suite speaks to the seam only. Offsets may have holes, because a log may spend offsets on
//! its own records, and every wait has one long deadline instead of a guess at how long a log
//! takes.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Event, Fetched, NewTopic, Outgoing, Producer,
    ProducerError, Start, TopicPartition,
};
use millstream_topology::Headers;

pub(crate) mod groups;
pub(crate) mod reading;
pub(crate) mod topics;
pub(crate) mod transactions;
pub(crate) mod writing;

/// How long anything may take before the test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// How long one poll waits, so that several members can be driven by one thread.
const STEP: Duration = Duration::from_millis(20);

/// The shortest session that a Kafka broker accepts by default.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// A log under test. Names made by it belong to one test alone.
pub(crate) struct Bed {
    pub(crate) broker: Arc<dyn Broker>,
    prefix: String,
    /// A second member of a name waits until the first is gone, instead of taking its place.
    pub(crate) second_waits: bool,
    /// Whatever must live as long as the log, such as its folder.
    _keep: Box<dyn Any>,
}

impl Bed {
    pub(crate) fn new(broker: Arc<dyn Broker>, prefix: impl Into<String>, keep: impl Any) -> Self {
        Self {
            broker,
            prefix: prefix.into(),
            second_waits: false,
            _keep: Box::new(keep),
        }
    }

    /// A name that no other test uses.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Creates a topic that keeps everything.
    pub(crate) fn topic(&self, name: &str, partitions: u32) -> Arc<str> {
        self.topic_with(name, partitions, Cleanup::Delete { retention_ms: None })
    }

    pub(crate) fn topic_with(&self, name: &str, partitions: u32, cleanup: Cleanup) -> Arc<str> {
        let name: Arc<str> = self.name(name).into();
        let admin = self.broker.admin().expect("admin");
        admin
            .create_topics(&[NewTopic {
                name: name.clone(),
                partitions,
                cleanup,
            }])
            .expect("topic is created");
        name
    }

    /// A producer, ready for its first transaction.
    pub(crate) fn producer(&self, id: &str) -> Box<dyn Producer> {
        let mut producer = self.broker.producer(&self.name(id)).expect("producer");
        producer.init().expect("init");
        producer
    }

    /// Commits values to a partition, in a transaction of a producer of its own.
    pub(crate) fn write(&self, topic: &Arc<str>, partition: i32, values: &[&str]) {
        let mut producer = self.producer(&format!("writer-{topic}-{partition}"));
        producer.begin().expect("begin");
        send_all(&mut *producer, topic, partition, values);
        commit(&mut *producer);
    }

    /// Every committed record of these partitions.
    pub(crate) fn read(&self, partitions: &[TopicPartition]) -> Vec<Seen> {
        let admin = self.broker.admin().expect("admin");
        let ends: Vec<i64> = partitions
            .iter()
            .map(|p| admin.watermarks(p).expect("watermarks").high)
            .collect();
        let mut reader = self.broker.reader().expect("reader");
        let from: Vec<_> = partitions
            .iter()
            .map(|p| (p.clone(), Start::Earliest))
            .collect();
        reader.assign(&from).expect("assign");
        let mut batch = Vec::new();
        wait_for("the reader reaches the end", || {
            reader.poll(STEP, 100, &mut batch).expect("poll");
            ends.iter().enumerate().all(|(ix, end)| {
                let ix = millstream_broker::PartitionIx(ix as u32);
                reader.position(ix).expect("position") >= *end
            })
        });
        batch
            .into_iter()
            .map(|r| Seen::new(r, partitions))
            .collect()
    }

    /// The values of one partition, in order.
    pub(crate) fn values(&self, topic: &Arc<str>, partition: i32) -> Vec<String> {
        let seen = self.read(&[TopicPartition::new(topic.clone(), partition)]);
        seen.iter().map(Seen::text).collect()
    }
}

/// A record read, with its partition by name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) at: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Headers,
}

impl Seen {
    pub(crate) fn new(record: Fetched, partitions: &[TopicPartition]) -> Self {
        Self {
            at: partitions[record.partition.0 as usize].clone(),
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }
    }

    /// The value as text.
    pub(crate) fn text(&self) -> String {
        let value = self.value.as_deref().expect("a value");
        String::from_utf8(value.to_vec()).expect("text")
    }
}

/// A member of a group that answers every event at once and remembers what happened.
pub(crate) struct Member {
    pub(crate) consumer: Box<dyn Consumer>,
    /// What it was assigned and has not lost.
    pub(crate) owned: Vec<TopicPartition>,
    /// How often it was assigned partitions.
    pub(crate) assignments: usize,
    /// How often they were taken away again.
    pub(crate) revocations: usize,
    pub(crate) seen: Vec<Seen>,
    /// Where to start instead of at the committed offsets.
    pub(crate) start: Option<Start>,
}

impl Member {
    pub(crate) fn join(bed: &Bed, group: &str, instance: &str, topics: &[&Arc<str>]) -> Self {
        let consumer = bed
            .broker
            .consumer(ConsumerConfig {
                group_id: bed.name(group),
                instance_id: instance.to_owned(),
                topics: topics.iter().map(|&topic| topic.clone()).collect(),
                session_timeout: SESSION,
            })
            .expect("consumer");
        Self {
            consumer,
            owned: Vec::new(),
            assignments: 0,
            revocations: 0,
            seen: Vec::new(),
            start: None,
        }
    }

    /// One poll; an assignment starts at the committed offsets, or else at the oldest record.
    pub(crate) fn step(&mut self) {
        let mut batch = Vec::new();
        let event = self.consumer.poll(STEP, 100, &mut batch).expect("poll");
        for record in batch {
            self.seen.push(Seen::new(record, &self.owned));
        }
        match event {
            Event::Records => {}
            Event::Assigned(partitions) => {
                assert!(self.owned.is_empty(), "assigned before the revocation");
                let committed = self
                    .consumer
                    .committed(&partitions, DEADLINE)
                    .expect("committed");
                let from: Vec<_> = partitions
                    .iter()
                    .zip(committed)
                    .map(|(p, at)| {
                        let next = at.map_or(Start::Earliest, Start::Offset);
                        (p.clone(), self.start.unwrap_or(next))
                    })
                    .collect();
                self.consumer.assign(&from).expect("assign");
                self.owned = partitions;
                self.assignments += 1;
            }
            Event::Revoked { .. } => {
                self.consumer.unassign().expect("unassign");
                self.owned.clear();
                self.revocations += 1;
            }
        }
    }

    /// Polls until it has an assignment.
    pub(crate) fn joined(mut self) -> Self {
        until(&mut [&mut self], "the member joins", |m| {
            m[0].assignments > 0
        });
        self
    }

    /// The partition numbers that it owns of a topic, in order.
    pub(crate) fn partitions_of(&self, topic: &Arc<str>) -> Vec<i32> {
        let mut numbers: Vec<i32> = self
            .owned
            .iter()
            .filter(|p| p.topic == *topic)
            .map(|p| p.partition)
            .collect();
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.seen.iter().map(Seen::text).collect()
    }
}

/// Polls the members in turn until `done`.
#[track_caller]
pub(crate) fn until(
    members: &mut [&mut Member],
    what: &str,
    done: impl Fn(&[&mut Member]) -> bool,
) {
    wait_for(what, || {
        for member in members.iter_mut() {
            member.step();
        }
        done(members)
    });
}

/// Calls `ready` until it says so. `ready` itself must wait a little when there is nothing to do.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "gave up waiting until {what}");
    }
}

/// Sends values with null keys and timestamp 1.
pub(crate) fn send_all(
    producer: &mut dyn Producer,
    topic: &Arc<str>,
    partition: i32,
    values: &[&str],
) {
    let topic = producer.topic(topic);
    for value in values {
        let headers = Headers::default();
        producer
            .send(Outgoing {
                topic,
                partition,
                timestamp: 1,
                key: None,
                value: Some(value.as_bytes()),
                headers: &headers,
            })
            .expect("send");
    }
}

/// Drains and commits.
pub(crate) fn commit(producer: &mut dyn Producer) {
    producer.drain().expect("drain");
    producer.commit().expect("commit");
}

/// Whether the error says that the producer has been replaced.
pub(crate) fn is_fenced(result: &Result<(), ProducerError>) -> bool {
    matches!(result, Err(ProducerError::Fenced(_)))
}

/// Makes a `#[test]` of every behaviour. `$bed` is a function from the behaviour's name to
/// `Option<Bed>`; `None` skips it.
macro_rules! contract_tests {
    ($bed:path) => {
        contract_tests!(@each $bed;
            writing::nulls_headers_and_timestamps_come_back,
            writing::records_of_a_partition_keep_their_order,
            writing::large_records_and_transactions_come_back,
            writing::appended_records_are_acknowledged_with_their_offset,
            writing::appending_to_an_unknown_topic_fails,
            writing::ends_are_the_offsets_behind_the_newest_committed_records,
            transactions::records_and_offsets_become_visible_together,
            transactions::aborted_records_and_offsets_are_never_seen,
            transactions::an_open_transaction_is_not_seen,
            transactions::an_empty_transaction_commits,
            transactions::a_new_producer_fences_the_one_before,
            transactions::a_new_producer_ends_the_open_transaction_before,
            transactions::offsets_of_a_stale_generation_are_refused,
            transactions::offsets_of_a_member_that_left_are_refused,
            groups::one_member_owns_all_partitions_and_reads_them,
            groups::ranges_are_co_partitioned,
            groups::joining_and_leaving_revoke_and_assign_again,
            groups::records_go_on_behind_committed_offsets_after_a_rebalance,
            groups::a_kept_place_is_taken_again_without_a_rebalance,
            groups::a_place_is_one_member_s_at_a_time,
            groups::a_place_that_nobody_took_is_not_replaced,
            groups::members_are_listed,
            groups::no_offsets_are_committed_at_first,
            groups::offsets_of_a_group_without_members_are_set,
            groups::offsets_of_a_group_with_members_are_not_set,
            groups::offsets_of_a_deleted_topic_are_forgotten,
            reading::a_paused_partition_goes_on_without_a_gap,
            reading::seek_goes_back_and_forth,
            reading::polls_are_limited,
            reading::a_consumer_starts_at_the_oldest_record_where_its_offset_is_gone,
            reading::a_reader_starts_where_told,
            reading::a_reader_reaches_the_high_watermark_behind_an_abort,
            reading::a_reader_sees_records_as_they_are_committed,
            reading::a_reader_refuses_an_offset_that_is_gone,
            topics::topics_are_created_once,
            topics::another_number_of_partitions_is_refused,
            topics::unknown_partitions_have_no_watermarks,
            topics::watermarks_follow_the_records,
            topics::the_retention_of_tombstones_is_known,
            topics::ends_of_transactions_take_an_offset_or_none,
            topics::deleted_records_are_gone,
            topics::deleting_behind_the_end_is_refused,
            topics::a_deleted_topic_is_gone,
            topics::an_offset_is_found_by_its_time,
            topics::the_cluster_keeps_its_id,
        );
    };
    (@each $bed:path; $($module:ident :: $name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                if let Some(bed) = $bed(stringify!($name)) {
                    crate::contract::$module::$name(&bed);
                }
            }
        )*
    };
}
