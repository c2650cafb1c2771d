//! Reports: the keys and values of the analytics topics.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{CancelReason, Currency, OrderStatus, Sku, V1, parse_rfc3339, rfc3339};

/// Text that is not the key of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the key of a report")]
pub struct InvalidReportKey;

/// A calendar day in the shop's time zone, `2017-01-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Day(pub chrono::NaiveDate);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Day {
    type Err = InvalidReportKey;
    fn from_str(text: &str) -> Result<Self, InvalidReportKey> {
        text.parse().map(Self).map_err(|_| InvalidReportKey)
    }
}

/// An hour of revenue in one currency, `2017-01-31T05:00:00.000Z|USD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HourOfRevenue {
    /// First millisecond of the hour, in epoch milliseconds.
    pub hour: i64,
    /// The currency.
    pub currency: Currency,
}

impl fmt::Display for HourOfRevenue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", rfc3339(self.hour), self.currency)
    }
}

impl FromStr for HourOfRevenue {
    type Err = InvalidReportKey;
    fn from_str(text: &str) -> Result<Self, InvalidReportKey> {
        let (hour, currency) = text.split_once('|').ok_or(InvalidReportKey)?;
        Ok(Self {
            hour: parse_rfc3339(hour).ok_or(InvalidReportKey)?,
            currency: currency.parse().map_err(|_| InvalidReportKey)?,
        })
    }
}

/// A status, and for cancelled orders the reason: `CONFIRMED`, `CANCELLED|OUT_OF_STOCK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatusAndReason {
    /// The status.
    pub status: OrderStatus,
    /// The reason, where there is one.
    pub reason: Option<CancelReason>,
}

impl fmt::Display for StatusAndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status.as_str())?;
        match self.reason {
            Some(reason) => write!(f, "|{}", reason.as_str()),
            None => Ok(()),
        }
    }
}

impl FromStr for StatusAndReason {
    type Err = InvalidReportKey;
    fn from_str(text: &str) -> Result<Self, InvalidReportKey> {
        let (status, reason) = match text.split_once('|') {
            Some((status, reason)) => (
                status,
                Some(CancelReason::parse(reason).ok_or(InvalidReportKey)?),
            ),
            None => (text, None),
        };
        Ok(Self {
            status: OrderStatus::parse(status).ok_or(InvalidReportKey)?,
            reason,
        })
    }
}

/// The share of one partition in the best sellers of a window, `<window_end>|<partition>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WindowShare {
    /// First millisecond after the window, in epoch milliseconds.
    pub window_end: i64,
    /// The partition.
    pub partition: i32,
}

impl fmt::Display for WindowShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.window_end, self.partition)
    }
}

impl FromStr for WindowShare {
    type Err = InvalidReportKey;
    fn from_str(text: &str) -> Result<Self, InvalidReportKey> {
        let (window_end, partition) = text.split_once('|').ok_or(InvalidReportKey)?;
        Ok(Self {
            window_end: window_end.parse().map_err(|_| InvalidReportKey)?,
            partition: partition.parse().map_err(|_| InvalidReportKey)?,
        })
    }
}

macro_rules! type_tag {
    ($name:ident, $text:literal) => {
        /// Field `type` of the value.
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            /// The one type that the topic has.
            #[default]
            #[serde(rename = $text)]
            It,
        }
    };
}

type_tag!(OrdersPerDayType, "orders-per-day");
type_tag!(RevenuePerHourType, "revenue-per-hour");
type_tag!(TopProductsType, "top-products");
type_tag!(OrderStatusType, "order-status");

/// A value of `shop.analytics.orders-per-day`; its key is the [`Day`] on which the orders were
/// placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersPerDay {
    /// Field `type`.
    #[serde(rename = "type")]
    pub kind: OrdersPerDayType,
    /// Schema version.
    pub v: V1,
    /// The key again.
    pub day: Day,
    /// Orders accepted.
    pub placed: i64,
    /// Orders confirmed, those refunded later included.
    pub confirmed: i64,
    /// Orders cancelled.
    pub cancelled: i64,
}

/// A value of `shop.analytics.revenue-per-hour`; its key is the [`HourOfRevenue`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevenuePerHour {
    /// Field `type`.
    #[serde(rename = "type")]
    pub kind: RevenuePerHourType,
    /// Schema version.
    pub v: V1,
    /// First millisecond of the hour in which the orders were placed, in epoch milliseconds.
    pub hour: i64,
    /// The currency.
    pub currency: Currency,
    /// Totals of the orders confirmed less those refunded, in minor units.
    pub revenue: i64,
    /// Orders confirmed, those refunded later included.
    pub orders: i64,
}

/// A value of `shop.analytics.order-status`; its key is the [`StatusAndReason`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersInStatus {
    /// Field `type`.
    #[serde(rename = "type")]
    pub kind: OrderStatusType,
    /// Schema version.
    pub v: V1,
    /// The status.
    pub status: OrderStatus,
    /// The reason, of cancelled orders.
    pub reason: Option<CancelReason>,
    /// Orders that are there now.
    pub orders: i64,
}

/// A value of `shop.analytics.top-products`; its key is the [`WindowShare`].
///
/// Products are spread over the partitions, each in one; the best sellers of the window are the
/// best of all partitions' lists together. A value replaces what was said of its window and
/// partition before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopProducts {
    /// Field `type`.
    #[serde(rename = "type")]
    pub kind: TopProductsType,
    /// Schema version.
    pub v: V1,
    /// First millisecond of the window, in epoch milliseconds.
    pub window_start: i64,
    /// First millisecond after the window, in epoch milliseconds.
    pub window_end: i64,
    /// The partition whose products these are.
    pub partition: i32,
    /// The best sellers: by quantity, most first, then by sku.
    pub items: Vec<TopProduct>,
}

/// One of the [`TopProducts`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopProduct {
    /// The product.
    pub sku: Sku,
    /// Its name.
    pub name: Arc<str>,
    /// Pieces sold.
    pub quantity: i64,
    /// What they brought, in minor units.
    pub revenue: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn key<K: FromStr + fmt::Display + PartialEq + fmt::Debug>(text: &str) {
        let key = text
            .parse::<K>()
            .unwrap_or_else(|_| panic!("`{text}` is a key"));
        assert_eq!(key.to_string(), text);
    }

    #[test]
    fn keys_survive_the_way_through_text() {
        key::<Day>("2017-01-31");
        key::<HourOfRevenue>("2017-01-31T05:00:00.000Z|USD");
        key::<StatusAndReason>("CONFIRMED");
        key::<StatusAndReason>("CANCELLED|OUT_OF_STOCK");
        key::<WindowShare>("1483271606000|3");
        assert!("2017-13-01".parse::<Day>().is_err());
        assert!("CANCELLED|".parse::<StatusAndReason>().is_err());
        assert!("2017-01-31T05:00:00Z".parse::<HourOfRevenue>().is_err());
        assert!("7".parse::<WindowShare>().is_err());
    }

    #[test]
    fn a_value_of_another_type_does_not_decode() {
        let json = r#"{"type":"order-status","v":1,"status":"PENDING","reason":null,"orders":3}"#;
        assert!(serde_json::from_str::<OrdersInStatus>(json).is_ok());
        let other = json.replace("order-status", "orders-per-day");
        assert!(serde_json::from_str::<OrdersInStatus>(&other).is_err());
    }
}
