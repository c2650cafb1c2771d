//! HTTP for programs that run a topology: building blocks of a front door, and the operations page.
//!
//! - [`Problem`], [`JsonBody`], [`QueryParams`], [`UrlPath`]: requests that are wrong get an answer
//!   in `application/problem+json` that says what and where, and nothing about the inside.
//! - [`front`] and [`serve`]: bounded connections, requests, bodies and times; overload is answered
//!   at once.
//! - [`admin_router`]: health, metrics, live topology, lag, and queries of every store, fetched
//!   from the instance that holds the key.
//!
//! ```
//! use axum::{Router, routing::post};
//! use millstream_api::{FrontLimits, JsonBody, front};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Greeting {
//!     name: String,
//! }
//!
//! async fn greet(JsonBody(greeting): JsonBody<Greeting>) -> String {
//!     format!("hello {}", greeting.name)
//! }
//!
//! let routes = Router::new().route("/greetings", post(greet));
//! let router: Router = front(routes, FrontLimits::default());
//! ```
//!
//! What this crate is not: it knows no record, no operator and nothing of the shop.

mod serve;
mod front;
mod switch;
mod json_body;
mod params;
mod problem;
mod time;
mod cursor;
mod peer;
mod admin;

pub use admin::{AdminState, Check, Figure, FigureKind, admin_router};
pub use cursor::{decode_cursor, encode_cursor};
pub use front::{FrontLimits, front};
pub use json_body::{BODY_BYTES_MAX, JsonBody, OptionalJsonBody};
pub use params::{QueryParams, UrlPath};
pub use peer::{HOP, PEER_BYTES_MAX, Peer, PeerAnswer};
pub use problem::{FieldError, Problem, ProblemKind};
pub use serve::{Closing, NotLoopback, ServeLimits, refuse_non_loopback, serve};
pub use switch::Switch;
pub use time::{parse_time, rfc3339};
