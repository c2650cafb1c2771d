//! Entries of a store in the order of their encoded keys, from all partitions and instances.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use millstream_state::{StoreView, split_session_key, split_window_key};
use millstream_topology::StoreKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, json};
use tokio::task::JoinSet;

use super::{
    answer, definition, is_hop, is_windowed, limit, not_served, parse_key,
    staleness::{Allowed, Hosts, Origin, Source, Staleness, actives, copies, for_peer},
};
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
    /// Who told of those of them that are not from their tasks.
    #[serde(default)]
    origins: BTreeMap<i32, Origin>,
    /// Some partition has nothing to tell of keys behind this one, as it reached its limit.
    complete_to: Option<String>,
}

pub(in crate::admin) async fn range(
    State(state): State<Arc<AdminState>>,
    UrlPath(store): UrlPath<String>,
    QueryParams(span): QueryParams<Span>,
    QueryParams(staleness): QueryParams<Staleness>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bounds = bounds(&state, &store, &span)?;
    if is_hop(&headers) {
        let sources = for_peer(&state, &store, &staleness)?;
        let found = read_all(sources, &bounds).await?;
        let origin = found.origin();
        let body = serde_json::to_value(&found).map_err(Problem::internal)?;
        return Ok(answer(body, "", origin));
    }
    let partitions = state
        .queries
        .partitions(&store)
        .map_err(Problem::internal)?;
    let missing = |found: &Found| -> BTreeSet<i32> {
        let all = 0..partitions as i32;
        all.filter(|p| !found.positions.contains_key(p)).collect()
    };
    let asked = Asked {
        state: &state,
        store: &store,
        params: span.params(bounds.limit),
    };
    let mut found = read_all(actives(&state, &store)?, &bounds).await?;
    let allowed = staleness.allowed();
    if !missing(&found).is_empty() {
        for other in asked.owners(allowed.is_some()).await? {
            found.add(other);
        }
    }
    if let Some(allowed) = allowed {
        let mut copies = copies(&state, &store, allowed)?;
        copies.retain(|copy| !found.positions.contains_key(&copy.partition));
        found.add(read_all(copies, &bounds).await?);
        asked.hosts(allowed, &mut found, &missing).await?;
    }
    if !missing(&found).is_empty() {
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

async fn read_all(sources: Vec<Source>, bounds: &Bounds) -> Result<Found, Problem> {
    let bounds = bounds.clone();
    let read_all = move || {
        let mut found = Found::default();
        for source in &sources {
            found.add(read(source, &bounds)?);
        }
        Ok(found)
    };
    let read = tokio::task::spawn_blocking(read_all).await;
    read.map_err(Problem::internal)?
}

fn read(source: &Source, bounds: &Bounds) -> Result<Found, Problem> {
    let (partition, view) = (source.partition, &source.view);
    let mut found = Found::default();
    found
        .positions
        .insert(partition, view.position().unwrap_or(0));
    if source.origin != Origin::Active {
        found.origins.insert(partition, source.origin);
    }
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

impl Span {
    /// As parameters for another instance.
    fn params(self, limit: usize) -> Vec<(&'static str, String)> {
        let mut params = vec![("limit", limit.to_string())];
        for (name, value) in [
            ("from", self.from),
            ("to", self.to),
            ("cursor", self.cursor),
        ] {
            params.extend(value.map(|value| (name, value)));
        }
        params
    }
}

/// What other instances are asked.
struct Asked<'a> {
    state: &'a AdminState,
    store: &'a str,
    params: Vec<(&'static str, String)>,
}

impl Asked<'_> {
    /// Asks the instances that have tasks of the store, all at once. With `lenient`, those that do
    /// not answer are left out.
    async fn owners(&self, lenient: bool) -> Result<Vec<Found>, Problem> {
        let mut asked = JoinSet::new();
        let endpoints = self.state.queries.elsewhere(self.store);
        for endpoint in endpoints.map_err(Problem::internal)? {
            let (peer, store) = (self.state.peer.clone(), self.store.to_owned());
            let params = self.params.clone();
            asked.spawn(async move {
                let params: Vec<(&str, &str)> =
                    params.iter().map(|(name, v)| (*name, &**v)).collect();
                let path = ["stores", &store, "range"];
                let answer = peer.get(&endpoint, &path, &params).await?;
                if !answer.status.is_success() {
                    return Err(not_served());
                }
                serde_json::from_slice::<Found>(&answer.body).map_err(Problem::internal)
            });
        }
        let mut found = Vec::new();
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(Problem::internal)? {
                Err(_) if lenient => {}
                answer => found.push(answer?),
            }
        }
        Ok(found)
    }

    /// Asks the standbys of other instances for what is still missing.
    async fn hosts(
        &self,
        allowed: Allowed,
        found: &mut Found,
        missing: impl Fn(&Found) -> BTreeSet<i32>,
    ) -> Result<(), Problem> {
        let mut hosts = Hosts::new(self.state, self.store, allowed);
        loop {
            let asks = hosts.next(&missing(found))?;
            if asks.is_empty() {
                return Ok(());
            }
            for ask in asks {
                let path = ["stores", self.store, "range"];
                let answer = ask.send(self.state, &path, &self.params).await;
                let Some(answer) = answer.filter(|answer| answer.status.is_success()) else {
                    continue;
                };
                found.add(serde_json::from_slice(&answer.body).map_err(Problem::internal)?);
            }
        }
    }
}

impl Found {
    fn add(&mut self, other: Self) {
        for (key, item) in other.entries {
            // A partition that is moving may be told of twice; what this instance holds counts.
            self.entries.entry(key).or_insert(item);
        }
        for (partition, position) in other.positions {
            if let Entry::Vacant(none) = self.positions.entry(partition) {
                none.insert(position);
                let origin = other.origins.get(&partition);
                self.origins
                    .extend(origin.map(|origin| (partition, *origin)));
            }
        }
        self.complete_to = match (self.complete_to.take(), other.complete_to) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Who told of the part that is the oldest.
    fn origin(&self) -> Origin {
        self.origins
            .values()
            .copied()
            .fold(Origin::Active, Origin::and)
    }

    fn into_answer(mut self, limit: usize) -> Response {
        let origin = self.origin();
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
        answer(body, &positions.join(","), origin)
    }
}
