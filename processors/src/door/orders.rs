//! `/v1/orders`: placing, reading, listing and cancelling.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_api::{
    JsonBody, OptionalJsonBody, Problem, ProblemKind, QueryParams, UrlPath, decode_cursor,
    encode_cursor,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::{
    DoorState, RETRY_AFTER, bad_parameter,
    feed::Following,
    in_flight::Begin,
    intake::{OrderRequest, Rules, idempotency_key, preferred_wait},
    page_size,
    reads::Stored,
    unavailable,
};
use crate::{
    model::{CustomerId, Order, OrderCommand, OrderId, OrderStatus, PlaceOrder},
    sql::{ORDERS_PER_PAGE_MAX, OrderCursor, OrderQuery},
    topics::ORDERS,
};

/// Orders of one page unless the request says otherwise.
const PAGE_DEFAULT: usize = 50;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const KEY_REUSED: ProblemKind = ProblemKind::new(
    "idempotency-key-reused",
    StatusCode::UNPROCESSABLE_ENTITY,
    "The key was used for another order.",
);
const PRICE_CHANGED: ProblemKind = ProblemKind::new(
    "price-changed",
    StatusCode::CONFLICT,
    "The catalogue asks for another total.",
);
const NOT_CANCELLABLE: ProblemKind = ProblemKind::new(
    "not-cancellable",
    StatusCode::CONFLICT,
    "The order cannot be cancelled any more.",
);
pub(super) const NO_SUCH_ORDER: ProblemKind = ProblemKind::new(
    "no-such-order",
    StatusCode::NOT_FOUND,
    "There is no such order.",
);

pub(super) async fn place(
    State(door): State<Arc<DoorState>>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<OrderRequest>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let rules = Rules {
        currency: door.config.currency,
        allow_event_time: door.config.allow_event_time,
        now_ms: door.clock.now_ms(),
    };
    let place = Arc::new(request.check(rules)?);
    let id = OrderId::derived(&place.customer_id, &key);
    let wait = preferred_wait(&headers);
    // Whoever waits follows before the order can change, so that no change is missed.
    let following = wait.map(|wait| (wait, door.feed.follow(id)));
    let order = door.accept(id, &place).await?;
    answer(&door, id, order, following).await
}

impl DoorState {
    /// Accepts an order, once: durable when this returns. What is known of it if it was there
    /// already.
    async fn accept(&self, id: OrderId, place: &Arc<PlaceOrder>) -> Result<Option<Order>, Problem> {
        if self.in_flight.get(id).is_none() {
            // An instance that cannot be asked is no reason to refuse: the first command of an
            // order counts.
            if let Stored::Found(known) = self.order_state(id).await? {
                self.in_flight.settled(id);
                return match known.fingerprint == place.fingerprint {
                    true => Ok(Some(known.order)),
                    false => Err(key_reused()),
                };
            }
            self.check_total(place)?;
        }
        match self.in_flight.begin(id, place) {
            Begin::Durable => return Ok(None),
            Begin::OtherBody => return Err(key_reused()),
            Begin::Full => {
                self.counters.turned_away();
                return Err(Problem::of(ProblemKind::OVERLOADED)
                    .detail("too many orders wait to be processed")
                    .retry_after(RETRY_AFTER));
            }
            Begin::Append => {}
        }
        let in_flight = self.in_flight.clone();
        let told = Box::new(move |durable| in_flight.told(id, durable));
        let command = OrderCommand::Place((**place).clone());
        match self.log.append(&ORDERS, &id, &command, told).await {
            Ok(_) => {
                self.counters.accepted();
                Ok(None)
            }
            Err(problem) => {
                self.counters.turned_away();
                Err(problem)
            }
        }
    }

    /// Compares the total that the customer saw with the catalogue's. Where the catalogue cannot
    /// tell, as for unknown products, the order itself will.
    fn check_total(&self, place: &PlaceOrder) -> Result<(), Problem> {
        let Some(expected) = place.expected_total else {
            return Ok(());
        };
        match self.total(place) {
            Some(total) if total != expected => {
                let detail = format!("the total is {total} {} now", place.currency);
                Err(Problem::of(PRICE_CHANGED).at("/expected_total", detail))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn key_reused() -> Problem {
    Problem::of(KEY_REUSED).detail("use a new Idempotency-Key for a new order")
}

/// 202 at once, or 200 with the final order if the client waits and it comes in time.
async fn answer(
    door: &DoorState,
    id: OrderId,
    known: Option<Order>,
    following: Option<(Duration, Option<Following>)>,
) -> Result<Response, Problem> {
    let mut known = known;
    let mut waited = None;
    if let Some((wait, following)) = following {
        waited = Some(wait);
        if !known.as_ref().is_some_and(|o| o.status.is_final())
            && let Some(mut following) = following
            && let Ok(Some(order)) = timeout(wait, last_order(&mut following)).await
        {
            known = Some(order);
        }
        // It may have become final before anybody followed.
        if !known.as_ref().is_some_and(|o| o.status.is_final())
            && let Stored::Found(state) = door.order_state(id).await?
        {
            known = Some(state.order);
        }
    }
    let mut response = match known {
        Some(order) if waited.is_some() && order.status.is_final() => {
            Json(order.http()).into_response()
        }
        other => {
            let status = other.map_or(OrderStatus::Pending, |order| order.status);
            let body = json!({ "order_id": id, "status": status });
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
    };
    let headers = response.headers_mut();
    let location = HeaderValue::from_str(&format!("/v1/orders/{id}"));
    headers.insert(header::LOCATION, location.map_err(Problem::internal)?);
    if let Some(wait) = waited {
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
        headers.insert(PREFERENCE_APPLIED, applied.map_err(Problem::internal)?);
    }
    Ok(response)
}

/// The order once it is final; `None` when events do not come any more.
async fn last_order(following: &mut Following) -> Option<Order> {
    while let Some(event) = following.next().await {
        if event.order.status.is_final() {
            return Some(event.order);
        }
    }
    None
}

pub(super) async fn one(
    State(door): State<Arc<DoorState>>,
    UrlPath(id): UrlPath<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let order = door.order(id).await?.ok_or(Problem::of(NO_SUCH_ORDER))?;
    Ok(Json(order.http()).into_response())
}

/// Text that is no id names no order.
pub(super) fn parse_id(text: &str) -> Result<OrderId, Problem> {
    text.parse().map_err(|_| Problem::of(NO_SUCH_ORDER))
}

#[derive(Deserialize)]
pub(super) struct ListParams {
    customer_id: Option<String>,
    status: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(door): State<Arc<DoorState>>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Response, Problem> {
    let customer = match &params.customer_id {
        Some(id) => Some(
            id.parse::<CustomerId>()
                .map_err(|e| bad_parameter(e.to_string()))?,
        ),
        None => None,
    };
    let status = match &params.status {
        Some(name) => {
            let unknown = || bad_parameter("status is none of the states of an order");
            Some(OrderStatus::parse(name).ok_or_else(unknown)?)
        }
        None => None,
    };
    let after = match &params.cursor {
        Some(text) => Some(read_cursor(text).ok_or_else(|| bad_parameter("this is no cursor"))?),
        None => None,
    };
    let limit = page_size(params.limit, PAGE_DEFAULT, ORDERS_PER_PAGE_MAX)?;
    let query = OrderQuery {
        customer,
        status,
        limit,
        after,
    };
    let page = door.tables.orders(&query).await;
    let page = page.map_err(|e| unavailable("orders cannot be listed", e))?;
    let items: Vec<_> = page.orders.iter().map(Order::http).collect();
    let mut body = json!({ "items": items });
    if let Some(next) = page.next {
        body["next_cursor"] = write_cursor(next).into();
    }
    Ok(Json(body).into_response())
}

fn write_cursor(cursor: OrderCursor) -> String {
    encode_cursor(format!("{}|{}", cursor.placed_at, cursor.order_id).as_bytes())
}

fn read_cursor(text: &str) -> Option<OrderCursor> {
    let text = String::from_utf8(decode_cursor(text)?).ok()?;
    let (placed_at, order_id) = text.split_once('|')?;
    Some(OrderCursor {
        placed_at: placed_at.parse().ok()?,
        order_id: order_id.parse().ok()?,
    })
}

/// The body of a cancellation; none is needed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelRequest {
    #[serde(default = "yes")]
    restock: bool,
}

fn yes() -> bool {
    true
}

impl Default for CancelRequest {
    fn default() -> Self {
        Self { restock: true }
    }
}

pub(super) async fn cancel(
    State(door): State<Arc<DoorState>>,
    UrlPath(id): UrlPath<String>,
    OptionalJsonBody(request): OptionalJsonBody<CancelRequest>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let order = door.order(id).await?.ok_or(Problem::of(NO_SUCH_ORDER))?;
    match order.status {
        OrderStatus::Pending | OrderStatus::Reserved | OrderStatus::Confirmed => {}
        OrderStatus::Cancelled | OrderStatus::Refunded => {
            let detail = format!("the order is {}", order.status.as_str());
            return Err(Problem::of(NOT_CANCELLABLE).detail(detail));
        }
    }
    let command = OrderCommand::Cancel {
        restock: request.restock,
    };
    door.log
        .append(&ORDERS, &id, &command, Box::new(|_| ()))
        .await?;
    let body = json!({ "order_id": id, "status": order.status });
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    let location = HeaderValue::from_str(&format!("/v1/orders/{id}")).map_err(Problem::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
