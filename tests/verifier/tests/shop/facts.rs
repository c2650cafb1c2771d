//! A shop in order: one order confirmed, one cancelled after a late authorisation, one refunded and
//! restocked.

use millstream_processors::{
    inventory::{Reservation, ReservationState},
    model::{
        CancelReason, Currency, InventoryChange, InventoryEvent, Order, OrderEvent, OrderEventKind,
        OrderId, OrderLine, OrderStatus, OrdersPerDay, Payment, PaymentAction, PaymentStatus,
        Product, ReservationKey, RevenuePerHour, Sku, Stock, V1,
    },
    payment::LedgerEntry,
};
use millstream_sinks::Changes;
use millstream_verifier::Acknowledged;
use uuid::Uuid;

pub(crate) const TOTAL: i64 = 300;
const PIECES: u32 = 2;

pub(crate) struct Facts {
    /// The orders that commands place.
    pub(crate) commands: Vec<OrderId>,
    pub(crate) orders: Vec<OrderEvent>,
    pub(crate) stock: Vec<InventoryEvent>,
    pub(crate) reservations: Vec<(ReservationKey, Reservation)>,
    pub(crate) ledger: Vec<LedgerEntry>,
    pub(crate) revenue: RevenuePerHour,
    pub(crate) day: OrdersPerDay,
    pub(crate) products: Vec<Product>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// What is done to the tables when the sink has written them.
    pub(crate) tampering: Changes,
}

pub(crate) fn sku() -> Sku {
    "tea".parse().expect("legal")
}

pub(crate) fn id(n: u128) -> OrderId {
    OrderId(Uuid::from_u128(n))
}

/// An order that has just been placed.
pub(crate) fn placed(n: u128) -> OrderEvent {
    let order = Order {
        order_id: id(n),
        customer_id: "ada".parse().expect("legal"),
        status: OrderStatus::Pending,
        reason: None,
        currency: Currency::USD,
        total: 0,
        lines: vec![OrderLine {
            sku: sku(),
            name: None,
            quantity: PIECES,
            unit_price: None,
        }],
        placed_at: 3_600_000,
        updated_at: 3_600_000,
        version: 1,
        payment: None,
    };
    OrderEvent {
        kind: OrderEventKind::Placed,
        v: V1,
        previous_status: None,
        previous_reason: None,
        order,
    }
}

/// The next event of an order.
pub(crate) fn next(
    before: &OrderEvent,
    kind: OrderEventKind,
    change: impl FnOnce(&mut Order),
) -> OrderEvent {
    let mut order = before.order.clone();
    order.version += 1;
    order.updated_at += 10;
    change(&mut order);
    OrderEvent {
        kind,
        v: V1,
        previous_status: Some(before.order.status),
        previous_reason: before.order.reason,
        order,
    }
}

fn reserved(before: &OrderEvent) -> OrderEvent {
    next(before, OrderEventKind::Reserved, |order| {
        order.status = OrderStatus::Reserved;
        order.total = TOTAL;
        order.lines[0].name = Some("Tea".into());
        order.lines[0].unit_price = Some(TOTAL / i64::from(PIECES));
        order.payment = Some(payment(PaymentStatus::Requested, 0, 0, 0));
    })
}

pub(crate) fn payment(
    status: PaymentStatus,
    authorised: i64,
    captured: i64,
    refunded: i64,
) -> Payment {
    Payment {
        status,
        authorised,
        captured,
        refunded,
        gateway_ref: None,
    }
}

fn paid(before: &OrderEvent, now: Payment) -> OrderEvent {
    next(before, OrderEventKind::PaymentUpdated, |order| {
        order.payment = Some(now)
    })
}

fn confirmed(n: u128) -> Vec<OrderEvent> {
    let mut events = vec![placed(n)];
    events.push(reserved(&events[0]));
    events.push(next(&events[1], OrderEventKind::Confirmed, |order| {
        order.status = OrderStatus::Confirmed;
        order.payment = Some(payment(PaymentStatus::Authorised, TOTAL, 0, 0));
    }));
    events.push(paid(
        &events[2],
        payment(PaymentStatus::Captured, TOTAL, TOTAL, 0),
    ));
    events
}

pub(crate) fn cancelled(before: &OrderEvent) -> OrderEvent {
    next(before, OrderEventKind::Cancelled, |order| {
        order.status = OrderStatus::Cancelled;
        order.reason = Some(CancelReason::PaymentTimeout);
    })
}

fn late(n: u128) -> Vec<OrderEvent> {
    let mut events = vec![placed(n)];
    events.push(reserved(&events[0]));
    events.push(cancelled(&events[1]));
    events.push(paid(
        &events[2],
        payment(PaymentStatus::Voided, TOTAL, 0, 0),
    ));
    events
}

fn refunded(n: u128) -> Vec<OrderEvent> {
    let mut events = confirmed(n);
    let taken_back = next(&events[3], OrderEventKind::Refunded, |order| {
        order.status = OrderStatus::Refunded;
        order.payment = Some(payment(PaymentStatus::Refunded, TOTAL, TOTAL, TOTAL));
    });
    events.push(taken_back);
    events
}

pub(crate) fn entry(n: u128, action: PaymentAction) -> LedgerEntry {
    LedgerEntry {
        order_id: id(n),
        action,
        amount: TOTAL,
        currency: Currency::USD,
        visible_at: 0,
        at: 0,
    }
}

pub(crate) fn adjusted(delta: i64, stock: Stock) -> InventoryEvent {
    let change = InventoryChange::Adjusted {
        adjustment_id: "delivery".into(),
        delta,
        reason: "".into(),
    };
    InventoryEvent { change, stock }
}

pub(crate) fn stock(on_hand: i64, reserved: i64, sold: i64, version: u64) -> Stock {
    Stock {
        on_hand,
        reserved,
        sold,
        version,
    }
}

fn movements() -> Vec<InventoryEvent> {
    let quantity = PIECES;
    let held = |n, stock| InventoryEvent {
        change: InventoryChange::Reserved {
            order_id: id(n),
            quantity,
            name: "Tea".into(),
            unit_price: TOTAL / i64::from(PIECES),
            currency: Currency::USD,
        },
        stock,
    };
    let sold = |n, stock| InventoryEvent {
        change: InventoryChange::Confirmed {
            order_id: id(n),
            quantity,
        },
        stock,
    };
    let released = InventoryChange::Released {
        order_id: id(2),
        quantity,
    };
    let restocked = InventoryChange::Restocked {
        order_id: id(3),
        quantity,
    };
    vec![
        adjusted(10, stock(10, 0, 0, 1)),
        held(1, stock(10, 2, 0, 2)),
        // The same answer again, to a command that came again.
        held(1, stock(10, 2, 0, 2)),
        sold(1, stock(8, 0, 2, 3)),
        held(2, stock(8, 2, 2, 4)),
        InventoryEvent {
            change: released,
            stock: stock(8, 0, 2, 5),
        },
        held(3, stock(8, 2, 2, 6)),
        sold(3, stock(6, 0, 4, 7)),
        InventoryEvent {
            change: restocked,
            stock: stock(8, 0, 2, 8),
        },
    ]
}

impl Facts {
    pub(crate) fn in_order() -> Self {
        use PaymentAction as A;
        let settled = |n, state| {
            let key = ReservationKey {
                sku: sku(),
                order_id: id(n),
            };
            let reservation = Reservation {
                quantity: PIECES,
                state,
                since_ms: 0,
                price: None,
            };
            (key, reservation)
        };
        let acknowledged = |n| Acknowledged {
            order_id: id(n),
            request: Some(("ada".parse().expect("legal"), format!("key-{n}"))),
        };
        Self {
            commands: vec![id(1), id(2), id(3)],
            orders: [confirmed(1), late(2), refunded(3)].concat(),
            stock: movements(),
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
            revenue: RevenuePerHour {
                kind: Default::default(),
                v: V1,
                hour: 3_600_000,
                currency: Currency::USD,
                revenue: TOTAL,
                orders: 2,
            },
            day: OrdersPerDay {
                kind: Default::default(),
                v: V1,
                day: "1970-01-01".parse().expect("a day"),
                placed: 3,
                confirmed: 2,
                cancelled: 1,
            },
            products: vec![Product {
                sku: sku(),
                name: "Tea".into(),
                category: None,
                price: TOTAL / i64::from(PIECES),
                currency: Currency::USD,
                description: None,
            }],
            acknowledged: vec![acknowledged(1), acknowledged(2), acknowledged(1)],
            tampering: Changes::default(),
        }
    }

    /// Gives the events of an order to `change`, in which versions may be missing, and numbers them
    /// anew.
    pub(crate) fn renumbered(&mut self, n: u128, change: impl FnOnce(&mut Vec<OrderEvent>)) {
        let is_own = |event: &OrderEvent| event.order.order_id == id(n);
        let (mut own, others) = std::mem::take(&mut self.orders)
            .into_iter()
            .partition(is_own);
        change(&mut own);
        for (version, event) in (1..).zip(&mut own) {
            event.order.version = version;
        }
        self.orders = [others, own].concat();
    }
}
