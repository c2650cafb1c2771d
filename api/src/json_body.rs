//! `JsonBody<T>`: a body that is JSON, of a bounded size, and a `T`.

use std::{fmt::Write, time::Duration};

use axum::{
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_path_to_error::{Path, Segment};

use crate::{Problem, ProblemKind};

/// The largest body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a client may take to send its body.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// A request's body, read as JSON. What is wrong becomes a [`Problem`]: 415 when it is not declared
/// to be JSON, 413 when it is larger than [`BODY_BYTES_MAX`], 408 when it comes too slowly, 400
/// when it is not well-formed, 422 with a JSON pointer when it is no `T`.
#[derive(Clone, Copy, Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_declared(request.headers())?;
        let body = read(request, state).await?;
        parse(&body).map(Self)
    }
}

/// As [`JsonBody`], where a request without a body means the default.
#[derive(Clone, Copy, Debug)]
pub struct OptionalJsonBody<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let declared = check_declared(request.headers());
        let body = read(request, state).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        declared?;
        parse(&body).map(Self)
    }
}

async fn read<S: Send + Sync>(mut request: Request, state: &S) -> Result<Bytes, Problem> {
    DefaultBodyLimit::max(BODY_BYTES_MAX).apply(&mut request);
    let body = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, state)).await;
    let body = body.map_err(|_| Problem::of(ProblemKind::TOO_SLOW))?;
    body.map_err(
        |rejection| match rejection.status() == ProblemKind::TOO_LARGE.status() {
            true => Problem::of(ProblemKind::TOO_LARGE)
                .detail(format!("a body has at most {BODY_BYTES_MAX} bytes")),
            false => Problem::of(ProblemKind::MALFORMED).at("", "the body did not arrive whole"),
        },
    )
}

fn check_declared(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let declared = text(header::CONTENT_TYPE);
    let essence = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let suffixed = essence.starts_with("application/") && essence.ends_with("+json");
    if essence != "application/json" && !suffixed {
        let detail = "send the header `Content-Type: application/json`";
        return Err(Problem::of(ProblemKind::NOT_JSON).detail(detail));
    }
    if !matches!(text(header::CONTENT_ENCODING), "" | "identity") {
        return Err(Problem::of(ProblemKind::NOT_JSON).detail("send the body uncompressed"));
    }
    Ok(())
}

/// Reads a `T` out of JSON text.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize(&mut json) {
        Ok(value) => match json.end() {
            Ok(()) => return Ok(value),
            Err(error) => return Err(malformed(&error)),
        },
        Err(error) => error,
    };
    // A wrong field is met before the end of the text was seen: the text may be broken further on.
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(Problem::of(ProblemKind::MALFORMED).at("", "the body is not UTF-8"));
    };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(malformed(&error));
    }
    let what = error.inner().to_string();
    // The position in the text says less than the pointer does.
    let what = what
        .rsplit_once(" at line ")
        .map_or(what.as_str(), |(what, _)| what);
    let pointer = pointer(error.path(), what);
    Err(Problem::of(ProblemKind::INVALID_BODY).at(pointer, what.to_owned()))
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::of(ProblemKind::MALFORMED).at("", error.to_string())
}

/// The place as a JSON pointer. A field that is missing or unknown is pointed at, not the object
/// around it.
fn pointer(path: &Path, what: &str) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => write!(pointer, "/{index}").expect("strings take all"),
            Segment::Map { key } => push_name(&mut pointer, key),
            Segment::Enum { variant } => push_name(&mut pointer, variant),
            Segment::Unknown => {}
        }
    }
    let named = ["missing field `", "unknown field `"]
        .iter()
        .find_map(|say| {
            let (name, _) = what.strip_prefix(say)?.split_once('`')?;
            Some(name)
        });
    match named {
        Some(name) if path.iter().next_back().and_then(map_key) != Some(name) => {
            push_name(&mut pointer, name);
        }
        Some(_) | None => {}
    }
    pointer
}

fn map_key(segment: &Segment) -> Option<&str> {
    match segment {
        Segment::Map { key } => Some(key),
        Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn push_name(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the reading is looked at")]
    struct Outer {
        name: String,
        lines: Vec<Inner>,
        count: Option<i64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the reading is looked at")]
    struct Inner {
        pieces: i64,
    }

    #[track_caller]
    fn check(body: &str, status: u16, pointer: &str) {
        let problem = parse::<Outer>(body.as_bytes()).expect_err("must be refused");
        assert_eq!(problem.kind().status().as_u16(), status, "{problem}");
        assert_eq!(problem.errors()[0].pointer, pointer, "{problem}");
    }

    #[test]
    fn wrong_fields_are_pointed_at() {
        check(r#"{"name":1,"lines":[]}"#, 422, "/name");
        check(r#"{"lines":[]}"#, 422, "/name");
        check(
            r#"{"name":"a","lines":[{"pieces":1},{"pieces":1.5}]}"#,
            422,
            "/lines/1/pieces",
        );
        check(
            r#"{"name":"a","lines":[{"pieces":1,"a/b~":2}]}"#,
            422,
            "/lines/0/a~1b~0",
        );
        check(r#"{"name":"a","lines":[{}]}"#, 422, "/lines/0/pieces");
        check(r#"{"name":"a","lines":[],"more":1}"#, 422, "/more");
        check(r#"{"name":"a","lines":[],"count":1e3}"#, 422, "/count");
        check(r#"{"name":"a","name":"b","lines":[]}"#, 422, "");
        check("[]", 422, "");
        check("7", 422, "");
    }

    #[test]
    fn broken_text_is_malformed_even_behind_a_wrong_field() {
        for body in [
            "",
            "{",
            "nonsense",
            r#"{"name":1,"lines":[}"#,
            "{} {}",
            "\u{0}",
        ] {
            check(body, 400, "");
        }
        let problem = parse::<Outer>(b"{\"name\":\"\xff\"}").expect_err("must be refused");
        assert_eq!(problem.kind(), ProblemKind::MALFORMED);
        check(&"[".repeat(BODY_BYTES_MAX), 400, "");
    }
}
