//! `admin_router`: health, metrics, topology, tasks, lag, members, threads, stores, and the page
//! that shows them.

mod state;
mod health;
mod metrics;
mod topology;
mod lag;
mod movement;
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
/// | `/` | a page that shows the topology, tasks, standbys, stores and commits, live |
/// | `/live` | 200 while the process answers |
/// | `/ready` | 200 when all stores here are restored and all checks pass, else 503 and why |
/// | `/metrics` | Prometheus text |
/// | `/topology` | nodes, edges, rates; `?format=mermaid` and `?format=text` for people |
/// | `/tasks` | stream threads with their tasks, stores and commits, and standbys |
/// | `/lag` | each input partition with its position and its end |
/// | `/members` | the instances of the application |
/// | `/threads` | how many stream threads there should be, which there are, and whether it pauses |
/// | `/stores` | the stores |
/// | `/stores/{store}/keys/{key}` | the value of a key |
/// | `/stores/{store}/range?from=&to=&limit=&cursor=` | entries by encoded key, `to` included |
/// | `/stores/{store}/windows/{key}?from=&to=&limit=` | the windows of a key, `to` included |
/// | `/stores/{store}/sessions/{key}?from=&to=&limit=` | the sessions of a key |
///
/// # Who answers
/// What another instance has is fetched from there, once. An answer says in its headers who told:
///
/// | header | value |
/// |---|---|
/// | `millstream-role` | `active` for the tasks, `standby` if a part is from a standby |
/// | `millstream-position` | `partition:offset` of each partition looked at, in its changelog |
/// | `millstream-stale-ms` | how old the answer may be: 0 where tasks told |
/// | `millstream-lag` | of a standby: the records that it is behind, as far as it knows |
///
/// A standby is as old as it is since it held all that was committed then, and `unknown` stands
/// there if it never did since it was opened.
///
/// Without a word only tasks answer, and 503 with `Retry-After` says that one is on its way,
/// restoring, or does not answer. Two parameters of the last four routes let standbys answer then,
/// first those of this instance, then those of others, the least behind first:
///
/// | parameter | lets answer |
/// |---|---|
/// | `max_stale_ms=` | standbys that are not older |
/// | `stale=true` | standbys of whatever age |
///
/// A range, or a key that nobody has, is told by several instances and is as old as the oldest of
/// them. Instances keep standbys where
/// [`Config::num_standby_replicas`](millstream_runtime::Config::num_standby_replicas) says so.
///
/// With [`AdminState::with_changes`] there are also routes that change the running application. All
/// answer as `/threads` does.
///
/// | route | does |
/// |---|---|
/// | `POST /threads`, `{"count": 3}` | adds and removes stream threads, in the background |
/// | `POST /pause` | stops processing, as [`Application::pause`] says |
/// | `POST /resume` | goes on |
///
/// `/ready` is 200 while the application is paused, with `{"status": "paused"}`, if its stores were
/// restored before: it answers queries as ever, and taking all instances that somebody pauses out
/// of service would help nobody. A pause shows as `health` of `/tasks`, and in `/metrics` as
/// `millstream_health{state="paused"}`.
///
/// [`Application::pause`]: millstream_runtime::Application::pause
pub fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/topology", get(topology::topology))
        .route("/tasks", get(tasks))
        .route("/lag", get(lag::lag))
        .route("/members", get(members))
        .merge(movement::routes(state.changes))
        .merge(stores::routes())
        .merge(dashboard::routes())
        .with_state(Arc::new(state))
}

async fn tasks(State(state): State<Arc<AdminState>>) -> Json<JsonValue> {
    let status = state.status();
    let health = state.health_name();
    Json(json!({
        "health": health,
        "threads_wanted": status.threads_wanted,
        "threads": status.threads,
        "standbys": status.standbys,
    }))
}

async fn members(State(state): State<Arc<AdminState>>) -> Json<JsonValue> {
    Json(json!({ "items": state.members.list() }))
}
