//! The shop's words: identifiers, money, products, orders, stock, payments, reports.
//!
//! Every value of a topic is JSON with a field `type` and a field `v`, the schema version. A value with an
//! unknown type or version does not decode. Times are epoch milliseconds here and RFC 3339 over HTTP.

mod ids;
mod money;
mod wire;
mod keys;

mod inventory;
mod order;
mod payment;
mod product;
mod report;

pub use ids::{CustomerId, ID_BYTES_MAX, InvalidId, OrderId, Sku};
pub use inventory::{
    InventoryChange, InventoryCommand, InventoryEvent, LineAnswer, LineReply, ON_HAND_MAX, Refusal,
    Stock,
};
pub use keys::{
    AdjustmentKey, AdjustmentKeyBytes, HourOfProduct, HourOfProductBytes, OrderIdBytes, ReservationKey,
    ReservationKeyBytes, TimeBytes, TimerKey, TimerKeyBytes,
};
pub use money::{Currency, PRICE_MAX, UnknownCurrency};
pub use order::{
    CancelReason, HttpOrder, InvalidValue, LINES_MAX, Order, OrderCommand, OrderEvent,
    OrderEventKind, OrderLine, OrderStatus, Payment, PaymentStatus, PlaceOrder, QUANTITY_MAX,
    RequestedLine,
};
pub use payment::{PaymentAction, PaymentIntent, PaymentOutcome, PaymentResult};
pub use product::Product;
pub use report::{
    Day, HourOfRevenue, InvalidReportKey, OrderStatusType, OrdersInStatus, OrdersPerDay,
    OrdersPerDayType, RevenuePerHour, RevenuePerHourType, StatusAndReason, TopProduct, TopProducts,
    TopProductsType, WindowShare,
};
pub use wire::{V1, instant, parse_rfc3339, rfc3339};
