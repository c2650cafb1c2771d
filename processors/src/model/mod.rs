//! The shop's words: identifiers, money, products, orders, stock, payments, reports.
//!
//! Every value of a topic is JSON with a field `type` and a field `v`, the schema version. A value
//! with an unknown type or version does not decode. Times are epoch milliseconds here and RFC 3339
//! over HTTP.

mod ids;
mod money;
mod wire;
mod keys;

mod product;
mod order;
mod order_command;
mod order_http;
mod stock;
mod inventory_command;
mod inventory_event;
mod payment;
mod report;

pub use ids::{CustomerId, ID_BYTES_MAX, InvalidId, OrderId, Sku};
pub use inventory_command::InventoryCommand;
pub use inventory_event::{InventoryChange, InventoryEvent};
pub use keys::{
    AdjustmentKey, AdjustmentKeyBytes, HourOfProduct, HourOfProductBytes, OrderIdBytes,
    ReservationKey, ReservationKeyBytes, TimeBytes, TimerKey, TimerKeyBytes,
};
pub use money::{Currency, PRICE_MAX, UnknownCurrency};
pub use order::{
    CancelReason, LINES_MAX, Order, OrderEvent, OrderEventKind, OrderLine, OrderStatus, Payment,
    PaymentStatus, QUANTITY_MAX,
};
pub use order_command::{InvalidValue, OrderCommand, PlaceOrder, RequestedLine};
pub use order_http::HttpOrder;
pub use payment::{PaymentAction, PaymentIntent, PaymentOutcome, PaymentResult};
pub use product::Product;
pub use report::{
    Day, HourOfRevenue, InvalidReportKey, OrderStatusType, OrdersInStatus, OrdersPerDay,
    OrdersPerDayType, RevenuePerHour, RevenuePerHourType, StatusAndReason, TopProduct, TopProducts,
    TopProductsType, WindowShare,
};
pub use stock::{LineAnswer, LineReply, ON_HAND_MAX, Refusal, Stock};
pub use wire::{V1, instant, parse_rfc3339, rfc3339};
