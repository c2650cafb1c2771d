//! Tables equal the naive fold of the topics, however the records are cut into batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use bytes::Bytes;
use millstream_sinks::{Changes, Database, Message, Output};
use proptest::prelude::*;
use serde::Serialize;
use uuid::Uuid;

use super::{OrderCursor, OrderQuery, Tables, projections, reports};
use crate::{
    model::{
        CancelReason, Currency, Day, HourOfRevenue, InventoryChange, InventoryEvent, Order,
        OrderEvent, OrderEventKind, OrderId, OrderLine, OrderStatus, OrderStatusType,
        OrdersInStatus, OrdersPerDay, OrdersPerDayType, Payment, PaymentAction, PaymentStatus,
        Product, RevenuePerHour, RevenuePerHourType, Sku, Stock, TopProduct, TopProducts,
        TopProductsType, V1,
    },
    payment::LedgerEntry,
    topics,
};

const HOUR: i64 = 3_600_000;

/// A database of its own, which vanishes with the test.
struct Shop {
    tables: Tables,
    kind: Kind,
}

enum Kind {
    Sqlite(#[expect(dead_code, reason = "deleted when dropped")] tempfile::TempDir),
    Server { admin: Database, name: String },
}

impl Shop {
    async fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("shop.db").display());
        Self {
            tables: open(&url).await,
            kind: Kind::Sqlite(dir),
        }
    }

    async fn server() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Ok(base) = std::env::var("MILLSTREAM_TEST_MYSQL") else {
            assert!(
                std::env::var("CI").is_err(),
                "CI must set MILLSTREAM_TEST_MYSQL"
            );
            eprintln!("MILLSTREAM_TEST_MYSQL is not set: not tested with MariaDB");
            return None;
        };
        let admin = Database::connect(&base).await.expect("the server answers");
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("millstream_shop_{}_{n}", std::process::id());
        run(&admin, format!("CREATE DATABASE `{name}`")).await;
        let (server, _) = base.rsplit_once('/').expect("the URL names a database");
        let tables = open(&format!("{server}/{name}")).await;
        Some(Self {
            tables,
            kind: Kind::Server { admin, name },
        })
    }

    async fn all() -> Vec<Self> {
        let mut all = vec![Self::sqlite().await];
        all.extend(Self::server().await);
        all
    }

    async fn remove(self) {
        self.tables.database().close().await;
        if let Kind::Server { admin, name } = &self.kind {
            run(admin, format!("DROP DATABASE `{name}`")).await;
            admin.close().await;
        }
    }
}

async fn open(url: &str) -> Tables {
    let database = Database::connect(url).await.expect("opens");
    Tables::open(database).await.expect("migrates")
}

async fn run(database: &Database, sql: String) {
    database.rows(sql, &[], |_| Ok(())).await.expect("runs");
}

fn sku(n: u32) -> Sku {
    format!("sku-{n}").parse().expect("legal")
}

fn message(topic: &str, partition: i32, offset: i64, key: &str, value: &impl Serialize) -> Message {
    let mut message = Message::new(topic, partition, offset);
    message.key = Some(Bytes::copy_from_slice(key.as_bytes()));
    message.value = Some(serde_json::to_vec(value).expect("encodes").into());
    message
}

/// How an order ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Pending,
    OutOfStock,
    Declined,
    Confirmed,
    Captured,
    Refunded,
}

/// The events of one order from its placing to its end.
fn life(id: u32, lines: u32, end: End) -> Vec<OrderEvent> {
    let placed_at = i64::from(id % 50) * HOUR / 7;
    let mut order = Order {
        order_id: OrderId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &id.to_be_bytes())),
        customer_id: format!("customer-{}", id % 5).parse().expect("legal"),
        status: OrderStatus::Pending,
        reason: None,
        currency: Currency::USD,
        total: 0,
        lines: (0..lines)
            .map(|n| OrderLine {
                sku: sku(id + n),
                name: None,
                quantity: n + 1,
                unit_price: None,
            })
            .collect(),
        placed_at,
        updated_at: placed_at,
        version: 0,
        payment: None,
    };
    let mut events = Vec::new();
    let mut told = |kind, order: &mut Order, change: &dyn Fn(&mut Order)| {
        let before = (order.status, order.reason);
        change(order);
        order.version += 1;
        order.updated_at += 10;
        events.push(OrderEvent {
            kind,
            v: V1,
            previous_status: (order.version > 1).then_some(before.0),
            previous_reason: before.1,
            order: order.clone(),
        });
    };
    use OrderEventKind as Kind;
    told(Kind::Placed, &mut order, &|_| {});
    let hold = |order: &mut Order| {
        order.status = OrderStatus::Reserved;
        for line in &mut order.lines {
            line.name = Some(format!("Name of {}", line.sku).into());
            line.unit_price = Some(100);
        }
        order.total = order.lines.iter().filter_map(OrderLine::amount).sum();
        order.payment = Some(Payment {
            status: PaymentStatus::Requested,
            authorised: 0,
            captured: 0,
            refunded: 0,
            gateway_ref: None,
        });
    };
    let pay = |order: &mut Order, status| {
        let total = order.total;
        let payment = order.payment.as_mut().expect("was asked for");
        payment.status = status;
        match status {
            PaymentStatus::Authorised => payment.authorised = total,
            PaymentStatus::Captured => payment.captured = total,
            PaymentStatus::Refunded => payment.refunded = total,
            _ => {}
        }
        payment.gateway_ref = Some("ref".into());
    };
    let cancel = |order: &mut Order, reason| {
        order.status = OrderStatus::Cancelled;
        order.reason = Some(reason);
    };
    match end {
        End::Pending => {}
        End::OutOfStock => {
            told(Kind::Cancelled, &mut order, &|o| {
                cancel(o, CancelReason::OutOfStock)
            });
        }
        End::Declined => {
            told(Kind::Reserved, &mut order, &hold);
            told(Kind::Cancelled, &mut order, &|o| {
                cancel(o, CancelReason::PaymentDeclined);
                pay(o, PaymentStatus::Declined);
            });
        }
        End::Confirmed | End::Captured | End::Refunded => {
            told(Kind::Reserved, &mut order, &hold);
            told(Kind::Confirmed, &mut order, &|o| {
                o.status = OrderStatus::Confirmed;
                pay(o, PaymentStatus::Authorised);
            });
            if !matches!(end, End::Confirmed) {
                told(Kind::PaymentUpdated, &mut order, &|o| {
                    pay(o, PaymentStatus::Captured)
                });
            }
            if matches!(end, End::Refunded) {
                told(Kind::Refunded, &mut order, &|o| {
                    o.status = OrderStatus::Refunded;
                    pay(o, PaymentStatus::Refunded);
                });
            }
        }
    }
    events
}

/// Everything that the tables must show, folded record by record.
#[derive(Default)]
struct Naive {
    orders: BTreeMap<OrderId, Order>,
    stocks: BTreeMap<Sku, Stock>,
    products: BTreeMap<Sku, (Product, u64)>,
    tops: BTreeMap<(i64, i32), Vec<TopProduct>>,
    days: BTreeMap<Day, OrdersPerDay>,
    hours: BTreeMap<i64, RevenuePerHour>,
    in_status: BTreeMap<OrderStatus, i64>,
}

/// One random record, by what it is about.
#[derive(Clone, Debug)]
enum Said {
    /// Which order goes on.
    Order(u8),
    Stock(u8, i64),
    Product(u8, Option<i64>),
    Top(u8, u8, Vec<(u8, i64)>),
    Day(u8, i64),
    /// `None` takes the report back.
    Hour(u8, Option<i64>),
    InStatus(u8, i64),
    /// A value that nobody can read, in one of the topics.
    Garbage(u8),
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        6 => any::<u8>().prop_map(Said::Order),
        3 => (0..6u8, 0..100i64).prop_map(|(s, n)| Said::Stock(s, n)),
        2 => (0..6u8, proptest::option::of(0..100i64)).prop_map(|(s, p)| Said::Product(s, p)),
        2 => (0..3u8, 0..2u8, proptest::collection::vec((0..9u8, 1..50i64), 0..5))
            .prop_map(|(w, p, items)| Said::Top(w, p, items)),
        1 => (0..4u8, 0..100i64).prop_map(|(d, n)| Said::Day(d, n)),
        1 => (0..4u8, proptest::option::of(0..100i64)).prop_map(|(h, n)| Said::Hour(h, n)),
        1 => (0..5u8, 0..100i64).prop_map(|(s, n)| Said::InStatus(s, n)),
        1 => (0..4u8).prop_map(Said::Garbage),
    ]
}

fn ends() -> impl Strategy<Value = End> {
    use End as E;
    prop_oneof![
        Just(E::Pending),
        Just(E::OutOfStock),
        Just(E::Declined),
        Just(E::Confirmed),
        Just(E::Captured),
        Just(E::Refunded),
    ]
}

/// Makes records of what was said, and folds them.
struct Story {
    naive: Naive,
    lives: Vec<std::vec::IntoIter<OrderEvent>>,
    messages: Vec<Message>,
    garbage: usize,
}

impl Story {
    fn tell(lives: &[(u32, End)], said: &[Said]) -> Self {
        let lives = lives.iter().zip(0..);
        let mut story = Self {
            naive: Naive::default(),
            lives: lives
                .map(|(&(n, end), id)| life(id, n, end).into_iter())
                .collect(),
            messages: Vec::new(),
            garbage: 0,
        };
        for said in said {
            story.say(said);
        }
        story
    }

    /// Offsets rise over all topics, which is also right within each partition.
    fn push(&mut self, topic: &str, partition: i32, key: &str, value: &impl Serialize) {
        let offset = self.messages.len() as i64;
        self.messages
            .push(message(topic, partition, offset, key, value));
    }

    fn say(&mut self, said: &Said) {
        match *said {
            Said::Order(which) => self.order(usize::from(which) % self.lives.len()),
            Said::Stock(of, on_hand) => self.stock(sku(of.into()), on_hand),
            Said::Product(of, price) => self.product(sku(of.into()), price),
            Said::Top(window, partition, ref items) => {
                self.top(i64::from(window) * HOUR, partition.into(), items);
            }
            Said::Day(day, placed) => {
                let day =
                    Day(chrono::NaiveDate::from_ymd_opt(2017, 1, 1 + u32::from(day))
                        .expect("a day"));
                let kind = OrdersPerDayType::It;
                let row = OrdersPerDay {
                    kind,
                    v: V1,
                    day,
                    placed,
                    confirmed: 1,
                    cancelled: 2,
                };
                self.push(reports::PER_DAY, 0, &day.to_string(), &row);
                self.naive.days.insert(day, row);
            }
            Said::Hour(hour, revenue) => {
                let (hour, currency) = (i64::from(hour) * HOUR, Currency::USD);
                let key = HourOfRevenue { hour, currency }.to_string();
                let Some(revenue) = revenue else {
                    self.push(reports::PER_HOUR, 0, &key, &());
                    self.messages.last_mut().expect("just pushed").value = None;
                    self.naive.hours.remove(&hour);
                    return;
                };
                let kind = RevenuePerHourType::It;
                let row = RevenuePerHour {
                    kind,
                    v: V1,
                    hour,
                    currency,
                    revenue,
                    orders: 1,
                };
                self.push(reports::PER_HOUR, 0, &key, &row);
                self.naive.hours.insert(hour, row);
            }
            Said::InStatus(status, orders) => {
                let status = OrderStatus::ALL[usize::from(status)];
                let kind = OrderStatusType::It;
                let row = OrdersInStatus {
                    kind,
                    v: V1,
                    status,
                    reason: None,
                    orders,
                };
                self.push(reports::STATUS, 0, status.as_str(), &row);
                self.naive.in_status.insert(status, orders);
            }
            Said::Garbage(topic) => {
                let topics = [
                    topics::ORDER_EVENTS.name(),
                    topics::INVENTORY_EVENTS.name(),
                    topics::PRODUCTS.name(),
                    reports::TOP,
                ];
                let key = format!("garbage-{}", self.garbage);
                self.garbage += 1;
                self.push(topics[usize::from(topic)], 0, &key, &"what?");
            }
        }
    }

    fn order(&mut self, which: usize) {
        let Some(event) = self.lives[which].next() else {
            return;
        };
        let order = event.order.clone();
        self.push(
            topics::ORDER_EVENTS.name(),
            (which % 3) as i32,
            &order.order_id.to_string(),
            &event,
        );
        self.naive.orders.insert(order.order_id, order);
    }

    fn stock(&mut self, sku: Sku, on_hand: i64) {
        let before = self.naive.stocks.get(&sku).map_or(0, |s| s.version);
        let stock = Stock {
            on_hand,
            reserved: 0,
            sold: 1,
            version: before + 1,
        };
        let change = InventoryChange::Adjusted {
            adjustment_id: "a".into(),
            delta: 1,
            reason: "count".into(),
        };
        self.push(
            topics::INVENTORY_EVENTS.name(),
            0,
            &sku,
            &InventoryEvent { change, stock },
        );
        self.naive.stocks.insert(sku, stock);
    }

    fn product(&mut self, sku: Sku, price: Option<i64>) {
        let Some(price) = price else {
            self.push(topics::PRODUCTS.name(), 0, &sku, &());
            self.messages.last_mut().expect("just pushed").value = None;
            self.naive.products.remove(&sku);
            return;
        };
        let product = Product {
            sku: sku.clone(),
            name: "Thé 😀".into(),
            category: (price % 2 == 0).then(|| "tea".into()),
            price,
            currency: Currency::USD,
            description: None,
        };
        let offset = self.messages.len() as u64;
        self.push(topics::PRODUCTS.name(), 0, &sku, &product);
        self.naive.products.insert(sku, (product, offset));
    }

    fn top(&mut self, window_end: i64, partition: i32, items: &[(u8, i64)]) {
        // A product is in one partition.
        let of_partition = |n: u8| u32::from(n) * 2 + partition.unsigned_abs();
        let items: BTreeMap<u8, i64> = items.iter().copied().collect();
        let items: Vec<TopProduct> = items
            .into_iter()
            .map(|(n, quantity)| TopProduct {
                sku: sku(of_partition(n)),
                name: "name".into(),
                quantity,
                revenue: quantity * 100,
            })
            .collect();
        let value = TopProducts {
            kind: TopProductsType::It,
            v: V1,
            window_start: window_end - 24 * HOUR,
            window_end,
            partition,
            items: items.clone(),
        };
        self.push(
            reports::TOP,
            partition,
            &format!("{window_end}|{partition}"),
            &value,
        );
        self.naive.tops.insert((window_end, partition), items);
    }
}

/// Writes records as a sink does, cut into batches of these sizes.
async fn write(tables: &Tables, messages: &[Message], sizes: &[usize]) -> usize {
    let mut rejected = 0;
    let mut rest = messages;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(rest.len().min(*sizes.next().expect("cycles")));
        let (changes, rejects) = project(batch);
        rejected += rejects;
        tables.database().write(changes).await.expect("writes");
        rest = after;
    }
    rejected
}

fn project(batch: &[Message]) -> (Changes, usize) {
    let mut out = Output::default();
    for projection in projections() {
        let topics = projection.topics();
        let batch: Vec<&Message> = batch.iter().filter(|m| topics.contains(&m.topic)).collect();
        projection.project(&batch, &mut out);
    }
    let rejected = out.rejected();
    (out.changes, rejected)
}

impl Naive {
    async fn check(&self, tables: &Tables) {
        self.check_orders(tables).await;
        let mut stocks = BTreeMap::new();
        let each = |sku, stock| assert_eq!(stocks.insert(sku, stock), None);
        tables.for_each_stock(each).await.expect("reads");
        assert_eq!(stocks, self.stocks);
        for n in 0..6 {
            let product = tables.product(&sku(n)).await.expect("reads");
            assert_eq!(product.as_ref(), self.products.get(&sku(n)));
        }
        for end in [0, HOUR, 2 * HOUR] {
            let mut expected: Vec<TopProduct> = [0, 1]
                .iter()
                .filter_map(|p| self.tops.get(&(end, *p)))
                .flatten()
                .cloned()
                .collect();
            expected.sort_by(|a, b| b.quantity.cmp(&a.quantity).then(a.sku.cmp(&b.sku)));
            expected.truncate(4);
            let (window, top) = tables.top_products(end + HOUR - 1, 4).await.expect("reads");
            assert_eq!((window.end, top), (end, expected));
        }
        let days = tables.orders_per_day(None, None).await.expect("reads");
        assert_eq!(days, self.days.values().cloned().collect::<Vec<_>>());
        let hours = tables
            .revenue_per_hour(Some(HOUR), Some(3 * HOUR))
            .await
            .expect("reads");
        let expected = self.hours.range(HOUR..3 * HOUR).map(|(_, row)| row.clone());
        assert_eq!(hours, expected.collect::<Vec<_>>());
        let in_status = tables.order_status().await.expect("reads");
        let in_status: BTreeMap<_, _> = in_status.iter().map(|s| (s.status, s.orders)).collect();
        assert_eq!(in_status, self.in_status);
    }

    async fn check_orders(&self, tables: &Tables) {
        let mut expected = self.orders.clone();
        for order in expected
            .values_mut()
            .filter(|o| o.status == OrderStatus::Pending)
        {
            order.lines.clear();
        }
        let mut orders = BTreeMap::new();
        let each = |order: Order| assert_eq!(orders.insert(order.order_id, order), None);
        tables.for_each_order(each).await.expect("reads");
        assert_eq!(orders, expected);
        let mut counts: BTreeMap<OrderStatus, i64> = BTreeMap::new();
        for order in expected.values() {
            *counts.entry(order.status).or_default() += 1;
        }
        let mut counted: BTreeMap<OrderStatus, i64> = BTreeMap::new();
        for (key, n) in tables.count_orders().await.expect("reads") {
            *counted.entry(key.status).or_default() += n;
        }
        assert_eq!(counted, counts);
        for customer in [None, Some("customer-1")] {
            for status in [None, Some(OrderStatus::Confirmed)] {
                check_list(tables, &expected, customer, status).await;
            }
        }
        let first = expected.keys().next().copied();
        let first = first.unwrap_or(OrderId(Uuid::nil()));
        assert_eq!(
            tables.order(first).await.expect("reads").as_ref(),
            expected.get(&first)
        );
    }
}

/// Pages through a list and compares it with the sorted map.
async fn check_list(
    tables: &Tables,
    orders: &BTreeMap<OrderId, Order>,
    customer: Option<&str>,
    status: Option<OrderStatus>,
) {
    let mut expected: Vec<&Order> = orders
        .values()
        .filter(|o| customer.is_none_or(|c| *o.customer_id == *c))
        .filter(|o| status.is_none_or(|s| o.status == s))
        .collect();
    expected.sort_by_key(|o| std::cmp::Reverse((o.placed_at, o.order_id)));
    let mut listed = Vec::new();
    let mut after: Option<OrderCursor> = None;
    loop {
        let query = OrderQuery {
            customer: customer.map(|c| c.parse().expect("legal")),
            status,
            limit: 3,
            after,
        };
        let page = tables.orders(&query).await.expect("reads");
        listed.extend(page.orders);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed.iter().collect::<Vec<_>>(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn tables_equal_the_naive_fold(
        lives in proptest::collection::vec((1..4u32, ends()), 1..30),
        said in proptest::collection::vec(said(), 0..200),
        sizes in proptest::collection::vec(1..40usize, 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            for shop in Shop::all().await {
                let story = Story::tell(&lives, &said);
                let rejected = write(&shop.tables, &story.messages, &sizes).await;
                assert_eq!(rejected, story.garbage);
                story.naive.check(&shop.tables).await;
                // All of it again, as after a reset: nothing changes.
                write(&shop.tables, &story.messages, &[1000]).await;
                story.naive.check(&shop.tables).await;
                shop.remove().await;
            }
        });
    }
}

#[tokio::test]
async fn an_order_never_goes_back_to_an_older_version() {
    for shop in Shop::all().await {
        let events = life(1, 3, End::Refunded);
        let last = &events.last().expect("events").order;
        let at = |i: usize| {
            message(
                topics::ORDER_EVENTS.name(),
                0,
                i as i64,
                &last.order_id.to_string(),
                &events[i],
            )
        };
        let backwards: Vec<Message> = (0..events.len()).rev().map(at).collect();
        write(&shop.tables, &backwards, &[1]).await;
        let order = shop.tables.order(last.order_id).await.expect("reads");
        assert_eq!(order.as_ref(), Some(last));
        shop.remove().await;
    }
}

#[tokio::test]
async fn the_gateway_enters_each_action_once() {
    for shop in Shop::all().await {
        let entry = |order: u128, action, amount| LedgerEntry {
            order_id: OrderId(Uuid::from_u128(order)),
            action,
            amount,
            currency: Currency::USD,
            visible_at: 7,
            at: 3,
        };
        let first = entry(1, PaymentAction::Authorise, 100);
        let tables = &shop.tables;
        tables
            .enter(&[first.clone(), entry(2, PaymentAction::Void, 5)])
            .await
            .expect("enters");
        tables
            .enter(&[entry(1, PaymentAction::Authorise, 999)])
            .await
            .expect("enters");
        tables
            .enter(&[entry(1, PaymentAction::Capture, 100)])
            .await
            .expect("enters");
        let books = tables.books_of(&[first.order_id]).await.expect("reads");
        assert_eq!(books.len(), 2);
        assert!(books.contains(&first), "{books:?}");
        let mut all = BTreeSet::new();
        let each = |e: LedgerEntry| assert!(all.insert((e.order_id, e.action)));
        tables.for_each_ledger_entry(each).await.expect("reads");
        assert_eq!(all.len(), 3);
        shop.remove().await;
    }
}

/// Prints how fast orders become rows: `cargo test -p millstream-processors rate -- --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_become_rows_at_a_rate_that_is_printed() {
    const ORDERS: u32 = 3000;
    const LINES: u32 = 10;
    let messages = traffic(ORDERS, LINES);
    for shop in Shop::all().await {
        let dialect = shop.tables.database().dialect().name();
        let (started, cpu) = (Instant::now(), cpu_ms());
        let mut projecting = std::time::Duration::ZERO;
        let mut rows = 0;
        for batch in messages.chunks(8192) {
            let began = Instant::now();
            let (changes, _) = project(batch);
            projecting += began.elapsed();
            rows += changes.len();
            shop.tables.database().write(changes).await.expect("writes");
        }
        let took = started.elapsed().as_secs_f64();
        eprintln!(
            "{dialect}: {ORDERS} orders of {LINES} lines in {took:.2} s: {:.0} orders/s, {:.0} records/s, \
             {:.0} rows/s, {} ms of CPU here, {} ms of it projecting",
            f64::from(ORDERS) / took,
            messages.len() as f64 / took,
            rows as f64 / took,
            cpu_ms() - cpu,
            projecting.as_millis(),
        );
        let counted = shop.tables.count_orders().await.expect("reads");
        assert_eq!(counted.values().sum::<i64>(), i64::from(ORDERS));
        shop.remove().await;
    }
}

/// Orders from placing to capture with the stock events of their lines, side by side as in a busy
/// hour: at any moment 1,000 orders are on their way.
fn traffic(orders: u32, lines: u32) -> Vec<Message> {
    const ON_THEIR_WAY: u32 = 1000;
    let mut messages = Vec::new();
    let mut versions: BTreeMap<u32, u64> = BTreeMap::new();
    for group in (0..orders).step_by(ON_THEIR_WAY as usize) {
        let group = group..(group + ON_THEIR_WAY).min(orders);
        let lives = group
            .clone()
            .map(|id| life(id, lines, End::Captured).into_iter());
        let mut lives: Vec<_> = lives.collect();
        for step in 0..4 {
            for (life, id) in lives.iter_mut().zip(group.clone()) {
                let event = life.next().expect("four events");
                let key = event.order.order_id.to_string();
                let offset = messages.len() as i64;
                let topic = topics::ORDER_EVENTS.name();
                messages.push(message(topic, 0, offset, &key, &event));
                // Stock moves when it is reserved and when it is sold.
                for line in 0..if step == 1 || step == 2 { lines } else { 0 } {
                    let product = (id * 7919 + line * 104_729) % 20_000;
                    let version = versions.entry(product).or_default();
                    *version += 1;
                    let stock = Stock {
                        on_hand: 900,
                        reserved: 1,
                        sold: 7,
                        version: *version,
                    };
                    let order_id = event.order.order_id;
                    let change = InventoryChange::Confirmed {
                        order_id,
                        quantity: 1,
                    };
                    let event = InventoryEvent { change, stock };
                    let offset = messages.len() as i64;
                    let topic = topics::INVENTORY_EVENTS.name();
                    messages.push(message(topic, 0, offset, &sku(product), &event));
                }
            }
        }
    }
    messages
}

/// CPU time of this process so far; 0 where the system does not tell.
fn cpu_ms() -> i64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|t| t.parse::<i64>().ok())
            .unwrap_or(0)
    };
    (ticks(12) + ticks(13)) * 10
}
