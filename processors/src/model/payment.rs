//! Payments: what the gateway is asked, and what it answered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Currency, OrderId, V1};

/// What the gateway is asked to do. Money moves at most once for each action of an order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum PaymentAction {
    /// Hold the amount.
    Authorise,
    /// Say what became of the authorisation.
    Query,
    /// Take the amount that is held.
    Capture,
    /// Give up the hold.
    Void,
    /// Give back what was taken.
    Refund,
}

impl PaymentAction {
    /// The name in JSON, in keys and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorise => "authorise",
            Self::Query => "query",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }

    /// The action of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Authorise,
            Self::Query,
            Self::Capture,
            Self::Void,
            Self::Refund,
        ]
        .into_iter()
        .find(|action| action.as_str() == name)
    }

    /// The key by which the gateway knows a repeated call of this action for an order: the same for
    /// every attempt, so that none of them moves money twice.
    pub fn idempotency_key(self, order_id: OrderId) -> String {
        format!("{order_id}:{}", self.as_str())
    }
}

/// A value of `shop.payment-intents`; its key is the order. A call that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentIntent {
    /// What to do.
    #[serde(rename = "type")]
    pub action: PaymentAction,
    /// Schema version.
    pub v: V1,
    /// 1 for the first call of a payment, one more with each that follows.
    pub attempt: u32,
    /// In minor units.
    pub amount: i64,
    /// Of the amount.
    pub currency: Currency,
    /// Stands for the means of payment.
    pub token: Arc<str>,
    /// When the order gives up waiting for an authorisation, in epoch milliseconds.
    pub deadline_ms: i64,
}

/// How a call of the gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PaymentOutcome {
    /// The amount is held.
    Authorised,
    /// The amount will not be held.
    Declined,
    /// The amount was taken.
    Captured,
    /// The hold was given up.
    Voided,
    /// The amount was given back.
    Refunded,
    /// The gateway never heard of the authorisation that it was asked about.
    NotFound,
    /// Nobody knows yet: no answer in time, an error, or an answer that says so.
    Unknown,
}

/// A value of `shop.payment-results`; its key is the order. How an intent ended; may repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentResult {
    /// How the call ended.
    #[serde(rename = "type")]
    pub outcome: PaymentOutcome,
    /// Schema version.
    pub v: V1,
    /// The call.
    pub action: PaymentAction,
    /// Which attempt it was.
    pub attempt: u32,
    /// In minor units.
    pub amount: i64,
    /// The gateway's own name for the payment.
    pub gateway_ref: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_tells_its_action_as_its_type() {
        let intent = PaymentIntent {
            action: PaymentAction::Capture,
            v: V1,
            attempt: 2,
            amount: 300,
            currency: Currency::USD,
            token: "tok_approve".into(),
            deadline_ms: 60_000,
        };
        let json = serde_json::to_string(&intent).expect("encodes");
        assert!(json.starts_with(r#"{"type":"capture","v":1,"#), "{json}");
        assert_eq!(
            serde_json::from_str::<PaymentIntent>(&json).expect("decodes"),
            intent
        );
        let newer = json.replace("\"v\":1", "\"v\":2");
        assert!(serde_json::from_str::<PaymentIntent>(&newer).is_err());
        let other = json.replace("capture", "tip");
        assert!(serde_json::from_str::<PaymentIntent>(&other).is_err());
    }

    #[test]
    fn every_attempt_of_an_action_has_one_idempotency_key() {
        let order = OrderId(uuid::Uuid::from_u128(1));
        assert_eq!(
            PaymentAction::Void.idempotency_key(order),
            "00000000-0000-0000-0000-000000000001:void"
        );
    }
}
