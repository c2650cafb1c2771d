//! One key of a key-value store.
//!
//! The partition that the key hashes to is looked at first. A processor may keep entries under keys
//! other than those of its records, which are then in any partition, so a miss is looked for in all
//! of them.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use millstream_runtime::Located;
use millstream_state::StoreView;
use millstream_topology::partition_for_key;
use serde_json::json;

use super::{
    NO_SUCH_KEY, OTHER_KIND, POSITION, Staleness, answer, definition, is_hop, is_windowed,
    not_served, parse_key, passed_on, position, with_position,
};
use crate::{PeerAnswer, Problem, QueryParams, UrlPath, admin::AdminState, rfc3339};

pub(in crate::admin) async fn key(
    State(state): State<Arc<AdminState>>,
    UrlPath((store, text)): UrlPath<(String, String)>,
    QueryParams(_): QueryParams<Staleness>,
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
    let mut views = state.queries.local(&store).map_err(Problem::internal)?;
    let likely = partition_for_key(&key, partitions);
    views.sort_by_key(|(partition, _)| *partition != likely);
    let mut covered: BTreeSet<i32> = views.iter().map(|(partition, _)| *partition).collect();
    let positions: Vec<String> = views.iter().map(|(p, view)| position(*p, view)).collect();
    let bytes = key.clone();
    let found = tokio::task::spawn_blocking(move || find(&views, &bytes)).await;
    if let Some(found) = found.map_err(Problem::internal)?? {
        return Ok(found);
    }
    if is_hop(&headers) {
        // The partitions that were looked at tell the asker whether the key can be elsewhere still.
        let none = Problem::of(NO_SUCH_KEY).into_response();
        return Ok(with_position(none, &positions.join(",")));
    }
    if covered.len() < partitions as usize
        && let Some(found) = ask_others(&state, &store, &key, &text, &mut covered).await?
    {
        return Ok(found);
    }
    match (0..partitions as i32).all(|partition| covered.contains(&partition)) {
        true => Err(Problem::of(NO_SUCH_KEY)),
        false => Err(not_served()),
    }
}

fn find(views: &[(i32, StoreView)], key: &[u8]) -> Result<Option<Response>, Problem> {
    for (partition, view) in views {
        // The position is read first: the value may be newer than it says, never older.
        let position = position(*partition, view);
        let Some((value, timestamp)) = view.get(key).map_err(Problem::internal)? else {
            continue;
        };
        let definition = view.definition();
        let body = json!({
            "key": definition.key_json(key).map_err(Problem::internal)?,
            "value": definition.value_json(&value).map_err(Problem::internal)?,
            "timestamp": rfc3339(timestamp),
        });
        return Ok(Some(answer(body, &position)));
    }
    Ok(None)
}

/// Asks the instances one by one, the likely one first, and notes which partitions they looked at.
async fn ask_others(
    state: &AdminState,
    store: &str,
    key: &[u8],
    text: &str,
    covered: &mut BTreeSet<i32>,
) -> Result<Option<Response>, Problem> {
    let mut endpoints = state.queries.elsewhere(store).map_err(Problem::internal)?;
    if let Located::There(likely) = state
        .queries
        .locate(store, key)
        .map_err(Problem::internal)?
    {
        endpoints.sort_by_key(|endpoint| *endpoint != likely);
    }
    for endpoint in endpoints {
        let answer = state
            .peer
            .get(&endpoint, &["stores", store, "keys", text], &[])
            .await?;
        match answer.status {
            StatusCode::OK => return Ok(Some(passed_on(answer))),
            StatusCode::NOT_FOUND => covered.extend(looked_at(&answer)),
            _ => return Err(not_served()),
        }
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
