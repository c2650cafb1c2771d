//! The life of an order, as a customer sees it.

use axum::body::Body;
use serde_json::json;

use crate::shop::{Shop, order, with_json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_confirmed_charged_and_refunded() {
    let shop = Shop::stocked().await;
    let body = order("ada", &[("tea", 2), ("milk", 1), ("tea", 1)]);
    let placed = shop.place("k1", &body, true).await;
    let json = placed.is(200);
    let id = json["order_id"].as_str().expect("an id").to_owned();
    assert_eq!(placed.headers["location"], format!("/v1/orders/{id}"));
    assert_eq!(placed.headers["preference-applied"], "wait=30");
    assert_eq!(
        (&json["status"], &json["total"]),
        (&"CONFIRMED".into(), &549.into())
    );
    let tea = json!({"sku":"tea","name":"TEA","quantity":3,"unit_price":150,"amount":450});
    assert_eq!(json["lines"][0], tea);
    assert_eq!(json["currency"], "USD");
    assert!(json["placed_at"].as_str().expect("a time").ends_with('Z'));

    let read = shop.get(&format!("/v1/orders/{id}")).await.is(200);
    assert_eq!(
        (&read["status"], &read["total"]),
        (&json["status"], &json["total"])
    );

    let again = shop.place("\"k1\"", &body, false).await;
    assert_eq!(again.is(202)["order_id"], id.as_str());
    let other = order("ada", &[("tea", 1)]);
    shop.place("k1", &other, false)
        .await
        .is_problem(422, "idempotency-key-reused");
    let bob = shop
        .place("k1", &order("bob", &[("tea", 1)]), true)
        .await
        .is(200);
    assert_ne!(bob["order_id"], id.as_str(), "keys are the customer's own");

    let stock = |on_hand: i64, sold: i64| {
        move |a: &crate::shop::Answer| {
            let j = a.json();
            j["on_hand"] == on_hand && j["sold"] == sold && j["reserved"] == 0
        }
    };
    let left = shop
        .eventually("/v1/inventory/tea", stock(6, 4))
        .await
        .json();
    assert_eq!(left["available"], 6);

    let captured = |a: &crate::shop::Answer| a.json()["payment"]["status"] == "CAPTURED";
    shop.eventually(&format!("/v1/orders/{id}"), captured).await;
    let cancel = format!("/v1/orders/{id}/cancel");
    let cancelled = shop
        .send(
            axum::http::Request::post(&cancel)
                .body(Body::empty())
                .expect("a request"),
        )
        .await;
    cancelled.is(202);
    let refunded = |a: &crate::shop::Answer| a.json()["payment"]["status"] == "REFUNDED";
    let json = shop
        .eventually(&format!("/v1/orders/{id}"), refunded)
        .await
        .json();
    assert_eq!(json["status"], "REFUNDED");
    shop.eventually("/v1/inventory/tea", stock(9, 1)).await;
    shop.post(&cancel, &json!({}))
        .await
        .is_problem(409, "not-cancellable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_cannot_be_met_are_cancelled_with_the_reason() {
    let shop = Shop::stocked().await;
    let with = |lines: &[(&str, i64)], field: &str, value: serde_json::Value| {
        let mut body = order("ada", lines);
        body[field] = value;
        body
    };
    let nothing = |lines| with(lines, "currency", "USD".into());
    for (key, body, reason) in [
        ("a", nothing(&[("tea", 11)]), "OUT_OF_STOCK"),
        (
            "b",
            nothing(&[("tea", 1), ("nothing", 1)]),
            "UNKNOWN_PRODUCT",
        ),
        (
            "c",
            with(&[("tea", 1)], "currency", "EUR".into()),
            "PRICE_CHANGED",
        ),
        (
            "d",
            with(&[("tea", 1)], "payment", json!({"token":"tok_decline"})),
            "PAYMENT_DECLINED",
        ),
    ] {
        let json = shop.place(key, &body, true).await.is(200);
        assert_eq!(json["status"], "CANCELLED", "{json}");
        assert_eq!(json["reason"], reason);
    }
    shop.eventually("/v1/inventory/tea", |a| a.json()["available"] == 10)
        .await;

    let wrong = with(&[("tea", 2)], "expected_total", 1.into());
    let problem = shop
        .place("e", &wrong, true)
        .await
        .is_problem(409, "price-changed");
    assert_eq!(problem["pointer"], "/expected_total");
    let right = with(&[("tea", 2)], "expected_total", 300.into());
    assert_eq!(
        shop.place("e", &right, true).await.is(200)["status"],
        "CONFIRMED"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_listed_and_reported_from_the_tables() {
    let shop = Shop::stocked().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let body = order("ada", &[("tea", 1)]);
        let json = shop.place(&format!("k{n}"), &body, true).await.is(200);
        ids.push(json["order_id"].as_str().expect("an id").to_owned());
    }
    shop.place("x", &order("bob", &[("tea", 100)]), true)
        .await
        .is(200);
    let count = |n: usize| {
        move |a: &crate::shop::Answer| a.json()["items"].as_array().map(Vec::len) == Some(n)
    };
    shop.eventually("/v1/orders?customer_id=ada&status=CONFIRMED", count(5))
        .await;
    shop.eventually("/v1/orders?status=CANCELLED", count(1))
        .await;
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/orders?customer_id=ada&limit=2{cursor}");
        let page = shop.get(&path).await.is(200);
        let items = page["items"].as_array().expect("items").iter();
        listed.extend(items.map(|o| o["order_id"].as_str().expect("an id").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    listed.sort();
    ids.sort();
    assert_eq!(listed, ids);

    let status = |a: &crate::shop::Answer| {
        let json = a.json();
        json["by_status"]["CONFIRMED"] == 5 && json["by_reason"]["OUT_OF_STOCK"] == 1
    };
    shop.eventually("/v1/analytics/order-status", status).await;
    let day = |a: &crate::shop::Answer| {
        let json = a.json();
        json["items"][0]["placed"] == 6 && json["items"][0]["confirmed"] == 5
    };
    shop.eventually("/v1/analytics/orders-per-day", day).await;
    let revenue = |a: &crate::shop::Answer| a.json()["items"][0]["revenue"] == 750;
    shop.eventually("/v1/analytics/revenue-per-hour", revenue)
        .await;
    let top = shop
        .get("/v1/analytics/top-products?at=2017-01-01T12:34:56Z")
        .await
        .is(200);
    assert_eq!(top["window_end"], "2017-01-01T12:00:00.000Z");
    assert_eq!(top["window_start"], "2016-12-31T12:00:00.000Z");
    let soon = "/v1/analytics/top-products?limit=1&at=";
    let soon = format!(
        "{soon}{}",
        (chrono::Utc::now() + chrono::Duration::hours(2)).timestamp_millis()
    );
    let best = shop
        .eventually(&soon, |a| a.json()["items"][0]["quantity"] == 5)
        .await
        .json();
    assert_eq!(
        (&best["items"][0]["sku"], &best["items"][0]["revenue"]),
        (&"tea".into(), &750.into())
    );
    for path in [
        "/v1/orders?status=LOST",
        "/v1/orders?cursor=zz",
        "/v1/orders?limit=0",
        "/v1/analytics/orders-per-day?from=yesterday",
        "/v1/analytics/revenue-per-hour?to=later",
        "/v1/analytics/top-products?at=noon",
    ] {
        shop.get(path).await.is_problem(400, "invalid-parameter");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_an_order_is_taken_only_where_that_is_allowed() {
    let mut body = order("ada", &[("tea", 1)]);
    body["placed_at"] = "2017-01-01T12:00:00Z".into();
    let shop = Shop::open_with(|config| config.allow_event_time = true).await;
    let json = shop.place("k", &body, true).await.is(200);
    assert_eq!(json["placed_at"], "2017-01-01T12:00:00.000Z");
    let shop = Shop::open().await;
    let problem = shop
        .place("k", &body, false)
        .await
        .is_problem(422, "invalid-order");
    assert_eq!(problem["pointer"], "/placed_at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_not_found() {
    let shop = Shop::open().await;
    let unknown = "/v1/orders/00000000-0000-0000-0000-000000000000";
    for path in [unknown, "/v1/orders/nonsense", &format!("{unknown}/events")] {
        shop.get(path).await.is_problem(404, "no-such-order");
    }
    let cancel = with_json("POST", &format!("{unknown}/cancel"), "");
    shop.send(cancel).await.is_problem(404, "no-such-order");
    shop.get("/v1/carts/ada").await.is_problem(404, "not-found");
    shop.send(with_json("DELETE", "/v1/orders", ""))
        .await
        .is_problem(405, "method-not-allowed");
}
