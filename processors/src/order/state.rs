//! `OrderState`: what the shop knows of one order, and what of it is still open.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{Order, PaymentAction};

/// One order, as the store `orders` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    /// What is shown of it.
    pub order: Order,
    /// Tells whether a retry with the same key carries the same body.
    pub fingerprint: Uuid,
    /// Stands for the means of payment at the gateway.
    pub token: Arc<str>,
    /// The total that the customer saw, if it was told.
    pub expected_total: Option<i64>,
    /// When the order is given up unless it is final, in epoch milliseconds.
    pub deadline_ms: i64,
    /// What inventory said, line by line.
    pub lines: Vec<LineState>,
    /// True when a line is sold in another currency than the order's.
    pub other_currency: bool,
    /// What is going on with the gateway.
    pub call: GatewayCall,
}

/// What inventory said of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineState {
    /// Nothing yet.
    Asked,
    /// The pieces are held.
    Held,
    /// They are not.
    Refused,
}

/// The conversation with the gateway: at most one call of an order is open at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayCall {
    /// Nothing is asked and nothing will be.
    Idle,
    /// An intent was sent, its result has not come.
    Open {
        /// What was asked.
        action: PaymentAction,
        /// Which try of this order it is, from 1.
        attempt: u32,
    },
    /// The next intent is sent at that time.
    Waiting {
        /// What will be asked.
        action: PaymentAction,
        /// Which try of this order it will be.
        attempt: u32,
        /// In epoch milliseconds.
        at_ms: i64,
    },
}

impl OrderState {
    /// When something must happen even if nobody says anything, in epoch milliseconds.
    pub fn wake_at(&self) -> Option<i64> {
        let deadline = (!self.order.status.is_final()).then_some(self.deadline_ms);
        let retry = match self.call {
            GatewayCall::Waiting { at_ms, .. } => Some(at_ms),
            GatewayCall::Idle | GatewayCall::Open { .. } => None,
        };
        deadline.into_iter().chain(retry).min()
    }
}
