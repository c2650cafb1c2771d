//! What customers want of their orders.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Currency, CustomerId, LINES_MAX, QUANTITY_MAX, Sku, V1};

/// One line of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedLine {
    /// The product.
    pub sku: Sku,
    /// How many pieces, 1 to [`QUANTITY_MAX`].
    pub quantity: u32,
}

/// A customer's request for an order, after the door has checked it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceOrder {
    /// Who orders.
    pub customer_id: CustomerId,
    /// The currency in which the customer is going to pay.
    pub currency: Currency,
    /// 1 to [`LINES_MAX`] lines, each sku once.
    pub lines: Vec<RequestedLine>,
    /// Stands for the means of payment at the gateway.
    pub token: Arc<str>,
    /// The total that the customer saw, if it was told.
    pub expected_total: Option<i64>,
    /// When the order was placed, in epoch milliseconds.
    pub placed_at: i64,
    /// Tells whether a retry with the same key carries the same body.
    pub fingerprint: Uuid,
}

/// A value of `shop.orders`; its key is the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CommandWire", into = "CommandWire")]
pub enum OrderCommand {
    /// Begins an order. The first one for an order counts, others change nothing.
    Place(PlaceOrder),
    /// The customer no longer wants it.
    Cancel {
        /// After a refund: whether the goods go back on the shelf.
        restock: bool,
    },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CommandKind {
    Place,
    Cancel,
}

#[derive(Serialize, Deserialize)]
struct CommandWire {
    #[serde(rename = "type")]
    kind: CommandKind,
    v: V1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    customer_id: Option<CustomerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<RequestedLine>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_total: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placed_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restock: Option<bool>,
}

impl From<OrderCommand> for CommandWire {
    fn from(command: OrderCommand) -> Self {
        let empty = |kind| Self {
            kind,
            v: V1,
            customer_id: None,
            currency: None,
            lines: None,
            token: None,
            expected_total: None,
            placed_at: None,
            fingerprint: None,
            restock: None,
        };
        match command {
            OrderCommand::Place(place) => Self {
                customer_id: Some(place.customer_id),
                currency: Some(place.currency),
                lines: Some(place.lines),
                token: Some(place.token),
                expected_total: place.expected_total,
                placed_at: Some(place.placed_at),
                fingerprint: Some(place.fingerprint),
                ..empty(CommandKind::Place)
            },
            OrderCommand::Cancel { restock } => Self {
                restock: Some(restock),
                ..empty(CommandKind::Cancel)
            },
        }
    }
}

/// A value whose fields do not fit its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// A field is missing.
    #[error("a field is missing. field=`{0}`")]
    Missing(&'static str),
    /// A field is out of its range.
    #[error("a field is out of its range. field=`{0}`")]
    Range(&'static str),
}

impl TryFrom<CommandWire> for OrderCommand {
    type Error = InvalidValue;
    fn try_from(wire: CommandWire) -> Result<Self, InvalidValue> {
        use InvalidValue::Missing;
        match wire.kind {
            CommandKind::Place => {
                let lines = wire.lines.ok_or(Missing("lines"))?;
                check_lines(&lines)?;
                Ok(Self::Place(PlaceOrder {
                    customer_id: wire.customer_id.ok_or(Missing("customer_id"))?,
                    currency: wire.currency.ok_or(Missing("currency"))?,
                    lines,
                    token: wire.token.ok_or(Missing("token"))?,
                    expected_total: wire.expected_total,
                    placed_at: wire.placed_at.ok_or(Missing("placed_at"))?,
                    fingerprint: wire.fingerprint.ok_or(Missing("fingerprint"))?,
                }))
            }
            CommandKind::Cancel => Ok(Self::Cancel {
                restock: wire.restock.unwrap_or(true),
            }),
        }
    }
}

fn check_lines(lines: &[RequestedLine]) -> Result<(), InvalidValue> {
    if lines.is_empty() || lines.len() > LINES_MAX {
        return Err(InvalidValue::Range("lines"));
    }
    if lines
        .iter()
        .any(|l| l.quantity == 0 || l.quantity > QUANTITY_MAX)
    {
        return Err(InvalidValue::Range("quantity"));
    }
    let mut skus: Vec<&Sku> = lines.iter().map(|l| &l.sku).collect();
    skus.sort_unstable();
    if skus.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(InvalidValue::Range("sku"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> PlaceOrder {
        PlaceOrder {
            customer_id: "ada".parse().expect("legal"),
            currency: Currency::USD,
            lines: vec![RequestedLine {
                sku: "tea".parse().expect("legal"),
                quantity: 2,
            }],
            token: "tok_approve".into(),
            expected_total: None,
            placed_at: 1_483_271_606_000,
            fingerprint: Uuid::from_u128(7),
        }
    }

    #[track_caller]
    fn refused(json: &str, say: &str) {
        let error = serde_json::from_str::<OrderCommand>(json).expect_err("must be refused");
        assert!(error.to_string().contains(say), "{error}");
    }

    #[test]
    fn commands_survive_the_way_through_json() {
        for command in [
            OrderCommand::Place(place()),
            OrderCommand::Cancel { restock: false },
        ] {
            let json = serde_json::to_string(&command).expect("encodes");
            assert_eq!(
                serde_json::from_str::<OrderCommand>(&json).expect("decodes"),
                command
            );
        }
        let json = serde_json::to_string(&OrderCommand::Cancel { restock: true }).expect("encodes");
        assert_eq!(json, r#"{"type":"cancel","v":1,"restock":true}"#);
    }

    #[test]
    fn unknown_types_versions_and_fields_out_of_range_do_not_decode() {
        refused(r#"{"type":"cancel","v":2}"#, "unknown schema version. v=2");
        refused(r#"{"type":"explode","v":1}"#, "explode");
        refused(r#"{"type":"cancel"}"#, "`v`");
        refused(r#"{"v":1}"#, "`type`");
        refused(r#"{"type":"place","v":1}"#, "lines");
        let with_lines = |lines: Vec<RequestedLine>| {
            let command = OrderCommand::Place(PlaceOrder { lines, ..place() });
            serde_json::to_string(&command).expect("encodes")
        };
        let line = |quantity| RequestedLine {
            sku: "tea".parse().expect("legal"),
            quantity,
        };
        refused(&with_lines(vec![]), "field=`lines`");
        refused(&with_lines(vec![line(0)]), "field=`quantity`");
        refused(
            &with_lines(vec![line(QUANTITY_MAX + 1)]),
            "field=`quantity`",
        );
        refused(&with_lines(vec![line(1), line(1)]), "field=`sku`");
    }
}
