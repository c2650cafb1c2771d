//! Orders per day: how many were placed, confirmed and cancelled, all three by the day of
//! `placed_at`.
//!
//! An order that is refunded later stays counted as confirmed: it was.

use chrono_tz::Tz;
use millstream_operators::KStream;
use serde::{Deserialize, Serialize};

use crate::{
    analytics::day_of,
    model::{Day, OrderEvent, OrderEventKind, OrderId, OrdersPerDay, OrdersPerDayType, V1},
    topics::{ANALYTICS_ORDERS_PER_DAY, DAY_STEPS, DAY_STORE},
};

/// A step of an order that its day counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DayStep {
    /// It was placed.
    Placed,
    /// It was confirmed.
    Confirmed,
    /// It was cancelled.
    Cancelled,
}

/// The counts of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayCounts {
    /// Orders placed.
    pub placed: i64,
    /// Orders confirmed.
    pub confirmed: i64,
    /// Orders cancelled.
    pub cancelled: i64,
}

impl DayCounts {
    fn with(mut self, step: DayStep) -> Self {
        match step {
            DayStep::Placed => self.placed += 1,
            DayStep::Confirmed => self.confirmed += 1,
            DayStep::Cancelled => self.cancelled += 1,
        }
        self
    }

    fn report(self, day: Day) -> OrdersPerDay {
        let Self {
            placed,
            confirmed,
            cancelled,
        } = self;
        OrdersPerDay {
            kind: OrdersPerDayType::It,
            v: V1,
            day,
            placed,
            confirmed,
            cancelled,
        }
    }
}

pub(super) fn orders_per_day(events: KStream<OrderId, OrderEvent>, zone: Tz) {
    events
        .flat_map(move |_, event| Some((day_of(event.order.placed_at, zone), step_of(event.kind)?)))
        .named("count-days")
        .repartition(DAY_STEPS)
        .group_by_key()
        .aggregate(DAY_STORE, |_, step, counts: DayCounts| counts.with(step))
        .emit_on_commit()
        .to_stream()
        .flat_map(|day, counts| Some((day, counts?.report(day))))
        .to(ANALYTICS_ORDERS_PER_DAY);
}

fn step_of(kind: OrderEventKind) -> Option<DayStep> {
    match kind {
        OrderEventKind::Placed => Some(DayStep::Placed),
        OrderEventKind::Confirmed => Some(DayStep::Confirmed),
        OrderEventKind::Cancelled => Some(DayStep::Cancelled),
        OrderEventKind::Reserved | OrderEventKind::Refunded | OrderEventKind::PaymentUpdated => {
            None
        }
    }
}
