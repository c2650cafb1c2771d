//! The last question: does each instance serve a real order?

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::sleep;

use crate::{http, instance::Instance};

/// A product of which there is always enough.
const SKU: &str = "chaos-tail";
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the product may take to be known, before anything is disturbed.
const SHELVE_MAX: Duration = Duration::from_secs(60);

/// Puts the product on the shelf.
pub(crate) async fn shelve(port: u16) -> io::Result<()> {
    let product = json!({ "sku": SKU, "name": "tail", "price": 100, "currency": "USD" });
    let stock = json!({ "adjustment_id": "chaos", "delta": 1000, "reason": "chaos" });
    let inventory = format!("/v1/inventory/{SKU}");
    let adjustments = format!("{inventory}/adjustments");
    let until = Instant::now() + SHELVE_MAX;
    loop {
        let made = http::post(port, "/v1/products", "product", &product).await;
        let added = http::post(port, &adjustments, "stock", &stock).await;
        let there = http::get(port, &inventory).await;
        if matches!(&there, Ok((200, stock)) if stock["on_hand"].as_i64() > Some(0)) {
            return Ok(());
        }
        if Instant::now() >= until {
            let what = format!("no stock. product={made:?}, adjustment={added:?}, stock={there:?}");
            return Err(io::Error::other(what));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Orders from this very instance and waits until it says that the order is confirmed.
pub(crate) async fn serves(instance: &Instance, within: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    let key = format!("chaos-tail-{}", instance.index);
    let body = json!({
        "customer_id": "chaos", "currency": "USD",
        "lines": [{ "sku": SKU, "quantity": 1 }], "payment": { "token": "tok_approve" },
    });
    let mut last = String::from("it was never ready");
    while began.elapsed() < within {
        sleep(LOOK_EVERY).await;
        if !instance.is_ready() {
            continue;
        }
        let placed = http::post(instance.port, "/v1/orders", &key, &body).await;
        last = format!("placed: {placed:?}");
        let Ok((200..300, order)) = placed else {
            continue;
        };
        let Some(id) = order["order_id"].as_str() else {
            continue;
        };
        let found = http::get(instance.port, &format!("/v1/orders/{id}")).await;
        last = format!("found: {found:?}");
        if matches!(&found, Ok((200, order)) if order["status"] == "CONFIRMED") {
            return Ok(began.elapsed());
        }
    }
    Err(format!(
        "instance {} does not serve: {last}",
        instance.index
    ))
}
