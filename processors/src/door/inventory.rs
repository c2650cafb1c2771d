//! `/v1/inventory`: stock, and adjustments of it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_api::{JsonBody, Problem, ProblemKind, UrlPath};
use serde::Deserialize;
use serde_json::json;

use super::{DoorState, products::path_segment, reads::Stored, unavailable};
use crate::{
    model::{AdjustmentKey, ID_BYTES_MAX, InventoryCommand, ON_HAND_MAX, Sku, Stock, rfc3339},
    topics::INVENTORY_COMMANDS,
};

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 500;
/// Adjustments that are remembered until inventory has seen them.
const REMEMBERED_MAX: usize = 10_000;

const NO_STOCK: ProblemKind = ProblemKind::new(
    "no-such-stock",
    StatusCode::NOT_FOUND,
    "Nothing is known of such a product.",
);
const NO_SUCH_ADJUSTMENT: ProblemKind = ProblemKind::new(
    "no-such-adjustment",
    StatusCode::NOT_FOUND,
    "There is no such adjustment.",
);
const INVALID_ADJUSTMENT: ProblemKind = ProblemKind::new(
    "invalid-adjustment",
    StatusCode::UNPROCESSABLE_ENTITY,
    "The adjustment cannot be accepted as it is.",
);

/// The adjustments that were accepted last, shown as pending until inventory knows them.
#[derive(Default)]
pub(super) struct Adjustments(Mutex<(HashMap<AdjustmentKey, i64>, VecDeque<AdjustmentKey>)>);

impl Adjustments {
    fn remember(&self, key: AdjustmentKey, delta: i64) {
        let (deltas, oldest) = &mut *self.0.lock().expect("nothing panics with this lock");
        if deltas.insert(key.clone(), delta).is_none() {
            oldest.push_back(key);
        }
        if oldest.len() > REMEMBERED_MAX
            && let Some(key) = oldest.pop_front()
        {
            deltas.remove(&key);
        }
    }

    fn delta(&self, key: &AdjustmentKey) -> Option<i64> {
        self.0
            .lock()
            .expect("nothing panics with this lock")
            .0
            .get(key)
            .copied()
    }
}

pub(super) async fn one(
    State(door): State<Arc<DoorState>>,
    UrlPath(sku): UrlPath<String>,
) -> Result<Response, Problem> {
    let sku: Sku = sku.parse().map_err(|_| Problem::of(NO_STOCK))?;
    let stock = match door.stock(&sku).await? {
        Some(stock) => stock,
        // A product that nothing ever happened to.
        None if door.catalogue.get(&sku).is_some() => Stock::default(),
        None => return Err(Problem::of(NO_STOCK)),
    };
    let body = json!({
        "sku": sku,
        "on_hand": stock.on_hand,
        "reserved": stock.reserved,
        "available": stock.available(),
        "sold": stock.sold,
    });
    Ok(Json(body).into_response())
}

/// The body of an adjustment.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdjustmentRequest {
    adjustment_id: String,
    delta: i64,
    reason: String,
}

pub(super) async fn adjust(
    State(door): State<Arc<DoorState>>,
    UrlPath(sku): UrlPath<String>,
    JsonBody(request): JsonBody<AdjustmentRequest>,
) -> Result<Response, Problem> {
    let sku: Sku = sku.parse().map_err(|_| Problem::of(NO_STOCK))?;
    request.check()?;
    let AdjustmentRequest {
        adjustment_id,
        delta,
        reason,
    } = request;
    let key = AdjustmentKey {
        sku: sku.clone(),
        adjustment_id: adjustment_id.into(),
    };
    let adjustment_id = key.adjustment_id.clone();
    let command = InventoryCommand::Adjust {
        adjustment_id: adjustment_id.clone(),
        delta,
        reason: reason.into(),
    };
    door.log
        .append(&INVENTORY_COMMANDS, &sku, &command, Box::new(|_| ()))
        .await?;
    door.adjustments.remember(key, delta);
    let location = format!(
        "/v1/inventory/{}/adjustments/{}",
        path_segment(&sku),
        path_segment(&adjustment_id)
    );
    let location = HeaderValue::from_str(&location).map_err(Problem::internal)?;
    let body = json!({ "adjustment_id": adjustment_id, "sku": sku, "status": "PENDING" });
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        Json(body),
    )
        .into_response())
}

impl AdjustmentRequest {
    fn check(&self) -> Result<(), Problem> {
        let mut problem = Problem::of(INVALID_ADJUSTMENT);
        let id = &self.adjustment_id;
        if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
            let detail = format!("an id has 1 to {ID_BYTES_MAX} bytes and no control characters");
            problem = problem.at("/adjustment_id", detail);
        }
        if self.delta.unsigned_abs() > ON_HAND_MAX.unsigned_abs() {
            problem = problem.at(
                "/delta",
                format!("a delta is at most {ON_HAND_MAX} either way"),
            );
        }
        if self.reason.len() > REASON_BYTES_MAX {
            problem = problem.at(
                "/reason",
                format!("a reason has at most {REASON_BYTES_MAX} bytes"),
            );
        }
        if problem.errors().is_empty() {
            Ok(())
        } else {
            Err(problem)
        }
    }
}

pub(super) async fn adjustment(
    State(door): State<Arc<DoorState>>,
    UrlPath((sku, id)): UrlPath<(String, String)>,
) -> Result<Response, Problem> {
    let none = || Problem::of(NO_SUCH_ADJUSTMENT);
    let sku: Sku = sku.parse().map_err(|_| none())?;
    let key = AdjustmentKey {
        sku,
        adjustment_id: id.into(),
    };
    let stored = door.adjustment(&key).await?;
    let body = match (stored, door.adjustments.delta(&key)) {
        (Stored::Found(adjustment), _) => json!({
            "adjustment_id": key.adjustment_id,
            "sku": key.sku,
            "status": if adjustment.applied { "APPLIED" } else { "REFUSED" },
            "delta": adjustment.delta,
            "reason": adjustment.reason,
            "on_hand": adjustment.stock.on_hand,
            "reserved": adjustment.stock.reserved,
            "at": rfc3339(adjustment.at_ms),
        }),
        (Stored::Absent | Stored::Unknown, Some(delta)) => json!({
            "adjustment_id": key.adjustment_id,
            "sku": key.sku,
            "status": "PENDING",
            "delta": delta,
        }),
        (Stored::Absent, None) => return Err(none()),
        (Stored::Unknown, None) => {
            return Err(unavailable(
                "the adjustment's store is on its way",
                "nobody serves it",
            ));
        }
    };
    Ok(Json(body).into_response())
}
