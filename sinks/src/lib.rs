//! Exactly-once SQL sinks: committed topics become tables of MySQL, MariaDB or SQLite.
//!
//! A [`Sink`] reads topics, asks its [`Projection`]s which rows the records mean, and writes rows
//! and reading progress in one SQL transaction. The offset in the database is the truth; the
//! consumer group only decides who reads what. Progress is updated first, under the condition that
//! epoch and offset are the expected ones, so a writer that lost its partition writes nothing.
//!
//! A projection is a pure function from records to [`Changes`]:
//!
//! ```
//! use std::sync::Arc;
//! use millstream_sinks::{Message, OnConflict, Output, Projection, Table};
//!
//! static STOCK: Table = Table::new("stock", &["sku", "quantity"], 1, OnConflict::Replace);
//!
//! struct Stock;
//! impl Projection for Stock {
//!     fn topics(&self) -> Vec<Arc<str>> {
//!         vec!["stock".into()]
//!     }
//!     fn project(&self, batch: &[&Message], out: &mut Output) {
//!         for message in batch {
//!             let quantity = message.value.as_deref().map(serde_json::from_slice::<i64>);
//!             match (message.text_key(), quantity) {
//!                 (Ok(sku), Some(Ok(quantity))) => {
//!                     out.changes.put(&STOCK, [sku.into(), quantity.into()]);
//!                 }
//!                 (Ok(sku), None) => out.changes.clear(&STOCK, [sku.into()]),
//!                 (Err(error), _) => out.reject(message, error),
//!                 (_, Some(Err(error))) => out.reject(message, error),
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! What this crate is not: it knows no table of the shop, and it is no query builder.
//!
//! **Durability.** SQLite runs in WAL mode with `synchronous=NORMAL`: every commit survives `kill
//! -9`, and a power cut may take the last commits back. That loses nothing, because rows and
//! progress go back together and the log, which is durable, is read again from there.

mod backoff;
mod batch;
mod changes;
mod claims;
mod database;
mod dead_letters;
mod dialect;
mod error;
mod fault;
mod feed;
mod metrics;
mod migrate;
mod progress;
mod projection;
mod sink;
mod table;
mod transaction;
mod value;
mod writer;

#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use batch::BatchLimits;
pub use changes::{Changes, ROWS_PER_STATEMENT_MAX, STATEMENT_BYTES_MAX};
pub use database::Database;
pub use dead_letters::{DeadLetter, DeadLetters, TopicDeadLetters};
pub use dialect::Dialect;
pub use error::{Error, Result};
pub use metrics::Metrics;
pub use migrate::Migration;
pub use progress::{Progress, caught_up, read_progress};
pub use projection::{Message, Output, Projection};
pub use sink::{RunningSink, Sink, SinkConfig};
pub use table::{OnConflict, Table};
pub use value::{Row, Value};
