//! Entries of a store in the order of their encoded keys, from all partitions and instances.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use millstream_state::{StoreView, split_session_key, split_window_key};
use millstream_topology::StoreKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, json};
use tokio::task::JoinSet;

use super::{answer, definition, is_hop, is_windowed, limit, not_served, parse_key};
use crate::{
    Problem, ProblemKind, QueryParams, UrlPath, admin::AdminState, decode_cursor, encode_cursor,
    rfc3339,
};

#[derive(Clone, Deserialize)]
pub(in crate::admin) struct Span {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    #[serde(default, rename = "max_stale_ms")]
    _max_stale_ms: Option<u64>,
}

/// What is asked of each partition: the encoded entries behind `after`, up to the key `to`.
#[derive(Clone)]
struct Bounds {
    lower: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    limit: usize,
    windowed: bool,
}

/// Entries by their encoded keys, from some partitions.
#[derive(Default, Serialize, Deserialize)]
struct Found {
    /// In hexadecimal, which has the order of the bytes.
    entries: BTreeMap<String, JsonValue>,
    /// Where each of the partitions stands.
    positions: BTreeMap<i32, i64>,
    /// Some partition has nothing to tell of keys behind this one, as it reached its limit.
    complete_to: Option<String>,
}

pub(in crate::admin) async fn range(
    State(state): State<Arc<AdminState>>,
    UrlPath(store): UrlPath<String>,
    QueryParams(span): QueryParams<Span>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bounds = bounds(&state, &store, &span)?;
    let views = state.queries.local(&store).map_err(Problem::internal)?;
    let limits = bounds.clone();
    let local = tokio::task::spawn_blocking(move || read_all(&views, &limits)).await;
    let mut found = local.map_err(Problem::internal)??;
    if is_hop(&headers) {
        let body = serde_json::to_value(&found).map_err(Problem::internal)?;
        return Ok(answer(body, ""));
    }
    let partitions = state
        .queries
        .partitions(&store)
        .map_err(Problem::internal)?;
    if found.positions.len() < partitions as usize {
        for other in ask_others(&state, &store, &span, bounds.limit).await? {
            found.add(other);
        }
    }
    let served: BTreeSet<i32> = found.positions.keys().copied().collect();
    if !(0..partitions as i32).all(|p| served.contains(&p)) {
        // Part of the entries would look like all of them.
        return Err(not_served());
    }
    Ok(found.into_answer(bounds.limit))
}

fn bounds(state: &AdminState, store: &str, span: &Span) -> Result<Bounds, Problem> {
    let definition = definition(&state.queries, store)?;
    let key = |text: &Option<String>| {
        text.as_deref()
            .map(|text| parse_key(&**definition, text))
            .transpose()
    };
    let wrong = || Problem::of(ProblemKind::INVALID_PARAMETER).detail("this is no cursor");
    let lower = match &span.cursor {
        Some(cursor) => {
            let mut after = decode_cursor(cursor).ok_or_else(wrong)?;
            // The first key behind it.
            after.push(0);
            Some(after)
        }
        None => key(&span.from)?,
    };
    let windowed = is_windowed(&**definition);
    Ok(Bounds {
        lower,
        to: key(&span.to)?,
        limit: limit(span.limit)?,
        windowed,
    })
}

impl Bounds {
    /// The encoded end of the range, which the range itself does not contain.
    fn upper(&self) -> Option<Vec<u8>> {
        /// More than what the key of a window or a session has behind the key itself, all ones.
        const BEHIND_WINDOWS: [u8; 17] = [0xff; 17];
        let mut upper = self.to.clone()?;
        match self.windowed {
            true => upper.extend(BEHIND_WINDOWS),
            false => upper.push(0),
        }
        Some(upper)
    }
}

fn read_all(views: &[(i32, StoreView)], bounds: &Bounds) -> Result<Found, Problem> {
    let mut found = Found::default();
    for (partition, view) in views {
        found.add(read(*partition, view, bounds)?);
    }
    Ok(found)
}

fn read(partition: i32, view: &StoreView, bounds: &Bounds) -> Result<Found, Problem> {
    let mut found = Found::default();
    found
        .positions
        .insert(partition, view.position().unwrap_or(0));
    let (lower, upper) = (bounds.lower.as_deref(), bounds.upper());
    let page = view
        .range(lower, upper.as_deref(), bounds.limit)
        .map_err(Problem::internal)?;
    if page.len() == bounds.limit {
        found.complete_to = page.last().map(|(key, ..)| encode_cursor(key));
    }
    for (key, value, timestamp) in page {
        if let Some(item) = item(view, bounds, &key, &value, timestamp)? {
            found.entries.insert(encode_cursor(&key), item);
        }
    }
    Ok(found)
}

fn item(
    view: &StoreView,
    bounds: &Bounds,
    key: &Bytes,
    value: &Bytes,
    timestamp: i64,
) -> Result<Option<JsonValue>, Problem> {
    let definition = view.definition();
    let mut item = json!({
        "value": definition.value_json(value).map_err(Problem::internal)?,
        "timestamp": rfc3339(timestamp),
    });
    let mut plain: &[u8] = key;
    if bounds.windowed {
        let split = match matches!(view.kind(), StoreKind::Session { .. }) {
            true => split_session_key(key).map(|(key, start, end)| {
                (key, json!({ "start": rfc3339(start), "end": rfc3339(end) }))
            }),
            false => split_window_key(key)
                .map(|(key, start, _)| (key, json!({ "start": rfc3339(start) }))),
        };
        let Some((key, window)) = split else {
            return Err(Problem::internal(
                "a window store has a key without a window",
            ));
        };
        // Longer keys lie between the windows of the last one.
        if bounds.to.as_deref().is_some_and(|to| key > to) {
            return Ok(None);
        }
        item["window"] = window;
        plain = key;
    }
    item["key"] = definition.key_json(plain).map_err(Problem::internal)?;
    Ok(Some(item))
}

async fn ask_others(
    state: &AdminState,
    store: &str,
    span: &Span,
    limit: usize,
) -> Result<Vec<Found>, Problem> {
    let mut asked = JoinSet::new();
    for endpoint in state.queries.elsewhere(store).map_err(Problem::internal)? {
        let (peer, store, span) = (state.peer.clone(), store.to_owned(), span.clone());
        asked.spawn(async move {
            let limit = limit.to_string();
            let mut params = vec![("limit", limit.as_str())];
            for (name, value) in [
                ("from", &span.from),
                ("to", &span.to),
                ("cursor", &span.cursor),
            ] {
                params.extend(value.as_deref().map(|value| (name, value)));
            }
            let answer = peer
                .get(&endpoint, &["stores", &store, "range"], &params)
                .await?;
            if !answer.status.is_success() {
                return Err(not_served());
            }
            serde_json::from_slice::<Found>(&answer.body).map_err(Problem::internal)
        });
    }
    let mut found = Vec::new();
    while let Some(answer) = asked.join_next().await {
        found.push(answer.map_err(Problem::internal)??);
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, other: Self) {
        for (key, item) in other.entries {
            // A partition that is moving may be told of twice; what this instance holds counts.
            self.entries.entry(key).or_insert(item);
        }
        for (partition, position) in other.positions {
            self.positions.entry(partition).or_insert(position);
        }
        self.complete_to = match (self.complete_to.take(), other.complete_to) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn into_answer(mut self, limit: usize) -> Response {
        if let Some(end) = &self.complete_to {
            self.entries.retain(|key, _| key <= end);
        }
        let next = match self.entries.len() > limit {
            true => self.entries.keys().nth(limit - 1).cloned(),
            false => self.complete_to,
        };
        let items: Vec<JsonValue> = self.entries.into_values().take(limit).collect();
        let mut body = json!({ "items": items });
        if let Some(next) = next {
            body["next_cursor"] = next.into();
        }
        let at = |(partition, position)| format!("{partition}:{position}");
        let positions: Vec<String> = self.positions.iter().map(at).collect();
        answer(body, &positions.join(","))
    }
}
