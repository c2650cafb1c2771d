//! `/stores`: queries of every store, wherever its keys are.

mod point;
mod range;
mod windows;
mod staleness;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use millstream_runtime::Queries;
use millstream_state::StoreDefinition;
use millstream_topology::StoreKind;
use serde_json::{Value as JsonValue, json};

use self::staleness::{LAG, Origin, POSITION, ROLE, STALE_MS};
use super::{AdminState, state::RETRY_AFTER};
use crate::{HOP, PeerAnswer, Problem, ProblemKind};

/// Entries of one answer unless the request says otherwise.
const LIMIT_DEFAULT: usize = 100;
/// The most entries of one answer.
const LIMIT_MAX: usize = 1000;

const NO_SUCH_STORE: ProblemKind = ProblemKind::new(
    "no-such-store",
    StatusCode::NOT_FOUND,
    "The topology has no such store.",
);
const NO_SUCH_KEY: ProblemKind = ProblemKind::new(
    "no-such-key",
    StatusCode::NOT_FOUND,
    "The store has no such key.",
);
const OTHER_KIND: ProblemKind = ProblemKind::new(
    "store-of-another-kind",
    StatusCode::NOT_FOUND,
    "A store of this kind has no such query.",
);
const NOT_SERVED: ProblemKind = ProblemKind::new(
    "store-not-ready",
    StatusCode::SERVICE_UNAVAILABLE,
    "The store is being restored or on its way to another instance.",
);

pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/stores", get(list))
        .route("/stores/{store}/keys/{key}", get(point::key))
        .route("/stores/{store}/range", get(range::range))
        .route("/stores/{store}/windows/{key}", get(windows::windows))
        .route("/stores/{store}/sessions/{key}", get(windows::sessions))
}

async fn list(State(state): State<Arc<AdminState>>) -> Result<Json<JsonValue>, Problem> {
    let queries = state.queries.clone();
    // Counting entries walks over them.
    let stores = tokio::task::spawn_blocking(move || queries.stores()).await;
    Ok(Json(json!({ "items": stores.map_err(Problem::internal)? })))
}

fn definition<'a>(
    queries: &'a Queries,
    store: &str,
) -> Result<&'a Arc<dyn StoreDefinition>, Problem> {
    // The only thing that can be wrong is the name.
    queries
        .definition(store)
        .map_err(|_| Problem::of(NO_SUCH_STORE))
}

fn not_served() -> Problem {
    Problem::of(NOT_SERVED).retry_after(RETRY_AFTER)
}

fn is_hop(headers: &HeaderMap) -> bool {
    headers.contains_key(HOP)
}

/// Bytes of a key as text asks for them. Text that is no key names no entry.
fn parse_key(definition: &dyn StoreDefinition, text: &str) -> Result<Vec<u8>, Problem> {
    let no_key = |_| Problem::of(NO_SUCH_KEY).detail("the text is no key of this store");
    definition.parse_key(text).map_err(no_key)
}

fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(0) => {
            Err(Problem::of(ProblemKind::INVALID_PARAMETER).detail("limit must be at least 1"))
        }
        Some(n) => Ok(n.min(LIMIT_MAX)),
    }
}

fn is_windowed(definition: &dyn StoreDefinition) -> bool {
    matches!(
        definition.spec().kind,
        StoreKind::Window { .. } | StoreKind::Session { .. }
    )
}

/// An answer of this instance.
fn answer(body: JsonValue, position: &str, origin: Origin) -> Response {
    with_origin(Json(body).into_response(), position, origin)
}

/// Adds what was looked at, and who told.
fn with_origin(response: Response, position: &str, origin: Origin) -> Response {
    let mut response = with_position(response, position);
    origin.write(response.headers_mut());
    response
}

fn with_position(mut response: Response, position: &str) -> Response {
    if let Ok(position) = HeaderValue::from_str(position) {
        response.headers_mut().insert(POSITION, position);
    }
    response
}

/// An answer of another instance, as it came.
fn passed_on(from: PeerAnswer) -> Response {
    let mut response = (from.status, from.body).into_response();
    for name in [
        POSITION,
        STALE_MS,
        ROLE,
        LAG,
        axum::http::header::CONTENT_TYPE,
        axum::http::header::RETRY_AFTER,
    ] {
        if let Some(value) = from.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
