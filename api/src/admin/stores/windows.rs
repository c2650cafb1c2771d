//! The windows of one key of a window store, or the sessions of one key of a session store.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use millstream_runtime::Located;
use millstream_state::StoreView;
use millstream_topology::{StoreKind, partition_for_key};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{
    NO_SUCH_KEY, OTHER_KIND, answer, definition, is_hop, is_windowed, limit, not_served, parse_key,
    passed_on, position,
};
use crate::{Problem, ProblemKind, QueryParams, UrlPath, admin::AdminState, parse_time, rfc3339};

#[derive(Deserialize)]
pub(in crate::admin) struct Span {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    #[serde(default, rename = "max_stale_ms")]
    _max_stale_ms: Option<u64>,
}

impl Span {
    fn bound(text: Option<&str>, default: i64) -> Result<i64, Problem> {
        let Some(text) = text else { return Ok(default) };
        parse_time(text).ok_or_else(|| {
            Problem::of(ProblemKind::INVALID_PARAMETER)
                .detail("a time is RFC 3339 text or epoch milliseconds")
        })
    }
}

pub(in crate::admin) async fn windows(
    State(state): State<Arc<AdminState>>,
    UrlPath((store, text)): UrlPath<(String, String)>,
    QueryParams(span): QueryParams<Span>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let definition = definition(&state.queries, &store)?;
    if !is_windowed(&**definition) {
        return Err(Problem::of(OTHER_KIND).detail("a key-value store has no windows"));
    }
    let key = parse_key(&**definition, &text)?;
    let from = Span::bound(span.from.as_deref(), 0)?;
    let to = Span::bound(span.to.as_deref(), i64::MAX)?;
    let limit = limit(span.limit)?;
    match state
        .queries
        .locate(&store, &key)
        .map_err(Problem::internal)?
    {
        Located::Here(view) => {
            let partitions = state
                .queries
                .partitions(&store)
                .map_err(Problem::internal)?;
            let partition = partition_for_key(&key, partitions);
            let read = move || read(&view, partition, &key, (from, to), limit);
            tokio::task::spawn_blocking(read)
                .await
                .map_err(Problem::internal)?
        }
        Located::There(endpoint) if !is_hop(&headers) => {
            let (from, to, limit) = (from.to_string(), to.to_string(), limit.to_string());
            let params = [("from", &*from), ("to", &*to), ("limit", &*limit)];
            let path = ["stores", &store, "windows", &text];
            state
                .peer
                .get(&endpoint, &path, &params)
                .await
                .map(passed_on)
        }
        Located::There(_) | Located::Nowhere => Err(not_served()),
    }
}

fn read(
    view: &StoreView,
    partition: i32,
    key: &[u8],
    (from, to): (i64, i64),
    limit: usize,
) -> Result<Response, Problem> {
    if matches!(view.kind(), StoreKind::Session { .. }) {
        return read_sessions(view, partition, key, (from, to), limit);
    }
    let position = position(partition, view);
    let windows = view
        .windows(key, from, to, limit)
        .map_err(Problem::internal)?;
    if windows.is_empty() {
        let any = view
            .windows(key, 0, i64::MAX, 1)
            .map_err(Problem::internal)?;
        if any.is_empty() {
            return Err(Problem::of(NO_SUCH_KEY));
        }
    }
    let definition = view.definition();
    let key = definition.key_json(key).map_err(Problem::internal)?;
    let item = |(start, value, timestamp): (i64, bytes::Bytes, i64)| {
        let value = definition.value_json(&value).map_err(Problem::internal)?;
        let (window, timestamp) = (json!({ "start": rfc3339(start) }), rfc3339(timestamp));
        Ok(json!({ "key": key, "value": value, "timestamp": timestamp, "window": window }))
    };
    let items: Vec<JsonValue> = windows
        .into_iter()
        .map(item)
        .collect::<Result<_, Problem>>()?;
    Ok(answer(json!({ "items": items }), &position))
}

fn read_sessions(
    view: &StoreView,
    partition: i32,
    key: &[u8],
    (from, to): (i64, i64),
    limit: usize,
) -> Result<Response, Problem> {
    let position = position(partition, view);
    let sessions = view
        .sessions(key, from, to, limit)
        .map_err(Problem::internal)?;
    if sessions.is_empty() {
        let any = view
            .sessions(key, 0, i64::MAX, 1)
            .map_err(Problem::internal)?;
        if any.is_empty() {
            return Err(Problem::of(NO_SUCH_KEY));
        }
    }
    let definition = view.definition();
    let key = definition.key_json(key).map_err(Problem::internal)?;
    let item = |(start, end, value): (i64, i64, bytes::Bytes)| {
        let value = definition.value_json(&value).map_err(Problem::internal)?;
        let (start, end) = (rfc3339(start), rfc3339(end));
        let window = json!({ "start": start, "end": end });
        Ok(json!({ "key": key, "value": value, "timestamp": end, "window": window }))
    };
    let items: Vec<JsonValue> = sessions
        .into_iter()
        .map(item)
        .collect::<Result<_, Problem>>()?;
    Ok(answer(json!({ "items": items }), &position))
}
