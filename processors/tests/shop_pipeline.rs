//! The whole shop in the test driver: commands in, events out, with the simulated gateway's rules
//! in between.

use std::{collections::BTreeMap, time::Duration};

use millstream_operators::RawRecord;
use millstream_processors::{
    audit::{Audit, Expect},
    inventory::{Adjustment, ReservationState},
    model::{
        AdjustmentKey, CancelReason, Currency, CustomerId, InventoryChange, InventoryCommand,
        Order, OrderCommand, OrderEvent, OrderEventKind, OrderId, OrderStatus, OrdersPerDay,
        PaymentAction, PaymentOutcome, PaymentResult, PaymentStatus, PlaceOrder, Product,
        RequestedLine, ReservationKey, RevenuePerHour, Sku, Stock, TopProduct, V1,
    },
    payment::{
        LedgerEntry,
        rules::{Verdict, decide},
    },
    topics::{
        ADJUSTMENT_STORE, ANALYTICS_ORDER_STATUS, ANALYTICS_ORDERS_PER_DAY,
        ANALYTICS_REVENUE_PER_HOUR, ANALYTICS_TOP_PRODUCTS, DEAD_LETTERS, INVENTORY_COMMANDS,
        INVENTORY_EVENTS, ORDER_EVENTS, ORDER_STORE, ORDERS, PAYMENT_INTENTS, PAYMENT_RESULTS,
        PRODUCTS, RESERVATION_STORE, STOCK_STORE,
    },
    topology::{ShopPolicy, shop},
};
use millstream_runtime::{ErrorPolicy, Policies, TestDriver};
use millstream_topology::{Result, hours, mins, secs};

const HOUR_MS: i64 = 3_600_000;
/// 2017-01-01T12:00:00Z, when orders are placed unless a test says otherwise.
const NOON: i64 = 1_483_272_000_000;

/// The shop with its gateway, and what it has said so far.
struct Shop {
    driver: TestDriver,
    ledger: Vec<LedgerEntry>,
    history: BTreeMap<OrderId, Vec<OrderEvent>>,
    received: BTreeMap<Sku, i64>,
    placed: Vec<OrderId>,
    revenue: BTreeMap<String, RevenuePerHour>,
    days: BTreeMap<String, OrdersPerDay>,
    statuses: BTreeMap<String, i64>,
    best: BTreeMap<i64, Vec<TopProduct>>,
}

fn sku(name: &str) -> Sku {
    name.parse().expect("legal")
}

impl Shop {
    fn open() -> Result<Self> {
        let driver = TestDriver::new(&shop(&ShopPolicy::default())?)?.with_policies(Policies {
            decode: ErrorPolicy::DeadLetter,
            process: ErrorPolicy::DeadLetter,
            produce: ErrorPolicy::DeadLetter,
            dead_letter_topic: Some(DEAD_LETTERS.name()),
        });
        Ok(Self {
            driver,
            ledger: Vec::new(),
            history: BTreeMap::new(),
            received: BTreeMap::new(),
            placed: Vec::new(),
            revenue: BTreeMap::new(),
            days: BTreeMap::new(),
            statuses: BTreeMap::new(),
            best: BTreeMap::new(),
        })
    }

    /// Tea costs 150 and milk 99; there are ten of each.
    fn stocked() -> Result<Self> {
        let mut shop = Self::open()?;
        shop.list("tea", 150)?;
        shop.list("milk", 99)?;
        shop.adjust("tea", "first", 10)?;
        shop.adjust("milk", "first", 10)?;
        Ok(shop)
    }

    fn now(&self) -> i64 {
        self.driver.wall_clock_ms()
    }

    fn list(&mut self, name: &str, price: i64) -> Result<()> {
        let product = Product {
            sku: sku(name),
            name: name.to_uppercase().into(),
            category: None,
            price,
            currency: Currency::USD,
            description: None,
        };
        self.driver
            .send(PRODUCTS, sku(name), Some(product), self.now())
    }

    fn adjust(&mut self, name: &str, id: &str, delta: i64) -> Result<bool> {
        let reason = "test".into();
        let command = InventoryCommand::Adjust {
            adjustment_id: id.into(),
            delta,
            reason,
        };
        self.driver
            .send(INVENTORY_COMMANDS, sku(name), command, self.now())?;
        let key = AdjustmentKey {
            sku: sku(name),
            adjustment_id: id.into(),
        };
        let outcome: Option<Adjustment> = self.driver.get(ADJUSTMENT_STORE, &key)?;
        let applied = outcome.expect("an outcome").applied;
        if applied {
            *self.received.entry(sku(name)).or_default() += delta;
        }
        Ok(applied)
    }

    fn place(&mut self, key: &str, token: &str, lines: &[(&str, u32)]) -> Result<OrderId> {
        self.place_at(key, token, lines, NOON)
    }

    fn place_at(
        &mut self,
        key: &str,
        token: &str,
        lines: &[(&str, u32)],
        placed_at: i64,
    ) -> Result<OrderId> {
        let customer_id: CustomerId = "ada".parse().expect("legal");
        let order_id = OrderId::derived(&customer_id, key);
        let line = |(name, quantity): &(&str, u32)| RequestedLine {
            sku: sku(name),
            quantity: *quantity,
        };
        let place = PlaceOrder {
            customer_id,
            currency: Currency::USD,
            lines: lines.iter().map(line).collect(),
            token: token.into(),
            expected_total: None,
            placed_at,
            fingerprint: uuid::Uuid::nil(),
        };
        self.placed.push(order_id);
        self.driver
            .send(ORDERS, order_id, OrderCommand::Place(place), self.now())?;
        Ok(order_id)
    }

    fn cancel(&mut self, order_id: OrderId, restock: bool) -> Result<()> {
        self.driver.send(
            ORDERS,
            order_id,
            OrderCommand::Cancel { restock },
            self.now(),
        )
    }

    /// Makes all calls of the gateway that are asked for, and those that follow from them.
    fn pay(&mut self) -> Result<()> {
        loop {
            let intents = self.driver.read(PAYMENT_INTENTS)?;
            if intents.is_empty() {
                return Ok(());
            }
            for record in intents {
                let (order_id, intent) = (record.key, record.value);
                let known = |e: &&LedgerEntry| e.order_id == order_id;
                let books: Vec<LedgerEntry> = self.ledger.iter().filter(known).cloned().collect();
                let (verdict, entry) = decide(&books, order_id, &intent, self.now());
                self.ledger.extend(entry);
                let (outcome, gateway_ref) = match verdict {
                    Verdict::Answer(answer) => (answer.outcome, answer.gateway_ref),
                    Verdict::Silence => (PaymentOutcome::Unknown, None),
                    Verdict::Misfit => panic!("the shop asks for what does not fit: {intent:?}"),
                };
                let result = PaymentResult {
                    outcome,
                    v: V1,
                    action: intent.action,
                    attempt: intent.attempt,
                    amount: intent.amount,
                    gateway_ref,
                };
                // Results are delivered at least once.
                self.driver
                    .send(PAYMENT_RESULTS, order_id, result.clone(), self.now())?;
                self.driver
                    .send(PAYMENT_RESULTS, order_id, result, self.now())?;
            }
        }
    }

    fn pass(&mut self, time: Duration) -> Result<()> {
        self.driver.advance_wall_clock(time)?;
        self.pay()
    }

    /// Lets time pass until retries and windows have come to rest.
    fn settle(&mut self) -> Result<()> {
        self.pay()?;
        for _ in 0..400 {
            self.pass(secs(1))?;
        }
        Ok(())
    }

    fn order(&mut self, order_id: OrderId) -> Result<Order> {
        Ok(self
            .driver
            .get(ORDER_STORE, &order_id)?
            .expect("the order is known")
            .order)
    }

    #[track_caller]
    fn is(&mut self, order_id: OrderId, status: OrderStatus, reason: Option<CancelReason>) {
        let order = self.order(order_id).expect("stores can be read");
        assert_eq!((order.status, order.reason), (status, reason));
    }

    #[track_caller]
    fn stock_is(&mut self, name: &str, on_hand: i64, reserved: i64, sold: i64) {
        let stock = self
            .driver
            .get(STOCK_STORE, &sku(name))
            .expect("stores can be read");
        let Stock {
            on_hand: a,
            reserved: b,
            sold: c,
            ..
        } = stock.unwrap_or_default();
        assert_eq!((a, b, c), (on_hand, reserved, sold), "{name}");
    }

    /// Takes what the topics say and keeps it as a table would.
    fn collect(&mut self) -> Result<()> {
        for record in self.driver.read(ORDER_EVENTS)? {
            self.history
                .entry(record.key)
                .or_default()
                .push(record.value);
        }
        for record in self.driver.read(ANALYTICS_REVENUE_PER_HOUR)? {
            self.revenue.insert(record.key.to_string(), record.value);
        }
        for record in self.driver.read(ANALYTICS_ORDERS_PER_DAY)? {
            self.days.insert(record.key.to_string(), record.value);
        }
        for record in self.driver.read(ANALYTICS_ORDER_STATUS)? {
            self.statuses
                .insert(record.key.to_string(), record.value.orders);
        }
        for record in self.driver.read(ANALYTICS_TOP_PRODUCTS)? {
            self.best
                .insert(record.value.window_end, record.value.items);
        }
        Ok(())
    }

    /// Whatever a test did, the shop must be in order after it.
    fn close(mut self) -> Result<Self> {
        self.settle()?;
        self.collect()?;
        for (order_id, events) in &self.history {
            for (at, event) in events.iter().enumerate() {
                assert_eq!(
                    event.order.version,
                    at as u64 + 1,
                    "{order_id}: {events:#?}"
                );
            }
        }
        let mut audit = Audit::new(Expect::settled());
        self.placed.iter().for_each(|id| audit.accepted(*id));
        for events in self.history.values() {
            audit.order(&events.last().expect("at least one").order);
        }
        self.received
            .iter()
            .for_each(|(sku, pieces)| audit.received(sku, *pieces));
        for (sku, stock, _) in self.driver.entries(STOCK_STORE)? {
            audit.stock(&sku, &stock);
        }
        audit.tells_reservations();
        for (key, reservation, _) in self.driver.entries(RESERVATION_STORE)? {
            audit.reservation(&key, &reservation);
        }
        audit.tells_ledger();
        self.ledger.iter().for_each(|entry| audit.ledger(entry));
        audit.tells_revenue();
        self.revenue.values().for_each(|row| audit.revenue(row));
        audit.tells_days();
        self.days.values().for_each(|row| audit.day(row));
        let report = audit.finish();
        assert!(
            report.holds(),
            "{:#?}",
            report.violations().collect::<Vec<_>>()
        );
        Ok(self)
    }
}

#[test]
fn an_order_runs_from_the_command_to_the_capture() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let id = shop.place("a", "tok_approve", &[("tea", 2), ("milk", 1)])?;
    shop.is(id, OrderStatus::Reserved, None);
    shop.stock_is("tea", 10, 2, 0);
    shop.pay()?;
    shop.is(id, OrderStatus::Confirmed, None);
    shop.stock_is("tea", 8, 0, 2);
    shop.stock_is("milk", 9, 0, 1);
    let order = shop.order(id)?;
    assert_eq!(order.total, 399);
    assert_eq!(order.lines[0].name.as_deref(), Some("TEA"));
    let payment = order.payment.expect("a payment");
    assert_eq!(
        (payment.status, payment.captured),
        (PaymentStatus::Captured, 399)
    );
    assert!(payment.gateway_ref.is_some());

    let shop = shop.close()?;
    let kinds: Vec<OrderEventKind> = shop.history[&id].iter().map(|e| e.kind).collect();
    use OrderEventKind as K;
    assert_eq!(
        kinds,
        [K::Placed, K::Reserved, K::Confirmed, K::PaymentUpdated]
    );
    assert_eq!(shop.statuses["CONFIRMED"], 1);
    assert_eq!(shop.statuses["PENDING"], 0);
    Ok(())
}

#[test]
fn a_repeated_command_is_no_second_order() -> Result<()> {
    let mut shop = Shop::stocked()?;
    for _ in 0..3 {
        shop.place("a", "tok_approve", &[("tea", 2)])?;
        shop.pay()?;
    }
    shop.stock_is("tea", 8, 0, 2);
    let shop = shop.close()?;
    assert_eq!(shop.history.len(), 1);
    Ok(())
}

#[test]
fn each_token_leads_where_it_should() -> Result<()> {
    use {CancelReason as R, OrderStatus as S, PaymentStatus as P};
    let cases = [
        ("tok_approve", S::Confirmed, None, P::Captured),
        ("anything", S::Confirmed, None, P::Captured),
        ("tok_flaky", S::Confirmed, None, P::Captured),
        ("tok_unknown", S::Confirmed, None, P::Captured),
        (
            "tok_decline",
            S::Cancelled,
            Some(R::PaymentDeclined),
            P::Declined,
        ),
        (
            "tok_timeout",
            S::Cancelled,
            Some(R::PaymentTimeout),
            P::Unknown,
        ),
        ("tok_late", S::Cancelled, Some(R::PaymentTimeout), P::Voided),
    ];
    let mut shop = Shop::stocked()?;
    let mut ids = Vec::new();
    for (token, ..) in &cases {
        ids.push(shop.place(token, token, &[("tea", 1)])?);
    }
    shop.settle()?;
    for ((token, status, reason, payment), id) in cases.iter().zip(ids) {
        let order = shop.order(id)?;
        assert_eq!((order.status, order.reason), (*status, *reason), "{token}");
        assert_eq!(order.payment.map(|p| p.status), Some(*payment), "{token}");
    }
    shop.stock_is("tea", 6, 0, 4);
    let shop = shop.close()?;
    let voids = shop
        .ledger
        .iter()
        .filter(|e| e.action == PaymentAction::Void)
        .count();
    assert_eq!(voids, 1, "the late authorisation is voided exactly once");
    Ok(())
}

#[test]
fn an_order_that_cannot_be_held_as_a_whole_holds_nothing() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let short = shop.place("a", "tok_approve", &[("tea", 2), ("milk", 11)])?;
    shop.is(
        short,
        OrderStatus::Cancelled,
        Some(CancelReason::OutOfStock),
    );
    let unknown = shop.place("b", "tok_approve", &[("tea", 2), ("sugar", 1)])?;
    shop.is(unknown, OrderStatus::Pending, None);
    shop.pass(secs(2))?;
    shop.is(
        unknown,
        OrderStatus::Cancelled,
        Some(CancelReason::UnknownProduct),
    );
    shop.stock_is("tea", 10, 0, 0);
    shop.stock_is("milk", 10, 0, 0);
    let shop = shop.close()?;
    assert_eq!(shop.statuses["CANCELLED|OUT_OF_STOCK"], 1);
    assert_eq!(shop.statuses["CANCELLED|UNKNOWN_PRODUCT"], 1);
    Ok(())
}

#[test]
fn a_product_that_arrives_with_its_first_order_is_sold() -> Result<()> {
    let mut shop = Shop::open()?;
    shop.adjust("tea", "first", 10)?;
    let id = shop.place("a", "tok_approve", &[("tea", 2)])?;
    shop.list("tea", 150)?;
    shop.pass(secs(2))?;
    shop.is(id, OrderStatus::Confirmed, None);
    shop.close()?;
    Ok(())
}

#[test]
fn the_last_pieces_go_to_one_order_only() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let ids: Vec<OrderId> = (0..4)
        .map(|n| shop.place(&n.to_string(), "tok_approve", &[("tea", 4)]))
        .collect::<Result<_>>()?;
    shop.pay()?;
    for (n, id) in ids.into_iter().enumerate() {
        let (status, reason) = match n {
            0 | 1 => (OrderStatus::Confirmed, None),
            _ => (OrderStatus::Cancelled, Some(CancelReason::OutOfStock)),
        };
        shop.is(id, status, reason);
    }
    shop.stock_is("tea", 2, 0, 8);
    shop.close()?;
    Ok(())
}

#[test]
fn a_silent_gateway_does_not_keep_an_order_open() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let id = shop.place("a", "tok_approve", &[("tea", 2)])?;
    shop.driver.advance_wall_clock(secs(59))?;
    shop.is(id, OrderStatus::Reserved, None);
    shop.driver.advance_wall_clock(secs(2))?;
    shop.is(
        id,
        OrderStatus::Cancelled,
        Some(CancelReason::PaymentTimeout),
    );
    shop.stock_is("tea", 10, 0, 0);
    // The gateway wakes up, authorises, and is told to give up the hold.
    let shop = shop.close()?;
    let actions: Vec<PaymentAction> = shop.ledger.iter().map(|e| e.action).collect();
    assert_eq!(actions, [PaymentAction::Authorise, PaymentAction::Void]);
    Ok(())
}

#[test]
fn a_customer_can_cancel_before_and_after_the_confirmation() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let before = shop.place("a", "tok_approve", &[("tea", 2)])?;
    shop.cancel(before, true)?;
    shop.pay()?;
    shop.is(before, OrderStatus::Cancelled, Some(CancelReason::Customer));
    let restocked = shop.place("b", "tok_approve", &[("tea", 2)])?;
    let kept = shop.place("c", "tok_approve", &[("milk", 3)])?;
    shop.pay()?;
    shop.stock_is("tea", 8, 0, 2);
    shop.cancel(restocked, true)?;
    shop.cancel(kept, false)?;
    shop.pay()?;
    for id in [restocked, kept] {
        shop.is(id, OrderStatus::Refunded, None);
    }
    shop.stock_is("tea", 10, 0, 0);
    shop.stock_is("milk", 7, 0, 3);
    let shop = shop.close()?;
    let revenue: Vec<(i64, i64)> = shop
        .revenue
        .values()
        .map(|row| (row.revenue, row.orders))
        .collect();
    assert_eq!(revenue, [(0, 2)], "refunds subtract money, not orders");
    assert!(
        shop.best.values().all(Vec::is_empty),
        "refunds subtract pieces: {:?}",
        shop.best
    );
    Ok(())
}

#[test]
fn an_adjustment_counts_once_and_respects_what_is_reserved() -> Result<()> {
    let mut shop = Shop::stocked()?;
    shop.place("a", "tok_timeout", &[("tea", 4)])?;
    let repeated = InventoryCommand::Adjust {
        adjustment_id: "first".into(),
        delta: 10,
        reason: "".into(),
    };
    shop.driver
        .send(INVENTORY_COMMANDS, sku("tea"), repeated, 0)?;
    shop.stock_is("tea", 10, 4, 0);
    assert!(!shop.adjust("tea", "too much", -7)?);
    assert!(shop.adjust("tea", "just right", -6)?);
    shop.stock_is("tea", 4, 4, 0);
    let counted = InventoryCommand::Set {
        adjustment_id: "count".into(),
        on_hand: 3,
        reason: "".into(),
    };
    shop.driver
        .send(INVENTORY_COMMANDS, sku("tea"), counted, 0)?;
    shop.stock_is("tea", 4, 4, 0);
    let refused = shop
        .driver
        .read(INVENTORY_EVENTS)?
        .into_iter()
        .filter(|r| matches!(r.value.change, InventoryChange::AdjustmentRefused { .. }))
        .count();
    assert_eq!(refused, 2);
    shop.close()?;
    Ok(())
}

#[test]
fn what_is_held_for_nobody_comes_back_and_what_is_settled_is_forgotten() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let nobody = OrderId(uuid::Uuid::from_u128(99));
    let reserve = InventoryCommand::Reserve {
        order_id: nobody,
        quantity: 3,
    };
    shop.driver
        .send(INVENTORY_COMMANDS, sku("tea"), reserve, 0)?;
    shop.place("a", "tok_approve", &[("milk", 1)])?;
    shop.pay()?;
    shop.stock_is("tea", 10, 3, 0);
    shop.pass(mins(14))?;
    shop.stock_is("tea", 10, 3, 0);
    shop.pass(mins(2))?;
    shop.stock_is("tea", 10, 0, 0);
    let left = shop.driver.entries(RESERVATION_STORE)?;
    assert_eq!(left.len(), 1, "the one just released: {left:?}");
    assert_eq!(left[0].1.state, ReservationState::Released);
    shop.pass(mins(31))?;
    shop.pass(mins(31))?;
    assert_eq!(shop.driver.entries(RESERVATION_STORE)?, []);
    shop.close()?;
    Ok(())
}

#[test]
fn a_release_before_its_reserve_holds_nothing() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let order_id = OrderId(uuid::Uuid::from_u128(99));
    shop.driver.send(
        INVENTORY_COMMANDS,
        sku("tea"),
        InventoryCommand::Release { order_id },
        0,
    )?;
    let reserve = InventoryCommand::Reserve {
        order_id,
        quantity: 3,
    };
    shop.driver
        .send(INVENTORY_COMMANDS, sku("tea"), reserve, 0)?;
    shop.stock_is("tea", 10, 0, 0);
    let key = ReservationKey {
        sku: sku("tea"),
        order_id,
    };
    let reservation = shop.driver.get(RESERVATION_STORE, &key)?.expect("a mark");
    assert_eq!(reservation.state, ReservationState::Released);
    shop.close()?;
    Ok(())
}

#[test]
fn values_that_nobody_understands_go_to_the_dead_letters_and_harm_nothing() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let poison = [
        ("shop.orders", "{\"type\":\"place\",\"v\":1}"),
        ("shop.orders", "{\"type\":\"cancel\",\"v\":2}"),
        ("shop.orders", "no json"),
        (
            "shop.products",
            "{\"type\":\"product\",\"v\":1,\"sku\":\"\"}",
        ),
        ("shop.inventory-commands", "{\"type\":\"steal\",\"v\":1}"),
        ("shop.payment-results", "{}"),
        ("shop.order-events", "[]"),
    ];
    let id = shop.place("a", "tok_approve", &[("tea", 2)])?;
    for (topic, value) in &poison {
        let raw = RawRecord {
            key: Some(id.to_string().into()),
            value: Some((*value).to_owned().into()),
            timestamp: 0,
            headers: Default::default(),
        };
        shop.driver.send_raw(topic, raw)?;
    }
    let letters = shop.driver.read_raw(DEAD_LETTERS.name());
    let values: Vec<_> = letters
        .iter()
        .map(|l| l.value.clone().expect("as it was"))
        .collect();
    assert_eq!(
        values,
        poison.iter().map(|(_, value)| *value).collect::<Vec<_>>()
    );
    assert!(letters.iter().all(|letter| !letter.headers.is_empty()));
    shop.pay()?;
    shop.is(id, OrderStatus::Confirmed, None);
    shop.close()?;
    Ok(())
}

#[test]
fn reports_count_by_the_time_at_which_orders_were_placed() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let day = 24 * HOUR_MS;
    shop.place_at("a", "tok_approve", &[("tea", 2)], NOON)?;
    shop.place_at("b", "tok_approve", &[("milk", 3)], NOON + 59 * 60_000)?;
    shop.place_at("c", "tok_decline", &[("milk", 1)], NOON + HOUR_MS)?;
    shop.place_at("d", "tok_approve", &[("tea", 1)], NOON - day)?;
    shop.place_at("e", "tok_approve", &[("milk", 1)], NOON + 23 * HOUR_MS)?;
    let shop = shop.close()?;
    let day_of = |day: &str| {
        let row = &shop.days[day];
        (row.placed, row.confirmed, row.cancelled)
    };
    assert_eq!(day_of("2017-01-01"), (3, 2, 1));
    assert_eq!(day_of("2016-12-31"), (1, 1, 0));
    assert_eq!(day_of("2017-01-02"), (1, 1, 0));
    assert_eq!(
        shop.revenue["2017-01-01T12:00:00.000Z|USD"].revenue,
        2 * 150 + 3 * 99
    );
    assert_eq!(shop.revenue["2017-01-01T12:00:00.000Z|USD"].orders, 2);

    let best = |end: i64| -> Vec<(String, i64, i64)> {
        let items = shop.best.get(&end).map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .map(|p| (p.sku.to_string(), p.quantity, p.revenue))
            .collect()
    };
    let (tea, milk) = ("tea".to_owned(), "milk".to_owned());
    assert_eq!(
        best(NOON),
        [(tea.clone(), 1, 150)],
        "the window holds yesterday's noon"
    );
    assert_eq!(
        best(NOON + HOUR_MS),
        [(milk.clone(), 3, 297), (tea.clone(), 2, 300)]
    );
    assert_eq!(best(NOON + day), [(milk.clone(), 4, 396), (tea, 2, 300)]);
    assert_eq!(best(NOON + day + HOUR_MS), [(milk, 1, 99)]);
    let next: [(String, i64, i64); 0] = [];
    assert_eq!(best(NOON - day), next);
    Ok(())
}

#[test]
fn a_restart_at_any_point_changes_nothing() -> Result<()> {
    for keep_state in [true, false] {
        let mut shop = Shop::stocked()?;
        let ids: Vec<OrderId> = ["tok_approve", "tok_unknown", "tok_late", "tok_timeout"]
            .into_iter()
            .map(|token| shop.place(token, token, &[("tea", 1), ("milk", 1)]))
            .collect::<Result<_>>()?;
        shop.driver.restart(keep_state)?;
        shop.pay()?;
        shop.driver.restart(keep_state)?;
        for _ in 0..10 {
            shop.pass(secs(10))?;
            shop.driver.restart(keep_state)?;
        }
        shop.is(ids[0], OrderStatus::Confirmed, None);
        shop.is(ids[1], OrderStatus::Confirmed, None);
        shop.is(
            ids[2],
            OrderStatus::Cancelled,
            Some(CancelReason::PaymentTimeout),
        );
        shop.is(
            ids[3],
            OrderStatus::Cancelled,
            Some(CancelReason::PaymentTimeout),
        );
        shop.stock_is("tea", 8, 0, 2);
        shop.close()?;
    }
    Ok(())
}

#[test]
fn many_orders_on_little_stock_leave_the_shop_in_order() -> Result<()> {
    let mut shop = Shop::stocked()?;
    let tokens = [
        "tok_approve",
        "tok_decline",
        "tok_late",
        "tok_unknown",
        "tok_timeout",
    ];
    for n in 0..60 {
        let quantity = 1 + n % 3;
        let lines = [("tea", quantity), ("milk", 1)];
        let lines = if n % 4 == 0 { &lines[..1] } else { &lines[..] };
        let placed_at = NOON + i64::from(n) * HOUR_MS / 2;
        let token = tokens[n as usize % tokens.len()];
        let id = shop.place_at(&n.to_string(), token, lines, placed_at)?;
        match n % 7 {
            0 => shop.cancel(id, true)?,
            3 => shop.pass(secs(20))?,
            5 => {
                shop.adjust("tea", &n.to_string(), 2)?;
            }
            _ => {}
        }
    }
    shop.pass(hours(1))?;
    shop.close()?;
    Ok(())
}

#[test]
fn the_topology_is_as_it_was() -> Result<()> {
    let described = shop(&ShopPolicy::default())?.describe().to_string();
    // Names of stores and topics must not change by accident: state and offsets are found by them.
    assert_eq!(
        described.trim_end(),
        include_str!("topology.txt").trim_end(),
        "{described}"
    );
    Ok(())
}
