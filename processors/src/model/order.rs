//! Orders: what is shown of one, the commands that change it, and the events that tell of changes.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};
use uuid::Uuid;

use super::{Currency, CustomerId, OrderId, Sku, V1, rfc3339};

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
        self.unit_price.map(|price| price.saturating_mul(i64::from(self.quantity)))
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

impl Order {
    /// The order as `GET /v1/orders/{id}` answers it: times as RFC 3339, nothing that is absent.
    pub fn http(&self) -> HttpOrder<'_> {
        HttpOrder(self)
    }

    /// As [`http`](Self::http), as a JSON value.
    pub fn to_http_json(&self) -> serde_json::Value {
        serde_json::to_value(self.http()).expect("an order has a JSON form")
    }
}

/// Serialises an order as HTTP shows it.
#[derive(Clone, Copy, Debug)]
pub struct HttpOrder<'a>(&'a Order);

#[derive(Serialize)]
struct HttpLine<'a> {
    sku: &'a str,
    name: Option<&'a str>,
    quantity: u32,
    unit_price: Option<i64>,
    amount: Option<i64>,
}

#[derive(Serialize)]
struct HttpPayment<'a> {
    status: PaymentStatus,
    authorised: i64,
    captured: i64,
    refunded: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_ref: Option<&'a str>,
}

impl Serialize for HttpOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let order = self.0;
        let lines: Vec<_> = order.lines.iter().map(HttpLine::of).collect();
        let mut out = serializer.serialize_struct("Order", 11)?;
        out.serialize_field("order_id", &order.order_id)?;
        out.serialize_field("customer_id", &order.customer_id)?;
        out.serialize_field("status", &order.status)?;
        match &order.reason {
            Some(reason) => out.serialize_field("reason", reason)?,
            None => out.skip_field("reason")?,
        }
        out.serialize_field("currency", &order.currency)?;
        out.serialize_field("total", &order.total)?;
        out.serialize_field("lines", &lines)?;
        out.serialize_field("placed_at", &rfc3339(order.placed_at))?;
        out.serialize_field("updated_at", &rfc3339(order.updated_at))?;
        out.serialize_field("version", &order.version)?;
        match &order.payment {
            Some(payment) => out.serialize_field("payment", &HttpPayment::of(payment))?,
            None => out.skip_field("payment")?,
        }
        out.end()
    }
}

impl<'a> HttpLine<'a> {
    fn of(line: &'a OrderLine) -> Self {
        Self {
            sku: &line.sku,
            name: line.name.as_deref(),
            quantity: line.quantity,
            unit_price: line.unit_price,
            amount: line.amount(),
        }
    }
}

impl<'a> HttpPayment<'a> {
    fn of(payment: &'a Payment) -> Self {
        Self {
            status: payment.status,
            authorised: payment.authorised,
            captured: payment.captured,
            refunded: payment.refunded,
            gateway_ref: payment.gateway_ref.as_deref(),
        }
    }
}

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
            CommandKind::Cancel => Ok(Self::Cancel { restock: wire.restock.unwrap_or(true) }),
        }
    }
}

fn check_lines(lines: &[RequestedLine]) -> Result<(), InvalidValue> {
    if lines.is_empty() || lines.len() > LINES_MAX {
        return Err(InvalidValue::Range("lines"));
    }
    if lines.iter().any(|l| l.quantity == 0 || l.quantity > QUANTITY_MAX) {
        return Err(InvalidValue::Range("quantity"));
    }
    let mut skus: Vec<&Sku> = lines.iter().map(|l| &l.sku).collect();
    skus.sort_unstable();
    if skus.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(InvalidValue::Range("sku"));
    }
    Ok(())
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

/// A value of `shop.order-events`; its key is the order. One for every change, with the whole order.
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

    fn place() -> PlaceOrder {
        PlaceOrder {
            customer_id: "ada".parse().expect("legal"),
            currency: Currency::USD,
            lines: vec![RequestedLine { sku: "tea".parse().expect("legal"), quantity: 2 }],
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
        for command in [OrderCommand::Place(place()), OrderCommand::Cancel { restock: false }] {
            let json = serde_json::to_string(&command).expect("encodes");
            assert_eq!(serde_json::from_str::<OrderCommand>(&json).expect("decodes"), command);
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
        let line = |quantity| RequestedLine { sku: "tea".parse().expect("legal"), quantity };
        refused(&with_lines(vec![]), "field=`lines`");
        refused(&with_lines(vec![line(0)]), "field=`quantity`");
        refused(&with_lines(vec![line(QUANTITY_MAX + 1)]), "field=`quantity`");
        refused(&with_lines(vec![line(1), line(1)]), "field=`sku`");
    }

    #[test]
    fn http_shows_times_as_text_and_leaves_out_what_is_absent() {
        let mut order = Order {
            order_id: OrderId(Uuid::from_u128(1)),
            customer_id: "ada".parse().expect("legal"),
            status: OrderStatus::Pending,
            reason: None,
            currency: Currency::USD,
            total: 0,
            lines: vec![OrderLine {
                sku: "tea".parse().expect("legal"),
                name: None,
                quantity: 2,
                unit_price: None,
            }],
            placed_at: 0,
            updated_at: 1,
            version: 1,
            payment: None,
        };
        let json = order.to_http_json();
        assert_eq!(json["placed_at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["lines"][0]["amount"], serde_json::Value::Null);
        assert!(json.get("reason").is_none() && json.get("payment").is_none());
        order.lines[0].unit_price = Some(150);
        order.status = OrderStatus::Cancelled;
        order.reason = Some(CancelReason::OutOfStock);
        let json = order.to_http_json();
        assert_eq!(json["lines"][0]["amount"], 300);
        assert_eq!(json["reason"], "OUT_OF_STOCK");
    }

    #[test]
    fn names_are_those_of_the_json_form() {
        for status in OrderStatus::ALL {
            assert_eq!(serde_json::to_value(status).expect("encodes"), status.as_str());
            assert_eq!(OrderStatus::parse(status.as_str()), Some(status));
        }
        for reason in CancelReason::ALL {
            assert_eq!(serde_json::to_value(reason).expect("encodes"), reason.as_str());
            assert_eq!(CancelReason::parse(reason.as_str()), Some(reason));
        }
    }
}
