//! One call of the gateway: in time, tried again where that may help, and turned into a result.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::debug;

use super::gateway::{Answer, PaymentGateway};
use crate::model::{OrderId, PaymentIntent, PaymentOutcome, PaymentResult, V1};

/// How calls are made.
#[derive(Clone, Copy, Debug)]
pub struct CallPolicy {
    /// A call without an answer after this time counts as one whose outcome nobody knows.
    pub timeout: Duration,
    /// How often a call that fails is made at most, the first time included.
    pub tries_max: u32,
    /// Pause before the second try; doubled each time.
    pub pause: Duration,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            tries_max: 3,
            pause: Duration::from_millis(50),
        }
    }
}

/// Makes the call. Failures and silence end as [`PaymentOutcome::Unknown`]; the order decides what
/// then.
pub(super) async fn make<G: PaymentGateway>(
    gateway: &G,
    order_id: OrderId,
    intent: PaymentIntent,
    policy: CallPolicy,
) -> PaymentResult {
    let (action, attempt, amount) = (intent.action, intent.attempt, intent.amount);
    let answer = tokio::time::timeout(policy.timeout, try_call(gateway, order_id, intent, policy))
        .await
        .unwrap_or_else(|_| PaymentOutcome::Unknown.into());
    let Answer {
        outcome,
        gateway_ref,
    } = answer;
    PaymentResult {
        outcome,
        v: V1,
        action,
        attempt,
        amount,
        gateway_ref,
    }
}

async fn try_call<G: PaymentGateway>(
    gateway: &G,
    order_id: OrderId,
    intent: PaymentIntent,
    policy: CallPolicy,
) -> Answer {
    let mut pause = policy.pause;
    for attempt in 1..=policy.tries_max.max(1) {
        match gateway.call(order_id, intent.clone()).await {
            Ok(answer) => return answer,
            Err(error) => {
                let action = intent.action.as_str();
                debug!(order = %order_id, action, attempt, error = %error, "the gateway failed");
            }
        }
        if attempt < policy.tries_max {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    PaymentOutcome::Unknown.into()
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
