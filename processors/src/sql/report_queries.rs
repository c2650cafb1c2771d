//! Reports as the analytics routes read them.

use millstream_sinks::{Result, Row};

use super::Tables;
use crate::{
    analytics::WINDOW_HOURS,
    model::{
        CancelReason, Day, OrderStatus, OrderStatusType, OrdersInStatus, OrdersPerDay,
        OrdersPerDayType, RevenuePerHour, RevenuePerHourType, TopProduct, V1,
    },
};

/// How far apart windows of best sellers begin, in milliseconds.
const HOP_MS: i64 = 3_600_000;
/// How long such a window is, in milliseconds.
pub(super) const TOP_PRODUCTS_WINDOW_MS: i64 = WINDOW_HOURS * HOP_MS;

/// A window of time, its end excluded, in epoch milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First millisecond.
    pub start: i64,
    /// First millisecond after it.
    pub end: i64,
}

impl Tables {
    /// Orders per day, both days included.
    ///
    /// # Errors
    /// What the database says.
    pub async fn orders_per_day(
        &self,
        from: Option<Day>,
        to: Option<Day>,
    ) -> Result<Vec<OrdersPerDay>> {
        const RANGE: &str = "SELECT `day`, `placed`, `confirmed`, `cancelled` FROM `orders_per_day` \
            WHERE `day` >= ? AND `day` <= ? ORDER BY `day`";
        // Days are text whose order is that of the calendar, from the year 0 to 9999.
        let from = from.map_or_else(|| "0".to_owned(), |day| day.to_string());
        let to = to.map_or_else(|| "9999-12-31".to_owned(), |day| day.to_string());
        let read = |row: &Row| {
            Ok(OrdersPerDay {
                kind: OrdersPerDayType::It,
                v: V1,
                day: row.text_as(0, |text| text.parse().ok())?,
                placed: row.int(1)?,
                confirmed: row.int(2)?,
                cancelled: row.int(3)?,
            })
        };
        self.database
            .rows(RANGE, &[from.into(), to.into()], read)
            .await
    }

    /// Revenue of the hours that begin in `from..to`, in epoch milliseconds, by hour and currency.
    ///
    /// # Errors
    /// What the database says.
    pub async fn revenue_per_hour(
        &self,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<Vec<RevenuePerHour>> {
        const RANGE: &str = "SELECT `hour`, `currency`, `revenue`, `orders` \
            FROM `revenue_per_hour` WHERE `hour` >= ? AND `hour` < ? ORDER BY `hour`, `currency`";
        let range = [
            from.unwrap_or(i64::MIN).into(),
            to.unwrap_or(i64::MAX).into(),
        ];
        let read = |row: &Row| {
            Ok(RevenuePerHour {
                kind: RevenuePerHourType::It,
                v: V1,
                hour: row.int(0)?,
                currency: row.text_as(1, |text| text.parse().ok())?,
                revenue: row.int(2)?,
                orders: row.int(3)?,
            })
        };
        self.database.rows(RANGE, &range, read).await
    }

    /// The best sellers of the last window that ends at or before `at_ms`, of all partitions
    /// together: by quantity, most first, then by sku.
    ///
    /// # Errors
    /// What the database says.
    pub async fn top_products(
        &self,
        at_ms: i64,
        limit: usize,
    ) -> Result<(Window, Vec<TopProduct>)> {
        const TOP: &str = "SELECT `sku`, `name`, `quantity`, `revenue` FROM `top_products` \
            WHERE `window_start` = ? ORDER BY `quantity` DESC, `sku` LIMIT ?";
        let end = at_ms - at_ms.rem_euclid(HOP_MS);
        let window = Window {
            start: end - TOP_PRODUCTS_WINDOW_MS,
            end,
        };
        let read = |row: &Row| {
            Ok(TopProduct {
                sku: row.text_as(0, |text| text.parse().ok())?,
                name: row.text(1)?.into(),
                quantity: row.int(2)?,
                revenue: row.int(3)?,
            })
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let items = self
            .database
            .rows(TOP, &[window.start.into(), limit.into()], read)
            .await?;
        Ok((window, items))
    }

    /// How many orders are in each status, and cancelled for each reason.
    ///
    /// # Errors
    /// What the database says.
    pub async fn order_status(&self) -> Result<Vec<OrdersInStatus>> {
        const ALL: &str =
            "SELECT `status`, `reason`, `orders` FROM `order_status` ORDER BY `status`, `reason`";
        let read = |row: &Row| {
            let reason = row.text(1)?;
            Ok(OrdersInStatus {
                kind: OrderStatusType::It,
                v: V1,
                status: row.text_as(0, OrderStatus::parse)?,
                reason: match reason.as_str() {
                    "" => None,
                    _ => Some(row.text_as(1, CancelReason::parse)?),
                },
                orders: row.int(2)?,
            })
        };
        self.database.rows(ALL, &[], read).await
    }
}
