//! Every topic and every store of the shop, in one place.
//!
//! Orders are keyed by their id as text in all topics, and products by their sku, so that equal
//! keys land on equal partitions. Stores use shorter keys: nobody has to find their partition by
//! them.

use std::time::Duration;

use bytes::Bytes;
use millstream_broker::{Cleanup, NewTopic};
use millstream_topology::{KvStore, Topic, bincode, bytes, days, json, nullable, text};

use crate::{
    analytics::{DayCounts, DayStep, HourRevenue, ProductSales, RevenueStep, Sold},
    inventory::{Adjustment, Listing, Reservation},
    model::{
        AdjustmentKey, AdjustmentKeyBytes, Day, HourOfProduct, HourOfProductBytes, HourOfRevenue,
        InventoryCommand, InventoryEvent, LineReply, OrderCommand, OrderEvent, OrderId,
        OrderIdBytes, OrdersInStatus, OrdersPerDay, PaymentIntent, PaymentResult, Product,
        ReservationKey, ReservationKeyBytes, RevenuePerHour, Sku, StatusAndReason, Stock,
        TimeBytes, TimerKey, TimerKeyBytes, TopProducts, WindowShare,
    },
    order::OrderState,
};

/// What customers want of their orders.
pub const ORDERS: Topic<OrderId, OrderCommand> = Topic::new("shop.orders", text(), json());
/// Every change of every order.
pub const ORDER_EVENTS: Topic<OrderId, OrderEvent> =
    Topic::new("shop.order-events", text(), json());
/// The catalogue; null deletes a product.
pub const PRODUCTS: Topic<Sku, Option<Product>> =
    Topic::new("shop.products", text(), nullable(json()));
/// What is to be done about stock.
pub const INVENTORY_COMMANDS: Topic<Sku, InventoryCommand> =
    Topic::new("shop.inventory-commands", text(), json());
/// Every change of every product's stock.
pub const INVENTORY_EVENTS: Topic<Sku, InventoryEvent> =
    Topic::new("shop.inventory-events", text(), json());
/// Calls of the gateway that are to be made.
pub const PAYMENT_INTENTS: Topic<OrderId, PaymentIntent> =
    Topic::new("shop.payment-intents", text(), json());
/// How calls of the gateway ended.
pub const PAYMENT_RESULTS: Topic<OrderId, PaymentResult> =
    Topic::new("shop.payment-results", text(), json());
/// Orders by the day on which they were placed.
pub const ANALYTICS_ORDERS_PER_DAY: Topic<Day, OrdersPerDay> =
    Topic::new("shop.analytics.orders-per-day", text(), json());
/// Revenue by the hour in which orders were placed.
pub const ANALYTICS_REVENUE_PER_HOUR: Topic<HourOfRevenue, RevenuePerHour> =
    Topic::new("shop.analytics.revenue-per-hour", text(), json());
/// Best sellers of 24 hours.
pub const ANALYTICS_TOP_PRODUCTS: Topic<WindowShare, TopProducts> =
    Topic::new("shop.analytics.top-products", text(), json());
/// Orders by status and reason.
pub const ANALYTICS_ORDER_STATUS: Topic<StatusAndReason, OrdersInStatus> =
    Topic::new("shop.analytics.order-status", text(), json());
/// Records that could not be read or processed, as they were, with the reason in their headers.
pub const DEAD_LETTERS: Topic<Option<Bytes>, Option<Bytes>> =
    Topic::new("shop.dead-letters", nullable(bytes()), nullable(bytes()));

/// Inventory's answers on their way to the orders that asked.
pub const ORDER_REPLIES: Topic<OrderId, LineReply> = Topic::new("order-replies", text(), bincode());
/// Steps of orders on their way to their days.
pub const DAY_STEPS: Topic<Day, DayStep> = Topic::new("day-steps", text(), bincode());
/// Totals of orders on their way to their hours.
pub const REVENUE_STEPS: Topic<HourOfRevenue, RevenueStep> =
    Topic::new("revenue-steps", text(), bincode());
/// Orders that enter (+1) or leave (-1) a status.
pub const STATUS_STEPS: Topic<StatusAndReason, i64> = Topic::new("status-steps", text(), bincode());
/// Lines of confirmed and refunded orders on their way to their products.
pub const SOLD_BY_SKU: Topic<Sku, Sold> = Topic::new("sold-by-sku", text(), bincode());

/// Every order.
pub const ORDER_STORE: KvStore<OrderId, OrderState> =
    KvStore::new("orders", OrderIdBytes, bincode());
/// When which orders must be looked at.
pub const ORDER_TIMERS: KvStore<TimerKey, Vec<OrderId>> =
    KvStore::new("order-timers", TimerKeyBytes, bincode());
/// The stock of every product.
pub const STOCK_STORE: KvStore<Sku, Stock> = KvStore::new("inventory", text(), bincode());
/// What products and orders have to do with each other.
pub const RESERVATION_STORE: KvStore<ReservationKey, Reservation> =
    KvStore::new("reservations", ReservationKeyBytes, bincode());
/// When which reservations must be looked at.
pub const RESERVATION_TIMERS: KvStore<TimerKey, Vec<(Sku, OrderId)>> =
    KvStore::new("reservation-timers", TimerKeyBytes, bincode());
/// How adjustments of stock ended.
pub const ADJUSTMENT_STORE: KvStore<AdjustmentKey, Adjustment> =
    KvStore::new("adjustments", AdjustmentKeyBytes, bincode());
/// Names and prices, as inventory tells them to orders.
pub const LISTING_STORE: KvStore<Sku, Listing> = KvStore::new("listings", text(), bincode());
/// Orders by day.
pub const DAY_STORE: KvStore<Day, DayCounts> = KvStore::new("orders-per-day", text(), bincode());
/// Revenue by hour and currency.
pub const REVENUE_STORE: KvStore<HourOfRevenue, HourRevenue> =
    KvStore::new("revenue-per-hour", text(), bincode());
/// Orders by status and reason.
pub const STATUS_STORE: KvStore<StatusAndReason, i64> =
    KvStore::new("order-status", text(), bincode());
/// What each product sold in each hour.
pub const PRODUCT_HOURS: KvStore<HourOfProduct, ProductSales> =
    KvStore::new("product-hours", HourOfProductBytes, bincode());
/// Hours whose sales have changed.
pub const CHANGED_HOURS: KvStore<i64, ()> = KvStore::new("changed-hours", TimeBytes, bincode());
/// Ends of the windows whose best sellers are to be published.
pub const CHANGED_WINDOWS: KvStore<i64, ()> = KvStore::new("changed-windows", TimeBytes, bincode());

/// How long commands, intents and results are kept.
const COMMANDS_KEPT: Duration = days(7);
/// How long events and dead letters are kept: the longest outage of a sink.
const EVENTS_KEPT: Duration = days(30);

/// A topic of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: &'static str,
    /// What happens to its old records.
    pub cleanup: Cleanup,
}

/// The shop's own topics. Those of the engine (changelogs, `-repartition`) are made by the engine.
pub const ALL: [TopicSpec; 12] = [
    kept(ORDERS.name(), COMMANDS_KEPT),
    kept(ORDER_EVENTS.name(), EVENTS_KEPT),
    compacted(PRODUCTS.name()),
    kept(INVENTORY_COMMANDS.name(), COMMANDS_KEPT),
    kept(INVENTORY_EVENTS.name(), EVENTS_KEPT),
    kept(PAYMENT_INTENTS.name(), COMMANDS_KEPT),
    kept(PAYMENT_RESULTS.name(), COMMANDS_KEPT),
    compacted(ANALYTICS_ORDERS_PER_DAY.name()),
    compacted(ANALYTICS_REVENUE_PER_HOUR.name()),
    compacted(ANALYTICS_TOP_PRODUCTS.name()),
    compacted(ANALYTICS_ORDER_STATUS.name()),
    kept(DEAD_LETTERS.name(), EVENTS_KEPT),
];

const fn kept(name: &'static str, time: Duration) -> TopicSpec {
    let retention_ms = Some(time.as_millis() as i64);
    TopicSpec {
        name,
        cleanup: Cleanup::Delete { retention_ms },
    }
}

const fn compacted(name: &'static str) -> TopicSpec {
    TopicSpec {
        name,
        cleanup: Cleanup::Compact,
    }
}

/// The shop's own topics, with that many partitions each.
pub fn new_topics(partitions: u32) -> Vec<NewTopic> {
    ALL.iter()
        .map(|spec| NewTopic {
            name: spec.name.into(),
            partitions,
            cleanup: spec.cleanup,
        })
        .collect()
}
