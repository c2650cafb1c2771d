//! The rules of the simulated gateway as a pure function: its books and a call in, an answer and an
//! entry out.
//!
//! Invariant: an action of an order is entered at most once, so money moves at most once.
//! Invariant: what was captured was authorised and not voided; what was refunded was captured.

use std::sync::Arc;

use crate::model::{Currency, OrderId, PaymentAction, PaymentIntent, PaymentOutcome};

use super::gateway::Answer;

/// The token whose payments are refused.
pub const TOKEN_DECLINE: &str = "tok_decline";
/// The token whose calls are never answered and never have an effect.
pub const TOKEN_TIMEOUT: &str = "tok_timeout";
/// The token whose authorisation becomes known only after the order's deadline.
pub const TOKEN_LATE: &str = "tok_late";
/// The token whose first call is not answered although it had its effect.
pub const TOKEN_UNKNOWN: &str = "tok_unknown";
/// The token whose first [`FLAKY_FAILURES`] calls fail.
pub const TOKEN_FLAKY: &str = "tok_flaky";
/// How often a call with [`TOKEN_FLAKY`] fails before it succeeds.
pub const FLAKY_FAILURES: u32 = 2;

/// One entry of the gateway's books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The shop's order.
    pub order_id: OrderId,
    /// What was done. Queries are not entered.
    pub action: PaymentAction,
    /// In minor units.
    pub amount: i64,
    /// Of the amount.
    pub currency: Currency,
    /// From when on the gateway tells of it, in epoch milliseconds.
    pub visible_at: i64,
    /// When it was done, in epoch milliseconds.
    pub at: i64,
}

impl LedgerEntry {
    /// The key under which a repeated call finds it.
    pub fn idempotency_key(&self) -> String {
        self.action.idempotency_key(self.order_id)
    }

    /// The gateway's name for the payment.
    pub fn gateway_ref(&self) -> Arc<str> {
        format!("sim_{}", self.order_id.0.simple()).into()
    }
}

/// What the gateway does about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers.
    Answer(Answer),
    /// It never answers.
    Silence,
    /// It refuses a call that does not fit its books.
    Misfit,
}

/// Decides about a call. `books` holds the entries of the order, `now_ms` is in epoch milliseconds.
pub fn decide(
    books: &[LedgerEntry],
    order_id: OrderId,
    intent: &PaymentIntent,
    now_ms: i64,
) -> (Verdict, Option<LedgerEntry>) {
    let entry = |action, visible_at| LedgerEntry {
        order_id,
        action,
        amount: intent.amount,
        currency: intent.currency,
        visible_at,
        at: now_ms,
    };
    let find = |action| books.iter().find(|e| e.action == action);
    match intent.action {
        PaymentAction::Authorise => match find(PaymentAction::Authorise) {
            Some(known) if known.visible_at <= now_ms => (authorised(known), None),
            Some(_) => (Verdict::Silence, None),
            None => match &*intent.token {
                TOKEN_DECLINE => (Verdict::Answer(PaymentOutcome::Declined.into()), None),
                TOKEN_TIMEOUT => (Verdict::Silence, None),
                TOKEN_LATE => {
                    let told = intent.deadline_ms.max(now_ms).saturating_add(1);
                    (
                        Verdict::Silence,
                        Some(entry(PaymentAction::Authorise, told)),
                    )
                }
                TOKEN_UNKNOWN => (
                    Verdict::Silence,
                    Some(entry(PaymentAction::Authorise, now_ms)),
                ),
                _ => {
                    let new = entry(PaymentAction::Authorise, now_ms);
                    (authorised(&new), Some(new))
                }
            },
        },
        PaymentAction::Query => match (find(PaymentAction::Authorise), &*intent.token) {
            (Some(known), _) if known.visible_at <= now_ms => (authorised(known), None),
            (Some(_), _) | (None, TOKEN_TIMEOUT) => (answer(PaymentOutcome::Unknown), None),
            (None, TOKEN_DECLINE) => (answer(PaymentOutcome::Declined), None),
            (None, _) => (answer(PaymentOutcome::NotFound), None),
        },
        PaymentAction::Capture | PaymentAction::Void | PaymentAction::Refund => {
            let has = |action| find(action).is_some();
            let fits = has(intent.action)
                || match intent.action {
                    PaymentAction::Capture => {
                        has(PaymentAction::Authorise) && !has(PaymentAction::Void)
                    }
                    PaymentAction::Void => {
                        has(PaymentAction::Authorise) && !has(PaymentAction::Capture)
                    }
                    _ => has(PaymentAction::Capture),
                };
            if !fits {
                return (Verdict::Misfit, None);
            }
            let new = (!has(intent.action)).then(|| entry(intent.action, now_ms));
            let outcome = match intent.action {
                PaymentAction::Capture => PaymentOutcome::Captured,
                PaymentAction::Void => PaymentOutcome::Voided,
                _ => PaymentOutcome::Refunded,
            };
            (answer(outcome), new)
        }
    }
}

fn authorised(entry: &LedgerEntry) -> Verdict {
    let gateway_ref = Some(entry.gateway_ref());
    Verdict::Answer(Answer {
        outcome: PaymentOutcome::Authorised,
        gateway_ref,
    })
}

fn answer(outcome: PaymentOutcome) -> Verdict {
    Verdict::Answer(outcome.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::V1;

    const ORDER: OrderId = OrderId(uuid::Uuid::from_u128(1));

    fn intent(action: PaymentAction, token: &str) -> PaymentIntent {
        PaymentIntent {
            action,
            v: V1,
            attempt: 1,
            amount: 300,
            currency: Currency::USD,
            token: token.into(),
            deadline_ms: 60_000,
        }
    }

    /// Makes calls at times and compares what comes back: an outcome, `None` for silence.
    #[track_caller]
    fn check(token: &str, calls: &[(i64, PaymentAction, Option<PaymentOutcome>)]) {
        let mut books = Vec::new();
        for (at, action, expect) in calls {
            let (verdict, entry) = decide(&books, ORDER, &intent(*action, token), *at);
            let outcome = match verdict {
                Verdict::Answer(answer) => Some(answer.outcome),
                Verdict::Silence => None,
                Verdict::Misfit => panic!("{action:?} at {at} does not fit the books"),
            };
            assert_eq!(&outcome, expect, "{token}: {action:?} at {at}");
            books.extend(entry);
        }
    }

    #[test]
    fn any_token_is_authorised_and_captured_once() {
        use {PaymentAction as A, PaymentOutcome as O};
        for token in ["tok_approve", "tok_flaky", "whatever"] {
            check(
                token,
                &[
                    (0, A::Query, Some(O::NotFound)),
                    (1, A::Authorise, Some(O::Authorised)),
                    (2, A::Authorise, Some(O::Authorised)),
                    (3, A::Query, Some(O::Authorised)),
                    (4, A::Capture, Some(O::Captured)),
                    (5, A::Capture, Some(O::Captured)),
                    (6, A::Refund, Some(O::Refunded)),
                    (7, A::Refund, Some(O::Refunded)),
                ],
            );
        }
    }

    #[test]
    fn a_declined_payment_stays_declined() {
        use {PaymentAction as A, PaymentOutcome as O};
        check(
            TOKEN_DECLINE,
            &[
                (0, A::Authorise, Some(O::Declined)),
                (1, A::Query, Some(O::Declined)),
            ],
        );
    }

    #[test]
    fn silent_tokens_are_known_by_query_when_they_should_be() {
        use {PaymentAction as A, PaymentOutcome as O};
        check(
            TOKEN_TIMEOUT,
            &[
                (0, A::Authorise, None),
                (90_000, A::Query, Some(O::Unknown)),
            ],
        );
        check(
            TOKEN_UNKNOWN,
            &[(0, A::Authorise, None), (1, A::Query, Some(O::Authorised))],
        );
        check(
            TOKEN_LATE,
            &[
                (0, A::Authorise, None),
                (60_000, A::Query, Some(O::Unknown)),
                (60_000, A::Authorise, None),
                (60_001, A::Query, Some(O::Authorised)),
                (60_002, A::Void, Some(O::Voided)),
                (60_003, A::Void, Some(O::Voided)),
            ],
        );
    }

    #[test]
    fn money_that_is_not_held_cannot_be_taken() {
        let call = |books: &[LedgerEntry], action| {
            decide(books, ORDER, &intent(action, "tok_approve"), 9).0
        };
        let entry = |action| LedgerEntry {
            order_id: ORDER,
            action,
            amount: 300,
            currency: Currency::USD,
            visible_at: 0,
            at: 0,
        };
        use PaymentAction as A;
        assert_eq!(call(&[], A::Capture), Verdict::Misfit);
        assert_eq!(call(&[], A::Void), Verdict::Misfit);
        assert_eq!(call(&[entry(A::Authorise)], A::Refund), Verdict::Misfit);
        assert_eq!(
            call(&[entry(A::Authorise), entry(A::Void)], A::Capture),
            Verdict::Misfit
        );
        assert_eq!(
            call(&[entry(A::Authorise), entry(A::Capture)], A::Void),
            Verdict::Misfit
        );
    }
}
