//! Orders: what is shown of one, and the events that tell of changes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Currency, CustomerId, OrderId, Sku, V1};

/// The most lines of one order.
pub const LINES_MAX: usize = 200;
/// The most pieces of one line.
pub const QUANTITY_MAX: u32 = 10_000;

/// Where an order stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum OrderStatus {
    /// Accepted; stock is being asked for.
    Pending,
    /// Every line is held; the payment is being authorised.
    Reserved,
    /// Paid for and sold.
    Confirmed,
    /// Given up, for a [`CancelReason`].
    Cancelled,
    /// Was confirmed, and the customer took it back.
    Refunded,
}

impl OrderStatus {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Reserved,
        Self::Confirmed,
        Self::Cancelled,
        Self::Refunded,
    ];

    /// True when the order needs nothing more: only a refund may still follow a confirmation.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled | Self::Refunded)
    }

    /// The name in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Reserved => "RESERVED",
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled => "CANCELLED",
            Self::Refunded => "REFUNDED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == name)
    }
}

/// Why an order was cancelled.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CancelReason {
    /// A line could not be held.
    OutOfStock,
    /// A line names a product that the catalogue does not have.
    UnknownProduct,
    /// The catalogue asks for another total, or for another currency.
    PriceChanged,
    /// The gateway refused the payment.
    PaymentDeclined,
    /// There was no answer before the deadline.
    PaymentTimeout,
    /// The customer asked for it.
    Customer,
}

impl CancelReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OutOfStock,
        Self::UnknownProduct,
        Self::PriceChanged,
        Self::PaymentDeclined,
        Self::PaymentTimeout,
        Self::Customer,
    ];

    /// The name in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "OUT_OF_STOCK",
            Self::UnknownProduct => "UNKNOWN_PRODUCT",
            Self::PriceChanged => "PRICE_CHANGED",
            Self::PaymentDeclined => "PAYMENT_DECLINED",
            Self::PaymentTimeout => "PAYMENT_TIMEOUT",
            Self::Customer => "CUSTOMER",
        }
    }

    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == name)
    }
}

/// Where the payment of an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PaymentStatus {
    /// The gateway was asked.
    Requested,
    /// The gateway was asked and has not said what became of it.
    Unknown,
    /// The gateway holds the amount.
    Authorised,
    /// The gateway refused.
    Declined,
    /// The money was taken.
    Captured,
    /// The hold was given up; nothing was taken.
    Voided,
    /// The money was given back.
    Refunded,
}

impl PaymentStatus {
    /// The name in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::Unknown => "UNKNOWN",
            Self::Authorised => "AUTHORISED",
            Self::Declined => "DECLINED",
            Self::Captured => "CAPTURED",
            Self::Voided => "VOIDED",
            Self::Refunded => "REFUNDED",
        }
    }
}

/// The payment of an order. Amounts are in minor units of the order's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Where it stands.
    pub status: PaymentStatus,
    /// What the gateway held; stays after a capture or a void.
    pub authorised: i64,
    /// What was taken.
    pub captured: i64,
    /// What was given back.
    pub refunded: i64,
    /// The gateway's own name for it.
    pub gateway_ref: Option<Arc<str>>,
}

/// One line of an order. Name and price are the catalogue's, known once the line is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    /// The product.
    pub sku: Sku,
    /// Its name.
    pub name: Option<Arc<str>>,
    /// How many pieces.
    pub quantity: u32,
    /// Price of one piece, in minor units.
    pub unit_price: Option<i64>,
}

impl OrderLine {
    /// Price of the line, in minor units.
    pub fn amount(&self) -> Option<i64> {
        self.unit_price
            .map(|price| price.saturating_mul(i64::from(self.quantity)))
    }
}

/// What is shown of an order. Times are epoch milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub order_id: OrderId,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// Where it stands.
    pub status: OrderStatus,
    /// Why it was cancelled.
    pub reason: Option<CancelReason>,
    /// Of all amounts.
    pub currency: Currency,
    /// Sum of the lines' amounts, in minor units; 0 until every line has a price.
    pub total: i64,
    /// The lines, each sku once.
    pub lines: Vec<OrderLine>,
    /// When the customer placed it.
    pub placed_at: i64,
    /// When it last changed.
    pub updated_at: i64,
    /// 1 when placed, one more with every event.
    pub version: u64,
    /// The payment, from the moment the gateway is asked.
    pub payment: Option<Payment>,
}

/// What happened to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum OrderEventKind {
    /// It was accepted.
    #[serde(rename = "order.placed")]
    Placed,
    /// All its lines are held.
    #[serde(rename = "order.reserved")]
    Reserved,
    /// It is paid for.
    #[serde(rename = "order.confirmed")]
    Confirmed,
    /// It was given up.
    #[serde(rename = "order.cancelled")]
    Cancelled,
    /// It was taken back after it had been confirmed.
    #[serde(rename = "order.refunded")]
    Refunded,
    /// Its payment went on; its status is as before.
    #[serde(rename = "order.payment-updated")]
    PaymentUpdated,
}

/// A value of `shop.order-events`; its key is the order. One for every change, with the whole
/// order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: OrderEventKind,
    /// Schema version.
    pub v: V1,
    /// The status before; none when placed.
    pub previous_status: Option<OrderStatus>,
    /// The reason before.
    pub previous_reason: Option<CancelReason>,
    /// The order from now on.
    pub order: Order,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json_form() {
        for status in OrderStatus::ALL {
            assert_eq!(
                serde_json::to_value(status).expect("encodes"),
                status.as_str()
            );
            assert_eq!(OrderStatus::parse(status.as_str()), Some(status));
        }
        for reason in CancelReason::ALL {
            assert_eq!(
                serde_json::to_value(reason).expect("encodes"),
                reason.as_str()
            );
            assert_eq!(CancelReason::parse(reason.as_str()), Some(reason));
        }
    }
}
