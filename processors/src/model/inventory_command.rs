//! What is to be done about stock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, ON_HAND_MAX, OrderId, QUANTITY_MAX, V1};

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
        Self {
            order_id: Some(order_id),
            quantity,
            ..Self::empty(kind)
        }
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
            C::Set {
                adjustment_id,
                on_hand,
                reason,
            } => Self {
                adjustment_id: Some(adjustment_id),
                on_hand: Some(on_hand),
                reason: Some(reason),
                ..Self::empty(CommandKind::Set)
            },
            C::Adjust {
                adjustment_id,
                delta,
                reason,
            } => Self {
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
                on_hand: wire.on_hand.ok_or(Missing("on_hand")).and_then(|n| {
                    if (0..=ON_HAND_MAX).contains(&n) {
                        Ok(n)
                    } else {
                        Err(Range("on_hand"))
                    }
                })?,
                adjustment_id: wire.adjustment_id.ok_or(Missing("adjustment_id"))?,
                reason: wire.reason.unwrap_or_default(),
            },
            CommandKind::Adjust => Self::Adjust {
                delta: wire.delta.ok_or(Missing("delta")).and_then(|n| {
                    if n.unsigned_abs() <= ON_HAND_MAX.unsigned_abs() {
                        Ok(n)
                    } else {
                        Err(Range("delta"))
                    }
                })?,
                adjustment_id: wire.adjustment_id.ok_or(Missing("adjustment_id"))?,
                reason: wire.reason.unwrap_or_default(),
            },
            CommandKind::Reserve => Self::Reserve {
                order_id: wire.order()?,
                quantity: wire.pieces()?,
            },
            CommandKind::Release => Self::Release {
                order_id: wire.order()?,
            },
            CommandKind::Confirm => Self::Confirm {
                order_id: wire.order()?,
            },
            CommandKind::Restock => Self::Restock {
                order_id: wire.order()?,
                quantity: wire.pieces()?,
            },
        })
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
            C::Set {
                adjustment_id: "a".into(),
                on_hand: 5,
                reason: "count".into(),
            },
            C::Adjust {
                adjustment_id: "b".into(),
                delta: -5,
                reason: "".into(),
            },
            C::Reserve {
                order_id: order(),
                quantity: 2,
            },
            C::Release { order_id: order() },
            C::Confirm { order_id: order() },
            C::Restock {
                order_id: order(),
                quantity: 2,
            },
        ];
        for command in commands {
            let json = serde_json::to_string(&command).expect("encodes");
            assert_eq!(
                serde_json::from_str::<C>(&json).expect("decodes"),
                command,
                "{json}"
            );
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
            assert!(
                serde_json::from_str::<InventoryCommand>(&json).is_err(),
                "{json}"
            );
        }
    }
}
