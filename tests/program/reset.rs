//! A shop that is reset reads its orders again, and keeps its promises all the same.

use millstream_tests::get;

use crate::shop::{Shop, succeeds};

const ORDERS: &str = "200";

#[test]
fn a_shop_that_was_reset_to_the_beginning_comes_to_the_same_end() {
    let mut shop = Shop::start(&["--set", "payment.deadline=8s"]);
    let load = |shop: &Shop, run: &str| {
        let url = shop.url();
        let mut arguments = vec!["load", "--url", &url, "--orders", ORDERS, "--setup"];
        arguments.extend(["--mixed-payments", "--run", run]);
        succeeds(&arguments)
    };
    let counts = |shop: &Shop| {
        let counts = get(&format!("{}/v1/analytics/order-status", shop.url()));
        counts.expect("an answer").text
    };
    load(&shop, "one");
    shop.stop_and_verify();
    shop.start_again();
    let before = counts(&shop);
    shop.stop();

    let data_dir = shop.data_dir();
    let flags = ["reset", "--data-dir", &data_dir, "--to", "earliest"];
    let told = succeeds(&[&flags[..], &["--yes"]].concat());
    assert!(told.contains("set offset of shop.orders"), "{told}");
    shop.start_again();
    shop.stop_and_verify();
    shop.start_again();
    assert_eq!(counts(&shop), before, "the same orders, the same ends");

    // And it goes on from there.
    load(&shop, "two");
    shop.stop_and_verify();
}
