//! `PaymentGateway`: what the shop needs of a payment service provider.

use std::{future::Future, sync::Arc};

use crate::model::{OrderId, PaymentIntent, PaymentOutcome};

/// A payment service provider.
///
/// Calls repeat: after a crash, after a timeout, or because nobody knows whether the last one
/// arrived. An implementation passes
/// [`idempotency_key`](crate::model::PaymentAction::idempotency_key) on, so that a repeated call
/// has the effect and the answer of the first one.
pub trait PaymentGateway: Send + Sync + 'static {
    /// Makes the call that the intent describes.
    ///
    /// A future that is dropped before it ends counts as a call whose outcome nobody knows.
    fn call(
        &self,
        order_id: OrderId,
        intent: PaymentIntent,
    ) -> impl Future<Output = Result<Answer, CallFailed>> + Send;
}

/// What the gateway answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How the call ended.
    pub outcome: PaymentOutcome,
    /// The gateway's own name for the payment.
    pub gateway_ref: Option<Arc<str>>,
}

impl From<PaymentOutcome> for Answer {
    fn from(outcome: PaymentOutcome) -> Self {
        Self {
            outcome,
            gateway_ref: None,
        }
    }
}

/// The call failed, and whether it had an effect is not known; it may be tried again at once.
#[derive(Debug, thiserror::Error)]
#[error("the call of the gateway failed")]
pub struct CallFailed(#[source] pub millstream_topology::BoxError);
