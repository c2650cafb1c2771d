//! `/v1/orders/{id}/events`: the life of an order as server-sent events.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response, Sse, sse::Event},
};
use futures_util::{Stream, stream::unfold};
use millstream_api::{Closing, Problem, ProblemKind, UrlPath};
use serde_json::Value as JsonValue;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    DoorState, RETRY_AFTER,
    feed::Following,
    orders::{NO_SUCH_ORDER, parse_id},
};
use crate::model::{Order, OrderEventKind, OrderId, OrderStatus};

/// How often a stream shows that it is alive, and looks whether an event was missed.
const HEARTBEAT: Duration = Duration::from_secs(10);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// One event for each change behind `Last-Event-ID`, as far back as the events are kept; where they
/// are not, the order as it is. Ends behind the first final state; a client that has seen it gets
/// 204, which tells a browser not to come again.
pub(super) async fn follow(
    State(door): State<Arc<DoorState>>,
    UrlPath(id): UrlPath<String>,
    headers: HeaderMap,
    closing: Option<Extension<Closing>>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let seen = headers
        .get(LAST_EVENT_ID)
        .and_then(|v| v.to_str().ok()?.trim().parse().ok());
    let Some(following) = door.feed.follow(id) else {
        let problem = Problem::of(ProblemKind::OVERLOADED).detail("too many follow orders");
        return Err(problem.retry_after(RETRY_AFTER));
    };
    let order = door.order(id).await?.ok_or(Problem::of(NO_SUCH_ORDER))?;
    let seen = seen.unwrap_or(0);
    if order.status.is_final() && seen >= order.version {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let mut stream = Followed {
        door,
        id,
        following,
        ready: VecDeque::new(),
        seen,
        ended: false,
        heartbeat,
        closing: closing.map_or(Closing::never(), |Extension(closing)| closing),
    };
    stream.begin(order);
    let mut response = Sse::new(stream.into_events()).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// One who follows an order over HTTP.
struct Followed {
    door: Arc<DoorState>,
    id: OrderId,
    following: Following,
    /// What is to be sent next.
    ready: VecDeque<Event>,
    /// The version that the client has seen, or is about to.
    seen: u64,
    /// Nothing comes behind what is ready.
    ended: bool,
    heartbeat: Interval,
    closing: Closing,
}

impl Followed {
    /// The changes so far: those that are kept, and the order as it is if they do not reach up to
    /// it.
    fn begin(&mut self, order: Order) {
        while let Some(event) = self.following.next_past() {
            self.tell(event.kind, &event.order);
        }
        self.catch_up(&order);
    }

    fn catch_up(&mut self, order: &Order) {
        let kind = match order.status {
            OrderStatus::Pending => OrderEventKind::Placed,
            OrderStatus::Reserved => OrderEventKind::Reserved,
            OrderStatus::Confirmed => OrderEventKind::Confirmed,
            OrderStatus::Cancelled => OrderEventKind::Cancelled,
            OrderStatus::Refunded => OrderEventKind::Refunded,
        };
        self.tell(kind, order);
    }

    fn tell(&mut self, kind: OrderEventKind, order: &Order) {
        if self.ended || order.version <= self.seen {
            return;
        }
        let name = match serde_json::to_value(kind) {
            Ok(JsonValue::String(name)) => name,
            Ok(_) | Err(_) => return,
        };
        let mut data = order.to_http_json();
        data["type"] = name.as_str().into();
        let id = order.version.to_string();
        self.ready
            .push_back(Event::default().id(id).event(name).data(data.to_string()));
        self.seen = order.version;
        self.ended = order.status.is_final();
    }

    fn into_events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        unfold(self, async |mut followed| {
            let event = followed.next().await?;
            Some((Ok(event), followed))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                // A client that was too slow, or whose server closes, comes again with the last id
                // it saw.
                event = self.following.next() => {
                    let event = event?;
                    self.tell(event.kind, &event.order);
                }
                () = self.closing.wait() => return None,
                _ = self.heartbeat.tick() => {
                    if let Ok(Some(order)) = self.door.order(self.id).await {
                        self.catch_up(&order);
                    }
                    if self.ready.is_empty() {
                        return Some(Event::default().comment("still here"));
                    }
                }
            }
        }
    }
}
