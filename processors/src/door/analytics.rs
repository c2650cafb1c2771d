//! `/v1/analytics`: reports, from the tables.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use millstream_api::{Problem, QueryParams, parse_time, rfc3339};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{DoorState, bad_parameter, page_size, unavailable};
use crate::model::Day;

/// Best sellers that are shown, and the most that can be: each partition of the report publishes as
/// many.
const TOP_DEFAULT: usize = 10;
const TOP_MAX: usize = 100;

fn unread(error: impl std::fmt::Display) -> Problem {
    unavailable("the report cannot be read", error)
}

#[derive(Deserialize)]
pub(super) struct Span {
    from: Option<String>,
    to: Option<String>,
}

impl Span {
    fn bounds<T>(
        &self,
        parse: impl Fn(&str) -> Option<T>,
        detail: &'static str,
    ) -> Result<(Option<T>, Option<T>), Problem> {
        let bound = |text: &Option<String>| match text {
            Some(text) => parse(text).map(Some).ok_or_else(|| bad_parameter(detail)),
            None => Ok(None),
        };
        Ok((bound(&self.from)?, bound(&self.to)?))
    }
}

/// Both days included.
pub(super) async fn orders_per_day(
    State(door): State<Arc<DoorState>>,
    QueryParams(span): QueryParams<Span>,
) -> Result<Response, Problem> {
    let (from, to) = span.bounds(|text| text.parse::<Day>().ok(), "a day is as 2017-01-31")?;
    let days = door.tables.orders_per_day(from, to).await.map_err(unread)?;
    let item = |d: crate::model::OrdersPerDay| {
        json!({
            "day": d.day,
            "placed": d.placed,
            "confirmed": d.confirmed,
            "cancelled": d.cancelled,
        })
    };
    Ok(Json(json!({ "items": days.into_iter().map(item).collect::<Vec<_>>() })).into_response())
}

/// The hours that begin at or after `from` and before `to`.
pub(super) async fn revenue_per_hour(
    State(door): State<Arc<DoorState>>,
    QueryParams(span): QueryParams<Span>,
) -> Result<Response, Problem> {
    let (from, to) = span.bounds(parse_time, "a time is RFC 3339 text")?;
    let hours = door
        .tables
        .revenue_per_hour(from, to)
        .await
        .map_err(unread)?;
    let item = |h: crate::model::RevenuePerHour| {
        json!({
            "hour": rfc3339(h.hour),
            "currency": h.currency,
            "revenue": h.revenue,
            "orders": h.orders,
        })
    };
    Ok(Json(json!({ "items": hours.into_iter().map(item).collect::<Vec<_>>() })).into_response())
}

#[derive(Deserialize)]
pub(super) struct Top {
    at: Option<String>,
    limit: Option<usize>,
}

/// The window that ends at or before `at`, now if it is not given.
pub(super) async fn top_products(
    State(door): State<Arc<DoorState>>,
    QueryParams(top): QueryParams<Top>,
) -> Result<Response, Problem> {
    let at = match &top.at {
        Some(text) => {
            let wrong = || bad_parameter("a time is RFC 3339 text");
            // A window that ends at the end of time cannot be computed with.
            parse_time(text)
                .filter(|at| at.unsigned_abs() < 1 << 53)
                .ok_or_else(wrong)?
        }
        None => door.clock.now_ms(),
    };
    let limit = page_size(top.limit, TOP_DEFAULT, TOP_MAX)?;
    let (window, products) = door.tables.top_products(at, limit).await.map_err(unread)?;
    let item = |p: crate::model::TopProduct| {
        let (sku, name) = (p.sku, p.name);
        json!({ "sku": sku, "name": name, "quantity": p.quantity, "revenue": p.revenue })
    };
    let body = json!({
        "window_start": rfc3339(window.start),
        "window_end": rfc3339(window.end),
        "items": products.into_iter().map(item).collect::<Vec<_>>(),
    });
    Ok(Json(body).into_response())
}

/// Orders by status and reason, and the sums of each.
pub(super) async fn order_status(State(door): State<Arc<DoorState>>) -> Result<Response, Problem> {
    let counts = door.tables.order_status().await.map_err(unread)?;
    let mut statuses: BTreeMap<&str, i64> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, i64> = BTreeMap::new();
    let mut items = Vec::new();
    for count in &counts {
        let mut item = json!({ "status": count.status, "orders": count.orders });
        *statuses.entry(count.status.as_str()).or_default() += count.orders;
        if let Some(reason) = count.reason {
            item["reason"] = JsonValue::from(reason.as_str());
            *reasons.entry(reason.as_str()).or_default() += count.orders;
        }
        items.push(item);
    }
    let body = json!({ "items": items, "by_status": statuses, "by_reason": reasons });
    Ok(Json(body).into_response())
}
