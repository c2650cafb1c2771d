//! `Problem`: an answer that says what is wrong, as RFC 9457 has it.

use std::{borrow::Cow, fmt, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value as JsonValue, json};

/// The most field errors that one answer lists.
const ERRORS_MAX: usize = 20;
/// The longest detail of one error, in characters: it may quote what the client sent.
const DETAIL_CHARS_MAX: usize = 300;

/// A kind of problem: its stable name, its title and its status.
///
/// ```
/// use axum::http::StatusCode;
/// use millstream_api::{Problem, ProblemKind};
///
/// const SOLD_OUT: ProblemKind =
///     ProblemKind::new("sold-out", StatusCode::CONFLICT, "Nothing is left.");
/// let problem = Problem::of(SOLD_OUT).at("/sku", "tea is sold out");
/// assert_eq!(problem.to_json()["type"], "/problems/sold-out");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemKind {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
}

impl ProblemKind {
    /// The body is not JSON at all.
    pub const MALFORMED: Self = Self::new(
        "malformed-json",
        StatusCode::BAD_REQUEST,
        "The body is not well-formed JSON.",
    );
    /// The body is JSON and not what the route takes.
    pub const INVALID_BODY: Self = Self::new(
        "invalid-body",
        StatusCode::UNPROCESSABLE_ENTITY,
        "The body is well-formed and wrong.",
    );
    /// A parameter of the URL is wrong.
    pub const INVALID_PARAMETER: Self = Self::new(
        "invalid-parameter",
        StatusCode::BAD_REQUEST,
        "A parameter of the URL is wrong.",
    );
    /// A header is wrong.
    pub const INVALID_HEADER: Self = Self::new(
        "invalid-header",
        StatusCode::BAD_REQUEST,
        "A header is missing or wrong.",
    );
    /// The body is too large.
    pub const TOO_LARGE: Self = Self::new(
        "too-large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is too large.",
    );
    /// The body is not declared to be JSON.
    pub const NOT_JSON: Self = Self::new(
        "not-json",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body must be JSON.",
    );
    /// The client did not send the body in time.
    pub const TOO_SLOW: Self = Self::new(
        "too-slow",
        StatusCode::REQUEST_TIMEOUT,
        "The body did not arrive in time.",
    );
    /// There is no such thing.
    pub const NOT_FOUND: Self = Self::new(
        "not-found",
        StatusCode::NOT_FOUND,
        "There is no such thing here.",
    );
    /// The route exists and does not take that method.
    pub const METHOD_NOT_ALLOWED: Self = Self::new(
        "method-not-allowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "The route does not take this method.",
    );
    /// Too much is asked for; nothing was done.
    pub const OVERLOADED: Self = Self::new(
        "overloaded",
        StatusCode::SERVICE_UNAVAILABLE,
        "Too many requests at this moment.",
    );
    /// It cannot be answered at this moment.
    pub const UNAVAILABLE: Self = Self::new(
        "unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "This cannot be answered at the moment.",
    );
    /// A bug, or something that should not happen.
    pub const INTERNAL: Self = Self::new(
        "internal",
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something went wrong here.",
    );

    /// A kind of that name. The name becomes the stable `type`, `/problems/<name>`.
    pub const fn new(name: &'static str, status: StatusCode, title: &'static str) -> Self {
        Self {
            name,
            status,
            title,
        }
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

/// What is wrong at one place of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the place; empty for the whole body.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// An answer that says what is wrong. As an error of a handler it becomes the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: ProblemKind,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem of that kind, without detail.
    pub const fn of(kind: ProblemKind) -> Self {
        Self {
            kind,
            detail: None,
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// Something that should not happen did. The cause goes to the log, not to the client.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::of(ProblemKind::INTERNAL)
    }

    /// Says in words what is wrong.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(shortened(detail.into()));
        self
    }

    /// Adds a place of the body and what is wrong there.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        if self.errors.len() < ERRORS_MAX {
            let detail = shortened(detail.into()).into_owned();
            self.errors.push(FieldError {
                pointer: pointer.into(),
                detail,
            });
        }
        self
    }

    /// Says when trying again may help, in whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The kind.
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The places that are wrong.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The body of the answer. `pointer` is the first of `errors`, for clients that look at one.
    pub fn to_json(&self) -> JsonValue {
        let mut body = json!({
            "type": format!("/problems/{}", self.kind.name),
            "title": self.kind.title,
            "status": self.kind.status.as_u16(),
        });
        let first = self.errors.first();
        let detail = self.detail.as_deref().or(first.map(|e| e.detail.as_str()));
        if let Some(detail) = detail {
            body["detail"] = detail.into();
        }
        if let Some(first) = first {
            body["pointer"] = first.pointer.as_str().into();
            let error = |e: &FieldError| json!({ "pointer": e.pointer, "detail": e.detail });
            body["errors"] = self.errors.iter().map(error).collect();
        }
        body
    }
}

fn shortened(text: Cow<'static, str>) -> Cow<'static, str> {
    match text.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]).into(),
        None => text,
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.errors.first().map(|e| e.detail.as_str());
        write!(f, "{} {}", self.kind.status.as_u16(), self.kind.name)?;
        match self.detail.as_deref().or(first) {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.to_json().to_string();
        let mut response = (self.kind.status, body).into_response();
        let headers = response.headers_mut();
        let problem_json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem_json);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole.max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_names_the_first_place_and_lists_all() {
        let problem = Problem::of(ProblemKind::INVALID_BODY)
            .at("/a/0", "too small")
            .at("/b", "odd");
        let json = problem.to_json();
        assert_eq!(json["type"], "/problems/invalid-body");
        assert_eq!(
            (&json["status"], &json["pointer"]),
            (&422.into(), &"/a/0".into())
        );
        assert_eq!(json["detail"], "too small");
        assert_eq!(
            json["errors"][1],
            json!({ "pointer": "/b", "detail": "odd" })
        );
    }

    #[test]
    fn retry_after_is_at_least_a_second_and_rounds_up() {
        for (wait, header) in [(1, "1"), (1_000, "1"), (1_001, "2"), (0, "1")] {
            let problem = Problem::of(ProblemKind::OVERLOADED);
            let response = problem
                .retry_after(Duration::from_millis(wait))
                .into_response();
            assert_eq!(response.headers()["retry-after"], header, "{wait} ms");
            assert_eq!(
                response.headers()["content-type"],
                "application/problem+json"
            );
        }
    }

    #[test]
    fn what_a_client_sent_is_not_quoted_at_length() {
        let problem = Problem::of(ProblemKind::INVALID_BODY).at("", "ä".repeat(10_000));
        assert_eq!(
            problem.errors()[0].detail.chars().count(),
            DETAIL_CHARS_MAX + 1
        );
    }
}
