//! Stock, and adjustments of it.

use serde_json::json;

use crate::shop::{Answer, Shop, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adjustment_counts_once_and_is_refused_below_what_is_reserved() {
    let shop = Shop::open().await;
    shop.get("/v1/inventory/tea")
        .await
        .is_problem(404, "no-such-stock");
    shop.list_product("tea", 150).await;
    assert_eq!(shop.get("/v1/inventory/tea").await.is(200)["available"], 0);
    let accepted = shop.adjust("tea", "a/1", 5).await;
    accepted.is(202);
    let path = "/v1/inventory/tea/adjustments/a%2F1";
    assert_eq!(accepted.headers["location"], path);
    let applied = |a: &Answer| a.json()["status"] == "APPLIED";
    let json = shop.eventually(path, applied).await.json();
    assert_eq!((&json["delta"], &json["on_hand"]), (&5.into(), &5.into()));
    shop.adjust("tea", "a/1", 5).await.is(202);
    shop.adjust("tea", "b", -6).await.is(202);
    let refused = |a: &Answer| a.json()["status"] == "REFUSED";
    shop.eventually("/v1/inventory/tea/adjustments/b", refused)
        .await;
    assert_eq!(shop.get("/v1/inventory/tea").await.is(200)["on_hand"], 5);
    let unknown = "/v1/inventory/tea/adjustments/unknown";
    shop.get(unknown)
        .await
        .is_problem(404, "no-such-adjustment");
    let sold = shop
        .place("k", &order("ada", &[("tea", 5)]), true)
        .await
        .is(200);
    assert_eq!(sold["status"], "CONFIRMED");
    let all_sold = |a: &Answer| a.json()["sold"] == 5 && a.json()["on_hand"] == 0;
    shop.eventually("/v1/inventory/tea", all_sold).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_adjustments_are_told_what_is_wrong() {
    let shop = Shop::open().await;
    for (field, value) in [
        ("adjustment_id", json!("")),
        ("adjustment_id", json!("i".repeat(129))),
        ("delta", json!(i64::MIN)),
        ("delta", json!(0.5)),
        ("reason", json!("r".repeat(501))),
        ("reason", json!(null)),
        ("on_hand", json!(1)),
    ] {
        let mut body = json!({ "adjustment_id": "a", "delta": 1, "reason": "counted" });
        body[field] = value;
        let answer = shop.post("/v1/inventory/tea/adjustments", &body).await;
        assert_eq!(answer.is(422)["pointer"], format!("/{field}"));
    }
}
