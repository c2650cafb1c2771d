//! Orders as the door and `verify` read them.

use std::{collections::BTreeMap, sync::Arc};

use millstream_sinks::{Result, Row, Value};

use super::Tables;
use crate::model::{
    CancelReason, CustomerId, Order, OrderId, OrderLine, OrderStatus, Payment, PaymentStatus,
    StatusAndReason,
};

/// Most orders of one page.
pub const ORDERS_PER_PAGE_MAX: usize = 200;
/// How many orders a scan reads at once.
const SCAN_PAGE: i64 = 1000;

/// Which orders to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct OrderQuery {
    /// Of one customer only.
    pub customer: Option<CustomerId>,
    /// In one status only.
    pub status: Option<OrderStatus>,
    /// At most so many, and at most [`ORDERS_PER_PAGE_MAX`].
    pub limit: usize,
    /// Behind this place.
    pub after: Option<OrderCursor>,
}

/// A place in the list of orders: behind this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderCursor {
    /// When it was placed, in epoch milliseconds.
    pub placed_at: i64,
    /// Which it is.
    pub order_id: OrderId,
}

/// A part of the list of orders.
#[derive(Clone, Debug)]
pub struct OrderPage {
    /// The orders, newest first.
    pub orders: Vec<Order>,
    /// Where the next page begins, if there may be one.
    pub next: Option<OrderCursor>,
}

const SELECT: &str = "SELECT o.`order_id`, o.`customer_id`, o.`status`, o.`reason`, o.`currency`, \
    o.`total`, o.`placed_at`, o.`updated_at`, o.`version`, p.`status`, p.`authorised`, \
    p.`captured`, \
    p.`refunded`, p.`gateway_ref` FROM `orders` o LEFT JOIN `payments` p ON p.`order_id` = o.`order_id`";
const LINES: &str = "SELECT `order_id`, `sku`, `name`, `quantity`, `unit_price` FROM `order_lines`";

impl Tables {
    /// One order, with lines and payment. While it is pending the table has no lines of it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        let sql = format!("{SELECT} WHERE o.`order_id` = ?");
        let mut orders = self
            .database
            .rows(sql, &[id.to_string().into()], read)
            .await?;
        self.add_lines(&mut orders).await?;
        Ok(orders.pop())
    }

    /// Orders, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn orders(&self, query: &OrderQuery) -> Result<OrderPage> {
        let mut sql = SELECT.to_owned();
        let mut arguments: Vec<Value> = Vec::new();
        let mut filter = |condition: &str, values: &[Value]| {
            sql.push_str(if arguments.is_empty() {
                " WHERE "
            } else {
                " AND "
            });
            sql.push_str(condition);
            arguments.extend_from_slice(values);
        };
        if let Some(customer) = &query.customer {
            filter("o.`customer_id` = ?", &[(&**customer).into()]);
        }
        if let Some(status) = query.status {
            filter("o.`status` = ?", &[status.as_str().into()]);
        }
        if let Some(OrderCursor {
            placed_at,
            order_id,
        }) = query.after
        {
            // The first condition is what indexes are good at; the second cuts off the beginning.
            filter("o.`placed_at` <= ?", &[placed_at.into()]);
            let behind = [placed_at.into(), order_id.to_string().into()];
            filter("(o.`placed_at` < ? OR o.`order_id` < ?)", &behind);
        }
        let limit = query.limit.clamp(1, ORDERS_PER_PAGE_MAX);
        sql.push_str(" ORDER BY o.`placed_at` DESC, o.`order_id` DESC LIMIT ?");
        arguments.push(Value::Int(limit as i64));
        let mut orders = self.database.rows(sql, &arguments, read).await?;
        self.add_lines(&mut orders).await?;
        let last = orders.last().filter(|_| orders.len() == limit);
        let next = last.map(|o| OrderCursor {
            placed_at: o.placed_at,
            order_id: o.order_id,
        });
        Ok(OrderPage { orders, next })
    }

    /// Every order, by id, page by page: each page is read as it stands at that moment.
    ///
    /// # Errors
    /// What the database says.
    pub async fn for_each_order(&self, mut each: impl FnMut(Order)) -> Result<()> {
        let sql = format!("{SELECT} WHERE o.`order_id` > ? ORDER BY o.`order_id` LIMIT ?");
        let mut after: Arc<str> = "".into();
        loop {
            let page = [after.clone().into(), SCAN_PAGE.into()];
            let mut orders = self.database.rows(sql.clone(), &page, read).await?;
            let (Some(first), Some(last)) = (orders.first(), orders.last()) else {
                return Ok(());
            };
            after = last.order_id.to_string().into();
            let range = [first.order_id.to_string().into(), after.clone().into()];
            let between = "`order_id` BETWEEN ? AND ?";
            self.add_lines_where(&mut orders, between, &range).await?;
            orders.into_iter().for_each(&mut each);
        }
    }

    /// How many orders are in each status, counted now; the report `order_status` is usually
    /// cheaper.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_orders(&self) -> Result<BTreeMap<StatusAndReason, i64>> {
        const COUNT: &str =
            "SELECT `status`, `reason`, COUNT(*) FROM `orders` GROUP BY `status`, `reason`";
        let read = |row: &Row| {
            let status = row.text_as(0, OrderStatus::parse)?;
            let reason = row.optional_text_as(1, CancelReason::parse)?;
            Ok((StatusAndReason { status, reason }, row.int(2)?))
        };
        Ok(self
            .database
            .rows(COUNT, &[], read)
            .await?
            .into_iter()
            .collect())
    }

    async fn add_lines(&self, orders: &mut [Order]) -> Result<()> {
        if orders.is_empty() {
            return Ok(());
        }
        let marks = vec!["?"; orders.len()].join(",");
        let ids: Vec<Value> = orders
            .iter()
            .map(|o| o.order_id.to_string().into())
            .collect();
        self.add_lines_where(orders, &format!("`order_id` IN ({marks})"), &ids)
            .await
    }

    async fn add_lines_where(
        &self,
        orders: &mut [Order],
        condition: &str,
        arguments: &[Value],
    ) -> Result<()> {
        let sql = format!("{LINES} WHERE {condition} ORDER BY `order_id`, `line_no`");
        let mut lines: BTreeMap<OrderId, Vec<OrderLine>> = BTreeMap::new();
        self.database
            .for_each(sql, arguments, |row| {
                let (id, line) = read_line(row)?;
                lines.entry(id).or_default().push(line);
                Ok(())
            })
            .await?;
        for order in orders {
            order.lines = lines.remove(&order.order_id).unwrap_or_default();
        }
        Ok(())
    }
}

fn read(row: &Row) -> Result<Order> {
    Ok(Order {
        order_id: row.text_as(0, |text| text.parse().ok())?,
        customer_id: row.text_as(1, |text| text.parse().ok())?,
        status: row.text_as(2, OrderStatus::parse)?,
        reason: row.optional_text_as(3, CancelReason::parse)?,
        currency: row.text_as(4, |text| text.parse().ok())?,
        total: row.int(5)?,
        lines: Vec::new(),
        placed_at: row.int(6)?,
        updated_at: row.int(7)?,
        version: row.int_as(8)?,
        payment: match row.optional_text_as(9, payment_status)? {
            Some(status) => Some(Payment {
                status,
                authorised: row.int(10)?,
                captured: row.int(11)?,
                refunded: row.int(12)?,
                gateway_ref: row.optional_text(13)?.map(Into::into),
            }),
            None => None,
        },
    })
}

fn read_line(row: &Row) -> Result<(OrderId, OrderLine)> {
    let line = OrderLine {
        sku: row.text_as(1, |text| text.parse().ok())?,
        name: row.optional_text(2)?.map(Into::into),
        quantity: row.int_as(3)?,
        unit_price: row.optional_int(4)?,
    };
    Ok((row.text_as(0, |text| text.parse().ok())?, line))
}

fn payment_status(name: &str) -> Option<PaymentStatus> {
    use PaymentStatus as P;
    [
        P::Requested,
        P::Unknown,
        P::Authorised,
        P::Declined,
        P::Captured,
        P::Voided,
        P::Refunded,
    ]
    .into_iter()
    .find(|status| status.as_str() == name)
}
