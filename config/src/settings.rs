//! `Settings`: everything that a process of the shop can be told.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{ListenAddress, Roles, Size, Time};

/// Everything that a process of the shop can be told. [`Settings::load`] reads and checks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The folder of this process: state, and log and database unless they are elsewhere. Two
    /// processes need two.
    pub data_dir: PathBuf,
    /// Kafka's brokers as `host:port`, separated by commas; without them the log is embedded.
    pub bootstrap_servers: Option<String>,
    /// `mysql://…`, `mariadb://…` or `sqlite://…`; without it the database is a file in the data
    /// folder.
    pub database_url: Option<String>,
    /// Where customers are served.
    pub listen: ListenAddress,
    /// Where operators are served.
    pub admin_listen: ListenAddress,
    /// What this process does.
    pub roles: Roles,
    /// Orders may say when they were placed, as imports and replays do.
    pub allow_event_time: bool,
    /// The engine.
    pub streams: Streams,
    /// The business.
    pub shop: Shop,
    /// Reservations.
    pub inventory: Inventory,
    /// The gateway and its deadlines.
    pub payment: Payment,
    /// The clients of a Kafka cluster.
    pub kafka: Kafka,
    /// What is logged, and how.
    pub log: Log,
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streams {
    /// Names the consumer groups, internal topics and transactional ids; the same in all processes
    /// of a shop.
    pub application_id: String,
    /// Stream threads of this process.
    pub threads: usize,
    /// The longest time between two commits under load.
    pub commit_interval: Time,
    /// Memory for stores, caches and the log's buffers together.
    pub memory_budget: Size,
    /// How long a committed change may wait in memory before it is written to disk.
    pub flush_interval: Time,
    /// How long a silent process keeps its tasks; the brokers' to say where `kafka.group_protocol`
    /// is `consumer`.
    pub session_timeout: Time,
    /// How many other processes keep a copy of each task's stores up to date.
    pub num_standby_replicas: usize,
    /// Stores and topics, separated by commas, that may be missing from the topology though the
    /// shop had them.
    pub accept_removed: String,
}

/// The business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shop {
    /// Partitions of the shop's topics when they are created.
    pub partitions: u32,
    /// The zone whose days the reports count by, as an IANA name.
    pub time_zone: String,
}

/// Reservations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// How stock is divided.
    pub mode: InventoryMode,
    /// After this time a reservation asks its order whether it is still wanted.
    pub reservation_ttl: Time,
}

/// How stock is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InventoryMode {
    /// Keyed by product over all partitions.
    #[default]
    PerSku,
}

/// The gateway and its deadlines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// An order without an answer of the gateway this long after it was placed is cancelled.
    pub deadline: Time,
    /// A call of the gateway that takes longer has an unknown outcome.
    pub call_timeout: Time,
    /// Calls of the gateway at the same time.
    pub concurrency: usize,
    /// Pause before an unknown outcome is asked for; each later pause is twice as long …
    pub retry_first: Time,
    /// … up to this.
    pub retry_max: Time,
}

/// The clients of a Kafka cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// How the processes of a shop share its partitions; all of them say the same.
    pub group_protocol: GroupProtocol,
    /// A transaction open for longer is aborted by the brokers.
    pub transaction_timeout: Time,
    /// How long one question to the cluster may take.
    pub request_timeout: Time,
    /// More properties of librdkafka, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
}

/// How the processes of a shop share its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupProtocol {
    /// They deal them out among themselves, and all stop for it.
    #[default]
    Classic,
    /// The brokers, of version 4.0 or later, deal them out, and only those that move are stopped
    /// (KIP-848).
    Consumer,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Directives such as `info,millstream_runtime=debug`.
    pub filter: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "millstream-data".into(),
            bootstrap_servers: None,
            database_url: None,
            listen: ListenAddress::loopback(8080),
            admin_listen: ListenAddress::loopback(8081),
            roles: Roles::all(),
            allow_event_time: false,
            streams: Streams {
                application_id: "shop".to_owned(),
                threads: 1,
                commit_interval: Time::from_millis(100),
                memory_budget: Size::from_mib(256),
                flush_interval: Time::from_secs(2),
                session_timeout: Time::from_secs(10),
                num_standby_replicas: 0,
                accept_removed: String::new(),
            },
            shop: Shop {
                partitions: 4,
                time_zone: "UTC".to_owned(),
            },
            inventory: Inventory {
                mode: InventoryMode::PerSku,
                reservation_ttl: Time::from_secs(15 * 60),
            },
            payment: Payment {
                deadline: Time::from_secs(60),
                call_timeout: Time::from_secs(2),
                concurrency: 1024,
                retry_first: Time::from_secs(1),
                retry_max: Time::from_secs(5 * 60),
            },
            kafka: Kafka {
                group_protocol: GroupProtocol::Classic,
                transaction_timeout: Time::from_secs(10),
                request_timeout: Time::from_secs(30),
                properties: BTreeMap::new(),
            },
            log: Log {
                filter: "info".to_owned(),
                format: LogFormat::Text,
            },
        }
    }
}

/// Stream threads of one process.
const THREADS_MAX: usize = 64;
/// Copies of one task.
const STANDBYS_MAX: usize = 16;
/// Partitions of one topic.
const PARTITIONS_MAX: u32 = 1024;
/// Kafka's limit on a client's name leaves this much for ours.
const APPLICATION_ID_LENGTH_MAX: usize = 60;
/// Less does not hold one block of each buffer.
const MEMORY_BUDGET_MIN: Size = Size::from_mib(32);
/// Calls of the gateway at the same time.
const CONCURRENCY_MAX: usize = 65_536;

impl Settings {
    /// The embedded log's folder.
    pub fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// The folder of the stores.
    pub fn state_dir(&self) -> PathBuf {
        self.data_dir.join("state")
    }

    /// The database: the one that was named, or a file in the data folder.
    pub fn database(&self) -> String {
        match &self.database_url {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", self.data_dir.join("shop.db").display()),
        }
    }

    /// True when the log is embedded in the data folder.
    pub fn is_embedded(&self) -> bool {
        self.bootstrap_servers.is_none()
    }

    /// Reports each field that cannot be with what is allowed.
    pub(crate) fn check(&self, wrong: &mut dyn FnMut(&'static str, String)) {
        let mut expect = |field, holds: bool, allowed: String| {
            if !holds {
                wrong(field, allowed);
            }
        };
        let loopback = "an address of this machine alone, such as 127.0.0.1:8080, as the shop \
                        does not ask who calls";
        expect("listen", self.listen.is_loopback(), loopback.to_owned());
        expect(
            "admin_listen",
            self.admin_listen.is_loopback(),
            loopback.to_owned(),
        );
        expect(
            "data_dir",
            self.data_dir != Path::new(""),
            "the path of a folder".to_owned(),
        );
        expect("roles", !self.roles.is_empty(), Roles::ALLOWED.to_owned());
        let brokers = self.bootstrap_servers.as_deref();
        let has_port = |broker: &str| {
            broker
                .trim()
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let legal = brokers.is_none_or(|list| list.split(',').all(has_port));
        expect(
            "bootstrap_servers",
            legal,
            "host:port, separated by commas".to_owned(),
        );
        let known = |url: &str| {
            ["mysql://", "mariadb://", "sqlite://"]
                .iter()
                .any(|scheme| url.starts_with(scheme))
        };
        expect(
            "database_url",
            self.database_url.as_deref().is_none_or(known),
            "a URL that begins with mysql://, mariadb:// or sqlite://".to_owned(),
        );
        self.check_streams(&mut expect);
        self.check_business(&mut expect);
    }

    fn check_streams(&self, expect: &mut dyn FnMut(&'static str, bool, String)) {
        let streams = &self.streams;
        let id = &streams.application_id;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        expect(
            "streams.application_id",
            !id.is_empty() && id.len() <= APPLICATION_ID_LENGTH_MAX && id.chars().all(legal),
            format!(
                "1 to {APPLICATION_ID_LENGTH_MAX} letters, digits, dots, underscores and dashes"
            ),
        );
        expect(
            "streams.threads",
            (1..=THREADS_MAX).contains(&streams.threads),
            format!("1 to {THREADS_MAX}"),
        );
        expect(
            "streams.num_standby_replicas",
            streams.num_standby_replicas <= STANDBYS_MAX,
            format!("0 to {STANDBYS_MAX}"),
        );
        expect(
            "streams.memory_budget",
            streams.memory_budget >= MEMORY_BUDGET_MIN,
            format!("{MEMORY_BUDGET_MIN} or more"),
        );
        let mut within = |field, time: Time, least: Time, most: Time| {
            expect(
                field,
                (least..=most).contains(&time),
                format!("{least} to {most}"),
            );
        };
        let minute = Time::from_secs(60);
        within(
            "streams.commit_interval",
            streams.commit_interval,
            Time::from_millis(5),
            minute,
        );
        within(
            "streams.flush_interval",
            streams.flush_interval,
            Time::from_millis(100),
            minute,
        );
        within(
            "streams.session_timeout",
            streams.session_timeout,
            Time::from_secs(1),
            Time::from_secs(30 * 60),
        );
        within(
            "kafka.transaction_timeout",
            self.kafka.transaction_timeout,
            Time::from_secs(1),
            Time::from_secs(15 * 60),
        );
        within(
            "kafka.request_timeout",
            self.kafka.request_timeout,
            Time::from_secs(1),
            Time::from_secs(10 * 60),
        );
    }

    fn check_business(&self, expect: &mut dyn FnMut(&'static str, bool, String)) {
        expect(
            "shop.partitions",
            (1..=PARTITIONS_MAX).contains(&self.shop.partitions),
            format!("1 to {PARTITIONS_MAX}"),
        );
        expect(
            "shop.time_zone",
            self.shop.time_zone.parse::<chrono_tz::Tz>().is_ok(),
            "the name of a time zone, such as UTC or Europe/Berlin".to_owned(),
        );
        expect(
            "payment.concurrency",
            (1..=CONCURRENCY_MAX).contains(&self.payment.concurrency),
            format!("1 to {CONCURRENCY_MAX}"),
        );
        let mut within = |field, time: Time, least: Time, most: Time| {
            expect(
                field,
                (least..=most).contains(&time),
                format!("{least} to {most}"),
            );
        };
        let day = Time::from_secs(24 * 60 * 60);
        let Payment {
            deadline,
            call_timeout,
            retry_first,
            retry_max,
            ..
        } = self.payment;
        within("payment.deadline", deadline, Time::from_millis(100), day);
        within(
            "payment.call_timeout",
            call_timeout,
            Time::from_millis(10),
            deadline,
        );
        within(
            "payment.retry_first",
            retry_first,
            Time::from_millis(10),
            retry_max,
        );
        within("payment.retry_max", retry_max, retry_first, day);
        within(
            "inventory.reservation_ttl",
            self.inventory.reservation_ttl,
            Time::from_secs(1),
            Time::from_secs(30 * 24 * 60 * 60),
        );
    }
}
