//! A shop that is reset decides its orders once more: what that changes is known, and harms neither
//! money nor stock.

use std::{collections::BTreeMap, time::Duration};

use millstream_tests::{eventually, get};
use serde_json::Value;

use crate::shop::{Shop, millstream, succeeds, text};

const ORDERS: &str = "200";
/// How long the orders may take to be decided again.
const REST_MAX: Duration = Duration::from_secs(120);

/// Promises that topics and tables with two histories of each order cannot keep;
/// `docs/reliability-verify.md` says why for each of them.
const TWO_HISTORIES: [&str; 8] = [
    "events of an order are numbered without a gap",
    "an order has one final state",
    "every change of stock adds up",
    "received = on hand + sold",
    "reports = orders",
    "payments = the gateway's ledger",
    "table orders = log",
    "table inventory = log",
];

/// How many orders are in a status, by the shop's report.
fn report(shop: &Shop, status: &str) -> Option<u64> {
    let counts = get(&format!("{}/v1/analytics/order-status", shop.url())).ok()?;
    let by_status: &Value = &counts.body["by_status"];
    by_status[status].as_u64()
}

/// How often each promise is broken, by what `verify` prints.
fn broken(verdict: &str) -> BTreeMap<String, u64> {
    let rows = verdict.lines().skip(1).filter_map(|line| {
        let (rest, broken) = line.rsplit_once(' ')?;
        let (promise, checked) = rest.trim_end().rsplit_once(' ')?;
        checked.parse::<u64>().ok()?;
        Some((promise.trim_end().to_owned(), broken.parse().ok()?))
    });
    rows.collect()
}

#[test]
fn a_shop_that_was_reset_decides_its_orders_again_and_harms_neither_money_nor_stock() {
    let mut shop = Shop::start(&["--set", "payment.deadline=8s"]);
    let url = shop.url();
    let load = ["load", "--url", &url, "--orders", ORDERS, "--setup"];
    succeeds(&[&load[..], &["--mixed-payments", "--run", "one"]].concat());
    let verdict = shop.stop_and_verify();
    assert!(broken(&verdict).len() > 15, "{verdict}");
    assert!(broken(&verdict).values().all(|n| *n == 0), "{verdict}");
    shop.start_again();
    let before = ["CONFIRMED", "CANCELLED"].map(|status| report(&shop, status).expect("a count"));
    assert_eq!(before.iter().sum::<u64>(), 200);
    shop.stop();

    let data_dir = shop.data_dir();
    let reset = [
        "reset",
        "--data-dir",
        &data_dir,
        "--to",
        "earliest",
        "--yes",
    ];
    let told = succeeds(&reset);
    assert!(told.contains("set offset of shop.orders-"), "{told}");
    shop.start_again();
    // The report counts each order twice, as it reads both histories; each has ended as before.
    let twice = before.map(|count| Some(2 * count));
    eventually(REST_MAX, "the orders are decided again", || {
        let now = ["CONFIRMED", "CANCELLED"].map(|status| report(&shop, status));
        (now == twice && shop.rests()).then_some(())
    });
    shop.stop();

    let verdict = millstream(&["verify", "--data-dir", &data_dir]);
    let verdict = text(&verdict.stdout);
    let found = broken(&verdict);
    let fine = found.iter().filter(|(_, n)| **n == 0).count();
    assert!(fine >= 12, "{verdict}");
    for (promise, n) in found {
        let is_known = TWO_HISTORIES.contains(&&*promise);
        assert!(
            n == 0 || is_known,
            "{promise} is broken {n} times\n{verdict}"
        );
    }
    assert!(!shop.log().contains(" ERROR "), "{}", shop.log());
}
