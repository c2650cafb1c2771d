//! `Replay`: baskets become orders, over HTTP, at a given pace.
//!
//! The pace is an open loop: each order has its time, whether or not the shop keeps up, and its
//! latency counts from that time. A shop that stalls cannot hide it by slowing the replay down.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use millstream_api::rfc3339;
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    baskets::{Basket, CURRENCY},
    client::{Call, Connection, Server},
};

/// The longest latency that is told apart.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Reasons that are kept for people; all refusals are counted.
const REASONS_MAX: usize = 5;

/// With what customers pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Every payment is approved.
    Approve,
    /// A few percent are declined, late, lost or flaky; which ones follows from the basket.
    Mixed,
}

impl Tokens {
    /// The token of a basket, the same each time.
    pub(crate) fn of(self, basket: &Basket) -> &'static str {
        if self == Self::Approve {
            return "tok_approve";
        }
        match spread(&basket.order) % 1000 {
            0..10 => "tok_decline",
            10..15 => "tok_timeout",
            15..20 => "tok_late",
            20..30 => "tok_unknown",
            30..40 => "tok_flaky",
            _ => "tok_approve",
        }
    }
}

/// FNV-1a: spreads names evenly, the same on every machine.
pub(crate) fn spread(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV-1a depend on the last characters alone.
    hash ^ (hash >> 32)
}

/// How baskets are replayed.
pub(crate) struct Replay {
    /// Where to.
    pub(crate) server: Server,
    /// The baskets; they begin anew when there are fewer than orders.
    pub(crate) baskets: Arc<[Basket]>,
    /// How many orders.
    pub(crate) orders: usize,
    /// Orders a second; 0 is as fast as possible.
    pub(crate) rate: f64,
    /// Connections.
    pub(crate) clients: usize,
    /// Begins the idempotency keys: another run orders again, the same run does not.
    pub(crate) run: String,
    /// How customers pay.
    pub(crate) tokens: Tokens,
    /// Orders say when they were placed.
    pub(crate) event_time: bool,
    /// How long one order is tried.
    pub(crate) give_up: Duration,
    /// Orders that may be on their way at a time; whoever sees an order's end gives its place back.
    pub(crate) window: Option<Arc<Semaphore>>,
}

/// Told of each order that the shop took, with the time at which it was meant to be sent.
pub(crate) type OnAccepted = Arc<dyn Fn(&str, Instant) + Send + Sync>;

/// What a replay has done so far.
pub(crate) struct Figures {
    /// Orders that the shop took.
    pub(crate) accepted: AtomicU64,
    /// Orders that it refused.
    pub(crate) refused: AtomicU64,
    /// Orders that were given up.
    pub(crate) given_up: AtomicU64,
    /// Requests that were repeated.
    pub(crate) retries: AtomicU64,
    /// From the time an order was meant to be sent until the shop had taken it, in microseconds.
    pub(crate) latency_us: Mutex<Histogram<u64>>,
    /// Why orders were refused or given up, the first ones.
    pub(crate) reasons: Mutex<Vec<String>>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            latency_us: Mutex::new(latencies()),
            reasons: Mutex::default(),
        }
    }

    fn failed(&self, count: &AtomicU64, reason: String) {
        count.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.reasons.lock().expect("nothing panics with this lock");
        if reasons.len() < REASONS_MAX {
            reasons.push(reason);
        }
    }
}

/// An empty histogram of latencies in microseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, 3).expect("bounds are legal")
}

/// Adds a latency.
pub(crate) fn record(histogram: &Mutex<Histogram<u64>>, since: Instant) {
    let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    histogram
        .lock()
        .expect("nothing panics with this lock")
        .saturating_record(us);
}

#[derive(Deserialize)]
struct Accepted {
    order_id: String,
}

impl Replay {
    /// Sends all orders and returns when each was taken, refused or given up.
    pub(crate) async fn run(self, figures: Arc<Figures>, on_accepted: OnAccepted) {
        let clients = self.clients.clamp(1, self.orders.max(1));
        let replay = Arc::new(self);
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..clients {
            let (replay, next) = (replay.clone(), next.clone());
            let (figures, on_accepted) = (figures.clone(), on_accepted.clone());
            workers.spawn(async move {
                let mut connection = replay.server.connection();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= replay.orders {
                        return;
                    }
                    let intended = replay.wait_for_turn(start, at).await;
                    replay
                        .place(&mut connection, at, intended, &figures, &on_accepted)
                        .await;
                }
            });
        }
        while workers.join_next().await.is_some() {}
    }

    /// Returns the time at which an order is meant to be sent, when it has come.
    async fn wait_for_turn(&self, start: Instant, at: usize) -> Instant {
        if self.rate > 0.0 {
            let intended = start + Duration::from_secs_f64(at as f64 / self.rate);
            tokio::time::sleep_until(intended.into()).await;
            return intended;
        }
        if let Some(window) = &self.window {
            // The semaphore is never closed.
            if let Ok(place) = window.acquire().await {
                place.forget();
            }
        }
        Instant::now()
    }

    async fn place(
        &self,
        connection: &mut Connection,
        at: usize,
        intended: Instant,
        figures: &Figures,
        on_accepted: &OnAccepted,
    ) {
        let call = self.call(at);
        let result = connection
            .send_until(&call, self.give_up, &figures.retries)
            .await;
        let taken = result.and_then(|answer| match answer.is_success() {
            true => answer.json::<Accepted>().map(Ok),
            false => Ok(Err(answer)),
        });
        match taken {
            Ok(Ok(accepted)) => {
                record(&figures.latency_us, intended);
                figures.accepted.fetch_add(1, Ordering::Relaxed);
                on_accepted(&accepted.order_id, intended);
                return;
            }
            Ok(Err(answer)) if !answer.is_temporary() => {
                figures.failed(&figures.refused, answer.text());
            }
            Ok(Err(answer)) => figures.failed(&figures.given_up, answer.text()),
            Err(error) => figures.failed(&figures.given_up, error.to_string()),
        }
        // Nobody will see the end of this order.
        if let (Some(window), true) = (&self.window, self.rate <= 0.0) {
            window.add_permits(1);
        }
    }

    fn call(&self, at: usize) -> Call {
        let basket = &self.baskets[at % self.baskets.len()];
        let round = at / self.baskets.len();
        let key = format!("{}-{}-{round}", self.run, basket.order);
        order_call(basket, key, self.tokens.of(basket), self.event_time)
    }
}

/// The request that orders a basket.
pub(crate) fn order_call(basket: &Basket, key: String, token: &str, event_time: bool) -> Call {
    let lines: Vec<_> = basket
        .lines
        .iter()
        .map(|line| json!({ "sku": line.sku, "quantity": line.quantity }))
        .collect();
    let mut body = json!({
        "customer_id": basket.customer,
        "currency": CURRENCY,
        "lines": lines,
        "payment": { "token": token },
    });
    if event_time {
        body["placed_at"] = rfc3339(basket.ts);
    }
    Call::post("/v1/orders", &body).idempotent(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baskets::Baskets;

    #[test]
    fn a_few_percent_of_mixed_payments_are_not_simply_approved() {
        let sample = Baskets::open(None).expect("built in");
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        for basket in &sample.baskets {
            *counts.entry(Tokens::Mixed.of(basket)).or_default() += 1;
            assert_eq!(Tokens::Approve.of(basket), "tok_approve");
        }
        assert_eq!(counts.len(), 6, "{counts:?}");
        assert!(
            (9_400..9_800).contains(&counts["tok_approve"]),
            "{counts:?}"
        );
        assert!(counts.values().all(|&count| count >= 20), "{counts:?}");
    }
}
