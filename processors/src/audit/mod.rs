//! The audit: from what tables, stores and books say, which promises of the shop are broken.
//!
//! An [`Audit`] is told every fact once, in any order, and then [finished](Audit::finish). It does
//! no I/O: `millstream verify` reads the facts from the database, tests make them up.
//!
//! Where the shop is still at work, read stock first, then orders, then the gateway's books: the
//! shop writes in the other direction, so that whatever is read has its cause in what is read
//! later.
//!
//! ```
//! use millstream_processors::audit::{Audit, Expect};
//! use millstream_processors::model::Stock;
//!
//! let mut audit = Audit::new(Expect::settled());
//! let tea = "tea".parse()?;
//! audit.received(&tea, 10);
//! audit.stock(&tea, &Stock { on_hand: 10, reserved: 0, sold: 3, version: 4 });
//! let report = audit.finish();
//! assert!(!report.holds());
//! assert!(report.violations().next().expect("one").detail.contains("received=10"));
//! # Ok::<(), millstream_processors::model::InvalidId>(())
//! ```

mod report;

use std::collections::BTreeMap;

use crate::{
    analytics::{day_of, hour_of},
    inventory::{Reservation, ReservationState},
    model::{
        Currency, Day, HourOfRevenue, Order, OrderId, OrderLine, OrderStatus, OrdersPerDay,
        PaymentAction, PaymentStatus, ReservationKey, RevenuePerHour, Sku, Stock,
    },
    payment::LedgerEntry,
};

pub use report::{Expect, Finding, Promise, Report, VIOLATIONS_KEPT_MAX, Violation};

/// Collects facts.
#[derive(Debug)]
pub struct Audit {
    expect: Expect,
    accepted: Vec<OrderId>,
    orders: BTreeMap<OrderId, OrderFacts>,
    products: BTreeMap<Sku, ProductFacts>,
    reservations_known: bool,
    held: Vec<(ReservationKey, Reservation)>,
    books: BTreeMap<OrderId, Books>,
    books_known: bool,
    revenue: Option<BTreeMap<(i64, Currency), (i64, i64)>>,
    days: Option<BTreeMap<Day, [i64; 3]>>,
    expected_revenue: BTreeMap<(i64, Currency), (i64, i64)>,
    expected_days: BTreeMap<Day, [i64; 3]>,
    findings: BTreeMap<Promise, Finding>,
    open: u64,
}

#[derive(Debug)]
struct OrderFacts {
    status: OrderStatus,
    total: i64,
    payment: Option<(PaymentStatus, i64, i64, i64)>,
}

#[derive(Debug, Default)]
struct ProductFacts {
    stock: Option<Stock>,
    received: Option<i64>,
    confirmed: i64,
    refunded: i64,
    held: i64,
}

#[derive(Debug, Default)]
struct Books {
    captures: u32,
    authorised: i64,
    captured: i64,
    voided: bool,
    refunded: i64,
}

impl Audit {
    /// An audit that has heard nothing yet.
    pub fn new(expect: Expect) -> Self {
        Self {
            expect,
            accepted: Vec::new(),
            orders: BTreeMap::new(),
            products: BTreeMap::new(),
            reservations_known: false,
            held: Vec::new(),
            books: BTreeMap::new(),
            books_known: false,
            revenue: None,
            days: None,
            expected_revenue: BTreeMap::new(),
            expected_days: BTreeMap::new(),
            findings: Promise::ALL
                .into_iter()
                .map(|p| (p, Finding::default()))
                .collect(),
            open: 0,
        }
    }

    /// An order was accepted at the door.
    pub fn accepted(&mut self, order_id: OrderId) {
        self.accepted.push(order_id);
    }

    /// An order as it stands.
    pub fn order(&mut self, order: &Order) {
        self.check_order(order);
        for line in &order.lines {
            let product = self.products.entry(line.sku.clone()).or_default();
            match order.status {
                OrderStatus::Confirmed => product.confirmed += i64::from(line.quantity),
                OrderStatus::Refunded => product.refunded += i64::from(line.quantity),
                OrderStatus::Pending | OrderStatus::Reserved | OrderStatus::Cancelled => {}
            }
        }
        self.expect_in_reports(order);
        let payment = order
            .payment
            .as_ref()
            .map(|p| (p.status, p.authorised, p.captured, p.refunded));
        let facts = OrderFacts {
            status: order.status,
            total: order.total,
            payment,
        };
        self.orders.insert(order.order_id, facts);
    }

    /// Pieces of a product came in, or went out other than by sale: what was on hand at first, and
    /// every adjustment that was applied.
    pub fn received(&mut self, sku: &Sku, pieces: i64) {
        *self
            .products
            .entry(sku.clone())
            .or_default()
            .received
            .get_or_insert(0) += pieces;
    }

    /// The stock of a product as it stands.
    pub fn stock(&mut self, sku: &Sku, stock: &Stock) {
        self.products.entry(sku.clone()).or_default().stock = Some(*stock);
    }

    /// The reservations are going to be told; without this call what is reserved is compared with
    /// nothing, and only checked for orders that are final.
    pub fn tells_reservations(&mut self) {
        self.reservations_known = true;
    }

    /// A reservation as it stands.
    pub fn reservation(&mut self, key: &ReservationKey, reservation: &Reservation) {
        self.reservations_known = true;
        if reservation.state == ReservationState::Held {
            let product = self.products.entry(key.sku.clone()).or_default();
            product.held += i64::from(reservation.quantity);
            self.held.push((key.clone(), *reservation));
        }
    }

    /// The gateway's books are going to be told; without this call payments are compared with
    /// nothing.
    pub fn tells_ledger(&mut self) {
        self.books_known = true;
    }

    /// An entry of the gateway's books.
    pub fn ledger(&mut self, entry: &LedgerEntry) {
        self.books_known = true;
        let books = self.books.entry(entry.order_id).or_default();
        match entry.action {
            PaymentAction::Authorise => books.authorised += entry.amount,
            PaymentAction::Capture => {
                books.captures += 1;
                books.captured += entry.amount;
            }
            PaymentAction::Void => books.voided = true,
            PaymentAction::Refund => books.refunded += entry.amount,
            PaymentAction::Query => {}
        }
    }

    /// The revenue reports are going to be told, even if there are none.
    pub fn tells_revenue(&mut self) {
        self.revenue.get_or_insert_default();
    }

    /// A row of revenue per hour.
    pub fn revenue(&mut self, row: &RevenuePerHour) {
        let rows = self.revenue.get_or_insert_default();
        rows.insert((row.hour, row.currency), (row.revenue, row.orders));
    }

    /// The daily reports are going to be told, even if there are none.
    pub fn tells_days(&mut self) {
        self.days.get_or_insert_default();
    }

    /// A row of orders per day.
    pub fn day(&mut self, row: &OrdersPerDay) {
        let rows = self.days.get_or_insert_default();
        rows.insert(row.day, [row.placed, row.confirmed, row.cancelled]);
    }

    /// Compares what was told.
    pub fn finish(mut self) -> Report {
        self.check_accepted();
        self.check_products();
        self.check_held();
        self.check_payments();
        self.check_reports();
        Report {
            findings: self.findings,
            open: self.open,
        }
    }

    fn check(&mut self, promise: Promise, holds: bool, detail: impl FnOnce() -> String) {
        let finding = self
            .findings
            .get_mut(&promise)
            .expect("every promise has a finding");
        finding.checked += 1;
        if !holds {
            finding.violated += 1;
            if finding.examples.len() < VIOLATIONS_KEPT_MAX {
                finding.examples.push(Violation {
                    promise,
                    detail: detail(),
                });
            }
        }
    }

    fn check_order(&mut self, order: &Order) {
        let (id, status) = (order.order_id, order.status);
        let must_be_final = order.updated_at < self.expect.final_before;
        if !status.is_final() && !must_be_final {
            self.open += 1;
        }
        self.check(
            Promise::OrdersFinal,
            status.is_final() || !must_be_final,
            || {
                format!(
                    "an order is not final. order={id}, status={}",
                    status.as_str()
                )
            },
        );
        if matches!(
            status,
            OrderStatus::Reserved | OrderStatus::Confirmed | OrderStatus::Refunded
        ) {
            let sum = order
                .lines
                .iter()
                .map(OrderLine::amount)
                .sum::<Option<i64>>();
            self.check(Promise::TotalsAddUp, sum == Some(order.total), || {
                format!(
                    "a total is not the sum of its lines. order={id}, total={}",
                    order.total
                )
            });
        }
    }

    fn expect_in_reports(&mut self, order: &Order) {
        let confirmed = matches!(order.status, OrderStatus::Confirmed | OrderStatus::Refunded);
        let cancelled = order.status == OrderStatus::Cancelled;
        let day = self
            .expected_days
            .entry(day_of(order.placed_at, self.expect.zone))
            .or_default();
        day[0] += 1;
        day[1] += i64::from(confirmed);
        day[2] += i64::from(cancelled);
        if confirmed {
            let hour = (hour_of(order.placed_at), order.currency);
            let (revenue, orders) = self.expected_revenue.entry(hour).or_default();
            if order.status == OrderStatus::Confirmed {
                *revenue += order.total;
            }
            *orders += 1;
        }
    }

    fn check_accepted(&mut self) {
        for id in std::mem::take(&mut self.accepted) {
            let known = self.orders.contains_key(&id);
            self.check(Promise::NoOrderLost, known, || {
                format!("an accepted order is not known. order={id}")
            });
        }
    }

    fn check_products(&mut self) {
        for (sku, facts) in std::mem::take(&mut self.products) {
            let stock = facts.stock.unwrap_or_default();
            let Stock {
                on_hand,
                reserved,
                sold,
                ..
            } = stock;
            self.check(Promise::NothingOversold, stock.adds_up(), || {
                format!("sku=`{sku}`, on_hand={on_hand}, reserved={reserved}, sold={sold}")
            });
            if let Some(received) = facts.received {
                self.check(Promise::StockAddsUp, received == on_hand + sold, || {
                    format!("sku=`{sku}`, received={received}, on_hand={on_hand}, sold={sold}")
                });
            }
            // What was refunded is sold still, unless it went back on the shelf. A confirmation
            // that is on its way is missing in `sold`.
            let most = facts.confirmed + facts.refunded;
            let least = if self.expect.settled {
                facts.confirmed
            } else {
                0
            };
            self.check(
                Promise::SoldIsConfirmed,
                (least..=most).contains(&sold),
                || format!("sku=`{sku}`, sold={sold}, confirmed={}", facts.confirmed),
            );
            if self.reservations_known && self.expect.settled {
                self.check(Promise::ReservedIsHeld, reserved == facts.held, || {
                    format!("sku=`{sku}`, reserved={reserved}, held={}", facts.held)
                });
            } else if self.expect.settled && self.open == 0 {
                self.check(Promise::ReservedIsHeld, reserved == 0, || {
                    format!("all orders are final. sku=`{sku}`, reserved={reserved}")
                });
            }
        }
    }

    fn check_held(&mut self) {
        if !self.expect.settled {
            return;
        }
        for (key, reservation) in std::mem::take(&mut self.held) {
            let status = self.orders.get(&key.order_id).map(|order| order.status);
            let open = status.is_some_and(|status| !status.is_final());
            self.check(Promise::ReservedIsHeld, open, || {
                let status = status.map_or("none", OrderStatus::as_str);
                let quantity = reservation.quantity;
                format!("pieces are held for nobody. key={key}, {quantity} pieces, order={status}")
            });
        }
    }

    fn check_payments(&mut self) {
        let empty = Books::default();
        let all_books = std::mem::take(&mut self.books);
        for (id, books) in &all_books {
            self.check(Promise::CapturedOnce, books.captures <= 1, || {
                format!("order={id}, captures={}", books.captures)
            });
            let known = self.orders.contains_key(id);
            self.check(Promise::LedgerAgrees, known || !self.expect.settled, || {
                format!("the gateway was called for an order that is not known. order={id}")
            });
        }
        for (id, order) in std::mem::take(&mut self.orders) {
            let payment = order.payment;
            let (_, authorised, captured, refunded) =
                payment.unwrap_or((PaymentStatus::Requested, 0, 0, 0));
            let charged = captured - refunded;
            let due = if order.status == OrderStatus::Confirmed {
                order.total
            } else {
                0
            };
            let on_its_way = !self.expect.settled
                && matches!(order.status, OrderStatus::Confirmed | OrderStatus::Refunded);
            let held = order.status != OrderStatus::Confirmed || authorised >= order.total;
            self.check(
                Promise::ChargedIsConfirmed,
                held && (charged == due || on_its_way),
                || {
                    let status = order.status.as_str();
                    format!(
                        "order={id}, status={status}, total={}, authorised={authorised}, \
                     captured={captured}, refunded={refunded}",
                        order.total
                    )
                },
            );
            if self.books_known {
                self.check_ledger(id, payment, all_books.get(&id).unwrap_or(&empty));
            }
        }
    }

    fn check_ledger(
        &mut self,
        id: OrderId,
        payment: Option<(PaymentStatus, i64, i64, i64)>,
        books: &Books,
    ) {
        let (status, authorised, captured, refunded) =
            payment.unwrap_or((PaymentStatus::Declined, 0, 0, 0));
        // What the shop knows has happened; what happened may not have reached the shop yet.
        let known_happened = captured <= books.captured
            && refunded <= books.refunded
            && authorised <= books.authorised
            && (status != PaymentStatus::Voided || books.voided);
        // An authorisation that nobody has told of is asked for until it is found, and then voided.
        let told = match status {
            PaymentStatus::Requested | PaymentStatus::Unknown => true,
            PaymentStatus::Declined => books.authorised == 0,
            PaymentStatus::Authorised => !self.expect.settled,
            PaymentStatus::Captured => !books.voided && books.refunded == 0,
            PaymentStatus::Voided => books.captured == 0,
            PaymentStatus::Refunded => books.refunded == books.captured,
        };
        let all_told = !self.expect.settled
            || (captured == books.captured && refunded == books.refunded && told);
        self.check(Promise::LedgerAgrees, known_happened && all_told, || {
            format!(
                "order={id}, payment={}, authorised={authorised}, captured={captured}, \
                 refunded={refunded}, ledger={books:?}",
                status.as_str()
            )
        });
    }

    fn check_reports(&mut self) {
        if let Some(told) = self.revenue.take() {
            let expected = std::mem::take(&mut self.expected_revenue);
            for (hour, want, have) in compare(&expected, &told) {
                let (hour, currency) = hour;
                let key = HourOfRevenue { hour, currency };
                self.check(Promise::ReportsAgree, want == have, || {
                    format!("revenue per hour. hour={key}, orders say {want:?}, report={have:?}")
                });
            }
        }
        if let Some(told) = self.days.take() {
            let expected = std::mem::take(&mut self.expected_days);
            for (day, want, have) in compare(&expected, &told) {
                self.check(Promise::ReportsAgree, want == have, || {
                    format!("orders per day. day={day}, orders say {want:?}, report={have:?}")
                });
            }
        }
    }
}

/// The keys of both maps with the values of both; a value that is missing is the default.
fn compare<K: Ord + Copy, V: Default + Copy>(
    expected: &BTreeMap<K, V>,
    told: &BTreeMap<K, V>,
) -> Vec<(K, V, V)> {
    let value = |map: &BTreeMap<K, V>, key: &K| map.get(key).copied().unwrap_or_default();
    let mut keys: Vec<K> = expected.keys().chain(told.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .map(|key| (key, value(expected, &key), value(told, &key)))
        .collect()
}
