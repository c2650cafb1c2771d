//! `Waiting`: a program that starts waits for what it needs, and says so.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use millstream_api::{FrontLimits, Problem, ProblemKind, front};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::failure::{Failure, Outcome};

/// The first and the longest pause between two tries; each is twice the one before. How often is
/// not bounded: whoever starts a shop before its database wants it to be there when that comes.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// When those who ask a shop that is starting may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const STARTING: ProblemKind = ProblemKind::new(
    "not-ready",
    StatusCode::SERVICE_UNAVAILABLE,
    "The program is not ready to serve.",
);

/// What a starting program waits for. Clones show the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<Mutex<Option<&'static str>>>);

impl Waiting {
    /// Tries until it succeeds, or fails with something that does not pass by itself.
    pub(crate) async fn until_done<T>(
        &self,
        what: &'static str,
        mut attempt: impl AsyncFnMut() -> Outcome<T>,
    ) -> Outcome<T> {
        self.show(Some(what));
        let began = Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            match attempt().await {
                Err(Failure::Away(reason)) => {
                    let pause_ms = pause.as_millis();
                    warn!(
                        what,
                        reason, pause_ms, "cannot start yet; it is tried again"
                    );
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                outcome => {
                    if outcome.is_ok() && pause > PAUSE_FIRST {
                        let waited_ms = began.elapsed().as_millis();
                        info!(what, waited_ms, "it was waited for, and is there now");
                    }
                    self.show(None);
                    return outcome;
                }
            }
        }
    }

    fn show(&self, what: Option<&'static str>) {
        *self.0.lock().expect("nothing panics with this lock") = what;
    }

    /// What operators are answered meanwhile: it lives, and is not ready. The reasons are in the
    /// log.
    pub(crate) fn admin_pages(&self) -> Router {
        let live = async || StatusCode::OK;
        self.pages(Router::new().route("/live", get(live)))
    }

    /// What customers are answered meanwhile.
    pub(crate) fn door_pages(&self) -> Router {
        self.pages(Router::new())
    }

    fn pages(&self, routes: Router) -> Router {
        let waiting = self.clone();
        let answer = async move || waiting.answer();
        let routes = routes
            .route("/", any(answer.clone()))
            .route("/{*path}", any(answer));
        front(routes, FrontLimits::default())
    }

    fn answer(&self) -> Response {
        let what = *self.0.lock().expect("nothing panics with this lock");
        let detail = match what {
            Some(what) => format!("the shop is starting and waits for {what}"),
            None => "the shop is starting".to_owned(),
        };
        let problem = Problem::of(STARTING).detail(detail);
        problem.retry_after(RETRY_AFTER).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_away_is_tried_again_with_growing_pauses() {
        let waiting = Waiting::default();
        let began = Instant::now();
        let mut times = Vec::new();
        let outcome = waiting.until_done("it", async || {
            times.push(began.elapsed());
            match times.len() < 9 {
                true => Err(Failure::Away("not there".to_owned())),
                false => Ok("there"),
            }
        });
        assert!(matches!(outcome.await, Ok("there")));
        let pauses: Vec<_> = times
            .windows(2)
            .map(|two| (two[1] - two[0]).as_millis())
            .collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[tokio::test]
    async fn what_does_not_pass_by_itself_is_told_at_once() {
        let attempt = async || Err::<(), _>(Failure::Failed("access denied".to_owned()));
        let outcome = Waiting::default().until_done("it", attempt).await;
        assert!(matches!(outcome, Err(Failure::Failed(reason)) if reason == "access denied"));
    }
}
