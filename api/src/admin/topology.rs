//! `/topology`: the graph, with the rate of each node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use millstream_topology::DescribedNode;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::AdminState;
use crate::{Problem, QueryParams};

/// The shortest time over which a rate is computed; calls in between get the last one.
const SAMPLE_MIN: Duration = Duration::from_millis(900);

/// Computes rates from the counters as they were at an earlier call.
pub(crate) struct Sampler(Mutex<Samples>);

struct Samples {
    at: Instant,
    records: BTreeMap<String, u64>,
    rates: Rates,
}

/// Records per second by node, and over how long they were computed.
#[derive(Clone, Default)]
pub(crate) struct Rates {
    over: Duration,
    per_second: BTreeMap<String, f64>,
}

impl Default for Sampler {
    fn default() -> Self {
        let (records, rates) = (BTreeMap::new(), Rates::default());
        Self(Mutex::new(Samples {
            at: Instant::now(),
            records,
            rates,
        }))
    }
}

impl Sampler {
    fn rates(&self, now: Instant, records: &BTreeMap<String, u64>) -> Rates {
        let mut last = self.0.lock().expect("computing rates does not panic");
        let over = now.saturating_duration_since(last.at);
        if over >= SAMPLE_MIN {
            let rate = |(node, n): (&String, &u64)| {
                let before = last.records.get(node).copied().unwrap_or_default();
                // Counters begin anew when a task is opened.
                let more = n.checked_sub(before).unwrap_or(*n);
                (node.clone(), more as f64 / over.as_secs_f64())
            };
            let per_second = records.iter().map(rate).collect();
            let rates = Rates { over, per_second };
            *last = Samples {
                at: now,
                records: records.clone(),
                rates,
            };
        }
        last.rates.clone()
    }
}

#[derive(Deserialize)]
pub(super) struct Format {
    #[serde(default)]
    format: GraphFormat,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum GraphFormat {
    #[default]
    Json,
    Mermaid,
    Text,
}

pub(super) async fn topology(
    State(state): State<Arc<AdminState>>,
    QueryParams(Format { format }): QueryParams<Format>,
) -> Result<Response, Problem> {
    let text = |text: String| {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        ([(header::CONTENT_TYPE, plain)], text).into_response()
    };
    Ok(match format {
        GraphFormat::Json => Json(graph(&state)).into_response(),
        GraphFormat::Mermaid => text(state.description.mermaid()),
        GraphFormat::Text => text(state.description.to_string()),
    })
}

/// Operators, topics and stores are nodes, told apart by the first part of their id.
fn graph(state: &AdminState) -> JsonValue {
    let records = state.status().nodes;
    let rates = state.sampler.rates(Instant::now(), &records);
    let mut nodes = Vec::new();
    let mut edges = Vec::new();
    let mut others: BTreeMap<String, JsonValue> = BTreeMap::new();
    for node in &state.description.nodes {
        let id = format!("node:{}", node.name);
        nodes.push(json!({
            "id": id,
            "name": node.name,
            "kind": node.kind,
            "subtopology": node.subtopology,
            "stores": node.stores,
            "topics": node.topics,
            "records": records.get(&node.name).copied().unwrap_or_default(),
            "rate": rates.per_second.get(&node.name).copied().unwrap_or_default(),
        }));
        let from = |input: &String| json!({ "from": format!("node:{input}"), "to": id });
        edges.extend(node.inputs.iter().map(from));
        for topic in &node.topics {
            edges.push(topic_edge(node, &id, topic));
            let shown = json!({
                "id": format!("topic:{topic}"),
                "name": state.full_name(topic, node.internal),
                "kind": "topic",
                "internal": node.internal,
            });
            others.insert(format!("topic:{topic}"), shown);
        }
        for store in &node.stores {
            let store_id = format!("store:{store}");
            edges.push(json!({ "from": id, "to": store_id }));
            let shown = json!({
                "id": store_id,
                "name": store,
                "kind": "store",
                "subtopology": node.subtopology,
            });
            others.insert(store_id, shown);
        }
    }
    nodes.extend(others.into_values());
    json!({
        "application_id": state.application_id,
        "rates_over_ms": u64::try_from(rates.over.as_millis()).unwrap_or(u64::MAX),
        "nodes": nodes,
        "edges": edges,
    })
}

fn topic_edge(node: &DescribedNode, id: &str, topic: &str) -> JsonValue {
    let topic = format!("topic:{topic}");
    match node.kind.as_str() {
        "source" => json!({ "from": topic, "to": id }),
        _ => json!({ "from": id, "to": topic }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_computed_between_calls_and_survive_counters_that_begin_anew() {
        let sampler = Sampler::default();
        let begin = Instant::now();
        let records = |n: u64| BTreeMap::from([("a".to_owned(), n)]);
        let rate = |after_ms: u64, n: u64| {
            let rates = sampler.rates(begin + Duration::from_millis(after_ms), &records(n));
            rates.per_second.get("a").map(|r| r.round())
        };
        assert_eq!(rate(1, 10), None);
        assert!(rate(10_000, 100).is_some());
        assert_eq!(rate(12_000, 300), Some(100.0));
        assert_eq!(rate(12_100, 900), Some(100.0));
        assert_eq!(rate(14_000, 50), Some(25.0));
    }
}
