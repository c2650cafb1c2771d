//! The shop's door: orders, products, stock and reports over HTTP.
//!
//! The door decides nothing about orders. It checks what a request says, appends a command to the
//! log, and answers once the command is durable. What became of it is read from the stores that the
//! topology keeps, from another instance's where the key lives there, and from the tables.
//!
//! What it keeps in memory can be lost at any time: the commands that are accepted and not yet
//! processed, so that they can be shown as pending; the newest events, for those who follow an
//! order; and the [catalogue].

mod orders;
mod intake;
mod in_flight;
mod reads;
mod events;
mod feed;
mod products;
mod inventory;
mod analytics;
mod log;
mod follower;
mod figures;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use millstream_api::{Check, Figure, FrontLimits, Peer, Problem, ProblemKind, front};
use millstream_broker::Broker;
use millstream_runtime::{Queries, SystemClock, WallClock};
use millstream_topology::{Error, ErrorKind, Result};
use tokio::sync::Mutex;

use crate::{
    catalogue::{self, Catalogue},
    model::{Currency, PlaceOrder, Sku},
    sql::Tables,
};
use feed::Feed;
use figures::Counters;
use follower::Follower;
use in_flight::InFlight;
use inventory::Adjustments;
use log::Log;

/// When those who are turned away may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How the door works.
#[derive(Clone, Debug)]
pub struct DoorConfig {
    /// The application whose stores are read and whose group says which commands are processed.
    pub application_id: String,
    /// True when clients may say when an order was placed, for imports and replays.
    pub allow_event_time: bool,
    /// The currency of orders and products that name none.
    pub currency: Currency,
    /// Orders that are accepted and not yet processed; while there are more, new ones are turned
    /// away.
    pub orders_in_flight_max: usize,
    /// How long an append may take.
    pub append_time_max: Duration,
    /// Requests at the same time.
    pub front: FrontLimits,
}

impl DoorConfig {
    /// The usual settings for that application.
    pub fn new(application_id: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            allow_event_time: false,
            currency: Currency::USD,
            orders_in_flight_max: 50_000,
            append_time_max: Duration::from_secs(10),
            front: FrontLimits {
                requests_max: 2048,
                ..FrontLimits::default()
            },
        }
    }
}

/// The shop's door. Dropping it stops what follows the topics; open streams end.
pub struct Door {
    state: Arc<DoorState>,
    _follower: Follower,
}

/// What the handlers share.
pub(crate) struct DoorState {
    config: DoorConfig,
    clock: Arc<dyn WallClock>,
    log: Log,
    queries: Queries,
    tables: Tables,
    peer: Peer,
    in_flight: Arc<InFlight>,
    feed: Arc<Feed>,
    catalogue: Arc<Catalogue>,
    catalogue_feed: Arc<catalogue::Feed>,
    /// Products that this process is writing at this moment.
    writing: Mutex<std::collections::HashSet<Sku>>,
    adjustments: Adjustments,
    counters: Arc<Counters>,
}

impl Door {
    /// Opens the door before an application that runs on that log. Commands which are accepted and
    /// not yet processed are read first, so that they are shown as pending after a restart too.
    ///
    /// # Errors
    /// When the shop's topics are missing or the log does not answer.
    pub fn open(
        config: DoorConfig,
        broker: Arc<dyn Broker>,
        queries: Queries,
        tables: Tables,
    ) -> Result<Self> {
        Self::open_with_clock(config, broker, queries, tables, Arc::new(SystemClock))
    }

    /// As [`open`](Self::open), with a clock of the caller's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_clock(
        config: DoorConfig,
        broker: Arc<dyn Broker>,
        queries: Queries,
        tables: Tables,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self> {
        let log = Log::open(&*broker, config.append_time_max, clock.clone())?;
        let in_flight = Arc::new(InFlight::new(config.orders_in_flight_max));
        let feed = Arc::new(Feed::default());
        let catalogue = Arc::new(Catalogue::default());
        let catalogue_feed = catalogue::Feed::start(broker.clone(), catalogue.clone())
            .map_err(|e| Error::caused(ErrorKind::Config, "a thread could not be started", e))?;
        let partitions = log.partitions();
        let application_id = &config.application_id;
        let follower = Follower::start(
            broker,
            application_id,
            partitions,
            in_flight.clone(),
            feed.clone(),
        )?;
        let state = Arc::new(DoorState {
            config,
            clock,
            log,
            queries,
            tables,
            peer: Peer::new(),
            in_flight,
            feed,
            catalogue,
            catalogue_feed: Arc::new(catalogue_feed),
            writing: Mutex::default(),
            adjustments: Adjustments::default(),
            counters: Arc::default(),
        });
        Ok(Self {
            state,
            _follower: follower,
        })
    }

    /// The routes, behind the limits of a [`front`].
    pub fn router(&self) -> Router {
        let routes = Router::new()
            .route("/v1/orders", post(orders::place).get(orders::list))
            .route("/v1/orders/{id}", get(orders::one))
            .route("/v1/orders/{id}/events", get(events::follow))
            .route("/v1/orders/{id}/cancel", post(orders::cancel))
            .route("/v1/products", post(products::create).get(products::list))
            .route(
                "/v1/products/{sku}",
                get(products::one)
                    .put(products::replace)
                    .delete(products::remove),
            )
            .route("/v1/inventory/{sku}", get(inventory::one))
            .route("/v1/inventory/{sku}/adjustments", post(inventory::adjust))
            .route(
                "/v1/inventory/{sku}/adjustments/{id}",
                get(inventory::adjustment),
            )
            .route(
                "/v1/analytics/orders-per-day",
                get(analytics::orders_per_day),
            )
            .route(
                "/v1/analytics/revenue-per-hour",
                get(analytics::revenue_per_hour),
            )
            .route("/v1/analytics/top-products", get(analytics::top_products))
            .route("/v1/analytics/order-status", get(analytics::order_status))
            .with_state(self.state.clone());
        front(routes, self.state.config.front)
    }

    /// Figures of the door for `/metrics`.
    pub fn figures(&self) -> Vec<Figure> {
        figures::figures(&self.state)
    }

    /// Says when the door can serve: once the catalogue is read.
    pub fn check(&self) -> Check {
        let feed = Arc::downgrade(&self.state.catalogue_feed);
        let run = move || match feed.upgrade() {
            Some(feed) if feed.is_complete() => Ok(()),
            Some(_) => Err("the catalogue is being read".to_owned()),
            None => Err("the door is closed".to_owned()),
        };
        Check {
            name: "door",
            run: Box::new(run),
        }
    }
}

impl DoorState {
    /// What the catalogue asks for an order; `None` when a product is unknown or sold in another
    /// currency.
    fn total(&self, order: &PlaceOrder) -> Option<i64> {
        order.lines.iter().try_fold(0_i64, |sum, line| {
            let listed = self.catalogue.get(&line.sku)?;
            let price =
                Some(listed.product.price).filter(|_| listed.product.currency == order.currency)?;
            sum.checked_add(price.checked_mul(line.quantity.into())?)
        })
    }
}

/// What is asked for cannot be told at the moment; why is in the log.
fn unavailable(what: &'static str, error: impl std::fmt::Display) -> Problem {
    tracing::warn!(%error, "{what}");
    Problem::of(ProblemKind::UNAVAILABLE)
        .detail(what)
        .retry_after(RETRY_AFTER)
}

fn bad_parameter(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::of(ProblemKind::INVALID_PARAMETER).detail(detail)
}

/// The page size asked for, within bounds.
fn page_size(asked: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    match asked {
        None => Ok(default),
        Some(0) => Err(bad_parameter("limit must be at least 1")),
        Some(n) => Ok(n.min(max)),
    }
}
