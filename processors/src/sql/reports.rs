//! `shop.analytics.*` → `orders_per_day`, `revenue_per_hour`, `top_products`, `order_status`.
//!
//! Each record is the whole answer for its key, so only the newest one of a batch counts. Null
//! takes it back.

use std::sync::Arc;

use millstream_sinks::{Message, Output, Projection, Result};
use millstream_topology::BoxError;

use super::{
    decode, project_newest,
    report_queries::TOP_PRODUCTS_WINDOW_MS,
    schema::{ORDER_STATUS, ORDERS_PER_DAY, REVENUE_PER_HOUR, TOP_PRODUCTS},
};
use crate::{
    model::{
        CancelReason, Day, HourOfRevenue, OrdersInStatus, OrdersPerDay, RevenuePerHour,
        StatusAndReason, TopProducts, WindowShare,
    },
    topics,
};

pub(super) const PER_DAY: &str = topics::ANALYTICS_ORDERS_PER_DAY.name();
pub(super) const PER_HOUR: &str = topics::ANALYTICS_REVENUE_PER_HOUR.name();
pub(super) const TOP: &str = topics::ANALYTICS_TOP_PRODUCTS.name();
pub(super) const STATUS: &str = topics::ANALYTICS_ORDER_STATUS.name();

pub(super) struct Reports;

impl Projection for Reports {
    fn topics(&self) -> Vec<Arc<str>> {
        [PER_DAY, PER_HOUR, TOP, STATUS].map(Into::into).into()
    }

    fn project(&self, batch: &[&Message], out: &mut Output) {
        project_newest(batch, out, project);
    }
}

fn project(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let gone = message.value.is_none();
    match &*message.topic {
        PER_DAY if gone => no_day(message, out),
        PER_DAY => per_day(message, out),
        PER_HOUR if gone => no_hour(message, out),
        PER_HOUR => per_hour(message, out),
        TOP if gone => no_top_products(message, out),
        TOP => top_products(message, out),
        STATUS if gone => not_in_status(message, out),
        STATUS => in_status(message, out),
        other => Err(format!("not a report's topic. topic=`{other}`").into()),
    }
}

fn per_day(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let OrdersPerDay {
        day,
        placed,
        confirmed,
        cancelled,
        ..
    } = decode(message)?;
    let row = [
        day.to_string().into(),
        placed.into(),
        confirmed.into(),
        cancelled.into(),
    ];
    out.changes.put(&ORDERS_PER_DAY, row);
    Ok(())
}

fn per_hour(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let RevenuePerHour {
        hour,
        currency,
        revenue,
        orders,
        ..
    } = decode(message)?;
    let row = [
        hour.into(),
        currency.code().into(),
        revenue.into(),
        orders.into(),
    ];
    out.changes.put(&REVENUE_PER_HOUR, row);
    Ok(())
}

/// Replaces everything that was said of the window and the partition before.
fn top_products(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let top: TopProducts = decode(message)?;
    let (start, partition) = (top.window_start, top.partition);
    out.changes
        .clear(&TOP_PRODUCTS, [start.into(), partition.into()]);
    for item in top.items {
        out.changes.put(
            &TOP_PRODUCTS,
            [
                start.into(),
                partition.into(),
                (&*item.sku).into(),
                top.window_end.into(),
                item.name.into(),
                item.quantity.into(),
                item.revenue.into(),
            ],
        );
    }
    Ok(())
}

fn in_status(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let OrdersInStatus {
        status,
        reason,
        orders,
        ..
    } = decode(message)?;
    let reason = reason.map_or("", CancelReason::as_str);
    out.changes.put(
        &ORDER_STATUS,
        [status.as_str().into(), reason.into(), orders.into()],
    );
    Ok(())
}

fn no_day(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let day: Day = message.text_key()?.parse()?;
    out.changes.clear(&ORDERS_PER_DAY, [day.to_string().into()]);
    Ok(())
}

fn no_hour(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let HourOfRevenue { hour, currency } = message.text_key()?.parse()?;
    out.changes
        .clear(&REVENUE_PER_HOUR, [hour.into(), currency.code().into()]);
    Ok(())
}

fn no_top_products(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let WindowShare {
        window_end,
        partition,
    } = message.text_key()?.parse()?;
    let start = window_end - TOP_PRODUCTS_WINDOW_MS;
    out.changes
        .clear(&TOP_PRODUCTS, [start.into(), partition.into()]);
    Ok(())
}

fn not_in_status(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let StatusAndReason { status, reason } = message.text_key()?.parse()?;
    let reason = reason.map_or("", CancelReason::as_str);
    out.changes
        .clear(&ORDER_STATUS, [status.as_str().into(), reason.into()]);
    Ok(())
}
