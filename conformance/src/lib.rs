//! Runs the conformance scenarios: topologies and inputs, with what Kafka Streams did with them.
//!
//! A scenario is data. The interpreter builds its topology with the public DSL, over text keys and
//! values, feeds the inputs to a `TestDriver`, and compares outputs, stores, dropped records and
//! refusals with what was recorded. `tests/conformance/FORMAT.md` defines the scenarios.
//!
//! What this crate is not: it has no access to the engine that a user of the DSL does not have.

pub mod compare;
pub mod deviation;
pub mod drive;
pub mod functions;
pub mod interpreter;
pub mod report;
pub mod scenario;
pub mod steps;
pub mod text;

pub use interpreter::{Interpreter, Stop, Stream, Table, TableKey};
pub use report::check_files;
pub use scenario::Scenario;
pub use text::{Key, Text};
