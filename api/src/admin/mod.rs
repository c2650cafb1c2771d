//! `admin_router`: health, metrics, topology, tasks, lag, members, stores, and the page that shows
//! them.

mod state;
mod health;
mod metrics;
mod topology;
mod lag;
mod stores;
mod dashboard;

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value as JsonValue, json};

pub use metrics::{Figure, FigureKind};
pub use state::{AdminState, Check};

/// The operations and queries of a program that runs a topology.
///
/// | route | answers |
/// |---|---|
/// | `/` | a page that shows the topology, tasks, stores and commits, live |
/// | `/live` | 200 while the process answers |
/// | `/ready` | 200 when all stores here are restored and all checks pass, else 503 and why |
/// | `/metrics` | Prometheus text |
/// | `/topology` | nodes, edges, rates; `?format=mermaid` and `?format=text` for people |
/// | `/tasks` | stream threads with their tasks, stores and commits, and standbys |
/// | `/lag` | each input partition with its position and its end |
/// | `/members` | the instances of the application |
/// | `/stores` | the stores |
/// | `/stores/{store}/keys/{key}` | the value of a key |
/// | `/stores/{store}/range?from=&to=&limit=&cursor=` | entries by encoded key, `to` included |
/// | `/stores/{store}/windows/{key}?from=&to=&limit=` | the windows of a key, `to` included |
pub fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/topology", get(topology::topology))
        .route("/tasks", get(tasks))
        .route("/lag", get(lag::lag))
        .route("/members", get(members))
        .merge(stores::routes())
        .merge(dashboard::routes())
        .with_state(Arc::new(state))
}

async fn tasks(State(state): State<Arc<AdminState>>) -> Json<JsonValue> {
    let status = state.status();
    let health = state.health_name();
    Json(json!({ "health": health, "threads": status.threads, "standbys": status.standbys }))
}

async fn members(State(state): State<Arc<AdminState>>) -> Json<JsonValue> {
    Json(json!({ "items": state.members.list() }))
}
