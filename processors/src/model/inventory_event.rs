//! What happened to stock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Currency, InvalidValue, LineAnswer, LineReply, OrderId, Refusal, Sku, Stock, V1};

/// What happened to the stock of a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InventoryChange {
    /// Pieces are held for an order, at that price.
    Reserved {
        /// For whom.
        order_id: OrderId,
        /// How many.
        quantity: u32,
        /// The product's name.
        name: Arc<str>,
        /// Price of one piece, in minor units.
        unit_price: i64,
        /// Of the price.
        currency: Currency,
    },
    /// Nothing is held for the order.
    Refused {
        /// For whom.
        order_id: OrderId,
        /// How many it had asked for.
        quantity: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Held pieces are available again.
    Released {
        /// For whom they were held.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Held pieces are sold.
    Confirmed {
        /// To whom.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Sold pieces are back.
    Restocked {
        /// From whom.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Pieces have been held for so long that the order is asked what it wants.
    Expiring {
        /// For whom.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// An adjustment was made.
    Adjusted {
        /// Which.
        adjustment_id: Arc<str>,
        /// By how many pieces.
        delta: i64,
        /// For people.
        reason: Arc<str>,
    },
    /// An adjustment was refused: less would be on hand than is reserved, or more than can be.
    AdjustmentRefused {
        /// Which.
        adjustment_id: Arc<str>,
        /// By how many pieces.
        delta: i64,
        /// For people.
        reason: Arc<str>,
    },
}

/// A value of `shop.inventory-events`; its key is the product. Carries the stock that results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EventWire", into = "EventWire")]
pub struct InventoryEvent {
    /// What happened.
    pub change: InventoryChange,
    /// The stock from now on.
    pub stock: Stock,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EventKind {
    Reserved,
    Refused,
    Released,
    Confirmed,
    Restocked,
    Expiring,
    Adjusted,
    AdjustmentRefused,
}

#[derive(Serialize, Deserialize)]
struct EventWire {
    #[serde(rename = "type")]
    kind: EventKind,
    v: V1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantity: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit_price: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adjustment_id: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
    on_hand: i64,
    reserved: i64,
    sold: i64,
    version: u64,
}

impl EventWire {
    fn of_order(kind: EventKind, stock: Stock, order_id: OrderId, quantity: u32) -> Self {
        Self {
            order_id: Some(order_id),
            quantity: Some(quantity),
            ..Self::empty(kind, stock)
        }
    }

    fn of_adjustment(
        kind: EventKind,
        stock: Stock,
        adjustment_id: Arc<str>,
        delta: i64,
        reason: Arc<str>,
    ) -> Self {
        Self {
            adjustment_id: Some(adjustment_id),
            delta: Some(delta),
            reason: Some(reason),
            ..Self::empty(kind, stock)
        }
    }

    fn empty(kind: EventKind, stock: Stock) -> Self {
        let Stock {
            on_hand,
            reserved,
            sold,
            version,
        } = stock;
        Self {
            kind,
            v: V1,
            order_id: None,
            quantity: None,
            name: None,
            unit_price: None,
            currency: None,
            refusal: None,
            adjustment_id: None,
            delta: None,
            reason: None,
            on_hand,
            reserved,
            sold,
            version,
        }
    }
}

impl From<InventoryEvent> for EventWire {
    fn from(event: InventoryEvent) -> Self {
        use InventoryChange as C;
        let stock = event.stock;
        match event.change {
            C::Reserved {
                order_id,
                quantity,
                name,
                unit_price,
                currency,
            } => Self {
                name: Some(name),
                unit_price: Some(unit_price),
                currency: Some(currency),
                ..Self::of_order(EventKind::Reserved, stock, order_id, quantity)
            },
            C::Refused {
                order_id,
                quantity,
                refusal,
            } => Self {
                refusal: Some(refusal),
                ..Self::of_order(EventKind::Refused, stock, order_id, quantity)
            },
            C::Released { order_id, quantity } => {
                Self::of_order(EventKind::Released, stock, order_id, quantity)
            }
            C::Confirmed { order_id, quantity } => {
                Self::of_order(EventKind::Confirmed, stock, order_id, quantity)
            }
            C::Restocked { order_id, quantity } => {
                Self::of_order(EventKind::Restocked, stock, order_id, quantity)
            }
            C::Expiring { order_id, quantity } => {
                Self::of_order(EventKind::Expiring, stock, order_id, quantity)
            }
            C::Adjusted {
                adjustment_id,
                delta,
                reason,
            } => Self::of_adjustment(EventKind::Adjusted, stock, adjustment_id, delta, reason),
            C::AdjustmentRefused {
                adjustment_id,
                delta,
                reason,
            } => {
                let kind = EventKind::AdjustmentRefused;
                Self::of_adjustment(kind, stock, adjustment_id, delta, reason)
            }
        }
    }
}

impl TryFrom<EventWire> for InventoryEvent {
    type Error = InvalidValue;
    fn try_from(wire: EventWire) -> Result<Self, InvalidValue> {
        use InvalidValue::Missing;
        let order_id = wire.order_id.ok_or(Missing("order_id"));
        let quantity = wire.quantity.ok_or(Missing("quantity"));
        let adjustment_id = wire.adjustment_id.ok_or(Missing("adjustment_id"));
        let delta = wire.delta.ok_or(Missing("delta"));
        let reason = wire.reason.unwrap_or_default();
        use InventoryChange as C;
        let change = match wire.kind {
            EventKind::Reserved => C::Reserved {
                order_id: order_id?,
                quantity: quantity?,
                name: wire.name.ok_or(Missing("name"))?,
                unit_price: wire.unit_price.ok_or(Missing("unit_price"))?,
                currency: wire.currency.ok_or(Missing("currency"))?,
            },
            EventKind::Refused => C::Refused {
                order_id: order_id?,
                quantity: quantity?,
                refusal: wire.refusal.ok_or(Missing("refusal"))?,
            },
            EventKind::Released => C::Released {
                order_id: order_id?,
                quantity: quantity?,
            },
            EventKind::Confirmed => C::Confirmed {
                order_id: order_id?,
                quantity: quantity?,
            },
            EventKind::Restocked => C::Restocked {
                order_id: order_id?,
                quantity: quantity?,
            },
            EventKind::Expiring => C::Expiring {
                order_id: order_id?,
                quantity: quantity?,
            },
            EventKind::Adjusted => C::Adjusted {
                adjustment_id: adjustment_id?,
                delta: delta?,
                reason,
            },
            EventKind::AdjustmentRefused => C::AdjustmentRefused {
                adjustment_id: adjustment_id?,
                delta: delta?,
                reason,
            },
        };
        let stock = Stock {
            on_hand: wire.on_hand,
            reserved: wire.reserved,
            sold: wire.sold,
            version: wire.version,
        };
        Ok(Self { change, stock })
    }
}

impl InventoryEvent {
    /// The order that waits to hear of this change, if one does.
    pub fn replies_to(&self) -> Option<OrderId> {
        use InventoryChange as C;
        match &self.change {
            C::Reserved { order_id, .. }
            | C::Refused { order_id, .. }
            | C::Expiring { order_id, .. } => Some(*order_id),
            C::Released { .. }
            | C::Confirmed { .. }
            | C::Restocked { .. }
            | C::Adjusted { .. }
            | C::AdjustmentRefused { .. } => None,
        }
    }

    /// The reply to an order that this change is, if it is one.
    pub fn into_reply(self, sku: Sku) -> Option<(OrderId, LineReply)> {
        use InventoryChange as C;
        let (order_id, answer) = match self.change {
            C::Reserved {
                order_id,
                name,
                unit_price,
                currency,
                ..
            } => (
                order_id,
                LineAnswer::Reserved {
                    name,
                    unit_price,
                    currency,
                },
            ),
            C::Refused {
                order_id, refusal, ..
            } => (order_id, LineAnswer::Refused(refusal)),
            C::Expiring { order_id, .. } => (order_id, LineAnswer::Expiring),
            C::Released { .. }
            | C::Confirmed { .. }
            | C::Restocked { .. }
            | C::Adjusted { .. }
            | C::AdjustmentRefused { .. } => return None,
        };
        Some((order_id, LineReply { sku, answer }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> OrderId {
        OrderId(uuid::Uuid::from_u128(7))
    }

    #[test]
    fn events_survive_the_way_through_json() {
        use InventoryChange as C;
        let (order_id, quantity) = (order(), 2);
        let (adjustment_id, reason): (Arc<str>, Arc<str>) = ("a".into(), "count".into());
        let changes = [
            C::Reserved {
                order_id,
                quantity,
                name: "Tea".into(),
                unit_price: 150,
                currency: Currency::USD,
            },
            C::Refused {
                order_id,
                quantity,
                refusal: Refusal::OutOfStock,
            },
            C::Released { order_id, quantity },
            C::Confirmed { order_id, quantity },
            C::Restocked { order_id, quantity },
            C::Expiring { order_id, quantity },
            C::Adjusted {
                adjustment_id: adjustment_id.clone(),
                delta: 3,
                reason: reason.clone(),
            },
            C::AdjustmentRefused {
                adjustment_id,
                delta: -3,
                reason,
            },
        ];
        let stock = Stock {
            on_hand: 9,
            reserved: 2,
            sold: 1,
            version: 4,
        };
        for change in changes {
            let event = InventoryEvent { change, stock };
            let json = serde_json::to_string(&event).expect("encodes");
            assert_eq!(
                serde_json::from_str::<InventoryEvent>(&json).expect("decodes"),
                event
            );
            let is_reply = event.replies_to().is_some();
            assert_eq!(
                event.into_reply("tea".parse().expect("legal")).is_some(),
                is_reply
            );
        }
    }
}
