//! Bad input: every case gets its status and its problem, and the shop lives on.

use axum::{
    body::Body,
    http::{HeaderValue, Request},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value as JsonValue, json};

use crate::shop::{Shop, order, with_json};

fn with(field: &str, value: JsonValue) -> String {
    let mut body = order("ada", &[("tea", 1)]);
    body[field] = value;
    body.to_string()
}

fn with_line(line: JsonValue) -> String {
    with("lines", json!([{ "sku": "milk", "quantity": 1 }, line]))
}

fn keyed(body: impl Into<Body>) -> Request<Body> {
    let mut request = with_json("POST", "/v1/orders", body);
    request
        .headers_mut()
        .insert("idempotency-key", HeaderValue::from_static("bad"));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_order_is_told_what_is_wrong_and_where() {
    let shop = Shop::open().await;
    let lines: Vec<_> = (0..201)
        .map(|n| json!({ "sku": format!("s{n}"), "quantity": 1 }))
        .collect();
    let without = |field: &str| {
        let mut body = order("ada", &[("tea", 1)]);
        body.as_object_mut().expect("an object").remove(field);
        body.to_string()
    };
    let invalid = "invalid-body";
    let cases: Vec<(String, u16, &str, &str)> = vec![
        ("".into(), 400, "malformed-json", ""),
        ("{".into(), 400, "malformed-json", ""),
        (
            "{\"customer_id\": \"ada\",}".into(),
            400,
            "malformed-json",
            "",
        ),
        (
            format!("{} x", order("ada", &[("tea", 1)])),
            400,
            "malformed-json",
            "",
        ),
        ("[]".into(), 422, invalid, ""),
        ("null".into(), 422, invalid, ""),
        ("\"order\"".into(), 422, invalid, ""),
        (with("status", "CONFIRMED".into()), 422, invalid, "/status"),
        (with("total", 1.into()), 422, invalid, "/total"),
        (
            with("placed_at", "2017-01-01T00:00:00Z".into()),
            422,
            "invalid-order",
            "/placed_at",
        ),
        (without("customer_id"), 422, invalid, "/customer_id"),
        (without("lines"), 422, invalid, "/lines"),
        (without("payment"), 422, invalid, "/payment"),
        (with("customer_id", "".into()), 422, invalid, "/customer_id"),
        (with("customer_id", 7.into()), 422, invalid, "/customer_id"),
        (
            with("customer_id", JsonValue::Null),
            422,
            invalid,
            "/customer_id",
        ),
        (with("currency", "XXX".into()), 422, invalid, "/currency"),
        (with("currency", "usd".into()), 422, invalid, "/currency"),
        (with("payment", json!({})), 422, invalid, "/payment/token"),
        (
            with("payment", json!({"token":"t","amount":1})),
            422,
            invalid,
            "/payment/amount",
        ),
        (
            with("payment", json!({"token":""})),
            422,
            "invalid-order",
            "/payment/token",
        ),
        (
            with("expected_total", 1.5.into()),
            422,
            invalid,
            "/expected_total",
        ),
        (
            with("expected_total", "1".into()),
            422,
            invalid,
            "/expected_total",
        ),
        (
            with("expected_total", (-1).into()),
            422,
            "invalid-order",
            "/expected_total",
        ),
        (with("lines", json!([])), 422, "invalid-order", "/lines"),
        (with("lines", json!(lines)), 422, "invalid-order", "/lines"),
        (with("lines", json!({})), 422, invalid, "/lines"),
        (
            with_line(json!({"sku":"tea","quantity":0})),
            422,
            "invalid-order",
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"tea","quantity":-1})),
            422,
            "invalid-order",
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"tea","quantity":10_001})),
            422,
            "invalid-order",
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"milk","quantity":10_000})),
            422,
            "invalid-order",
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"tea","quantity":1.5})),
            422,
            invalid,
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"tea","quantity":1e30})),
            422,
            invalid,
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"tea","quantity":"1"})),
            422,
            invalid,
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"tea"})),
            422,
            invalid,
            "/lines/1/quantity",
        ),
        (
            with_line(json!({"sku":"","quantity":1})),
            422,
            invalid,
            "/lines/1/sku",
        ),
        (
            with_line(json!({"sku":"a\u{0}b","quantity":1})),
            422,
            invalid,
            "/lines/1/sku",
        ),
        (
            with_line(json!({"sku":"tea","quantity":1,"price":1})),
            422,
            invalid,
            "/lines/1/price",
        ),
    ];
    for (body, status, kind, pointer) in cases {
        let answer = shop.send(keyed(body.clone())).await;
        let problem = answer.is_problem(status, kind);
        assert_eq!(problem["pointer"], pointer, "{body}\n{problem}");
        assert!(problem["detail"].is_string(), "{problem}");
    }
    lives_on(&shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_no_orders_at_all_are_refused() {
    let shop = Shop::open().await;
    let good = order("ada", &[("tea", 1)]).to_string();
    shop.send(with_json("POST", "/v1/orders", good.clone()))
        .await
        .is_problem(400, "idempotency-key-required");
    for (key, kind) in [
        ("k".repeat(256), "idempotency-key-invalid"),
        ("".to_owned(), "idempotency-key-required"),
        ("\"\"".to_owned(), "idempotency-key-required"),
    ] {
        let mut request = with_json("POST", "/v1/orders", good.clone());
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().expect("a header"));
        shop.send(request).await.is_problem(400, kind);
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
    ] {
        let mut request = keyed(good.clone());
        request
            .headers_mut()
            .insert("content-type", kind.parse().expect("a header"));
        shop.send(request).await.is_problem(415, "not-json");
    }
    let mut untyped = keyed(good.clone());
    untyped.headers_mut().remove("content-type");
    shop.send(untyped).await.is_problem(415, "not-json");
    let large = format!("{good}{}", " ".repeat(64 << 10));
    shop.send(keyed(large.clone()))
        .await
        .is_problem(413, "too-large");
    let pieces = [Ok::<_, std::io::Error>(large)];
    let unannounced = Body::from_stream(futures_util::stream::iter(pieces));
    shop.send(keyed(unannounced))
        .await
        .is_problem(413, "too-large");
    lives_on(&shop).await;
}

async fn lives_on(shop: &Shop) {
    let good = shop
        .place("good", &order("ada", &[("no-such-sku", 1)]), true)
        .await
        .is(200);
    assert_eq!(good["reason"], "UNKNOWN_PRODUCT");
}

fn any_json() -> impl Strategy<Value = JsonValue> {
    let text = prop_oneof![
        ".{0,12}",
        Just("tea".to_owned()),
        Just("EUR".to_owned()),
        Just("2017-01-01T00:00:00Z".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(JsonValue::Null),
        any::<bool>().prop_map(JsonValue::from),
        any::<i64>().prop_map(JsonValue::from),
        any::<f64>().prop_map(JsonValue::from),
        (-3i64..20).prop_map(JsonValue::from),
        text.prop_map(JsonValue::from),
    ];
    let name = prop_oneof![
        ".{0,6}",
        prop::sample::select(vec![
            "customer_id",
            "currency",
            "lines",
            "sku",
            "quantity",
            "payment",
            "token",
            "name",
            "expected_total",
            "placed_at",
            "price",
            "adjustment_id",
            "delta",
            "reason",
            "restock",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(JsonValue::from),
            prop::collection::vec((name.clone(), inner), 0..7)
                .prop_map(|fields| JsonValue::Object(fields.into_iter().collect())),
        ]
    })
}

/// A body that is right but for one field, or anything at all.
fn any_body() -> impl Strategy<Value = String> {
    let fields = [
        "customer_id",
        "currency",
        "lines",
        "payment",
        "expected_total",
        "sku",
        "name",
        "price",
        "adjustment_id",
        "delta",
        "reason",
    ];
    let right = |field: &str, value: JsonValue| {
        let mut body = order("ada", &[("tea", 1)]);
        if matches!(field, "sku" | "name" | "price") {
            body = json!({ "sku": "tea", "name": "Tea", "price": 1 });
        } else if matches!(field, "adjustment_id" | "delta" | "reason") {
            body = json!({ "adjustment_id": "a", "delta": 1, "reason": "r" });
        }
        body[field] = value;
        body.to_string()
    };
    prop_oneof![
        3 => (prop::sample::select(fields.to_vec()), any_json())
            .prop_map(move |(field, value)| right(field, value)),
        1 => any_json().prop_map(|json| json.to_string()),
        1 => any_json().prop_map(|json| {
            let text = json.to_string();
            text.chars().take(text.chars().count() / 2).collect()
        }),
    ]
}

#[test]
fn no_body_makes_the_shop_fail() {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let runtime = threads
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let shop = runtime.block_on(Shop::open());
    let mut runner = TestRunner::new(Config {
        cases: 400,
        ..Config::default()
    });
    let path = prop::sample::select(vec![
        ("POST", "/v1/orders"),
        ("POST", "/v1/products"),
        ("PUT", "/v1/products/tea"),
        ("POST", "/v1/inventory/tea/adjustments"),
        (
            "POST",
            "/v1/orders/00000000-0000-0000-0000-000000000000/cancel",
        ),
    ]);
    let outcome = runner.run(
        &(path, any_body(), ".{0,20}"),
        |((method, path), body, key)| {
            let mut request = with_json(method, path, body.clone());
            if let Ok(key) = HeaderValue::from_str(&key) {
                request.headers_mut().insert("idempotency-key", key);
            }
            let answer = runtime.block_on(shop.send(request));
            prop_assert!(
                answer.status < 500,
                "{} {path} {body}: {}",
                answer.status,
                answer.text
            );
            if answer.status >= 400 {
                prop_assert_eq!(&answer.headers["content-type"], "application/problem+json");
            }
            Ok(())
        },
    );
    outcome.expect("no 5xx");
    runtime.block_on(lives_on(&shop));
    runtime.block_on(async move { drop(shop) });
}
