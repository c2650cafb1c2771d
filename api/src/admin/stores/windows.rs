//! The windows of one key of a window store, or the sessions of one key of a session store.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use millstream_runtime::Located;
use millstream_state::StoreView;
use millstream_topology::{StoreKind, partition_for_key};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{
    NO_SUCH_KEY, OTHER_KIND, answer, definition, is_hop, is_windowed, limit, not_served, parse_key,
    passed_on,
    staleness::{Hosts, Source, Staleness, actives, copies, for_peer},
    with_origin,
};
use crate::{
    PeerAnswer, Problem, ProblemKind, QueryParams, UrlPath, admin::AdminState, parse_time, rfc3339,
};

#[derive(Deserialize)]
pub(in crate::admin) struct Span {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
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

pub(in crate::admin) async fn sessions(
    state: State<Arc<AdminState>>,
    path: UrlPath<(String, String)>,
    span: QueryParams<Span>,
    staleness: QueryParams<Staleness>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let definition = definition(&state.queries, &path.0.0)?;
    if !matches!(definition.spec().kind, StoreKind::Session { .. }) {
        return Err(Problem::of(OTHER_KIND).detail("this is no session store"));
    }
    windows(state, path, span, staleness, headers).await
}

pub(in crate::admin) async fn windows(
    State(state): State<Arc<AdminState>>,
    UrlPath((store, text)): UrlPath<(String, String)>,
    QueryParams(span): QueryParams<Span>,
    QueryParams(staleness): QueryParams<Staleness>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let definition = definition(&state.queries, &store)?;
    if !is_windowed(&**definition) {
        return Err(Problem::of(OTHER_KIND).detail("a key-value store has no windows"));
    }
    let key = parse_key(&**definition, &text)?;
    let wanted = Wanted {
        from: Span::bound(span.from.as_deref(), 0)?,
        to: Span::bound(span.to.as_deref(), i64::MAX)?,
        limit: limit(span.limit)?,
    };
    let partitions = state
        .queries
        .partitions(&store)
        .map_err(Problem::internal)?;
    let partition = partition_for_key(&key, partitions);
    let here = |sources: Vec<Source>| sources.into_iter().find(|s| s.partition == partition);
    if is_hop(&headers) {
        let source = here(for_peer(&state, &store, &staleness)?).ok_or_else(not_served)?;
        return tell(source, key, wanted).await;
    }
    if let Some(source) = here(actives(&state, &store)?) {
        return tell(source, key, wanted).await;
    }
    let path = ["stores", &store, "windows", &text];
    let params = wanted.params();
    let located = state.queries.locate(&store, &key);
    if let Located::There(endpoint) = located.map_err(Problem::internal)? {
        let params = params.each_ref().map(|(name, value)| (*name, &**value));
        let answer = state.peer.get(&endpoint, &path, &params).await;
        let served = |answer: &PeerAnswer| answer.status != StatusCode::SERVICE_UNAVAILABLE;
        if staleness.allowed().is_none() || answer.as_ref().is_ok_and(served) {
            return answer.map(passed_on);
        }
    }
    let Some(allowed) = staleness.allowed() else {
        return Err(not_served());
    };
    if let Some(source) = here(copies(&state, &store, allowed)?) {
        return tell(source, key, wanted).await;
    }
    let mut hosts = Hosts::new(&state, &store, allowed);
    while let Some(ask) = hosts.next(&BTreeSet::from([partition]))?.pop() {
        let answer = ask.send(&state, &path, &params).await;
        if let Some(answer) = answer.filter(|a| a.status != StatusCode::SERVICE_UNAVAILABLE) {
            return Ok(passed_on(answer));
        }
    }
    Err(not_served())
}

/// Which of a key's windows are wanted.
#[derive(Clone, Copy)]
struct Wanted {
    from: i64,
    to: i64,
    limit: usize,
}

impl Wanted {
    /// As parameters for another instance.
    fn params(&self) -> [(&'static str, String); 3] {
        [
            ("from", self.from.to_string()),
            ("to", self.to.to_string()),
            ("limit", self.limit.to_string()),
        ]
    }
}

/// Answers from a partition that is here.
async fn tell(source: Source, key: Vec<u8>, wanted: Wanted) -> Result<Response, Problem> {
    let (position, origin) = (source.position(), source.origin);
    let read = move || match matches!(source.view.kind(), StoreKind::Session { .. }) {
        true => read_sessions(&source.view, &key, wanted),
        false => read_windows(&source.view, &key, wanted),
    };
    let items = tokio::task::spawn_blocking(read).await;
    Ok(match items.map_err(Problem::internal)?? {
        Some(items) => answer(json!({ "items": items }), &position, origin),
        None => with_origin(Problem::of(NO_SUCH_KEY).into_response(), &position, origin),
    })
}

/// `None` when the key has no window at all.
fn read_windows(
    view: &StoreView,
    key: &[u8],
    Wanted { from, to, limit }: Wanted,
) -> Result<Option<Vec<JsonValue>>, Problem> {
    let windows = view
        .windows(key, from, to, limit)
        .map_err(Problem::internal)?;
    if windows.is_empty() {
        let any = view
            .windows(key, 0, i64::MAX, 1)
            .map_err(Problem::internal)?;
        if any.is_empty() {
            return Ok(None);
        }
    }
    let definition = view.definition();
    let key = definition.key_json(key).map_err(Problem::internal)?;
    let item = |(start, value, timestamp): (i64, bytes::Bytes, i64)| {
        let value = definition.value_json(&value).map_err(Problem::internal)?;
        let (window, timestamp) = (json!({ "start": rfc3339(start) }), rfc3339(timestamp));
        Ok(json!({ "key": key, "value": value, "timestamp": timestamp, "window": window }))
    };
    let items = windows.into_iter().map(item);
    items.collect::<Result<_, Problem>>().map(Some)
}

/// `None` when the key has no session at all.
fn read_sessions(
    view: &StoreView,
    key: &[u8],
    Wanted { from, to, limit }: Wanted,
) -> Result<Option<Vec<JsonValue>>, Problem> {
    let sessions = view
        .sessions(key, from, to, limit)
        .map_err(Problem::internal)?;
    if sessions.is_empty() {
        let any = view
            .sessions(key, 0, i64::MAX, 1)
            .map_err(Problem::internal)?;
        if any.is_empty() {
            return Ok(None);
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
    let items = sessions.into_iter().map(item);
    items.collect::<Result<_, Problem>>().map(Some)
}
