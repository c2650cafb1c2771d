//! What producers and members make of a cluster that misbehaves, played by librdkafka's mock
//! brokers.
//!
//! The mock knows neither fencing nor aborted records; those are tested on a real broker.

use std::time::{Duration, Instant};

use millstream_topology::Headers;
use rdkafka::{
    error::KafkaError,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey as Api, RDKafkaErrorCode, RDKafkaRespErr as Told},
};

use super::{
    admin::KafkaAdmin,
    config::{GroupProtocol, KafkaConfig},
    consumer::KafkaConsumer,
    producer::KafkaProducer,
};
use crate::{
    Admin, Consumer, ConsumerConfig, Error, Event, Outgoing, Producer, ProducerError, Start,
    TopicPartition,
};

/// How often a question is asked whose answers may come together or not.
const QUESTIONS: usize = 20;

type Mock = MockCluster<'static, DefaultProducerContext>;

struct Bed {
    mock: Mock,
    producer: KafkaProducer,
}

impl Bed {
    /// A producer with a transaction behind it, and one open with a record in it.
    fn new() -> Self {
        let mock = MockCluster::new(1).expect("mock cluster");
        mock.create_topic("t", 1, 1).expect("topic");
        let mut config = KafkaConfig::new(mock.bootstrap_servers());
        config.transaction_timeout = Duration::from_secs(4);
        let mut producer = KafkaProducer::new(&config, "id").expect("producer");
        producer.init().expect("init");
        let mut bed = Self { mock, producer };
        bed.begin();
        bed.producer.commit().expect("commit");
        assert!(!bed.producer.is_suspicious(), "nothing has happened yet");
        bed.begin();
        bed
    }

    fn begin(&mut self) {
        self.producer.begin().expect("begin");
        self.send().expect("send");
        self.producer.drain().expect("drain");
    }

    fn send(&mut self) -> Result<(), ProducerError> {
        let topic = self.producer.topic("t");
        self.producer.send(Outgoing {
            topic,
            partition: 0,
            timestamp: 1,
            key: None,
            value: Some(b"v"),
            headers: &Headers::default(),
        })
    }
}

#[test]
fn a_lost_answer_to_a_commit_makes_the_producer_new() {
    let mut bed = Bed::new();
    bed.mock
        .request_errors(Api::EndTxn, &[Told::RD_KAFKA_RESP_ERR__TRANSPORT]);
    bed.producer
        .commit()
        .expect("librdkafka repeats the request and says nothing");
    assert!(bed.producer.is_suspicious(), "the guard has seen it");
    bed.begin();
    assert!(!bed.producer.is_suspicious(), "the client is a new one");
    bed.producer.commit().expect("and it works");
}

#[test]
fn a_commit_that_the_brokers_put_off_is_repeated_without_suspicion() {
    let mut bed = Bed::new();
    let busy = Told::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS;
    let loading = Told::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    bed.mock.request_errors(Api::EndTxn, &[busy, loading]);
    bed.producer.commit().expect("commit");
    assert!(!bed.producer.is_suspicious());
}

#[test]
fn a_fenced_commit_is_told_apart() {
    let mut bed = Bed::new();
    bed.mock.request_errors(
        Api::EndTxn,
        &[Told::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH],
    );
    let error = bed.producer.commit().expect_err("fenced");
    assert!(matches!(error, ProducerError::Fenced(_)), "{error:?}");
    let error = bed.producer.abort().expect_err("nothing is left to abort");
    assert!(matches!(error, ProducerError::Fenced(_)), "{error:?}");
}

#[test]
fn a_commit_in_an_impossible_state_is_fatal() {
    let mut bed = Bed::new();
    bed.mock
        .request_errors(Api::EndTxn, &[Told::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE]);
    let error = bed.producer.commit().expect_err("fatal");
    assert!(matches!(error, ProducerError::Fatal(_)), "{error:?}");
}

#[test]
fn a_refused_record_costs_its_transaction_only() {
    let mut bed = Bed::new();
    bed.mock
        .request_errors(Api::Produce, &[Told::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    bed.send().expect("queued");
    let error = bed.producer.drain().expect_err("refused");
    assert!(matches!(error, ProducerError::Abort(_)), "{error:?}");
    let error = bed
        .producer
        .commit()
        .expect_err("a failed transaction does not commit");
    assert!(matches!(error, ProducerError::Abort(_)), "{error:?}");
    bed.producer.abort().expect("abort");
    bed.begin();
    bed.producer
        .commit()
        .expect("the next transaction is a fresh one");
}

#[test]
fn an_abort_does_not_wait_for_records_that_cannot_be_sent() {
    let mut bed = Bed::new();
    bed.producer.commit().expect("commit");
    bed.producer.begin().expect("begin");
    bed.mock
        .broker_round_trip_time(1, Duration::from_millis(300))
        .expect("slow");
    for _ in 0..10_000 {
        bed.send().expect("queued");
    }
    bed.producer.abort().expect("abort");
    bed.mock
        .broker_round_trip_time(1, Duration::ZERO)
        .expect("fast");
    bed.begin();
    bed.producer.commit().expect("commit");
}

#[test]
fn a_coordinator_that_is_still_loading_is_waited_for() {
    let mock = MockCluster::new(1).expect("mock cluster");
    let loading = Told::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    mock.request_errors(Api::InitProducerId, &[loading, loading]);
    let config = KafkaConfig::new(mock.bootstrap_servers());
    let mut producer = KafkaProducer::new(&config, "id").expect("producer");
    producer.init().expect("init");
}

#[test]
fn records_fail_in_time_when_no_broker_answers() {
    let mut bed = Bed::new();
    bed.mock.broker_down(1).expect("down");
    bed.send().expect("queued");
    let error = bed.producer.drain().expect_err("nobody took it");
    assert!(!matches!(error, ProducerError::Fenced(_)), "{error:?}");
}

const DEADLINE: Duration = Duration::from_secs(60);

fn member(mock: &Mock) -> KafkaConsumer {
    member_with(mock, KafkaConfig::new(mock.bootstrap_servers()))
}

fn member_with(mock: &Mock, config: KafkaConfig) -> KafkaConsumer {
    mock.create_topic("t", 1, 1).expect("topic");
    let group = ConsumerConfig {
        group_id: "g".into(),
        instance_id: "m".into(),
        topics: vec!["t".into()],
        // The mock lets a group settle for three seconds.
        session_timeout: Duration::from_secs(5),
    };
    KafkaConsumer::new(&config, group).expect("member")
}

/// Polls until something happens other than records.
fn event(member: &mut KafkaConsumer) -> Result<Event, Error> {
    let until = Instant::now() + DEADLINE;
    while Instant::now() < until {
        match member.poll(Duration::from_millis(50), 10, &mut Vec::new()) {
            Ok(Event::Records) => {}
            other => return other,
        }
    }
    panic!("nothing happened in time");
}

fn accept(member: &mut KafkaConsumer) {
    let Event::Assigned(partitions) = event(member).expect("poll") else {
        panic!("partitions are assigned");
    };
    let from: Vec<_> = partitions
        .into_iter()
        .map(|of| (of, Start::Earliest))
        .collect();
    member.assign(&from).expect("assign");
}

#[test]
fn a_member_fenced_by_its_own_expired_session_joins_anew() {
    let mock = MockCluster::new(1).expect("mock cluster");
    let mut config = KafkaConfig::new(mock.bootstrap_servers());
    // The mock does not know the question who is in a group.
    config.release_wait = Duration::ZERO;
    let mut member = member_with(&mock, config);
    accept(&mut member);
    mock.broker_down(1).expect("down");
    assert_eq!(
        event(&mut member).expect("poll"),
        Event::Revoked { lost: true }
    );
    // The answer takes until the brokers are back, and they do not know the heartbeats in between.
    mock.request_errors(
        Api::Heartbeat,
        &[Told::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID; 3],
    );
    mock.broker_up(1).expect("up");
    let until = Instant::now() + DEADLINE;
    while !member.is_detached() {
        assert!(Instant::now() < until, "the member does not join anew");
        let polled = member.poll(Duration::from_millis(50), 10, &mut Vec::new());
        assert_eq!(polled.expect("poll"), Event::Records);
    }
    mock.clear_request_errors(Api::Heartbeat);
    assert!(
        member.group_metadata().is_err(),
        "nothing can be committed meanwhile"
    );
    member.unassign().expect("the revocation is answered");
    accept(&mut member);
    member.group_metadata().expect("a member again");
}

#[test]
fn a_member_fenced_while_its_session_lives_is_told() {
    let mock = MockCluster::new(1).expect("mock cluster");
    let mut member = member(&mock);
    accept(&mut member);
    mock.request_errors(
        Api::Heartbeat,
        &[Told::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID],
    );
    for _ in 0..2 {
        let error = event(&mut member).expect_err("fenced");
        assert!(matches!(error, Error::Fenced(_)), "{error:?}");
    }
}

#[test]
fn brokers_without_the_new_protocol_are_told_apart() {
    let mock: Mock = MockCluster::new(1).expect("mock cluster");
    let mut config = KafkaConfig::new(mock.bootstrap_servers());
    config.group_protocol = GroupProtocol::Consumer;
    let mut member = member_with(&mock, config);
    for code in [
        // Said by the client of brokers before 3.7, and by those after them that are told not to.
        RDKafkaErrorCode::UnsupportedFeature,
        RDKafkaErrorCode::UnsupportedVersion,
    ] {
        let told = KafkaError::MessageConsumptionFatal(code);
        let error = member.check(told).expect_err("they do not know it");
        assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
        assert!(error.to_string().contains("4.0"), "{error}");
    }
}

#[test]
fn a_partition_without_a_leader_is_not_taken_for_one_that_does_not_exist() {
    let mock: Mock = MockCluster::new(1).expect("mock cluster");
    mock.create_topic("t", 1, 1).expect("topic");
    let mut config = KafkaConfig::new(mock.bootstrap_servers());
    config.request_timeout = Duration::from_secs(2);
    let admin = KafkaAdmin::new(&config).expect("admin");
    let partition = TopicPartition::new("t", 0);
    // So it is while the only broker comes back from a pause or a restart.
    mock.partition_leader("t", 0, None).expect("no leader");
    let error = admin.watermarks(&partition).expect_err("nobody can tell");
    assert!(matches!(error, Error::Client { .. }), "{error:?}");
    mock.partition_leader("t", 0, Some(1)).expect("a leader");
    admin
        .watermarks(&partition)
        .expect("it was there all the time");
    let error = admin
        .watermarks(&TopicPartition::new("t", 1))
        .expect_err("none");
    assert!(matches!(error, Error::UnknownPartition(_)), "{error:?}");
}

#[test]
fn an_end_that_is_not_answered_is_not_taken_for_the_other_one() {
    let mut bed = Bed::new();
    bed.producer.commit().expect("commit");
    let config = KafkaConfig::new(bed.mock.bootstrap_servers());
    let admin = KafkaAdmin::new(&config).expect("admin");
    let partition = TopicPartition::new("t", 0);
    let ends = admin.watermarks(&partition).expect("ends");
    assert!(ends.low < ends.high, "{ends:?}");
    // Answers that lie together in the client's queue are taken together.
    bed.mock
        .broker_round_trip_time(1, Duration::from_millis(20))
        .expect("a slow broker");
    for error in [
        Told::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        Told::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
    ] {
        for _ in 0..QUESTIONS {
            bed.mock.request_errors(Api::ListOffsets, &[error]);
            assert_eq!(admin.watermarks(&partition).expect("ends"), ends);
        }
    }
}

#[test]
fn ends_are_asked_for_again_after_another_election() {
    let mut bed = Bed::new();
    bed.producer.commit().expect("commit");
    let admin = KafkaAdmin::new(&KafkaConfig::new(bed.mock.bootstrap_servers())).expect("admin");
    let partition = TopicPartition::new("t", 0);
    for error in [
        Told::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
        Told::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
        Told::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
        Told::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    ] {
        // One for each end.
        bed.mock.request_errors(Api::ListOffsets, &[error, error]);
        let ends = admin.watermarks(&partition);
        assert!(ends.is_ok(), "{error:?}: {ends:?}");
    }
}
