//! Orders that nobody processes: pending, remembered over a restart, and not without end.

use millstream_processors::door::{Door, DoorConfig};

use crate::shop::{Shop, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_orders_are_pending_until_they_are_processed_also_after_a_restart() {
    let mut shop = Shop::open_with(|config| config.orders_in_flight_max = 2).await;
    let queries = shop.application.as_ref().expect("running").queries();
    shop.stop_application().await;
    let body = order("ada", &[("tea", 2)]);
    let placed = shop.place("k", &body, false).await.is(202);
    assert_eq!(placed["status"], "PENDING");
    let path = format!("/v1/orders/{}", placed["order_id"].as_str().expect("an id"));
    let pending = shop.get(&path).await.is(200);
    assert_eq!(
        (&pending["status"], &pending["version"]),
        (&"PENDING".into(), &0.into())
    );
    assert_eq!(pending["lines"][0]["quantity"], 2);
    assert_eq!(
        shop.place("k", &body, false).await.is(202)["order_id"],
        placed["order_id"]
    );
    let other = order("ada", &[("tea", 3)]);
    shop.place("k", &other, false)
        .await
        .is_problem(422, "idempotency-key-reused");

    shop.place("second", &body, false).await.is(202);
    let turned_away = shop.place("third", &body, false).await;
    turned_away.is_problem(503, "overloaded");
    assert_eq!(turned_away.headers["retry-after"], "1");
    shop.place("k", &body, false).await.is(202);

    let (log, tables) = (shop.log.clone(), shop.tables.clone());
    let door = Door::open(DoorConfig::new("shop"), log, queries, tables).expect("a door");
    shop.router = door.router();
    assert_eq!(shop.get(&path).await.is(200)["status"], "PENDING");
    shop.place("k", &other, false)
        .await
        .is_problem(422, "idempotency-key-reused");
    assert_eq!(
        shop.place("k", &body, false).await.is(202)["order_id"],
        placed["order_id"]
    );
    let unknown = shop
        .get("/v1/orders/00000000-0000-0000-0000-000000000000")
        .await;
    unknown.is_problem(503, "unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_retries_at_once_are_one_order() {
    let shop = Shop::stocked().await;
    let body = order("ada", &[("tea", 1)]);
    let (one, two, three) = tokio::join!(
        shop.place("k", &body, true),
        shop.place("k", &body, true),
        shop.place("k", &body, true),
    );
    for answer in [&one, &two, &three] {
        assert_eq!(answer.is(200)["order_id"], one.json()["order_id"]);
        assert_eq!(answer.json()["status"], "CONFIRMED");
    }
    let one_sold = |a: &crate::shop::Answer| a.json()["sold"] == 1 && a.json()["on_hand"] == 9;
    shop.eventually("/v1/inventory/tea", one_sold).await;
}
