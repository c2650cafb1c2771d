//! `shop.order-events` → `orders`, `order_lines`, `payments`, `order_events`.

use std::sync::Arc;

use millstream_sinks::{Message, Output, Projection, Value};
use millstream_topology::BoxError;
use serde::Deserialize;

use super::{
    decode,
    schema::{ORDER_EVENTS, ORDER_LINES, ORDERS, PAYMENTS},
};
use crate::{
    model::{
        CancelReason, Currency, CustomerId, OrderEventKind, OrderId, OrderLine, OrderStatus,
        Payment, V1,
    },
    topics,
};

/// Every event carries the whole order, so the newest version of a batch is the row. Lines get
/// names and prices while an order is pending and never change after that: they are written once,
/// by the event that ends the pending status.
pub(super) struct Orders;

/// An event without the lines, which most events need not decode.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: OrderEventKind,
    #[serde(rename = "v")]
    _version: V1,
    previous_status: Option<OrderStatus>,
    order: Head,
}

#[derive(Deserialize)]
struct Head {
    order_id: OrderId,
    customer_id: CustomerId,
    status: OrderStatus,
    reason: Option<CancelReason>,
    currency: Currency,
    total: i64,
    placed_at: i64,
    updated_at: i64,
    version: u64,
    payment: Option<Payment>,
}

#[derive(Deserialize)]
struct EventLines {
    order: Lines,
}

#[derive(Deserialize)]
struct Lines {
    lines: Vec<OrderLine>,
}

impl Projection for Orders {
    fn topics(&self) -> Vec<Arc<str>> {
        vec![topics::ORDER_EVENTS.name().into()]
    }

    fn project(&self, batch: &[&Message], out: &mut Output) {
        for message in batch {
            if let Err(error) = project(message, out) {
                out.reject(message, error);
            }
        }
    }
}

fn project(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let event: Event = decode(message)?;
    let settles = event.previous_status == Some(OrderStatus::Pending)
        && event.order.status != OrderStatus::Pending;
    // Before the first row is put: an event is projected whole or not at all.
    let lines = if settles {
        decode::<EventLines>(message)?.order.lines
    } else {
        Vec::new()
    };
    let order_id: Arc<str> = event.order.order_id.to_string().into();
    put_lines(&order_id, &lines, out);
    put_event(message, &order_id, &event, out);
    let order = event.order;
    let version = Value::Int(order.version.cast_signed());
    if let Some(payment) = order.payment {
        out.changes.put(
            &PAYMENTS,
            [
                order_id.clone().into(),
                payment.status.as_str().into(),
                payment.authorised.into(),
                payment.captured.into(),
                payment.refunded.into(),
                payment.gateway_ref.into(),
                version.clone(),
            ],
        );
    }
    out.changes.put(
        &ORDERS,
        [
            order_id.into(),
            order.customer_id.to_string().into(),
            order.status.as_str().into(),
            order.reason.map(CancelReason::as_str).into(),
            order.currency.code().into(),
            order.total.into(),
            order.placed_at.into(),
            order.updated_at.into(),
            version,
        ],
    );
    Ok(())
}

fn put_lines(order_id: &Arc<str>, lines: &[OrderLine], out: &mut Output) {
    for (line, number) in lines.iter().zip(1_i64..) {
        out.changes.put(
            &ORDER_LINES,
            [
                order_id.clone().into(),
                number.into(),
                (&*line.sku).into(),
                line.name.clone().into(),
                line.quantity.into(),
                line.unit_price.into(),
                line.amount().into(),
            ],
        );
    }
}

fn put_event(message: &Message, order_id: &Arc<str>, event: &Event, out: &mut Output) {
    let order = &event.order;
    out.changes.put(
        &ORDER_EVENTS,
        [
            message.topic.clone().into(),
            message.partition.into(),
            message.offset.into(),
            order_id.clone().into(),
            kind(event.kind).into(),
            order.version.cast_signed().into(),
            order.status.as_str().into(),
            order.reason.map(CancelReason::as_str).into(),
            order.updated_at.into(),
        ],
    );
}

fn kind(kind: OrderEventKind) -> &'static str {
    match kind {
        OrderEventKind::Placed => "placed",
        OrderEventKind::Reserved => "reserved",
        OrderEventKind::Confirmed => "confirmed",
        OrderEventKind::Cancelled => "cancelled",
        OrderEventKind::Refunded => "refunded",
        OrderEventKind::PaymentUpdated => "payment-updated",
    }
}
