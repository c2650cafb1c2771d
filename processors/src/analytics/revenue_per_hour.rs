//! Revenue per hour: totals of confirmed orders by the hour of `placed_at` and by currency.
//!
//! A refund subtracts the order's total; the number of orders stays, as those orders were
//! confirmed.

use millstream_operators::KStream;
use serde::{Deserialize, Serialize};

use crate::{
    analytics::hour_of,
    model::{
        HourOfRevenue, OrderEvent, OrderEventKind, OrderId, RevenuePerHour, RevenuePerHourType, V1,
    },
    topics::{ANALYTICS_REVENUE_PER_HOUR, REVENUE_STEPS, REVENUE_STORE},
};

/// What an order adds to its hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevenueStep {
    /// In minor units; negative for a refund.
    pub revenue: i64,
    /// 1 for a confirmation, 0 for a refund.
    pub orders: i64,
}

/// The revenue of an hour in one currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourRevenue {
    /// In minor units.
    pub revenue: i64,
    /// Orders confirmed.
    pub orders: i64,
}

impl HourRevenue {
    fn with(mut self, step: RevenueStep) -> Self {
        self.revenue = self.revenue.saturating_add(step.revenue);
        self.orders += step.orders;
        self
    }

    fn report(self, of: HourOfRevenue) -> RevenuePerHour {
        let (HourOfRevenue { hour, currency }, Self { revenue, orders }) = (of, self);
        RevenuePerHour {
            kind: RevenuePerHourType::It,
            v: V1,
            hour,
            currency,
            revenue,
            orders,
        }
    }
}

pub(super) fn revenue_per_hour(events: KStream<OrderId, OrderEvent>) {
    events
        .flat_map(|_, event| step_of(&event))
        .named("sum-revenue")
        .repartition(REVENUE_STEPS)
        .group_by_key()
        .aggregate(REVENUE_STORE, |_, step, revenue: HourRevenue| {
            revenue.with(step)
        })
        .emit_on_commit()
        .to_stream()
        .flat_map(|hour, revenue| Some((hour, revenue?.report(hour))))
        .to(ANALYTICS_REVENUE_PER_HOUR);
}

fn step_of(event: &OrderEvent) -> Option<(HourOfRevenue, RevenueStep)> {
    let order = &event.order;
    let hour = HourOfRevenue {
        hour: hour_of(order.placed_at),
        currency: order.currency,
    };
    match event.kind {
        OrderEventKind::Confirmed => Some((
            hour,
            RevenueStep {
                revenue: order.total,
                orders: 1,
            },
        )),
        OrderEventKind::Refunded => Some((
            hour,
            RevenueStep {
                revenue: -order.total,
                orders: 0,
            },
        )),
        OrderEventKind::Placed
        | OrderEventKind::Reserved
        | OrderEventKind::Cancelled
        | OrderEventKind::PaymentUpdated => None,
    }
}
