//! The life of an order as a pure function: state and input in, state and effects out.
//!
//! ```text
//! PENDING ──all lines held──▶ RESERVED ──authorised──▶ CONFIRMED ──cancel──▶ REFUNDED
//!    │                           │
//!    └─refused, timeout, cancel──┴─declined, timeout, cancel──▶ CANCELLED
//! ```
//!
//! Invariant: a final status is never left, but for CONFIRMED → REFUNDED.
//! Invariant: every event has the version of the one before plus one.
//! Invariant: an order that becomes CANCELLED releases every line that is or may yet be held.
//! Invariant: an input that came before changes nothing when it comes again.

use crate::model::{
    CancelReason, InventoryCommand, LineAnswer, LineReply, Order, OrderEvent, OrderEventKind,
    OrderId, OrderLine, OrderStatus, Payment, PaymentAction, PaymentIntent, PaymentOutcome,
    PaymentResult, PaymentStatus, PlaceOrder, Refusal, Sku, V1,
};

use super::{
    input::{Effect, OrderInput},
    policy::Policy,
    state::{GatewayCall, LineState, OrderState},
};

/// What becomes of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its state from now on; none for an order that nobody placed.
    pub state: Option<OrderState>,
    /// What is to be done, in this order.
    pub effects: Vec<Effect>,
}

/// Takes one input of an order. `now_ms` is the wall clock in epoch milliseconds.
pub fn apply(
    order_id: OrderId,
    state: Option<OrderState>,
    input: OrderInput,
    now_ms: i64,
    policy: &Policy,
) -> Decision {
    let Some(state) = state else {
        return begin(order_id, input, now_ms, policy);
    };
    let armed = state.wake_at();
    let mut saga = Saga {
        state,
        effects: Vec::new(),
        now_ms,
        policy,
    };
    match input {
        // The first command counts; a retry of the customer's is no second order.
        OrderInput::Place(_) => {}
        OrderInput::Cancel { restock } => saga.cancel_asked(restock),
        OrderInput::Reply(reply) => saga.replied(reply),
        OrderInput::Payment(result) => saga.paid(&result),
        OrderInput::Due => saga.due(),
    }
    saga.decide(armed)
}

/// An input of an order that has no state yet.
fn begin(order_id: OrderId, input: OrderInput, now_ms: i64, policy: &Policy) -> Decision {
    match input {
        OrderInput::Place(place) => {
            let state = placed(order_id, place, now_ms, policy);
            let mut saga = Saga {
                state,
                effects: Vec::new(),
                now_ms,
                policy,
            };
            saga.announce_placed();
            saga.decide(None)
        }
        // Nobody placed it, so nobody needs what is held for it.
        OrderInput::Reply(LineReply {
            sku,
            answer: LineAnswer::Expiring,
        }) => Decision {
            state: None,
            effects: vec![Effect::Inventory(
                sku,
                InventoryCommand::Release { order_id },
            )],
        },
        OrderInput::Cancel { .. }
        | OrderInput::Reply(_)
        | OrderInput::Payment(_)
        | OrderInput::Due => Decision {
            state: None,
            effects: Vec::new(),
        },
    }
}

fn placed(order_id: OrderId, place: PlaceOrder, now_ms: i64, policy: &Policy) -> OrderState {
    let lines: Vec<OrderLine> = place
        .lines
        .into_iter()
        .map(|line| OrderLine {
            sku: line.sku,
            name: None,
            quantity: line.quantity,
            unit_price: None,
        })
        .collect();
    OrderState {
        lines: vec![LineState::Asked; lines.len()],
        order: Order {
            order_id,
            customer_id: place.customer_id,
            status: OrderStatus::Pending,
            reason: None,
            currency: place.currency,
            total: 0,
            lines,
            placed_at: place.placed_at,
            updated_at: now_ms,
            version: 0,
            payment: None,
        },
        fingerprint: place.fingerprint,
        token: place.token,
        expected_total: place.expected_total,
        deadline_ms: now_ms.saturating_add(policy.deadline_ms()),
        other_currency: false,
        call: GatewayCall::Idle,
    }
}

/// One order while it takes one input.
struct Saga<'a> {
    state: OrderState,
    effects: Vec<Effect>,
    now_ms: i64,
    policy: &'a Policy,
}

impl Saga<'_> {
    fn decide(mut self, armed: Option<i64>) -> Decision {
        match self.state.wake_at() {
            Some(wake) if armed != Some(wake) => self.effects.push(Effect::WakeAt(wake)),
            Some(_) | None => {}
        }
        Decision {
            state: Some(self.state),
            effects: self.effects,
        }
    }

    fn announce_placed(&mut self) {
        self.event(OrderEventKind::Placed, None, None);
        let order_id = self.state.order.order_id;
        for line in &self.state.order.lines {
            let command = InventoryCommand::Reserve {
                order_id,
                quantity: line.quantity,
            };
            self.effects
                .push(Effect::Inventory(line.sku.clone(), command));
        }
    }

    fn cancel_asked(&mut self, restock: bool) {
        match self.state.order.status {
            OrderStatus::Pending | OrderStatus::Reserved => self.cancel(CancelReason::Customer),
            OrderStatus::Confirmed => self.refund(restock),
            OrderStatus::Cancelled | OrderStatus::Refunded => {}
        }
    }

    fn due(&mut self) {
        if !self.state.order.status.is_final() && self.now_ms >= self.state.deadline_ms {
            self.cancel(CancelReason::PaymentTimeout);
        }
        match self.state.call {
            GatewayCall::Waiting {
                action,
                attempt,
                at_ms,
            } if self.now_ms >= at_ms => {
                // An order given up meanwhile must not be authorised any more, only asked about.
                let given_up = self.state.order.status != OrderStatus::Reserved;
                let ask = match action {
                    PaymentAction::Authorise if given_up => PaymentAction::Query,
                    other => other,
                };
                self.call(ask, attempt);
            }
            GatewayCall::Waiting { .. } | GatewayCall::Open { .. } | GatewayCall::Idle => {}
        }
    }

    fn replied(&mut self, reply: LineReply) {
        let LineReply { sku, answer } = reply;
        if answer == LineAnswer::Expiring {
            return self.settle_line(sku);
        }
        if self.state.order.status != OrderStatus::Pending {
            return;
        }
        let Some(at) = self
            .state
            .order
            .lines
            .iter()
            .position(|line| line.sku == sku)
        else {
            return;
        };
        if self.state.lines[at] != LineState::Asked {
            return;
        }
        match answer {
            LineAnswer::Reserved {
                name,
                unit_price,
                currency,
            } => {
                self.state.lines[at] = LineState::Held;
                self.state.other_currency |= currency != self.state.order.currency;
                let line = &mut self.state.order.lines[at];
                line.name = Some(name);
                line.unit_price = Some(unit_price);
            }
            LineAnswer::Refused(Refusal::UnknownProduct) => {
                self.state.lines[at] = LineState::Refused;
                return self.cancel(CancelReason::UnknownProduct);
            }
            LineAnswer::Refused(Refusal::OutOfStock | Refusal::Released) => {
                self.state.lines[at] = LineState::Refused;
            }
            LineAnswer::Expiring => unreachable!("handled above"),
        }
        // All answers are awaited, so that the reason does not depend on which came first.
        if !self.state.lines.contains(&LineState::Asked) {
            self.all_answered();
        }
    }

    /// Inventory has held a line for so long that it asks what the order wants.
    fn settle_line(&mut self, sku: Sku) {
        let order_id = self.state.order.order_id;
        let command = match self.state.order.status {
            // The deadline settles it.
            OrderStatus::Pending | OrderStatus::Reserved => return,
            OrderStatus::Confirmed | OrderStatus::Refunded => {
                InventoryCommand::Confirm { order_id }
            }
            OrderStatus::Cancelled => InventoryCommand::Release { order_id },
        };
        self.effects.push(Effect::Inventory(sku, command));
    }

    fn all_answered(&mut self) {
        if self.state.lines.contains(&LineState::Refused) {
            return self.cancel(CancelReason::OutOfStock);
        }
        let amounts = self.state.order.lines.iter().filter_map(OrderLine::amount);
        let total = amounts.fold(0i64, i64::saturating_add);
        self.state.order.total = total;
        let unexpected = self
            .state
            .expected_total
            .is_some_and(|expected| expected != total);
        if unexpected || self.state.other_currency {
            return self.cancel(CancelReason::PriceChanged);
        }
        self.state.order.payment = Some(Payment {
            status: PaymentStatus::Requested,
            authorised: 0,
            captured: 0,
            refunded: 0,
            gateway_ref: None,
        });
        self.become_status(OrderStatus::Reserved, None, OrderEventKind::Reserved);
        self.call(PaymentAction::Authorise, 1);
    }

    fn paid(&mut self, result: &PaymentResult) {
        let total = self.state.order.total;
        let status = self.state.order.status;
        let Some(payment) = &mut self.state.order.payment else {
            return;
        };
        let undecided = matches!(
            payment.status,
            PaymentStatus::Requested | PaymentStatus::Unknown
        );
        match result.outcome {
            PaymentOutcome::Authorised if undecided => {
                payment.status = PaymentStatus::Authorised;
                payment.authorised = total;
                payment.gateway_ref = result.gateway_ref.clone();
                self.authorised(result.attempt);
            }
            PaymentOutcome::Declined if undecided => {
                payment.status = PaymentStatus::Declined;
                self.state.call = GatewayCall::Idle;
                if status == OrderStatus::Reserved {
                    self.cancel(CancelReason::PaymentDeclined);
                } else {
                    self.payment_updated();
                }
            }
            PaymentOutcome::Captured if payment.status == PaymentStatus::Authorised => {
                payment.status = PaymentStatus::Captured;
                payment.captured = total;
                self.state.call = GatewayCall::Idle;
                self.payment_updated();
                if status == OrderStatus::Refunded {
                    self.call(PaymentAction::Refund, result.attempt.saturating_add(1));
                }
            }
            PaymentOutcome::Voided if payment.status == PaymentStatus::Authorised => {
                payment.status = PaymentStatus::Voided;
                self.state.call = GatewayCall::Idle;
                self.payment_updated();
            }
            PaymentOutcome::Refunded if payment.status == PaymentStatus::Captured => {
                payment.status = PaymentStatus::Refunded;
                payment.refunded = total;
                self.state.call = GatewayCall::Idle;
                self.payment_updated();
            }
            PaymentOutcome::Unknown | PaymentOutcome::NotFound => self.unanswered(result),
            // It came before, or is overtaken by what came since.
            PaymentOutcome::Authorised
            | PaymentOutcome::Declined
            | PaymentOutcome::Captured
            | PaymentOutcome::Voided
            | PaymentOutcome::Refunded => {}
        }
    }

    fn authorised(&mut self, attempt: u32) {
        let next = attempt.saturating_add(1);
        if self.state.order.status == OrderStatus::Reserved {
            self.become_status(OrderStatus::Confirmed, None, OrderEventKind::Confirmed);
            let order_id = self.state.order.order_id;
            for line in &self.state.order.lines {
                let command = InventoryCommand::Confirm { order_id };
                self.effects
                    .push(Effect::Inventory(line.sku.clone(), command));
            }
            self.call(PaymentAction::Capture, next);
        } else {
            // The answer came too late: the order is cancelled, and the hold must go.
            self.payment_updated();
            self.call(PaymentAction::Void, next);
        }
    }

    /// The gateway did not say what became of the open call.
    fn unanswered(&mut self, result: &PaymentResult) {
        let open = GatewayCall::Open {
            action: result.action,
            attempt: result.attempt,
        };
        if self.state.call != open {
            return;
        }
        let not_found = result.outcome == PaymentOutcome::NotFound;
        let action = match result.action {
            PaymentAction::Authorise => PaymentAction::Query,
            // The call never arrived, so it is made again; its key keeps it from counting twice.
            PaymentAction::Query if not_found => PaymentAction::Authorise,
            other => other,
        };
        let undecided = matches!(action, PaymentAction::Query | PaymentAction::Authorise);
        let ask_until = self
            .state
            .deadline_ms
            .saturating_add(self.policy.query_for_ms());
        self.state.call = if undecided && self.now_ms >= ask_until {
            GatewayCall::Idle
        } else {
            GatewayCall::Waiting {
                action,
                attempt: result.attempt.saturating_add(1),
                at_ms: self
                    .now_ms
                    .saturating_add(self.policy.pause_ms(result.attempt)),
            }
        };
        if let Some(payment) = &mut self.state.order.payment
            && payment.status == PaymentStatus::Requested
        {
            payment.status = PaymentStatus::Unknown;
            self.payment_updated();
        }
    }

    fn cancel(&mut self, reason: CancelReason) {
        self.become_status(
            OrderStatus::Cancelled,
            Some(reason),
            OrderEventKind::Cancelled,
        );
        let order_id = self.state.order.order_id;
        for (line, state) in self.state.order.lines.iter().zip(&self.state.lines) {
            // A line without an answer may be held by now, or soon.
            if matches!(state, LineState::Asked | LineState::Held) {
                let command = InventoryCommand::Release { order_id };
                self.effects
                    .push(Effect::Inventory(line.sku.clone(), command));
            }
        }
    }

    fn refund(&mut self, restock: bool) {
        self.become_status(OrderStatus::Refunded, None, OrderEventKind::Refunded);
        let order_id = self.state.order.order_id;
        if restock {
            for line in &self.state.order.lines {
                let command = InventoryCommand::Restock {
                    order_id,
                    quantity: line.quantity,
                };
                self.effects
                    .push(Effect::Inventory(line.sku.clone(), command));
            }
        }
        // While the capture is under way, the refund waits for it: see `paid`.
        let captured = matches!(
            &self.state.order.payment,
            Some(payment) if payment.status == PaymentStatus::Captured
        );
        if captured {
            self.call(PaymentAction::Refund, 1);
        }
    }

    fn call(&mut self, action: PaymentAction, attempt: u32) {
        self.state.call = GatewayCall::Open { action, attempt };
        self.effects.push(Effect::Payment(PaymentIntent {
            action,
            v: V1,
            attempt,
            amount: self.state.order.total,
            currency: self.state.order.currency,
            token: self.state.token.clone(),
            deadline_ms: self.state.deadline_ms,
        }));
    }

    fn become_status(
        &mut self,
        status: OrderStatus,
        reason: Option<CancelReason>,
        kind: OrderEventKind,
    ) {
        let previous_status = Some(self.state.order.status);
        let previous_reason = self.state.order.reason;
        self.state.order.status = status;
        self.state.order.reason = reason;
        self.event(kind, previous_status, previous_reason);
    }

    fn payment_updated(&mut self) {
        let (status, reason) = (self.state.order.status, self.state.order.reason);
        self.event(OrderEventKind::PaymentUpdated, Some(status), reason);
    }

    fn event(
        &mut self,
        kind: OrderEventKind,
        previous_status: Option<OrderStatus>,
        previous_reason: Option<CancelReason>,
    ) {
        let order = &mut self.state.order;
        order.version += 1;
        // Clocks of two machines may differ; what is shown never goes back.
        order.updated_at = order.updated_at.max(self.now_ms);
        self.effects.push(Effect::Event(Box::new(OrderEvent {
            kind,
            v: V1,
            previous_status,
            previous_reason,
            order: order.clone(),
        })));
    }
}
