//! One key of a key-value store.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use millstream_runtime::Located;
use millstream_state::StoreView;
use millstream_topology::partition_for_key;
use serde_json::json;

use super::{
    NO_SUCH_KEY, OTHER_KIND, Staleness, answer, definition, is_hop, is_windowed, not_served,
    parse_key, passed_on, position,
};
use crate::{Problem, QueryParams, UrlPath, admin::AdminState, rfc3339};

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
    match state.queries.locate(&store, &key).map_err(Problem::internal)? {
        Located::Here(view) => {
            let partitions = state.queries.partitions(&store).map_err(Problem::internal)?;
            let partition = partition_for_key(&key, partitions);
            let read = move || read(&view, partition, &key);
            tokio::task::spawn_blocking(read).await.map_err(Problem::internal)?
        }
        Located::There(endpoint) if !is_hop(&headers) => {
            let path = ["stores", &store, "keys", &text];
            state.peer.get(&endpoint, &path, &[]).await.map(passed_on)
        }
        Located::There(_) | Located::Nowhere => Err(not_served()),
    }
}

fn read(view: &StoreView, partition: i32, key: &[u8]) -> Result<Response, Problem> {
    // The position is read first: the value may be newer than it says, never older.
    let position = position(partition, view);
    let found = view.get(key).map_err(Problem::internal)?;
    let (value, timestamp) = found.ok_or(Problem::of(NO_SUCH_KEY))?;
    let definition = view.definition();
    let body = json!({
        "key": definition.key_json(key).map_err(Problem::internal)?,
        "value": definition.value_json(&value).map_err(Problem::internal)?,
        "timestamp": rfc3339(timestamp),
    });
    Ok(answer(body, &position))
}
