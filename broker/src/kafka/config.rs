//! Where the cluster is, and how much memory and time its clients may take.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::{Error, Result};

/// How to reach a Kafka cluster, and the bounds of the clients made for it.
///
/// ```
/// use millstream_broker::kafka::KafkaConfig;
/// let mut config = KafkaConfig::new("kafka-1:9092,kafka-2:9092");
/// config.properties.insert("security.protocol".into(), "ssl".into());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Comma-separated `host:port` of some brokers.
    pub bootstrap_servers: String,
    /// What brokers call these clients in their logs and quotas.
    pub client_id: String,
    /// More properties of librdkafka, for all clients. Those on which exactly-once rests are
    /// refused.
    pub properties: BTreeMap<String, String>,
    /// How members of a group share its partitions.
    pub group_protocol: GroupProtocol,
    /// How long a member waits where the brokers keep its place for another one of its name, which
    /// may have died. They do so under [`GroupProtocol::Consumer`] until that one's session ends.
    /// Under [`GroupProtocol::Classic`] a member that was silent asks for so long at most who has
    /// its place, before it joins again.
    pub release_wait: Duration,
    /// A transaction open for longer is aborted by the brokers and its producer fenced. It also
    /// bounds how long the records of a dead producer that never comes back hold up readers.
    pub transaction_timeout: Duration,
    /// How long one question to the cluster may take, such as creating a topic.
    pub request_timeout: Duration,
    /// A member that does not poll for so long loses its partitions.
    pub poll_interval_max: Duration,
    /// Bytes fetched ahead by a consumer or reader, and as many again for each paused partition.
    pub fetch_buffer_bytes: usize,
    /// Records fetched ahead, counted the same way.
    pub fetch_buffer_records: usize,
    /// Bytes that wait to be sent by a producer.
    pub send_buffer_bytes: usize,
    /// Records that wait to be sent by a producer.
    pub send_buffer_records: usize,
    /// How long a record waits for others to be sent with it.
    /// [`Producer::drain`](crate::Producer::drain) does not wait for it.
    pub linger: Duration,
    /// Records that wait in an [`Appender`](crate::Appender); more are refused.
    pub append_buffer_records: usize,
    /// An appended record fails when it is not durable after this time.
    pub append_timeout: Duration,
}

/// How the members of a group come to their partitions. All members of a group use the same one;
/// brokers let a group change over while its members are restarted one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// A member deals the partitions out, and all stop for it. A process that is started in the
    /// place of another takes it over at once.
    #[default]
    Classic,
    /// KIP-848, for brokers from 4.0 on: the brokers deal the partitions out, and only those that
    /// move are stopped. How long a silent member keeps its place is set in the brokers
    /// (`group.consumer.session.timeout.ms`), and only then may another process take it.
    Consumer,
}

/// Properties that this crate decides: another value would break a promise of the seam.
const DECIDED: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "isolation.level",
    "log.connection.close",
    "log.queue",
    "log_level",
    "message.timeout.ms",
    "partition.assignment.strategy",
    "partitioner",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// What the client believes a session to last where the brokers decide it.
const SESSION_DEFAULT: Duration = Duration::from_secs(45);

/// A session is theirs to decide, and lasts at most a minute by default.
const RELEASE_WAIT: Duration = Duration::from_secs(75);

/// Kafka's shortest useful transaction: below it, the bounds derived from it make no sense.
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(1);

impl KafkaConfig {
    /// The defaults, for the cluster of these brokers.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            client_id: "millstream".to_owned(),
            properties: BTreeMap::new(),
            group_protocol: GroupProtocol::default(),
            release_wait: RELEASE_WAIT,
            transaction_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            poll_interval_max: Duration::from_secs(300),
            fetch_buffer_bytes: 16 << 20,
            fetch_buffer_records: 50_000,
            send_buffer_bytes: 32 << 20,
            send_buffer_records: 200_000,
            linger: Duration::from_millis(5),
            append_buffer_records: 20_000,
            append_timeout: Duration::from_secs(30),
        }
    }

    /// Says what is wrong before any client is made.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(name) = self
            .properties
            .keys()
            .find(|p| DECIDED.contains(&p.as_str()))
        {
            return Err(Error::client(
                format!("property is decided by the program and cannot be set. property=`{name}`"),
                "refused",
            ));
        }
        if self.transaction_timeout < TRANSACTION_TIMEOUT_MIN {
            return Err(Error::client(
                format!(
                    "transaction timeout is too short. has={:?}, least={TRANSACTION_TIMEOUT_MIN:?}",
                    self.transaction_timeout
                ),
                "refused",
            ));
        }
        Ok(())
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", &self.client_id)
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            // How long a topic that brokers do not know may still be on its way to them.
            .set("topic.metadata.propagation.max.ms", "5000");
        // The context decides what is printed; it must see the lines that tell of lost connections.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// The caller's properties come last: they may replace everything but what is decided.
    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    fn fetching(&self) -> ClientConfig {
        let mut config = self.client();
        let kbytes = (self.fetch_buffer_bytes / 1024).max(1);
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", kbytes.to_string())
            .set(
                "queued.min.messages",
                self.fetch_buffer_records.max(1).to_string(),
            )
            // A full buffer is looked at again after this; the default of a second starves the
            // reader.
            .set("fetch.queue.backoff.ms", "2")
            .set("fetch.error.backoff.ms", "100");
        config
    }

    /// A member of a group.
    pub(super) fn member(&self, group: &crate::ConsumerConfig) -> ClientConfig {
        let mut config = self.fetching();
        config
            .set("group.id", &group.group_id)
            .set("group.instance.id", &group.instance_id)
            .set("auto.offset.reset", "earliest");
        let session = match self.group_protocol {
            GroupProtocol::Classic => {
                let session = group.session_timeout;
                let heartbeat =
                    (session / 10).clamp(Duration::from_millis(100), Duration::from_secs(3));
                config
                    .set("group.protocol", "classic")
                    .set("partition.assignment.strategy", "range")
                    .set("session.timeout.ms", millis(session))
                    .set("heartbeat.interval.ms", millis(heartbeat));
                session
            }
            GroupProtocol::Consumer => {
                config
                    .set("group.protocol", "consumer")
                    .set("group.remote.assignor", "range");
                SESSION_DEFAULT
            }
        };
        // The client wants the poll interval to be no shorter than the session.
        let poll_interval = self.poll_interval_max.max(session);
        config.set("max.poll.interval.ms", millis(poll_interval));
        self.with_properties(config)
    }

    /// A reader outside any group; librdkafka wants a group's name all the same, and never joins
    /// it.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.fetching();
        config
            .set("group.id", format!("{}-reader", self.client_id))
            .set("auto.offset.reset", "error")
            // The end of a partition is told when there was nothing to fetch for so long.
            .set("fetch.wait.max.ms", "100")
            .set("enable.partition.eof", "true");
        self.with_properties(config)
    }

    /// A client that only asks about a group's offsets.
    pub(super) fn group_reader(&self, group_id: &str) -> ClientConfig {
        let mut config = self.fetching();
        config
            .set("group.id", group_id)
            .set("isolation.level", "read_uncommitted");
        self.with_properties(config)
    }

    /// A client for metadata and watermarks, those of open transactions included.
    pub(super) fn watching(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        self.with_properties(config)
    }

    /// A client for administration. Nobody reads its log lines, so it must not pile them up.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.client();
        config.set_log_level(RDKafkaLogLevel::Critical);
        self.with_properties(config)
    }

    fn sending(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "50000")
            .set(
                "queue.buffering.max.kbytes",
                (self.send_buffer_bytes / 1024).max(1).to_string(),
            );
        config
    }

    /// A transactional producer.
    pub(super) fn producer(&self, transactional_id: &str) -> ClientConfig {
        let mut config = self.sending();
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", millis(self.transaction_timeout))
            // A record that takes longer than its transaction may last has failed anyway.
            .set(
                "message.timeout.ms",
                millis(self.transaction_timeout * 4 / 5),
            )
            .set("linger.ms", millis(self.linger))
            .set(
                "queue.buffering.max.messages",
                self.send_buffer_records.max(1).to_string(),
            );
        self.with_properties(config)
    }

    /// A producer without transactions, for single records from outside.
    pub(super) fn appender(&self) -> ClientConfig {
        let mut config = self.sending();
        config
            .set("message.timeout.ms", millis(self.append_timeout))
            .set("linger.ms", "2")
            .set(
                "queue.buffering.max.messages",
                self.append_buffer_records.max(1).to_string(),
            );
        self.with_properties(config)
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_break_a_promise_are_refused() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.check().expect("defaults are fine");
        config
            .properties
            .insert("isolation.level".into(), "read_uncommitted".into());
        let error = config.check().expect_err("refused");
        assert!(error.to_string().contains("isolation.level"), "{error}");
    }

    #[test]
    fn a_record_fails_before_its_transaction_expires() {
        let config = KafkaConfig::new("localhost:9092").producer("id");
        let number = |name| {
            config
                .get(name)
                .and_then(|v| v.parse::<u64>().ok())
                .expect("a number")
        };
        assert!(number("message.timeout.ms") < number("transaction.timeout.ms"));
    }

    #[test]
    fn every_client_understands_its_configuration() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.poll_interval_max = Duration::from_secs(1);
        let consumer_protocol = KafkaConfig {
            group_protocol: GroupProtocol::Consumer,
            ..config.clone()
        };
        let group = crate::ConsumerConfig {
            group_id: "g".into(),
            instance_id: "i".into(),
            topics: vec![],
            session_timeout: Duration::from_secs(6),
        };
        for client in [
            config.member(&group),
            consumer_protocol.member(&group),
            config.reader(),
            config.group_reader("g"),
            config.watching(),
            config.producer("id"),
            config.appender(),
        ] {
            client
                .create_native_config()
                .expect("known properties and values");
        }
    }
}
