//! Payments: the gateway, and the worker that calls it.

mod gateway;
pub mod rules;

pub use gateway::{Answer, CallFailed, PaymentGateway};
pub use rules::LedgerEntry;
