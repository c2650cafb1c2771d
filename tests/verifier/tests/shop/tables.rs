//! Violations of what the tables promise.

use millstream_processors::topics;
use millstream_sinks::{OnConflict, Table};
use millstream_verifier::shop_promises as promises;

use crate::{
    facts::{Facts, id},
    orders::check,
};

static ORDERS: Table = Table::new(
    "orders",
    &[
        "order_id",
        "customer_id",
        "status",
        "currency",
        "total",
        "placed_at",
        "updated_at",
        "version",
    ],
    1,
    OnConflict::Replace,
);

static PAYMENTS: Table = Table::new(
    "payments",
    &[
        "order_id",
        "status",
        "authorised",
        "captured",
        "refunded",
        "version",
    ],
    1,
    OnConflict::Replace,
);

static EVENTS: Table = Table::new(
    "order_events",
    &[
        "topic",
        "partition",
        "offset",
        "order_id",
        "kind",
        "version",
        "status",
        "updated_at",
    ],
    3,
    OnConflict::Replace,
);

static STOCK: Table = Table::new(
    "inventory",
    &["sku", "on_hand", "reserved", "sold", "version"],
    1,
    OnConflict::Replace,
);

static PRODUCTS: Table = Table::new(
    "products",
    &["sku", "name", "price", "currency", "version"],
    1,
    OnConflict::Replace,
);

fn order_row(facts: &mut Facts, n: u128, status: &str, version: i64) {
    let row = [
        id(n).to_string().into(),
        "ada".into(),
        status.into(),
        "USD".into(),
        300.into(),
        3_600_000.into(),
        3_600_030.into(),
        version.into(),
    ];
    facts.tampering.put(&ORDERS, row);
}

#[test]
fn a_missing_order() {
    let lose = |facts: &mut Facts| {
        facts.tampering.clear(&ORDERS, [id(1).to_string().into()]);
    };
    check(
        lose,
        promises::TABLE_ORDERS,
        1,
        &[&id(1).to_string(), "table has 0"],
    );
}

#[test]
fn an_order_too_many() {
    let add = |facts: &mut Facts| order_row(facts, 7, "PENDING", 1);
    check(
        add,
        promises::TABLE_ORDERS,
        1,
        &[&id(7).to_string(), "nothing in the log"],
    );
}

#[test]
fn a_stale_order() {
    let age = |facts: &mut Facts| order_row(facts, 1, "RESERVED", 2);
    check(
        age,
        promises::TABLE_ORDERS,
        1,
        &[&id(1).to_string(), "table has 2"],
    );
}

#[test]
fn a_payment_that_differs() {
    let change = |facts: &mut Facts| {
        let row = [
            id(1).to_string().into(),
            "CAPTURED".into(),
            300.into(),
            299.into(),
            0.into(),
            4.into(),
        ];
        facts.tampering.put(&PAYMENTS, row);
    };
    check(
        change,
        promises::TABLE_ORDERS,
        1,
        &[&id(1).to_string(), "table has 4"],
    );
}

#[test]
fn an_event_that_the_table_lacks() {
    let lose = |facts: &mut Facts| {
        let key = [topics::ORDER_EVENTS.name().into(), 0.into(), 1.into()];
        facts.tampering.clear(&EVENTS, key);
    };
    check(
        lose,
        promises::TABLE_EVENTS,
        1,
        &[&id(1).to_string(), "events=4, rows=3"],
    );
}

#[test]
fn an_event_that_only_the_table_has() {
    let add = |facts: &mut Facts| {
        let row = [
            topics::ORDER_EVENTS.name().into(),
            0.into(),
            999.into(),
            id(8).to_string().into(),
            "placed".into(),
            1.into(),
            "PENDING".into(),
            0.into(),
        ];
        facts.tampering.put(&EVENTS, row);
    };
    check(
        add,
        promises::TABLE_EVENTS,
        1,
        &[&id(8).to_string(), "nothing in the log"],
    );
}

fn stock_row(facts: &mut Facts, sku: &str, version: i64) {
    let row = [sku.into(), 8.into(), 0.into(), 2.into(), version.into()];
    facts.tampering.put(&STOCK, row);
}

#[test]
fn missing_stock() {
    let lose = |facts: &mut Facts| facts.tampering.clear(&STOCK, ["tea".into()]);
    check(lose, promises::TABLE_STOCK, 1, &["sku=`tea`", "table=None"]);
}

#[test]
fn stock_too_many() {
    let add = |facts: &mut Facts| stock_row(facts, "ghost", 1);
    check(
        add,
        promises::TABLE_STOCK,
        1,
        &["sku=`ghost`", "nothing in the log"],
    );
}

#[test]
fn stale_stock() {
    let age = |facts: &mut Facts| stock_row(facts, "tea", 5);
    check(age, promises::TABLE_STOCK, 1, &["sku=`tea`", "version: 5"]);
}

fn product_row(facts: &mut Facts, sku: &str) {
    let row = [
        sku.into(),
        "Coffee".into(),
        150.into(),
        "USD".into(),
        0.into(),
    ];
    facts.tampering.put(&PRODUCTS, row);
}

#[test]
fn a_missing_product() {
    let lose = |facts: &mut Facts| facts.tampering.clear(&PRODUCTS, ["tea".into()]);
    check(
        lose,
        promises::TABLE_PRODUCTS,
        1,
        &["sku=`tea`", "table=None"],
    );
}

#[test]
fn a_product_too_many() {
    let add = |facts: &mut Facts| product_row(facts, "ghost");
    check(
        add,
        promises::TABLE_PRODUCTS,
        1,
        &["sku=`ghost`", "nothing in the log"],
    );
}

#[test]
fn a_stale_product() {
    let age = |facts: &mut Facts| product_row(facts, "tea");
    check(age, promises::TABLE_PRODUCTS, 1, &["sku=`tea`", "Coffee"]);
}
