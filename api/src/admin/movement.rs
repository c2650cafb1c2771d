//! `/threads`, `/pause` and `/resume`: what an operator can change while the program runs.
//!
//! Nobody is asked who he is, so these routes are there only where a program has
//! [asked for them](super::AdminState::with_changes), and they take nothing from web pages: any
//! page that an operator's browser shows could send such a request to his own machine.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    routing::{get, post},
};
use millstream_runtime::Application;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{AdminState, state::RETRY_AFTER};
use crate::{JsonBody, Problem, ProblemKind};

/// More stream threads than this are not asked for over HTTP.
const THREADS_MAX: usize = 64;

const FROM_A_PAGE: ProblemKind = ProblemKind::new(
    "from-a-web-page",
    StatusCode::FORBIDDEN,
    "Changes are not taken from web pages.",
);

/// What everybody may look at, and with `changes` also what changes something.
pub(super) fn routes(changes: bool) -> Router<Arc<AdminState>> {
    let threads = get(show);
    match changes {
        false => Router::new().route("/threads", threads),
        true => Router::new()
            .route("/threads", threads.post(set_threads))
            .route("/pause", post(pause))
            .route("/resume", post(resume)),
    }
}

/// A request that no web page has sent: browsers add these headers to each of theirs, and no script
/// can take them away.
struct NotFromAPage;

impl<S: Send + Sync> FromRequestParts<S> for NotFromAPage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let told = [header::ORIGIN.as_str(), "sec-fetch-site"];
        match told.iter().any(|name| parts.headers.contains_key(*name)) {
            true => Err(Problem::of(FROM_A_PAGE)),
            false => Ok(Self),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Threads {
    count: usize,
}

async fn show(State(state): State<Arc<AdminState>>) -> Json<JsonValue> {
    let status = state.status();
    let thread = |t: &millstream_runtime::ThreadStatus| {
        json!({ "index": t.index, "joined": t.joined,
        "leaving": t.leaving, "paused": t.paused, "tasks": t.tasks.len() })
    };
    Json(json!({
        "count": status.threads_wanted,
        "paused": status.paused,
        "items": status.threads.iter().map(thread).collect::<Vec<_>>(),
    }))
}

/// The threads come and go in the background.
async fn set_threads(
    _: NotFromAPage,
    state: State<Arc<AdminState>>,
    JsonBody(Threads { count }): JsonBody<Threads>,
) -> Result<Json<JsonValue>, Problem> {
    if count > THREADS_MAX {
        let detail = format!("there are at most {THREADS_MAX} threads");
        return Err(Problem::of(ProblemKind::INVALID_BODY).at("/count", detail));
    }
    with_application(&state, |application| {
        // Two requests at a time would each undo what the other does.
        let _alone = state.moving.lock().expect("nothing panics with this lock");
        let wanted = application.status().threads_wanted;
        for _ in wanted..count {
            application.add_thread()?;
        }
        for _ in count..wanted {
            application.remove_thread()?;
        }
        Ok(())
    })?;
    Ok(show(state).await)
}

async fn pause(_: NotFromAPage, state: State<Arc<AdminState>>) -> Result<Json<JsonValue>, Problem> {
    with_application(&state, |application| {
        application.pause();
        Ok(())
    })?;
    Ok(show(state).await)
}

async fn resume(
    _: NotFromAPage,
    state: State<Arc<AdminState>>,
) -> Result<Json<JsonValue>, Problem> {
    with_application(&state, |application| {
        application.resume();
        Ok(())
    })?;
    Ok(show(state).await)
}

fn with_application(
    state: &AdminState,
    change: impl FnOnce(&Application) -> millstream_topology::Result<()>,
) -> Result<(), Problem> {
    let unavailable = |why: String| {
        let problem = Problem::of(ProblemKind::UNAVAILABLE);
        problem.detail(why).retry_after(RETRY_AFTER)
    };
    let application = state.application();
    let application = application.ok_or_else(|| unavailable("the application stops".to_owned()))?;
    change(&application).map_err(|error| {
        tracing::warn!(error = %error.chain(), "a change was refused");
        unavailable("the application stops or has failed".to_owned())
    })
}
