//! An order as HTTP shows it.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{Order, OrderLine, Payment, PaymentStatus, rfc3339};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CancelReason, Currency, OrderId, OrderStatus};

    #[test]
    fn http_shows_times_as_text_and_leaves_out_what_is_absent() {
        let mut order = Order {
            order_id: OrderId(uuid::Uuid::from_u128(1)),
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
}
