//! `/`: a page that shows the application, live. It is part of the binary and loads nothing from
//! elsewhere.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::AdminState;

const PAGE: &str = include_str!("dashboard/index.html");
const STYLE: &str = include_str!("dashboard/dashboard.css");
const SCRIPT: &str = include_str!("dashboard/dashboard.js");

/// The page may load its own two files and ask this server, nothing else; no other page may frame
/// it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", PAGE)))
        .route(
            "/dashboard.css",
            get(async || file("text/css; charset=utf-8", STYLE)),
        )
        .route(
            "/dashboard.js",
            get(async || file("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route(
            "/favicon.ico",
            get(async || axum::http::StatusCode::NO_CONTENT),
        )
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let value = HeaderValue::from_static;
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, value(kind)),
        (header::CONTENT_SECURITY_POLICY, value(POLICY)),
        (header::REFERRER_POLICY, value("no-referrer")),
        (header::CACHE_CONTROL, value("no-cache")),
    ];
    (headers, text).into_response()
}
