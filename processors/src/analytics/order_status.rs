//! Order status: how many orders are in each status now, cancelled ones by reason.

use millstream_operators::KStream;

use crate::{
    model::{
        OrderEvent, OrderEventKind, OrderId, OrderStatusType, OrdersInStatus, StatusAndReason, V1,
    },
    topics::{ANALYTICS_ORDER_STATUS, STATUS_STEPS, STATUS_STORE},
};

pub(super) fn order_status(events: KStream<OrderId, OrderEvent>) {
    events
        .flat_map(|_, event| moves_of(&event))
        .named("count-statuses")
        .repartition(STATUS_STEPS)
        .group_by_key()
        .aggregate(STATUS_STORE, |_, step, orders: i64| orders + step)
        .emit_on_commit()
        .to_stream()
        .flat_map(|at, orders| Some((at, report(at, orders?))))
        .to(ANALYTICS_ORDER_STATUS);
}

/// An order leaves the status it had, if it had one, and enters another.
fn moves_of(event: &OrderEvent) -> Vec<(StatusAndReason, i64)> {
    if event.kind == OrderEventKind::PaymentUpdated {
        return Vec::new();
    }
    let (status, reason) = (event.order.status, event.order.reason);
    let entered = (StatusAndReason { status, reason }, 1);
    let left = event.previous_status.map(|status| {
        let reason = event.previous_reason;
        (StatusAndReason { status, reason }, -1)
    });
    left.into_iter().chain([entered]).collect()
}

fn report(at: StatusAndReason, orders: i64) -> OrdersInStatus {
    let StatusAndReason { status, reason } = at;
    OrdersInStatus {
        kind: OrderStatusType::It,
        v: V1,
        status,
        reason,
        orders,
    }
}
