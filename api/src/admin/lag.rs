//! `/lag`: how far each input partition is behind its end.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use millstream_broker::{Admin, TopicPartition};
use serde_json::{Value as JsonValue, json};
use tokio::sync::Mutex;

use super::{AdminState, state::RETRY_AFTER};
use crate::{Problem, ProblemKind};

/// How long an answer is given again: each one asks the log about every partition.
const FRESH: Duration = Duration::from_millis(500);

/// The last answer. Those who ask while it is being made wait for it together.
#[derive(Default)]
pub(crate) struct LagCache(Mutex<Option<(Instant, JsonValue)>>);

pub(super) async fn lag(State(state): State<Arc<AdminState>>) -> Result<Json<JsonValue>, Problem> {
    let mut kept = state.lag.0.lock().await;
    if let Some((at, answer)) = &*kept
        && at.elapsed() < FRESH
    {
        return Ok(Json(answer.clone()));
    }
    let local: BTreeMap<_, _> = state.local_positions().into_iter().collect();
    let (log, inputs, group) = (
        state.log.clone(),
        state.inputs.clone(),
        state.application_id.clone(),
    );
    let look = move || look(&*log, &inputs, &group, &local);
    let answer = tokio::task::spawn_blocking(look)
        .await
        .map_err(Problem::internal)?;
    let answer = answer.map_err(|error| {
        tracing::debug!(%error, "the lag could not be read");
        Problem::of(ProblemKind::UNAVAILABLE)
            .detail("the log does not answer")
            .retry_after(RETRY_AFTER)
    })?;
    *kept = Some((Instant::now(), answer.clone()));
    Ok(Json(answer))
}

fn look(
    log: &dyn Admin,
    inputs: &[Arc<str>],
    group: &str,
    local: &BTreeMap<TopicPartition, i64>,
) -> millstream_broker::Result<JsonValue> {
    let topics = log.topics()?;
    let partitions: Vec<TopicPartition> = topics
        .iter()
        .filter(|topic| inputs.contains(&topic.name))
        .flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.name.clone(), p as i32)))
        .collect();
    let committed = log.committed(group, &partitions)?;
    let mut items = Vec::new();
    let mut total = 0;
    for (partition, committed) in partitions.iter().zip(committed) {
        let ends = log.watermarks(partition)?;
        let local = local.get(partition).copied();
        let position = local.or(committed).unwrap_or(ends.low).max(ends.low);
        let lag = (ends.high - position).max(0);
        total += lag;
        items.push(json!({
            "topic": partition.topic,
            "partition": partition.partition,
            "position": position,
            "committed": committed,
            "end": ends.high,
            "lag": lag,
            "local": local.is_some(),
        }));
    }
    Ok(json!({ "lag": total, "items": items }))
}
