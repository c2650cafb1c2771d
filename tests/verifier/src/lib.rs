//! The verifier: computes again what a log must hold, and compares it with what it holds, record by
//! record. Programs, simulations and runs against real brokers use the same one.
//!
//! - [`Engine`] is for any application on any log: outputs, changelogs and live stores, open
//!   transactions, committed offsets.
//! - [`Shop`] is for the shop: orders, stock, money, tables, and what the door acknowledged.
//!
//! Both tell a [`Report`]: for each promise what was looked at, what breaks it, and examples that
//! name topic, partition, offset or key.
//!
//! ```
//! use std::time::Duration;
//! use millstream_broker::{Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition};
//! use millstream_broker::sim::{SimConfig, SimLog};
//! use millstream_verifier::{Emission, Engine, Input, Made, Part, Pure, promises};
//!
//! let sim = SimLog::new(1, SimConfig::default());
//! let log = sim.client("example");
//! let topic = |name: &str| NewTopic {
//!     name: name.into(),
//!     partitions: 1,
//!     cleanup: Cleanup::Delete { retention_ms: None },
//! };
//! log.admin()?.create_topics(&[topic("in"), topic("out")])?;
//! // Somebody writes an output, although nothing was read.
//! let stray = OwnedRecord {
//!     to: TopicPartition::new("out", 0),
//!     timestamp: 7,
//!     key: Some("k".into()),
//!     value: Some("V".into()),
//!     headers: Default::default(),
//! };
//! log.appender()?.append(stray, Box::new(|_| ()))?;
//! sim.advance(Duration::from_secs(1));
//!
//! let upper = |(): &mut (), input: &Input<'_>, made: &mut Vec<Made>| {
//!     let (key, value) = (input.record.key.clone(), input.record.value.clone());
//!     let value = value.unwrap_or_default().to_ascii_uppercase();
//!     made.push(Made::new("out", key.unwrap_or_default(), value, input.record.timestamp));
//! };
//! let part = Part::new(&["in"], |_| Pure::new((), upper)).writes("out", Emission::Every);
//! let report = Engine::new("app").part(part).verify(&log, Vec::new())?;
//! let row = report.row(promises::OUTPUT).expect("outputs were compared");
//! assert_eq!(row.examples, ["nothing makes this record. partition=`out-0`, offset=0"]);
//! # Ok::<(), millstream_verifier::Error>(())
//! ```
//!
//! What this crate is not: it changes nothing, and it does not make the faults whose consequences
//! it looks for.

mod engine;
mod error;
mod report;
mod scan;
mod shop;

pub use engine::{
    Driven, Dump, Emission, Engine, Input, Made, Offsets, Part, Pure, Reference, State,
    open_transactions, promises,
};
pub use error::{Error, Result};
pub use report::{EXAMPLES_MAX, Report, Row};
pub use scan::Scan;
pub use shop::{Acknowledged, Shop, Verdict, shop_promises};
