//! `Switch`: a router that can be exchanged while it is served.

use std::sync::{Arc, RwLock};

use axum::{Router, extract::Request};
use tower::{ServiceExt, service_fn};

/// A router that can be exchanged while it is served: a program listens from its first moment on,
/// says that it is starting, and shows its routes once they are there.
///
/// ```
/// use axum::{Router, routing::get};
/// use millstream_api::Switch;
///
/// let switch = Switch::new(Router::new().fallback(async || "starting"));
/// let served: Router = switch.router();
/// switch.turn_to(Router::new().route("/", get(async || "here")));
/// ```
#[derive(Clone, Debug)]
pub struct Switch(Arc<RwLock<Router>>);

impl Switch {
    /// Shows that router first.
    pub fn new(first: Router) -> Self {
        Self(Arc::new(RwLock::new(first)))
    }

    /// From now on requests go to that router. Those that are being answered are not disturbed.
    pub fn turn_to(&self, router: Router) {
        *self.0.write().expect("nothing panics with this lock") = router;
    }

    /// What is to be served: whatever the switch is turned to.
    pub fn router(&self) -> Router {
        let switch = self.0.clone();
        Router::new().fallback_service(service_fn(move |request: Request| {
            let router = switch
                .read()
                .expect("nothing panics with this lock")
                .clone();
            router.oneshot(request)
        }))
    }
}
