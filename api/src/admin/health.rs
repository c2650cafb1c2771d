//! `/live` and `/ready`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use millstream_runtime::{Health, Status};
use serde_json::{Value as JsonValue, json};

use super::{AdminState, state::RETRY_AFTER};
use crate::{Problem, ProblemKind};

const NOT_READY: ProblemKind = ProblemKind::new(
    "not-ready",
    StatusCode::SERVICE_UNAVAILABLE,
    "The program is not ready to serve.",
);

pub(super) async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

pub(super) async fn ready(State(state): State<Arc<AdminState>>) -> Result<Response, Problem> {
    let not_ready = |why: String| Problem::of(NOT_READY).detail(why).retry_after(RETRY_AFTER);
    let status = match state.health() {
        Health::Running => "ready",
        Health::Paused if state.status().is_up_to_date() => "paused",
        Health::Paused => {
            let why = "the application is paused, and not all of its stores are restored";
            return Err(not_ready(why.to_owned()));
        }
        Health::Starting => return Err(not_ready(why_starting(&state.status()))),
        // What fills the disk is in the program's log.
        Health::Stalled(_) => {
            return Err(not_ready("state cannot be written to disk".to_owned()));
        }
        Health::Stopping => return Err(not_ready("the application stops".to_owned())),
        // Why it failed is in the program's log.
        Health::Failed(_) => return Err(not_ready("the application failed".to_owned())),
    };
    for check in &state.checks {
        (check.run)().map_err(|why| not_ready(format!("{}: {why}", check.name)))?;
    }
    let notices = state.notices.iter();
    let notices = notices.filter_map(|n| Some((n.name.to_owned(), (n.run)().err()?.into())));
    let mut answer = json!({ "status": status });
    let notices: serde_json::Map<String, JsonValue> = notices.collect();
    if !notices.is_empty() {
        answer["not_well"] = notices.into();
    }
    Ok(Json(answer).into_response())
}

/// What an application that starts is doing, and what it waits for where that takes long.
fn why_starting(status: &Status) -> String {
    let waits = status.threads.iter().find_map(|t| t.waits_for.as_ref());
    if let Some(what) = waits {
        return format!("tasks cannot start yet: {what}");
    }
    let tasks = || status.threads.iter().flat_map(|t| &t.tasks);
    let remaining: i64 = tasks().map(|t| t.restore_remaining).sum();
    let mut why = format!("stores are being restored. changelog_records_remaining={remaining}");
    let stuck: Vec<&str> = tasks()
        .flat_map(|t| &t.restore_stuck)
        .map(String::as_str)
        .collect();
    if !stuck.is_empty() {
        let stuck = stuck.join(", ");
        why += &format!(", no_progress=`{stuck}`; is a transaction open on these changelogs?");
    }
    why
}
