//! `front`: what stands before every route, whatever the routes do.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{Problem, ProblemKind};

/// How much a front lets in.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Requests that are worked on at the same time; more are turned away at once.
    pub requests_max: usize,
    /// How long one request may take until its answer begins.
    pub request_time_max: Duration,
    /// When those that are turned away may come again.
    pub retry_after: Duration,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            requests_max: 1024,
            request_time_max: Duration::from_secs(40),
            retry_after: Duration::from_secs(1),
        }
    }
}

/// Puts limits and problem answers before a router: unknown routes and methods are problems, more
/// than `requests_max` requests at a time get a 503 at once, and a panic becomes a 500 that tells
/// nothing.
pub fn front(router: Router, limits: FrontLimits) -> Router {
    let gate = Arc::new(Gate {
        open: Semaphore::new(limits.requests_max),
        limits,
    });
    router
        .fallback(async || Problem::of(ProblemKind::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::of(ProblemKind::METHOD_NOT_ALLOWED))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(gate, pass))
        .layer(middleware::map_response(harden))
}

struct Gate {
    open: Semaphore,
    limits: FrontLimits,
}

async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = gate.open.try_acquire() else {
        let problem = Problem::of(ProblemKind::OVERLOADED);
        return problem.retry_after(gate.limits.retry_after).into_response();
    };
    match tokio::time::timeout(gate.limits.request_time_max, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            tracing::warn!("a request took too long and was given up");
            let problem = Problem::of(ProblemKind::UNAVAILABLE);
            problem.retry_after(gate.limits.retry_after).into_response()
        }
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::internal(format_args!("a handler panicked: {text}")).into_response()
}

async fn harden(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}
