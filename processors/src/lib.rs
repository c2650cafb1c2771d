//! The shop: an order pipeline written with Millstream.
//!
//! Each stage is a module that can be read by itself. What decides (the life of an order, the rules
//! of stock, the audit) are pure functions; processors around them read and write stores, and
//! [`topology`] joins the stages through topics.

pub mod model;
pub mod topics;
pub mod topology;
pub mod order;
pub mod inventory;
pub mod payment;
pub mod analytics;
pub mod catalogue;
pub mod audit;
pub mod sql;
pub mod door;

mod timers;
