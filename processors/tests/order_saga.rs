//! The life of an order, step by step.

use millstream_processors::{
    model::{
        CancelReason, Currency, InventoryCommand, LineAnswer, LineReply, OrderEventKind, OrderId,
        OrderStatus, PaymentAction, PaymentOutcome, PaymentResult, PaymentStatus, PlaceOrder,
        Refusal, RequestedLine, V1,
    },
    order::{Effect, GatewayCall, OrderInput, OrderState, Policy, apply},
};

const ORDER: OrderId = OrderId(uuid::Uuid::from_u128(1));
const DEADLINE_MS: i64 = 60_000;

/// One order that is fed by hand.
struct Life {
    state: Option<OrderState>,
    policy: Policy,
    now_ms: i64,
}

impl Life {
    fn new() -> Self {
        Self {
            state: None,
            policy: Policy::default(),
            now_ms: 0,
        }
    }

    /// An order of two pieces of tea and one of milk.
    fn placed() -> Self {
        let mut life = Self::new();
        life.take(OrderInput::Place(place(None)));
        life
    }

    fn reserved() -> Self {
        let mut life = Self::placed();
        life.take(held("tea", 150));
        life.take(held("milk", 99));
        life
    }

    fn confirmed() -> Self {
        let mut life = Self::reserved();
        life.take(result(
            PaymentAction::Authorise,
            1,
            PaymentOutcome::Authorised,
        ));
        life
    }

    fn captured() -> Self {
        let mut life = Self::confirmed();
        life.take(result(PaymentAction::Capture, 2, PaymentOutcome::Captured));
        life
    }

    /// Takes an input and says what comes of it, shortly.
    fn take(&mut self, input: OrderInput) -> Vec<String> {
        let before = self
            .state
            .as_ref()
            .map(|s| (s.order.version, s.order.status));
        let decision = apply(ORDER, self.state.take(), input, self.now_ms, &self.policy);
        self.state = decision.state;
        let mut version = before.map_or(0, |(version, _)| version);
        for effect in &decision.effects {
            if let Effect::Event(event) = effect {
                version += 1;
                assert_eq!(event.order.version, version, "versions go up by one");
                assert!(event.previous_status == before.map(|(_, status)| status));
            }
        }
        decision.effects.iter().map(short).collect()
    }

    fn at(&mut self, now_ms: i64) -> &mut Self {
        self.now_ms = now_ms;
        self
    }

    fn state(&self) -> &OrderState {
        self.state.as_ref().expect("an order")
    }

    #[track_caller]
    fn is(&self, status: OrderStatus, reason: Option<CancelReason>) {
        let order = &self.state().order;
        assert_eq!((order.status, order.reason), (status, reason));
    }

    #[track_caller]
    fn payment_is(&self, status: PaymentStatus, captured: i64, refunded: i64) {
        let payment = self.state().order.payment.as_ref().expect("a payment");
        assert_eq!(
            (payment.status, payment.captured, payment.refunded),
            (status, captured, refunded)
        );
    }
}

fn place(expected_total: Option<i64>) -> PlaceOrder {
    let line = |sku: &str, quantity| RequestedLine {
        sku: sku.parse().expect("legal"),
        quantity,
    };
    PlaceOrder {
        customer_id: "ada".parse().expect("legal"),
        currency: Currency::USD,
        lines: vec![line("tea", 2), line("milk", 1)],
        token: "tok_approve".into(),
        expected_total,
        placed_at: -5,
        fingerprint: uuid::Uuid::from_u128(9),
    }
}

fn reply(sku: &str, answer: LineAnswer) -> OrderInput {
    OrderInput::Reply(LineReply {
        sku: sku.parse().expect("legal"),
        answer,
    })
}

fn held(sku: &str, unit_price: i64) -> OrderInput {
    let name = sku.to_uppercase().into();
    reply(
        sku,
        LineAnswer::Reserved {
            name,
            unit_price,
            currency: Currency::USD,
        },
    )
}

fn refused(sku: &str, refusal: Refusal) -> OrderInput {
    reply(sku, LineAnswer::Refused(refusal))
}

fn result(action: PaymentAction, attempt: u32, outcome: PaymentOutcome) -> OrderInput {
    let gateway_ref = Some("ref".into());
    OrderInput::Payment(PaymentResult {
        outcome,
        v: V1,
        action,
        attempt,
        amount: 399,
        gateway_ref,
    })
}

fn cancel(restock: bool) -> OrderInput {
    OrderInput::Cancel { restock }
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::Event(event) => match event.kind {
            OrderEventKind::Placed => "placed".into(),
            OrderEventKind::Reserved => "reserved".into(),
            OrderEventKind::Confirmed => "confirmed".into(),
            OrderEventKind::Cancelled => "cancelled".into(),
            OrderEventKind::Refunded => "refunded".into(),
            OrderEventKind::PaymentUpdated => "payment-updated".into(),
        },
        Effect::Inventory(sku, command) => match command {
            InventoryCommand::Reserve { quantity, .. } => format!("reserve {quantity} {sku}"),
            InventoryCommand::Release { .. } => format!("release {sku}"),
            InventoryCommand::Confirm { .. } => format!("confirm {sku}"),
            InventoryCommand::Restock { quantity, .. } => format!("restock {quantity} {sku}"),
            other => panic!("no command of an order: {other:?}"),
        },
        Effect::Payment(intent) => {
            format!(
                "{} {} #{}",
                intent.action.as_str(),
                intent.amount,
                intent.attempt
            )
        }
        Effect::WakeAt(at) => format!("wake {at}"),
    }
}

#[test]
fn an_order_that_all_agree_to_is_confirmed_and_captured() {
    let mut life = Life::new();
    let effects = life.take(OrderInput::Place(place(Some(399))));
    assert_eq!(
        effects,
        ["placed", "reserve 2 tea", "reserve 1 milk", "wake 60000"]
    );
    life.is(OrderStatus::Pending, None);
    assert_eq!(life.take(held("milk", 99)), [""; 0]);
    assert_eq!(
        life.take(held("tea", 150)),
        ["reserved", "authorise 399 #1"]
    );
    life.is(OrderStatus::Reserved, None);
    assert_eq!(
        life.take(result(
            PaymentAction::Authorise,
            1,
            PaymentOutcome::Authorised
        )),
        ["confirmed", "confirm tea", "confirm milk", "capture 399 #2"]
    );
    life.is(OrderStatus::Confirmed, None);
    assert_eq!(
        life.take(result(PaymentAction::Capture, 2, PaymentOutcome::Captured)),
        ["payment-updated"]
    );
    life.payment_is(PaymentStatus::Captured, 399, 0);
    let order = &life.state().order;
    assert_eq!((order.version, order.total, order.placed_at), (4, 399, -5));
    assert_eq!(life.state().wake_at(), None);
}

#[test]
fn an_input_that_came_before_changes_nothing() {
    let mut life = Life::placed();
    let again = |life: &mut Life, input: OrderInput| {
        life.take(input.clone());
        let settled = life.state.clone();
        assert_eq!(life.take(input), [""; 0]);
        assert_eq!(life.state, settled);
    };
    again(&mut life, OrderInput::Place(place(Some(1))));
    again(&mut life, held("tea", 150));
    again(&mut life, held("milk", 99));
    again(
        &mut life,
        result(PaymentAction::Authorise, 1, PaymentOutcome::Unknown),
    );
    again(
        &mut life,
        result(PaymentAction::Authorise, 1, PaymentOutcome::Authorised),
    );
    again(
        &mut life,
        result(PaymentAction::Capture, 2, PaymentOutcome::Captured),
    );
    again(&mut life, cancel(true));
    again(
        &mut life,
        result(PaymentAction::Refund, 3, PaymentOutcome::Refunded),
    );
}

#[test]
fn refused_lines_cancel_the_order_and_release_the_rest() {
    let mut life = Life::placed();
    assert_eq!(life.take(refused("tea", Refusal::OutOfStock)), [""; 0]);
    assert_eq!(life.take(held("milk", 99)), ["cancelled", "release milk"]);
    life.is(OrderStatus::Cancelled, Some(CancelReason::OutOfStock));

    let mut life = Life::placed();
    let effects = life.take(refused("milk", Refusal::UnknownProduct));
    assert_eq!(effects, ["cancelled", "release tea"]);
    life.is(OrderStatus::Cancelled, Some(CancelReason::UnknownProduct));
    assert_eq!(
        life.take(held("tea", 150)),
        [""; 0],
        "it was released already"
    );

    for order in [["tea", "milk"], ["milk", "tea"]] {
        let mut life = Life::placed();
        for sku in order {
            let refusal = if sku == "tea" {
                Refusal::OutOfStock
            } else {
                Refusal::UnknownProduct
            };
            life.take(refused(sku, refusal));
        }
        life.is(OrderStatus::Cancelled, Some(CancelReason::UnknownProduct));
    }
}

#[test]
fn another_price_than_the_customer_saw_cancels_the_order() {
    let mut life = Life::new();
    life.take(OrderInput::Place(place(Some(398))));
    life.take(held("tea", 150));
    assert_eq!(
        life.take(held("milk", 99)),
        ["cancelled", "release tea", "release milk"]
    );
    life.is(OrderStatus::Cancelled, Some(CancelReason::PriceChanged));

    let mut life = Life::placed();
    let answer = LineAnswer::Reserved {
        name: "Tea".into(),
        unit_price: 150,
        currency: "EUR".parse().expect("a currency"),
    };
    life.take(reply("tea", answer));
    life.take(held("milk", 99));
    life.is(OrderStatus::Cancelled, Some(CancelReason::PriceChanged));
}

#[test]
fn a_declined_payment_cancels_the_order() {
    let mut life = Life::reserved();
    assert_eq!(
        life.take(result(
            PaymentAction::Authorise,
            1,
            PaymentOutcome::Declined
        )),
        ["cancelled", "release tea", "release milk"]
    );
    life.is(OrderStatus::Cancelled, Some(CancelReason::PaymentDeclined));
    life.payment_is(PaymentStatus::Declined, 0, 0);
    assert_eq!(life.state().wake_at(), None);
}

#[test]
fn an_unknown_outcome_is_asked_for_with_growing_pauses() {
    let mut life = Life::reserved();
    assert_eq!(
        life.at(2_000)
            .take(result(PaymentAction::Authorise, 1, PaymentOutcome::Unknown)),
        ["payment-updated", "wake 3000"]
    );
    life.is(OrderStatus::Reserved, None);
    life.payment_is(PaymentStatus::Unknown, 0, 0);
    assert_eq!(life.at(2_999).take(OrderInput::Due), [""; 0], "too early");
    assert_eq!(
        life.at(3_000).take(OrderInput::Due),
        ["query 399 #2", "wake 60000"]
    );
    assert_eq!(
        life.at(3_100)
            .take(result(PaymentAction::Query, 2, PaymentOutcome::Unknown)),
        ["wake 5100"]
    );
    assert_eq!(
        life.at(5_100).take(OrderInput::Due),
        ["query 399 #3", "wake 60000"]
    );
    let effects = life.take(result(PaymentAction::Query, 3, PaymentOutcome::Authorised));
    assert_eq!(
        effects,
        ["confirmed", "confirm tea", "confirm milk", "capture 399 #4"]
    );
}

#[test]
fn pauses_stay_below_the_longest_and_questions_end() {
    let mut life = Life::reserved();
    let mut action = PaymentAction::Authorise;
    let mut longest = 0;
    for attempt in 1.. {
        assert!(attempt < 1_000, "questions end");
        life.take(result(action, attempt, PaymentOutcome::Unknown));
        let Some(wake) = life.state().wake_at() else {
            break;
        };
        longest = longest.max(wake - life.now_ms);
        life.at(wake).take(OrderInput::Due);
        if life.state().call
            == (GatewayCall::Waiting {
                action,
                attempt: attempt + 1,
                at_ms: wake,
            })
        {
            life.take(OrderInput::Due);
        }
        while let GatewayCall::Waiting { at_ms, .. } = life.state().call {
            life.at(at_ms).take(OrderInput::Due);
        }
        action = PaymentAction::Query;
    }
    assert_eq!(longest, 300_000);
    assert_eq!(life.state().call, GatewayCall::Idle);
    assert!(
        life.now_ms > DEADLINE_MS + 23 * 3_600_000,
        "{}",
        life.now_ms
    );
    life.is(OrderStatus::Cancelled, Some(CancelReason::PaymentTimeout));
}

#[test]
fn a_call_that_never_arrived_is_made_again_while_the_order_waits() {
    let mut life = Life::reserved();
    life.take(result(PaymentAction::Authorise, 1, PaymentOutcome::Unknown));
    life.at(1_000).take(OrderInput::Due);
    life.take(result(PaymentAction::Query, 2, PaymentOutcome::NotFound));
    assert_eq!(
        life.at(3_000).take(OrderInput::Due),
        ["authorise 399 #3", "wake 60000"]
    );

    // The same, but the customer gives up before: no new authorisation then.
    let mut life = Life::reserved();
    life.take(result(PaymentAction::Authorise, 1, PaymentOutcome::Unknown));
    life.at(1_000).take(OrderInput::Due);
    life.take(result(PaymentAction::Query, 2, PaymentOutcome::NotFound));
    assert_eq!(
        life.take(cancel(true)),
        ["cancelled", "release tea", "release milk"]
    );
    assert_eq!(life.at(3_000).take(OrderInput::Due), ["query 399 #3"]);
}

#[test]
fn the_deadline_cancels_whatever_is_missing() {
    let mut life = Life::placed();
    life.take(held("tea", 150));
    assert_eq!(life.at(DEADLINE_MS - 1).take(OrderInput::Due), [""; 0]);
    let effects = life.at(DEADLINE_MS).take(OrderInput::Due);
    assert_eq!(effects, ["cancelled", "release tea", "release milk"]);
    life.is(OrderStatus::Cancelled, Some(CancelReason::PaymentTimeout));

    let mut life = Life::reserved();
    let effects = life.at(DEADLINE_MS).take(OrderInput::Due);
    assert_eq!(effects, ["cancelled", "release tea", "release milk"]);
    life.is(OrderStatus::Cancelled, Some(CancelReason::PaymentTimeout));
    assert_eq!(life.take(OrderInput::Due), [""; 0]);
}

#[test]
fn an_authorisation_after_the_deadline_is_voided_exactly_once() {
    let mut life = Life::reserved();
    life.at(DEADLINE_MS).take(OrderInput::Due);
    let late = result(PaymentAction::Authorise, 1, PaymentOutcome::Authorised);
    assert_eq!(life.take(late.clone()), ["payment-updated", "void 399 #2"]);
    assert_eq!(life.take(late.clone()), [""; 0]);
    // The void itself may need several tries; the gateway knows them by one key.
    life.take(result(PaymentAction::Void, 2, PaymentOutcome::Unknown));
    let wake = life.state().wake_at().expect("another try");
    assert_eq!(life.at(wake).take(OrderInput::Due), ["void 399 #3"]);
    let effects = life.take(result(PaymentAction::Void, 3, PaymentOutcome::Voided));
    assert_eq!(effects, ["payment-updated"]);
    assert_eq!(life.take(late), [""; 0]);
    life.is(OrderStatus::Cancelled, Some(CancelReason::PaymentTimeout));
    life.payment_is(PaymentStatus::Voided, 0, 0);
}

#[test]
fn a_customer_may_cancel_while_the_order_is_open() {
    let mut life = Life::placed();
    assert_eq!(
        life.take(cancel(true)),
        ["cancelled", "release tea", "release milk"]
    );
    life.is(OrderStatus::Cancelled, Some(CancelReason::Customer));

    let mut life = Life::reserved();
    assert_eq!(
        life.take(cancel(true)),
        ["cancelled", "release tea", "release milk"]
    );
    let effects = life.take(result(
        PaymentAction::Authorise,
        1,
        PaymentOutcome::Authorised,
    ));
    assert_eq!(effects, ["payment-updated", "void 399 #2"]);
    assert_eq!(life.take(cancel(true)), [""; 0]);
    life.is(OrderStatus::Cancelled, Some(CancelReason::Customer));
}

#[test]
fn cancelling_a_confirmed_order_refunds_it() {
    let mut life = Life::captured();
    let effects = life.take(cancel(true));
    assert_eq!(
        effects,
        [
            "refunded",
            "restock 2 tea",
            "restock 1 milk",
            "refund 399 #1"
        ]
    );
    life.is(OrderStatus::Refunded, None);
    let effects = life.take(result(PaymentAction::Refund, 1, PaymentOutcome::Refunded));
    assert_eq!(effects, ["payment-updated"]);
    life.payment_is(PaymentStatus::Refunded, 399, 399);

    let mut life = Life::captured();
    assert_eq!(life.take(cancel(false)), ["refunded", "refund 399 #1"]);
}

#[test]
fn a_refund_waits_for_the_capture_that_is_under_way() {
    let mut life = Life::confirmed();
    assert_eq!(life.take(cancel(false)), ["refunded"]);
    life.take(result(PaymentAction::Capture, 2, PaymentOutcome::Unknown));
    let wake = life.state().wake_at().expect("another try");
    assert_eq!(life.at(wake).take(OrderInput::Due), ["capture 399 #3"]);
    let effects = life.take(result(PaymentAction::Capture, 3, PaymentOutcome::Captured));
    assert_eq!(effects, ["payment-updated", "refund 399 #4"]);
}

#[test]
fn inventory_that_asks_is_told_what_the_order_wants() {
    let expiring = || reply("tea", LineAnswer::Expiring);
    assert_eq!(Life::new().take(expiring()), ["release tea"]);
    assert_eq!(Life::placed().take(expiring()), [""; 0]);
    assert_eq!(Life::reserved().take(expiring()), [""; 0]);
    assert_eq!(Life::confirmed().take(expiring()), ["confirm tea"]);
    let mut life = Life::placed();
    life.take(cancel(true));
    assert_eq!(life.take(expiring()), ["release tea"]);
}

#[test]
fn inputs_for_an_order_that_nobody_placed_change_nothing() {
    for input in [
        cancel(true),
        held("tea", 150),
        result(PaymentAction::Authorise, 1, PaymentOutcome::Authorised),
        OrderInput::Due,
    ] {
        let mut life = Life::new();
        assert_eq!(life.take(input), [""; 0]);
        assert_eq!(life.state, None);
    }
    let mut life = Life::placed();
    assert_eq!(
        life.take(held("sugar", 1)),
        [""; 0],
        "a line that it does not have"
    );
}

#[test]
fn clocks_that_go_back_do_not_make_an_order_younger() {
    let mut life = Life::placed();
    life.at(500).take(held("tea", 150));
    life.take(held("milk", 99));
    life.at(100).take(result(
        PaymentAction::Authorise,
        1,
        PaymentOutcome::Authorised,
    ));
    assert_eq!(life.state().order.updated_at, 500);
}
