//! The rules of orders, stock and gateway together, under random orders of delivery and repeated
//! messages.
//!
//! The pure functions are joined by a bag of messages instead of topics: any message may be
//! delivered next, and any may be delivered again. Whatever happens, the audit must find the shop
//! in order at the end.

use std::collections::BTreeMap;

use millstream_processors::{
    audit::{Audit, Expect},
    inventory::{
        Listing, Reservation, ReservationState,
        stock::{ForOrder, Wanted, adjust, apply as apply_stock},
    },
    model::{
        Currency, InventoryCommand, LineAnswer, LineReply, OrderEvent, OrderId, OrderStatus,
        PaymentIntent, PaymentOutcome, PaymentResult, PlaceOrder, RequestedLine, ReservationKey,
        Sku, Stock, V1,
    },
    order::{Effect, OrderInput, OrderState, Policy, apply as apply_order},
    payment::{
        LedgerEntry,
        rules::{Verdict, decide},
    },
};
use proptest::{collection::vec, prelude::*};

#[derive(Clone, Debug)]
enum Message {
    Order(OrderId, OrderInput),
    Stock(Sku, OrderId, ForOrder),
    Gateway(OrderId, PaymentIntent),
}

/// What happens next, as numbers that fit any state of the world.
#[derive(Clone, Debug)]
enum Step {
    /// Deliver the message at that place of the bag; with `again` it also stays.
    Deliver { place: usize, again: bool },
    /// Let time pass and fire what is due.
    Pass { ms: i64 },
    /// The customer cancels an order.
    Cancel { order: usize, restock: bool },
    /// Pieces come or go.
    Adjust { sku: usize, delta: i64 },
    /// Product 3 arrives.
    List,
    /// Inventory asks about something that it holds.
    Ask { which: usize },
}

struct World {
    now_ms: i64,
    policy: Policy,
    bag: Vec<Message>,
    timers: Vec<(i64, OrderId)>,
    orders: BTreeMap<OrderId, OrderState>,
    events: BTreeMap<OrderId, Vec<OrderEvent>>,
    stock: BTreeMap<Sku, Stock>,
    received: BTreeMap<Sku, i64>,
    reservations: BTreeMap<ReservationKey, Reservation>,
    ledger: Vec<LedgerEntry>,
    placed: Vec<OrderId>,
    adjustments: u32,
    late_one_is_listed: bool,
}

const TOKENS: [&str; 6] = [
    "tok_approve",
    "tok_decline",
    "tok_timeout",
    "tok_late",
    "tok_unknown",
    "tok_flaky",
];

fn sku(n: usize) -> Sku {
    format!("sku-{n}").parse().expect("legal")
}

/// Products 0 to 2 are listed, product 3 may be one day.
fn listing(of: &Sku, late_one_is_listed: bool) -> Option<Listing> {
    let currency = Currency::USD;
    (late_one_is_listed || **of != *"sku-3").then(|| Listing {
        name: "Something".into(),
        unit_price: 100,
        currency,
    })
}

impl World {
    fn new(on_hand: &[i64]) -> Self {
        let stock: BTreeMap<Sku, Stock> = on_hand
            .iter()
            .enumerate()
            .map(|(n, pieces)| {
                (
                    sku(n),
                    Stock {
                        on_hand: *pieces,
                        ..Stock::default()
                    },
                )
            })
            .collect();
        Self {
            now_ms: 0,
            policy: Policy::default(),
            bag: Vec::new(),
            timers: Vec::new(),
            orders: BTreeMap::new(),
            events: BTreeMap::new(),
            received: stock
                .iter()
                .map(|(sku, stock)| (sku.clone(), stock.on_hand))
                .collect(),
            stock,
            reservations: BTreeMap::new(),
            ledger: Vec::new(),
            placed: Vec::new(),
            adjustments: 0,
            late_one_is_listed: false,
        }
    }

    fn place(&mut self, lines: &[(usize, u32)], token: usize, expected_total: Option<i64>) {
        let order_id = OrderId(uuid::Uuid::from_u128(self.placed.len() as u128 + 1));
        let mut merged: BTreeMap<usize, u32> = BTreeMap::new();
        lines
            .iter()
            .for_each(|(sku, quantity)| *merged.entry(*sku).or_default() += quantity);
        let lines = merged
            .into_iter()
            .map(|(n, quantity)| RequestedLine {
                sku: sku(n),
                quantity,
            })
            .collect();
        self.placed.push(order_id);
        self.bag.push(Message::Order(
            order_id,
            OrderInput::Place(PlaceOrder {
                customer_id: "ada".parse().expect("legal"),
                currency: Currency::USD,
                lines,
                token: TOKENS[token].into(),
                expected_total,
                placed_at: self.now_ms,
                fingerprint: uuid::Uuid::nil(),
            }),
        ));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Deliver { place, again } => {
                if !self.bag.is_empty() {
                    let place = place % self.bag.len();
                    let message = if *again {
                        self.bag[place].clone()
                    } else {
                        self.bag.swap_remove(place)
                    };
                    self.deliver(message);
                }
            }
            Step::Pass { ms } => {
                self.now_ms += ms;
                self.fire();
            }
            Step::Cancel { order, restock } => {
                let order_id = self.placed[order % self.placed.len()];
                let cancel = OrderInput::Cancel { restock: *restock };
                self.bag.push(Message::Order(order_id, cancel));
            }
            Step::List => self.late_one_is_listed = true,
            Step::Adjust { sku: n, delta } => self.adjust(&sku(n % 3), *delta),
            Step::Ask { which } => {
                let held: Vec<_> = self.reservations.keys().cloned().collect();
                if let Some(key) = held.get(which % held.len().max(1)) {
                    let reply = LineReply {
                        sku: key.sku.clone(),
                        answer: LineAnswer::Expiring,
                    };
                    self.bag
                        .push(Message::Order(key.order_id, OrderInput::Reply(reply)));
                }
            }
        }
    }

    fn adjust(&mut self, sku: &Sku, delta: i64) {
        let stock = self.stock.entry(sku.clone()).or_default();
        self.adjustments += 1;
        let id = format!("a{}", self.adjustments).into();
        let (after, outcome, _) = adjust(*stock, &id, Wanted::Delta(delta), &"".into(), 0);
        *stock = after;
        if outcome.applied {
            *self.received.entry(sku.clone()).or_default() += delta;
        }
    }

    fn fire(&mut self) {
        let now_ms = self.now_ms;
        let (due, later) = self
            .timers
            .iter()
            .copied()
            .partition(|(at, _)| *at <= now_ms);
        self.timers = later;
        for (_, order_id) in due {
            self.deliver(Message::Order(order_id, OrderInput::Due));
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Order(order_id, input) => self.order_hears(order_id, input),
            Message::Stock(sku, order_id, command) => self.stock_hears(sku, order_id, command),
            Message::Gateway(order_id, intent) => self.gateway_hears(order_id, &intent),
        }
    }

    fn order_hears(&mut self, order_id: OrderId, input: OrderInput) {
        let before = self.orders.remove(&order_id);
        let decision = apply_order(order_id, before, input, self.now_ms, &self.policy);
        if let Some(state) = decision.state {
            self.orders.insert(order_id, state);
        }
        for effect in decision.effects {
            match effect {
                Effect::Event(event) => self.events.entry(order_id).or_default().push(*event),
                Effect::Inventory(sku, command) => {
                    let command = match command {
                        InventoryCommand::Reserve { quantity, .. } => ForOrder::Reserve(quantity),
                        InventoryCommand::Release { .. } => ForOrder::Release,
                        InventoryCommand::Confirm { .. } => ForOrder::Confirm,
                        InventoryCommand::Restock { quantity, .. } => ForOrder::Restock(quantity),
                        other => panic!("no command of an order: {other:?}"),
                    };
                    self.bag.push(Message::Stock(sku, order_id, command));
                }
                Effect::Payment(intent) => self.bag.push(Message::Gateway(order_id, intent)),
                Effect::WakeAt(at) => self.timers.push((at, order_id)),
            }
        }
    }

    fn stock_hears(&mut self, sku: Sku, order_id: OrderId, command: ForOrder) {
        let key = ReservationKey {
            sku: sku.clone(),
            order_id,
        };
        let stock = self.stock.entry(sku.clone()).or_default();
        let reservation = self.reservations.get(&key).copied();
        let listing = listing(&sku, self.late_one_is_listed);
        let outcome = apply_stock(
            *stock,
            reservation,
            listing.as_ref(),
            order_id,
            command,
            self.now_ms,
        );
        *stock = outcome.stock;
        if let Some(reservation) = outcome.reservation {
            if reservation.state == ReservationState::Asked {
                let decide = Message::Stock(sku.clone(), order_id, ForOrder::Decide);
                self.bag.push(decide);
            }
            self.reservations.insert(key, reservation);
        }
        if let Some((order_id, reply)) = outcome.event.and_then(|event| event.into_reply(sku)) {
            self.bag
                .push(Message::Order(order_id, OrderInput::Reply(reply)));
        }
    }

    fn gateway_hears(&mut self, order_id: OrderId, intent: &PaymentIntent) {
        let books: Vec<LedgerEntry> = self
            .ledger
            .iter()
            .filter(|e| e.order_id == order_id)
            .cloned()
            .collect();
        let (verdict, entry) = decide(&books, order_id, intent, self.now_ms);
        self.ledger.extend(entry);
        let (outcome, gateway_ref) = match verdict {
            Verdict::Answer(answer) => (answer.outcome, answer.gateway_ref),
            Verdict::Silence | Verdict::Misfit => (PaymentOutcome::Unknown, None),
        };
        let result = PaymentResult {
            outcome,
            v: V1,
            action: intent.action,
            attempt: intent.attempt,
            amount: intent.amount,
            gateway_ref,
        };
        self.bag
            .push(Message::Order(order_id, OrderInput::Payment(result)));
    }

    /// Delivers what is left and lets time pass until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.bag.is_empty() {
                let message = self.bag.remove(0);
                self.deliver(message);
            } else if let Some(next) = self.timers.iter().map(|(at, _)| *at).min() {
                self.now_ms = self.now_ms.max(next);
                self.fire();
            } else {
                return;
            }
        }
        panic!("the shop comes to rest");
    }

    fn check_histories(&self) {
        for events in self.events.values() {
            let mut status: Option<OrderStatus> = None;
            for (n, event) in events.iter().enumerate() {
                assert_eq!(event.order.version, n as u64 + 1, "versions go up by one");
                assert_eq!(event.previous_status, status);
                let next = event.order.status;
                let legal = match status {
                    None => next == OrderStatus::Pending,
                    Some(now) if now == next => true,
                    Some(OrderStatus::Pending) => {
                        matches!(next, OrderStatus::Reserved | OrderStatus::Cancelled)
                    }
                    Some(OrderStatus::Reserved) => {
                        matches!(next, OrderStatus::Confirmed | OrderStatus::Cancelled)
                    }
                    Some(OrderStatus::Confirmed) => next == OrderStatus::Refunded,
                    Some(OrderStatus::Cancelled | OrderStatus::Refunded) => false,
                };
                assert!(legal, "{status:?} became {next:?}");
                status = Some(next);
            }
        }
    }

    fn check_audit(&self) {
        let mut audit = Audit::new(Expect::settled());
        self.placed.iter().for_each(|id| audit.accepted(*id));
        self.orders
            .values()
            .for_each(|state| audit.order(&state.order));
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
        audit.tells_ledger();
        let report = audit.finish();
        assert!(
            report.holds(),
            "{:#?}",
            report.violations().collect::<Vec<_>>()
        );
        let late = self.ledger.iter().filter(|e| e.visible_at > e.at).count();
        let voided = |e: &&LedgerEntry| e.action.as_str() == "void";
        assert!(
            self.ledger.iter().filter(voided).count() >= late,
            "late authorisations are voided"
        );
        for reservation in self.reservations.values() {
            assert_ne!(
                reservation.state,
                ReservationState::Held,
                "nothing is held at the end"
            );
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(place, again)| Step::Deliver { place, again }),
        2 => (0i64..40_000).prop_map(|ms| Step::Pass { ms }),
        1 => (any::<usize>(), any::<bool>())
            .prop_map(|(order, restock)| Step::Cancel { order, restock }),
        1 => (any::<usize>(), -5i64..10).prop_map(|(sku, delta)| Step::Adjust { sku, delta }),
        1 => Just(Step::List),
        1 => any::<usize>().prop_map(|which| Step::Ask { which }),
    ];
    vec(step, 0..250)
}

type Basket = (Vec<(usize, u32)>, usize, Option<i64>);

fn baskets() -> impl Strategy<Value = Vec<Basket>> {
    let line = (prop_oneof![9 => 0usize..3, 1 => Just(3usize)], 1u32..4);
    let expected = prop_oneof![8 => Just(None), 1 => Just(Some(300))];
    vec((vec(line, 1..4), 0usize..TOKENS.len(), expected), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_shop_is_in_order_whatever_arrives_when_and_how_often(
        on_hand in vec(0i64..12, 3), baskets in baskets(), steps in steps(),
    ) {
        let mut world = World::new(&on_hand);
        for (lines, token, expected_total) in &baskets {
            world.place(lines, *token, *expected_total);
        }
        steps.iter().for_each(|step| world.step(step));
        world.settle();
        world.check_histories();
        world.check_audit();
    }
}
