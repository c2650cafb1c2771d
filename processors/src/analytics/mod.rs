//! Analytics: what the orders add up to, by event time.
//!
//! All four read `shop.order-events`, which is read once, and send small steps on to the keys that
//! count them.

mod calendar;
mod order_status;
mod orders_per_day;
mod revenue_per_hour;
mod top_products;

use chrono_tz::Tz;
use millstream_operators::StreamsBuilder;

use crate::{model::OrderEventKind, topics::ORDER_EVENTS};

pub use calendar::{HOUR_MS, day_of, hour_of};
pub use orders_per_day::{DayCounts, DayStep};
pub use revenue_per_hour::{HourRevenue, RevenueStep};
pub use top_products::{ProductSales, Sold, TOP_PRODUCTS_MAX, WINDOW_HOURS};

/// Adds the analytics to a topology. Days are those of `zone`.
pub fn analytics(b: &StreamsBuilder, zone: Tz) {
    let events = b
        .stream(ORDER_EVENTS)
        .named("order-events")
        .filter(|_, event| event.kind != OrderEventKind::PaymentUpdated)
        .named("changes-of-status");
    orders_per_day::orders_per_day(events.clone(), zone);
    revenue_per_hour::revenue_per_hour(events.clone());
    order_status::order_status(events.clone());
    top_products::top_products(events);
}
