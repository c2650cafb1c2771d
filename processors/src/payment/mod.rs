//! Payments: the gateway, and the worker that calls it.
//!
//! ```text
//! shop.payment-intents ─▶ worker ─▶ gateway
//!                            └────▶ shop.payment-results
//! ```

mod gateway;
mod worker;
mod session;
mod output;
mod call;
mod progress;
mod simulated;
pub mod rules;
mod sql_books;

pub use call::CallPolicy;
pub use gateway::{Answer, CallFailed, PaymentGateway};
pub use rules::LedgerEntry;
pub use simulated::{Books, SimulatedGateway};
pub use worker::{GatewayWorker, WorkerConfig};
