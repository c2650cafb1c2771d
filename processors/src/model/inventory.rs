//! Stock: the commands that move it, the events that tell of moves, and the answers orders get.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Currency, InvalidValue, OrderId, QUANTITY_MAX, Sku, V1};

/// The most pieces of one product that may be on hand; a bound that keeps all sums far from overflow.
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

/// A value of `shop.inventory-commands`; its key is the product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CommandWire", into = "CommandWire")]
pub enum InventoryCommand {
    /// Stock was counted: from now on that many are on hand.
    Set {
        /// Counts once for the product.
        adjustment_id: Arc<str>,
        /// How many there are, 0 to [`ON_HAND_MAX`].
        on_hand: i64,
        /// For people.
        reason: Arc<str>,
    },
    /// Stock came or went.
    Adjust {
        /// Counts once for the product.
        adjustment_id: Arc<str>,
        /// How many more there are; negative when there are less.
        delta: i64,
        /// For people.
        reason: Arc<str>,
    },
    /// Hold pieces for an order.
    Reserve {
        /// For whom.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// The order does not need them; also refuses a reserve that arrives later.
    Release {
        /// For whom they were held.
        order_id: OrderId,
    },
    /// The order is paid for: what is held is sold.
    Confirm {
        /// For whom it is held.
        order_id: OrderId,
    },
    /// Sold pieces came back to the shelf.
    Restock {
        /// To whom they were sold.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CommandKind {
    Set,
    Adjust,
    Reserve,
    Release,
    Confirm,
    Restock,
}

#[derive(Serialize, Deserialize)]
struct CommandWire {
    #[serde(rename = "type")]
    kind: CommandKind,
    v: V1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantity: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adjustment_id: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_hand: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
}

impl CommandWire {
    fn empty(kind: CommandKind) -> Self {
        Self {
            kind,
            v: V1,
            order_id: None,
            quantity: None,
            adjustment_id: None,
            on_hand: None,
            delta: None,
            reason: None,
        }
    }

    fn of_order(kind: CommandKind, order_id: OrderId, quantity: Option<u32>) -> Self {
        Self { order_id: Some(order_id), quantity, ..Self::empty(kind) }
    }

    fn order(&self) -> Result<OrderId, InvalidValue> {
        self.order_id.ok_or(InvalidValue::Missing("order_id"))
    }

    fn pieces(&self) -> Result<u32, InvalidValue> {
        match self.quantity.ok_or(InvalidValue::Missing("quantity"))? {
            quantity @ 1..=QUANTITY_MAX => Ok(quantity),
            _ => Err(InvalidValue::Range("quantity")),
        }
    }
}

impl From<InventoryCommand> for CommandWire {
    fn from(command: InventoryCommand) -> Self {
        use InventoryCommand as C;
        match command {
            C::Set { adjustment_id, on_hand, reason } => Self {
                adjustment_id: Some(adjustment_id),
                on_hand: Some(on_hand),
                reason: Some(reason),
                ..Self::empty(CommandKind::Set)
            },
            C::Adjust { adjustment_id, delta, reason } => Self {
                adjustment_id: Some(adjustment_id),
                delta: Some(delta),
                reason: Some(reason),
                ..Self::empty(CommandKind::Adjust)
            },
            C::Reserve { order_id, quantity } => {
                Self::of_order(CommandKind::Reserve, order_id, Some(quantity))
            }
            C::Release { order_id } => Self::of_order(CommandKind::Release, order_id, None),
            C::Confirm { order_id } => Self::of_order(CommandKind::Confirm, order_id, None),
            C::Restock { order_id, quantity } => {
                Self::of_order(CommandKind::Restock, order_id, Some(quantity))
            }
        }
    }
}

impl TryFrom<CommandWire> for InventoryCommand {
    type Error = InvalidValue;
    fn try_from(wire: CommandWire) -> Result<Self, InvalidValue> {
        use InvalidValue::{Missing, Range};
        Ok(match wire.kind {
            CommandKind::Set => Self::Set {
                on_hand: wire
                    .on_hand
                    .ok_or(Missing("on_hand"))
                    .and_then(|n| if (0..=ON_HAND_MAX).contains(&n) { Ok(n) } else { Err(Range("on_hand")) })?,
                adjustment_id: wire.adjustment_id.ok_or(Missing("adjustment_id"))?,
                reason: wire.reason.unwrap_or_default(),
            },
            CommandKind::Adjust => Self::Adjust {
                delta: wire
                    .delta
                    .ok_or(Missing("delta"))
                    .and_then(|n| if n.unsigned_abs() <= ON_HAND_MAX.unsigned_abs() { Ok(n) } else { Err(Range("delta")) })?,
                adjustment_id: wire.adjustment_id.ok_or(Missing("adjustment_id"))?,
                reason: wire.reason.unwrap_or_default(),
            },
            CommandKind::Reserve => {
                Self::Reserve { order_id: wire.order()?, quantity: wire.pieces()? }
            }
            CommandKind::Release => Self::Release { order_id: wire.order()? },
            CommandKind::Confirm => Self::Confirm { order_id: wire.order()? },
            CommandKind::Restock => {
                Self::Restock { order_id: wire.order()?, quantity: wire.pieces()? }
            }
        })
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
        let Stock { on_hand, reserved, sold, version } = stock;
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
            C::Reserved { order_id, quantity, name, unit_price, currency } => Self {
                name: Some(name),
                unit_price: Some(unit_price),
                currency: Some(currency),
                ..Self::of_order(EventKind::Reserved, stock, order_id, quantity)
            },
            C::Refused { order_id, quantity, refusal } => Self {
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
            C::Adjusted { adjustment_id, delta, reason } => {
                Self::of_adjustment(EventKind::Adjusted, stock, adjustment_id, delta, reason)
            }
            C::AdjustmentRefused { adjustment_id, delta, reason } => {
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
            EventKind::Released => C::Released { order_id: order_id?, quantity: quantity? },
            EventKind::Confirmed => C::Confirmed { order_id: order_id?, quantity: quantity? },
            EventKind::Restocked => C::Restocked { order_id: order_id?, quantity: quantity? },
            EventKind::Expiring => C::Expiring { order_id: order_id?, quantity: quantity? },
            EventKind::Adjusted => {
                C::Adjusted { adjustment_id: adjustment_id?, delta: delta?, reason }
            }
            EventKind::AdjustmentRefused => {
                C::AdjustmentRefused { adjustment_id: adjustment_id?, delta: delta?, reason }
            }
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
            C::Reserved { order_id, name, unit_price, currency, .. } => {
                (order_id, LineAnswer::Reserved { name, unit_price, currency })
            }
            C::Refused { order_id, refusal, .. } => (order_id, LineAnswer::Refused(refusal)),
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
    fn commands_survive_the_way_through_json() {
        use InventoryCommand as C;
        let commands = [
            C::Set { adjustment_id: "a".into(), on_hand: 5, reason: "count".into() },
            C::Adjust { adjustment_id: "b".into(), delta: -5, reason: "".into() },
            C::Reserve { order_id: order(), quantity: 2 },
            C::Release { order_id: order() },
            C::Confirm { order_id: order() },
            C::Restock { order_id: order(), quantity: 2 },
        ];
        for command in commands {
            let json = serde_json::to_string(&command).expect("encodes");
            assert_eq!(serde_json::from_str::<C>(&json).expect("decodes"), command, "{json}");
        }
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
            C::Refused { order_id, quantity, refusal: Refusal::OutOfStock },
            C::Released { order_id, quantity },
            C::Confirmed { order_id, quantity },
            C::Restocked { order_id, quantity },
            C::Expiring { order_id, quantity },
            C::Adjusted { adjustment_id: adjustment_id.clone(), delta: 3, reason: reason.clone() },
            C::AdjustmentRefused { adjustment_id, delta: -3, reason },
        ];
        let stock = Stock { on_hand: 9, reserved: 2, sold: 1, version: 4 };
        for change in changes {
            let event = InventoryEvent { change, stock };
            let json = serde_json::to_string(&event).expect("encodes");
            assert_eq!(serde_json::from_str::<InventoryEvent>(&json).expect("decodes"), event);
            let is_reply = event.replies_to().is_some();
            assert_eq!(event.into_reply("tea".parse().expect("legal")).is_some(), is_reply);
        }
    }

    #[test]
    fn values_out_of_range_and_unknown_versions_do_not_decode() {
        let id = order();
        for json in [
            format!(r#"{{"type":"reserve","v":1,"order_id":"{id}","quantity":0}}"#),
            format!(r#"{{"type":"reserve","v":1,"order_id":"{id}","quantity":-1}}"#),
            format!(r#"{{"type":"reserve","v":1,"order_id":"{id}","quantity":10001}}"#),
            format!(r#"{{"type":"reserve","v":3,"order_id":"{id}","quantity":1}}"#),
            r#"{"type":"reserve","v":1,"quantity":1}"#.into(),
            r#"{"type":"set","v":1,"adjustment_id":"a","on_hand":-1}"#.into(),
            r#"{"type":"adjust","v":1,"adjustment_id":"a","delta":9000000000000}"#.into(),
            r#"{"type":"adjust","v":1,"delta":1}"#.into(),
            r#"{"type":"steal","v":1}"#.into(),
        ] {
            assert!(serde_json::from_str::<InventoryCommand>(&json).is_err(), "{json}");
        }
    }
}
