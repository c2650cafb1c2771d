//! Millstream: Kafka Streams for Rust, on Kafka or on an embedded log.
//!
//! A program names its topics and stores once, as constants, and says what happens to records;
//! Millstream runs it over partitions with state that survives crashes, exactly once.
//!
//! ```
//! use millstream::{
//!     KvStore, StreamsBuilder, TestDriver, Topic, Tumbling, WindowStore, mins, text, u64_be,
//! };
//!
//! const WORDS: Topic<String, String> = Topic::new("words", text(), text());
//! const COUNTS: Topic<String, u64> = Topic::new("counts", text(), u64_be());
//! const TOTAL: KvStore<String, u64> = KvStore::new("total", text(), u64_be());
//! const PER_MINUTE: WindowStore<String, u64> = WindowStore::new("per-minute", text(), u64_be());
//!
//! let b = StreamsBuilder::new();
//! let words = b.stream(WORDS).filter(|_, word| !word.is_empty());
//! words.clone().group_by_key().windowed_by(Tumbling::of(mins(1))).count(PER_MINUTE);
//! let totals = words.group_by_key().count(TOTAL).to_stream();
//! totals.flat_map(|word, n| n.map(|n| (word, n))).to(COUNTS);
//!
//! // The same topology runs in a test …
//! let mut driver = TestDriver::new(&b.build()?)?;
//! driver.send(WORDS, "tea".to_owned(), "x".to_owned(), 0)?;
//! driver.send(WORDS, "tea".to_owned(), "y".to_owned(), 61_000)?;
//! assert_eq!(driver.get(TOTAL, &"tea".to_owned())?, Some(2));
//! assert_eq!(driver.get_window(PER_MINUTE, &"tea".to_owned(), 60_000)?, Some(1));
//! # Ok::<(), millstream::Error>(())
//! ```
//!
//! … and on a log, where [`Application`] starts its threads:
//!
//! ```
//! use millstream::{
//!     Application, Config, StreamsBuilder, Topic, text,
//!     broker::{Broker, Cleanup, NewTopic, embedded::{EmbeddedBroker, EmbeddedConfig}},
//! };
//!
//! const IN: Topic<String, String> = Topic::new("in", text(), text());
//! const OUT: Topic<String, String> = Topic::new("out", text(), text());
//!
//! let b = StreamsBuilder::new();
//! b.stream(IN).map_values(|_, v| v.to_uppercase()).to(OUT);
//!
//! let folder = tempfile::tempdir()?;
//! let log = EmbeddedBroker::open(&folder.path().join("log"), EmbeddedConfig::default())?;
//! let cleanup = Cleanup::Delete { retention_ms: None };
//! let topic = |name: &str| NewTopic { name: name.into(), partitions: 4, cleanup };
//! log.admin()?.create_topics(&[topic("in"), topic("out")])?;
//! let config = Config::new("shouting", folder.path().join("state"));
//! let application = Application::start(&b.build()?, log, config)?;
//! application.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | this one | what programs need: descriptors, the DSL, processors, the application, the driver |
//! | [`topology`] | the vocabulary whole, with the plan of a topology |
//! | [`broker`] | the logs: embedded, and Kafka |
//! | [`state`] | stores and where they are kept |
//! | [`sinks`] | tables from topics, exactly once |
//! | [`api`] | operations and queries over HTTP |
//! | [`shop`] | the order pipeline that the `millstream` program runs |
//!
//! What this crate is not: a client library for Kafka, or a cluster that has to be run.

// Descriptors: what persists is named once, as a constant, with types and codecs.
pub use millstream_operators::{ForeignKey, FromTopic, NoStore};
pub use millstream_topology::{
    AnyTopic, KvStore, SessionStore, SuppressStore, Topic, TopicPattern, VersionedStore,
    WindowStore,
};

// Codecs, and the trait for those of your own.
pub use millstream_topology::{
    Codec, Serde, bincode, bytes, i64_be, json, nullable, text, u32_be, u64_be, windowed,
};

// Where a topology starts, and what it is when it is finished.
pub use millstream_operators::{StreamOrigin, StreamsBuilder, TableOrigin, Topology};
pub use millstream_topology::Description;

// Streams and tables, and what can keep a table.
pub use millstream_operators::{GlobalKTable, GlobalLookup, KStream, KTable, Split, TableStore};

// Groups about to be aggregated: of streams, of tables, of several streams.
pub use millstream_operators::{
    Cogrouped, Grouped, GroupedTable, SessionCogrouped, SessionGrouped, WindowedCogrouped,
    WindowedGrouped, Windows,
};

// Windows, a key in a window, and durations.
pub use millstream_topology::{
    Hopping, Sessions, Sliding, TimeWindows, Tumbling, Unlimited, Windowed, days, hours, millis,
    mins, secs,
};

// When a table passes its changes on.
pub use millstream_operators::{
    SuppressUntil, UntilTimeLimit, UntilWindowCloses, until_time_limit, until_window_closes,
};

// What streams can be joined with.
pub use millstream_operators::{
    JoinWindow, JoinWith, LeftJoinWith, MaybeNull, OuterJoinWith, WithGrace, Within,
    WithinUnmatched,
};

// The Processor API: nodes of your own, their stores, outputs and timers.
pub use millstream_operators::{
    AnyKey, Clock, Context, FixedKey, FixedKeyContext, FixedKeyProcessor, FixedKeyRecord, KvHandle,
    KvRead, Lru, LruEntries, LruHandle, Output, OutputHandle, Outputs, Processor, Punctuation,
    ReadHandle, ReadSessionHandle, ReadVersionedHandle, ReadWindowHandle, Reads, ScheduleId,
    SessionHandle, SessionRead, Stores, VersionedHandle, VersionedRead, WindowHandle, WindowRead,
};

// Records, changes of tables, and errors.
pub use millstream_operators::RawRecord;
pub use millstream_topology::{
    BoxError, Change, Error, ErrorKind, Header, Headers, Record, Result,
};

// The application that runs a topology, its state to look at, and the driver that tests one.
pub use millstream_runtime::{
    Application, CommitStats, Config, ErrorPolicy, Health, Located, Member, Members, Policies,
    Queries, Reset, ResetTo, StateKind, Status, StoreInfo, StoreStatus, TaskPhase, TaskStatus,
    TestDriver, ThreadStatus,
};
pub use millstream_topology::TaskId;

/// The vocabulary whole: besides what stands here, the plan of a topology and the codecs' types.
pub use millstream_topology as topology;

/// The logs: embedded, and Kafka.
pub use millstream_broker as broker;

/// Stores and where they are kept.
pub use millstream_state as state;

/// Tables from topics, exactly once.
pub use millstream_sinks as sinks;

/// Operations and queries over HTTP.
pub use millstream_api as api;

/// The order pipeline that the `millstream` program runs.
pub use millstream_processors as shop;
