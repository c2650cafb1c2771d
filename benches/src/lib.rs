//! The workloads that are compared with Kafka Streams, and the records that they read.
//!
//! | workload | what it does |
//! |---|---|
//! | [`Workload::JsonMap`] `w1` | parses a JSON order, changes its status, writes it |
//! | [`Workload::BytesMap`] `w1b` | copies 100 bytes and changes the first |
//! | [`Workload::Count`] `w2` | counts per key, in a store with a changelog |
//! | [`Workload::Join`] `w4` | joins two streams within ten seconds |
//!
//! ```
//! use millstream_benches::Workload;
//!
//! let workload: Workload = "w2".parse()?;
//! let topology = workload.topology().expect("it builds");
//! assert!(topology.describe().to_string().contains("counts"));
//! assert_eq!(workload.inputs(), ["w2-in"]);
//! # Ok::<(), millstream_benches::UnknownWorkload>(())
//! ```

mod records;
mod workload;

pub use records::{Input, T0_MS, records};
pub use workload::{UnknownWorkload, Workload};
