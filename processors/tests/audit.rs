//! The audit finds every violation that is put in front of it, and none in a shop that is in order.

use millstream_processors::{
    audit::{Audit, Expect, Promise, VIOLATIONS_KEPT_MAX},
    inventory::{Reservation, ReservationState},
    model::{
        CancelReason, Currency, Order, OrderId, OrderLine, OrderStatus, OrdersPerDay, Payment,
        PaymentAction, PaymentStatus, ReservationKey, RevenuePerHour, Sku, Stock, V1,
    },
    payment::LedgerEntry,
};

/// What the audit is told: a shop in order, until a test breaks it.
struct Facts {
    accepted: Vec<OrderId>,
    orders: Vec<Order>,
    received: Vec<(Sku, i64)>,
    stock: Vec<(Sku, Stock)>,
    reservations: Vec<(ReservationKey, Reservation)>,
    ledger: Vec<LedgerEntry>,
    revenue: Vec<RevenuePerHour>,
    days: Vec<OrdersPerDay>,
    expect: Expect,
}

fn sku() -> Sku {
    "tea".parse().expect("legal")
}

fn id(n: u128) -> OrderId {
    OrderId(uuid::Uuid::from_u128(n))
}

fn order(n: u128, status: OrderStatus, payment: Option<(PaymentStatus, i64, i64, i64)>) -> Order {
    Order {
        order_id: id(n),
        customer_id: "ada".parse().expect("legal"),
        status,
        reason: (status == OrderStatus::Cancelled).then_some(CancelReason::PaymentTimeout),
        currency: Currency::USD,
        total: 300,
        lines: vec![OrderLine {
            sku: sku(),
            name: Some("Tea".into()),
            quantity: 2,
            unit_price: Some(150),
        }],
        placed_at: 3_600_000,
        updated_at: 3_700_000,
        version: 4,
        payment: payment.map(|(status, authorised, captured, refunded)| Payment {
            status,
            authorised,
            captured,
            refunded,
            gateway_ref: None,
        }),
    }
}

fn entry(n: u128, action: PaymentAction) -> LedgerEntry {
    let (amount, currency) = (300, Currency::USD);
    LedgerEntry {
        order_id: id(n),
        action,
        amount,
        currency,
        visible_at: 0,
        at: 0,
    }
}

impl Facts {
    /// One order confirmed, one cancelled after a late authorisation, one refunded and restocked.
    fn in_order() -> Self {
        use {OrderStatus as S, PaymentAction as A, PaymentStatus as P};
        let settled = |n, state| {
            let key = ReservationKey {
                sku: sku(),
                order_id: id(n),
            };
            (
                key,
                Reservation {
                    quantity: 2,
                    state,
                    since_ms: 0,
                    price: None,
                },
            )
        };
        Self {
            accepted: vec![id(1), id(2), id(3)],
            orders: vec![
                order(1, S::Confirmed, Some((P::Captured, 300, 300, 0))),
                order(2, S::Cancelled, Some((P::Voided, 300, 0, 0))),
                order(3, S::Refunded, Some((P::Refunded, 300, 300, 300))),
            ],
            received: vec![(sku(), 7), (sku(), 3)],
            stock: vec![(
                sku(),
                Stock {
                    on_hand: 8,
                    reserved: 0,
                    sold: 2,
                    version: 9,
                },
            )],
            reservations: vec![
                settled(1, ReservationState::Confirmed),
                settled(2, ReservationState::Released),
                settled(3, ReservationState::Restocked),
            ],
            ledger: vec![
                entry(1, A::Authorise),
                entry(1, A::Capture),
                entry(2, A::Authorise),
                entry(2, A::Void),
                entry(3, A::Authorise),
                entry(3, A::Capture),
                entry(3, A::Refund),
            ],
            revenue: vec![RevenuePerHour {
                kind: Default::default(),
                v: V1,
                hour: 3_600_000,
                currency: Currency::USD,
                revenue: 300,
                orders: 2,
            }],
            days: vec![OrdersPerDay {
                kind: Default::default(),
                v: V1,
                day: "1970-01-01".parse().expect("a day"),
                placed: 3,
                confirmed: 2,
                cancelled: 1,
            }],
            expect: Expect::settled(),
        }
    }

    #[track_caller]
    fn breaks(&self, broken: &[Promise]) {
        let mut audit = Audit::new(self.expect);
        self.accepted.iter().for_each(|id| audit.accepted(*id));
        self.orders.iter().for_each(|order| audit.order(order));
        self.received
            .iter()
            .for_each(|(sku, pieces)| audit.received(sku, *pieces));
        self.stock
            .iter()
            .for_each(|(sku, stock)| audit.stock(sku, stock));
        self.reservations
            .iter()
            .for_each(|(key, r)| audit.reservation(key, r));
        self.ledger.iter().for_each(|entry| audit.ledger(entry));
        self.revenue.iter().for_each(|row| audit.revenue(row));
        self.days.iter().for_each(|row| audit.day(row));
        let report = audit.finish();
        let found: Vec<Promise> = report
            .findings
            .iter()
            .filter(|(_, finding)| finding.violated > 0)
            .map(|(promise, _)| *promise)
            .collect();
        assert_eq!(found, broken, "{report:#?}");
        assert_eq!(report.holds(), broken.is_empty());
        for (promise, finding) in &report.findings {
            assert!(finding.checked > 0, "{promise:?} was not checked at all");
        }
    }
}

/// Breaks a shop that is in order and says which promises the audit must find broken.
#[track_caller]
fn check(broken: &[Promise], seed: impl FnOnce(&mut Facts)) {
    let mut facts = Facts::in_order();
    seed(&mut facts);
    facts.breaks(broken);
}

#[test]
fn a_shop_in_order_breaks_no_promise() {
    Facts::in_order().breaks(&[]);
}

#[test]
fn a_lost_order_is_found() {
    check(&[Promise::NoOrderLost], |facts| facts.accepted.push(id(4)));
}

#[test]
fn an_order_that_never_ends_is_found() {
    check(&[Promise::OrdersFinal, Promise::ReportsAgree], |facts| {
        facts.orders.push(order(
            4,
            OrderStatus::Reserved,
            Some((PaymentStatus::Requested, 0, 0, 0)),
        ));
    });
}

#[test]
fn an_order_before_its_deadline_may_be_open() {
    check(&[], |facts| {
        facts.orders.push(order(
            4,
            OrderStatus::Reserved,
            Some((PaymentStatus::Requested, 0, 0, 0)),
        ));
        facts.days[0].placed += 1;
        facts.expect.final_before = 3_700_000;
    });
}

#[test]
fn a_total_that_is_not_the_sum_of_its_lines_is_found() {
    check(&[Promise::TotalsAddUp], |facts| {
        facts.orders[0].lines[0].unit_price = Some(151)
    });
    check(&[Promise::TotalsAddUp], |facts| {
        facts.orders[0].lines[0].unit_price = None
    });
}

#[test]
fn an_oversold_product_is_found() {
    check(&[Promise::NothingOversold, Promise::StockAddsUp], |facts| {
        facts.stock[0].1.on_hand = -1;
    });
    check(
        &[Promise::NothingOversold, Promise::ReservedIsHeld],
        |facts| {
            facts.stock[0].1.reserved = 9;
        },
    );
}

#[test]
fn stock_that_does_not_add_up_is_found() {
    check(&[Promise::StockAddsUp], |facts| facts.received[0].1 = 8);
    check(&[Promise::StockAddsUp], |facts| {
        facts.stock[0].1.on_hand = 7
    });
    check(&[Promise::StockAddsUp, Promise::SoldIsConfirmed], |facts| {
        facts.stock[0].1.sold = 0
    });
}

#[test]
fn pieces_sold_to_nobody_are_found() {
    check(&[Promise::SoldIsConfirmed], |facts| {
        facts.stock[0].1 = Stock {
            on_hand: 5,
            reserved: 0,
            sold: 5,
            version: 9,
        };
    });
}

#[test]
fn pieces_held_for_a_cancelled_or_unknown_order_are_found() {
    for n in [2, 4] {
        check(&[Promise::ReservedIsHeld], |facts| {
            let key = ReservationKey {
                sku: sku(),
                order_id: id(n),
            };
            let state = ReservationState::Held;
            let held = Reservation {
                quantity: 2,
                state,
                since_ms: 0,
                price: None,
            };
            facts.reservations.push((key, held));
            facts.stock[0].1.reserved = 2;
        });
    }
    check(&[Promise::ReservedIsHeld], |facts| {
        facts.stock[0].1.reserved = 2
    });
}

#[test]
fn money_taken_twice_is_found() {
    check(&[Promise::CapturedOnce, Promise::LedgerAgrees], |facts| {
        facts.ledger.push(entry(1, PaymentAction::Capture));
    });
}

#[test]
fn money_taken_for_a_cancelled_order_is_found() {
    check(&[Promise::LedgerAgrees], |facts| {
        facts.ledger.push(entry(2, PaymentAction::Capture));
    });
    check(
        &[Promise::LedgerAgrees, Promise::ChargedIsConfirmed],
        |facts| {
            facts.orders[1].payment.as_mut().expect("one").captured = 300;
        },
    );
}

#[test]
fn money_not_taken_or_not_given_back_is_found() {
    check(
        &[Promise::LedgerAgrees, Promise::ChargedIsConfirmed],
        |facts| {
            facts.orders[0].payment.as_mut().expect("one").captured = 0;
        },
    );
    check(&[Promise::LedgerAgrees], |facts| {
        facts.ledger.retain(|e| e.action != PaymentAction::Refund);
    });
    check(
        &[Promise::LedgerAgrees, Promise::ChargedIsConfirmed],
        |facts| {
            facts.orders[0].payment = None;
        },
    );
}

#[test]
fn money_held_after_a_void_that_never_was_is_found() {
    check(&[Promise::LedgerAgrees], |facts| {
        facts.ledger.retain(|e| e.action != PaymentAction::Void);
    });
}

#[test]
fn a_call_for_an_order_that_does_not_exist_is_found() {
    check(&[Promise::LedgerAgrees], |facts| {
        facts.ledger.push(entry(4, PaymentAction::Authorise));
    });
}

#[test]
fn reports_that_miscount_are_found() {
    check(&[Promise::ReportsAgree], |facts| {
        facts.revenue[0].revenue = 299
    });
    check(&[Promise::ReportsAgree], |facts| facts.revenue[0].hour = 0);
    check(&[Promise::ReportsAgree], |facts| {
        facts.days[0].confirmed = 1
    });
}

#[test]
fn all_violations_are_counted_and_some_are_kept_in_words() {
    let mut audit = Audit::new(Expect::settled());
    (0..100).for_each(|n| audit.accepted(id(n)));
    let report = audit.finish();
    let lost = &report.findings[&Promise::NoOrderLost];
    assert_eq!((lost.checked, lost.violated), (100, 100));
    assert_eq!(lost.examples.len(), VIOLATIONS_KEPT_MAX);
}
