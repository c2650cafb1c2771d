//! One key of a key-value store.
//!
//! The partition that the key hashes to is looked at first. A processor may keep entries under keys
//! other than those of its records, which are then in any partition, so a miss is looked for in all
//! of them.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use millstream_runtime::Located;
use millstream_topology::partition_for_key;
use serde_json::json;

use super::{
    NO_SUCH_KEY, OTHER_KIND, answer, definition, is_hop, is_windowed, not_served, parse_key,
    passed_on,
    staleness::{Allowed, Hosts, Origin, POSITION, Source, Staleness, actives, copies, for_peer},
    with_origin,
};
use crate::{PeerAnswer, Problem, QueryParams, UrlPath, admin::AdminState, rfc3339};

pub(in crate::admin) async fn key(
    State(state): State<Arc<AdminState>>,
    UrlPath((store, text)): UrlPath<(String, String)>,
    QueryParams(staleness): QueryParams<Staleness>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let definition = definition(&state.queries, &store)?;
    if is_windowed(&**definition) {
        return Err(Problem::of(OTHER_KIND).detail("a window store is asked for windows"));
    }
    let key = parse_key(&**definition, &text)?;
    let partitions = state
        .queries
        .partitions(&store)
        .map_err(Problem::internal)?;
    let mut search = Search {
        likely: partition_for_key(&key, partitions),
        missing: (0..partitions as i32).collect(),
        state: &state,
        store: &store,
        text: &text,
        key: key.into(),
        looked: BTreeMap::new(),
        origin: Origin::Active,
    };
    if is_hop(&headers) {
        let found = search.here(for_peer(&state, &store, &staleness)?).await?;
        // The partitions that were looked at tell the asker whether the key can be elsewhere still.
        return Ok(found.unwrap_or_else(|| search.nothing()));
    }
    let allowed = staleness.allowed();
    if let Some(found) = search.here(actives(&state, &store)?).await? {
        return Ok(found);
    }
    if let Some(found) = search.ask_owners(allowed.is_some()).await? {
        return Ok(found);
    }
    if let Some(allowed) = allowed {
        if let Some(found) = search.here(copies(&state, &store, allowed)?).await? {
            return Ok(found);
        }
        if let Some(found) = search.ask_hosts(allowed).await? {
            return Ok(found);
        }
    }
    match search.missing.is_empty() {
        true => Ok(search.nothing()),
        false => Err(not_served()),
    }
}

/// Looks for a key.
struct Search<'a> {
    state: &'a AdminState,
    store: &'a str,
    text: &'a str,
    key: Arc<[u8]>,
    likely: i32,
    /// The partitions that nobody has looked at yet.
    missing: BTreeSet<i32>,
    /// Where those stand that were looked at here.
    looked: BTreeMap<i32, String>,
    /// Who has looked in vain.
    origin: Origin,
}

impl Search<'_> {
    /// Looks at the partitions that are here and were not looked at.
    async fn here(&mut self, mut sources: Vec<Source>) -> Result<Option<Response>, Problem> {
        sources.retain(|source| self.missing.remove(&source.partition));
        sources.sort_by_key(|source| source.partition != self.likely);
        for source in &sources {
            self.looked.insert(source.partition, source.position());
            self.origin = self.origin.and(source.origin);
        }
        let key = self.key.clone();
        let found = tokio::task::spawn_blocking(move || find(&sources, &key)).await;
        found.map_err(Problem::internal)?
    }

    /// Asks the instances that have tasks of the store one by one, the likely one first. With
    /// `lenient`, those that do not answer are left out.
    async fn ask_owners(&mut self, lenient: bool) -> Result<Option<Response>, Problem> {
        if self.missing.is_empty() {
            return Ok(None);
        }
        let (state, store) = (self.state, self.store);
        let mut endpoints = state.queries.elsewhere(store).map_err(Problem::internal)?;
        let located = state.queries.locate(store, &self.key);
        if let Located::There(likely) = located.map_err(Problem::internal)? {
            endpoints.sort_by_key(|endpoint| *endpoint != likely);
        }
        for endpoint in endpoints {
            let path = ["stores", store, "keys", self.text];
            let answer = match state.peer.get(&endpoint, &path, &[]).await {
                Err(_) if lenient => continue,
                answered => answered?,
            };
            match self.heard(answer) {
                Heard::Found(found) => return Ok(Some(found)),
                Heard::Nothing => {}
                Heard::NotServed if lenient => {}
                Heard::NotServed => return Err(not_served()),
            }
        }
        Ok(None)
    }

    /// Asks the standbys of other instances for what nobody has looked at.
    async fn ask_hosts(&mut self, allowed: Allowed) -> Result<Option<Response>, Problem> {
        let mut hosts = Hosts::new(self.state, self.store, allowed);
        loop {
            let asks = hosts.next(&self.missing)?;
            if asks.is_empty() {
                return Ok(None);
            }
            for ask in asks {
                let path = ["stores", self.store, "keys", self.text];
                let Some(answer) = ask.send(self.state, &path, &[]).await else {
                    continue;
                };
                if let Heard::Found(found) = self.heard(answer) {
                    return Ok(Some(found));
                }
            }
        }
    }

    /// Takes an answer of another instance, and notes which partitions it looked at.
    fn heard(&mut self, answer: PeerAnswer) -> Heard {
        match answer.status {
            StatusCode::OK => Heard::Found(passed_on(answer)),
            StatusCode::NOT_FOUND => {
                for partition in looked_at(&answer) {
                    self.missing.remove(&partition);
                }
                self.origin = self.origin.and(Origin::of(&answer.headers));
                Heard::Nothing
            }
            _ => Heard::NotServed,
        }
    }

    /// The answer that the key is not there.
    fn nothing(&self) -> Response {
        let none = Problem::of(NO_SUCH_KEY).into_response();
        let positions: Vec<&str> = self.looked.values().map(String::as_str).collect();
        with_origin(none, &positions.join(","), self.origin)
    }
}

/// What another instance told.
enum Heard {
    Found(Response),
    Nothing,
    NotServed,
}

fn find(sources: &[Source], key: &[u8]) -> Result<Option<Response>, Problem> {
    for source in sources {
        let view = &source.view;
        // The position is read first: the value may be newer than it says, never older.
        let position = source.position();
        let Some((value, timestamp)) = view.get(key).map_err(Problem::internal)? else {
            continue;
        };
        let definition = view.definition();
        let body = json!({
            "key": definition.key_json(key).map_err(Problem::internal)?,
            "value": definition.value_json(&value).map_err(Problem::internal)?,
            "timestamp": rfc3339(timestamp),
        });
        return Ok(Some(answer(body, &position, source.origin)));
    }
    Ok(None)
}

fn looked_at(answer: &PeerAnswer) -> Vec<i32> {
    let positions = answer
        .headers
        .get(POSITION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let partition = |at: &str| at.split(':').next()?.parse().ok();
    positions.split(',').filter_map(partition).collect()
}
