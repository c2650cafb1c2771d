//! Stock, and the answers that orders get about it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Currency, Sku};

/// The most pieces of one product that may be on hand; a bound that keeps all sums far from
/// overflow.
pub const ON_HAND_MAX: i64 = 1_000_000_000_000;

/// The stock of one product, in pieces.
///
/// Invariant: `0 <= reserved <= on_hand` and `0 <= sold`, so what is available is never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// In the shop, the reserved ones included.
    pub on_hand: i64,
    /// Held for orders that are not yet paid for.
    pub reserved: i64,
    /// Sold so far, less what came back.
    pub sold: i64,
    /// One more with every change.
    pub version: u64,
}

impl Stock {
    /// What a new order can still get.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }

    /// True when the invariant of the type holds.
    pub fn adds_up(&self) -> bool {
        0 <= self.reserved && self.reserved <= self.on_hand && 0 <= self.sold
    }
}

/// Why pieces could not be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Refusal {
    /// There are not enough.
    OutOfStock,
    /// The catalogue does not have the product.
    UnknownProduct,
    /// The order was given up before it asked.
    Released,
}

/// What inventory tells an order about one of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineReply {
    /// The line's product.
    pub sku: Sku,
    /// What is told.
    pub answer: LineAnswer,
}

/// What a [`LineReply`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineAnswer {
    /// The pieces are held, at that price.
    Reserved {
        /// The product's name.
        name: Arc<str>,
        /// Price of one piece, in minor units.
        unit_price: i64,
        /// Of the price.
        currency: Currency,
    },
    /// Nothing is held.
    Refused(Refusal),
    /// They have been held for long: confirm or release them.
    Expiring,
}
