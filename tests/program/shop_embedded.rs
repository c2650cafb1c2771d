//! A shop on the embedded log loses nothing when it is killed.

use std::time::Duration;

use millstream_tests::{Program, eventually, get};

use crate::shop::{Shop, binary, millstream, succeeds, text};

/// Orders that are placed while the shop is killed.
const ORDERS: usize = 2_000;
/// Kills while they come.
const KILLS: usize = 3;

#[test]
fn no_order_is_lost_when_the_shop_is_killed_under_load() {
    let mut shop = Shop::start(&["--set", "payment.deadline=8s"]);
    let (url, acked) = (shop.url(), shop.file("acked").display().to_string());
    let orders = ORDERS.to_string();
    let arguments = [
        "load",
        "--url",
        &url,
        "--orders",
        &orders,
        "--rate",
        "400",
        "--setup",
        "--mixed-payments",
        "--acked",
        &acked,
    ];
    let mut load = Program::start(binary(), &arguments, &shop.file("load"));
    load.line("stock ", Duration::from_secs(120));
    let acked_orders = || {
        std::fs::read_to_string(&acked)
            .unwrap_or_default()
            .lines()
            .count()
    };
    for kill in 1..=KILLS {
        // In the middle of the work, not before it and not behind it.
        let wanted = ORDERS * kill / (KILLS + 1);
        eventually(Duration::from_secs(60), "orders come", || {
            (acked_orders() >= wanted).then_some(())
        });
        shop.kill();
        shop.start_again();
    }
    let ended = load.wait(Duration::from_secs(180));
    assert!(ended.success(), "{ended}: {}", load.errors());
    assert_eq!(acked_orders(), ORDERS);

    // While the shop runs, its folder is its own.
    let data_dir = shop.data_dir();
    let refused = millstream(&["verify", "--data-dir", &data_dir]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("another process"),
        "{}",
        text(&refused.stderr)
    );

    shop.stop_and_verify();
    let log = shop.log();
    assert!(
        log.contains("replayed="),
        "the log tells what was replayed: {log}"
    );
    for wrong in [" ERROR ", "panicked", "corrupt"] {
        assert!(!log.contains(wrong), "{log}");
    }
}

#[test]
fn a_restart_goes_on_where_the_shop_stopped() {
    let mut shop = Shop::start(&["--set", "payment.deadline=8s"]);
    let load = |shop: &Shop, run: &str| {
        let url = shop.url();
        succeeds(&[
            "load", "--url", &url, "--orders", "100", "--setup", "--run", run,
        ])
    };
    load(&shop, "one");
    shop.stop();
    shop.start_again();
    // The same run again: the same orders.
    let again = load(&shop, "one");
    assert!(again.contains("accepted          100"), "{again}");
    load(&shop, "two");
    let counts = get(&format!("{}/v1/analytics/order-status", shop.url())).expect("an answer");
    assert_eq!(counts.status, 200);
    let verdict = shop.stop_and_verify();
    let orders = verdict
        .lines()
        .find(|line| line.starts_with("no accepted order"))
        .expect("a row");
    assert!(
        orders.split_whitespace().any(|word| word == "200"),
        "{orders}"
    );
    let stores = succeeds(&["stores", "--data-dir", &shop.data_dir()]);
    assert!(stores.contains("reservations"), "{stores}");
    let topics = succeeds(&["topics", "--data-dir", &shop.data_dir()]);
    assert!(topics.contains("shop.order-events"), "{topics}");
    let groups = succeeds(&["groups", "--data-dir", &shop.data_dir()]);
    assert!(groups.contains("shop-gateway"), "{groups}");
}
