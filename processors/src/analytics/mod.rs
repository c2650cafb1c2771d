//! Analytics: what the orders add up to.

mod calendar;

pub use calendar::{HOUR_MS, day_of, hour_of};
