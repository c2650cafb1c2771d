//! Tables and their migrations. Columns stand key first, a version last.

use millstream_sinks::{Migration, OnConflict, Table};

pub(super) static ORDERS: Table = Table::new(
    "orders",
    &[
        "order_id",
        "customer_id",
        "status",
        "reason",
        "currency",
        "total",
        "placed_at",
        "updated_at",
        "version",
    ],
    1,
    OnConflict::Newer,
);

pub(super) static ORDER_LINES: Table = Table::new(
    "order_lines",
    &[
        "order_id",
        "line_no",
        "sku",
        "name",
        "quantity",
        "unit_price",
        "amount",
    ],
    2,
    OnConflict::Replace,
);

pub(super) static PAYMENTS: Table = Table::new(
    "payments",
    &[
        "order_id",
        "status",
        "authorised",
        "captured",
        "refunded",
        "gateway_ref",
        "version",
    ],
    1,
    OnConflict::Newer,
);

/// Every event once, by where it stands in the log.
pub(super) static ORDER_EVENTS: Table = Table::new(
    "order_events",
    &[
        "topic",
        "partition",
        "offset",
        "order_id",
        "kind",
        "version",
        "status",
        "reason",
        "updated_at",
    ],
    3,
    OnConflict::Keep,
);

pub(super) static INVENTORY: Table = Table::new(
    "inventory",
    &["sku", "on_hand", "reserved", "sold", "version"],
    1,
    OnConflict::Newer,
);

/// Its version is the offset of the record: a product that is deleted and made again goes on
/// counting.
pub(super) static PRODUCTS: Table = Table::new(
    "products",
    &[
        "sku",
        "name",
        "category",
        "description",
        "price",
        "currency",
        "version",
    ],
    1,
    OnConflict::Replace,
);

pub(super) static ORDERS_PER_DAY: Table = Table::new(
    "orders_per_day",
    &["day", "placed", "confirmed", "cancelled"],
    1,
    OnConflict::Replace,
);

pub(super) static REVENUE_PER_HOUR: Table = Table::new(
    "revenue_per_hour",
    &["hour", "currency", "revenue", "orders"],
    2,
    OnConflict::Replace,
);

/// The best sellers of each window, as each partition of the report knows its products.
pub(super) static TOP_PRODUCTS: Table = Table::new(
    "top_products",
    &[
        "window_start",
        "partition",
        "sku",
        "window_end",
        "name",
        "quantity",
        "revenue",
    ],
    3,
    OnConflict::Replace,
);

/// No reason is empty text: a key has no nulls.
pub(super) static ORDER_STATUS: Table = Table::new(
    "order_status",
    &["status", "reason", "orders"],
    2,
    OnConflict::Replace,
);

pub(super) static GATEWAY_LEDGER: Table = Table::new(
    "gateway_ledger",
    &[
        "idempotency_key",
        "order_id",
        "action",
        "amount",
        "currency",
        "status",
        "due_at",
        "created_at",
    ],
    1,
    OnConflict::Keep,
);

/// The shop's schema, step by step.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "orders, stock, catalogue, reports, gateway",
    statements: &[
        "CREATE TABLE `orders` (`order_id` {id} NOT NULL PRIMARY KEY, `customer_id` {id} NOT NULL, \
         `status` {id} NOT NULL, `reason` {id}, `currency` {id} NOT NULL, `total` {int} NOT NULL, \
         `placed_at` {int} NOT NULL, `updated_at` {int} NOT NULL, `version` {int} NOT NULL){options}",
        // Newest first, of everybody, of a customer, in a status.
        "CREATE INDEX `orders_by_time` ON `orders` (`placed_at`, `order_id`)",
        "CREATE INDEX `orders_by_customer` ON `orders` (`customer_id`, `placed_at`, `order_id`)",
        "CREATE INDEX `orders_by_status` ON `orders` (`status`, `placed_at`, `order_id`)",
        "CREATE TABLE `order_lines` (`order_id` {id} NOT NULL, `line_no` {int} NOT NULL, \
         `sku` {id} NOT NULL, `name` {text}, `quantity` {int} NOT NULL, `unit_price` {int}, \
         `amount` {int}, PRIMARY KEY (`order_id`, `line_no`)){options}",
        "CREATE TABLE `payments` (`order_id` {id} NOT NULL PRIMARY KEY, `status` {id} NOT NULL, \
         `authorised` {int} NOT NULL, `captured` {int} NOT NULL, `refunded` {int} NOT NULL, \
         `gateway_ref` {id}, `version` {int} NOT NULL){options}",
        "CREATE TABLE `order_events` (`topic` {id} NOT NULL, `partition` {int} NOT NULL, \
         `offset` {int} NOT NULL, `order_id` {id} NOT NULL, `kind` {id} NOT NULL, \
         `version` {int} NOT NULL, `status` {id} NOT NULL, `reason` {id}, \
         `updated_at` {int} NOT NULL, PRIMARY KEY (`topic`, `partition`, `offset`)){options}",
        "CREATE TABLE `inventory` (`sku` {id} NOT NULL PRIMARY KEY, `on_hand` {int} NOT NULL, \
         `reserved` {int} NOT NULL, `sold` {int} NOT NULL, `version` {int} NOT NULL){options}",
        "CREATE TABLE `products` (`sku` {id} NOT NULL PRIMARY KEY, `name` {text} NOT NULL, \
         `category` {text}, `description` {text}, `price` {int} NOT NULL, \
         `currency` {id} NOT NULL, \
         `version` {int} NOT NULL){options}",
        "CREATE TABLE `notifications` (`notification_id` {id} NOT NULL PRIMARY KEY, \
         `order_id` {id} NOT NULL, `customer_id` {id} NOT NULL, `kind` {id} NOT NULL, \
         `created_at` {int} NOT NULL){options}",
        "CREATE TABLE `orders_per_day` (`day` {id} NOT NULL PRIMARY KEY, `placed` {int} NOT NULL, \
         `confirmed` {int} NOT NULL, `cancelled` {int} NOT NULL){options}",
        "CREATE TABLE `revenue_per_hour` (`hour` {int} NOT NULL, `currency` {id} NOT NULL, \
         `revenue` {int} NOT NULL, `orders` {int} NOT NULL, \
         PRIMARY KEY (`hour`, `currency`)){options}",
        "CREATE TABLE `top_products` (`window_start` {int} NOT NULL, `partition` {int} NOT NULL, \
         `sku` {id} NOT NULL, `window_end` {int} NOT NULL, `name` {text} NOT NULL, \
         `quantity` {int} NOT NULL, `revenue` {int} NOT NULL, \
         PRIMARY KEY (`window_start`, `partition`, `sku`)){options}",
        "CREATE TABLE `order_status` (`status` {id} NOT NULL, `reason` {id} NOT NULL, \
         `orders` {int} NOT NULL, PRIMARY KEY (`status`, `reason`)){options}",
        "CREATE TABLE `gateway_ledger` (`idempotency_key` {id} NOT NULL PRIMARY KEY, \
         `order_id` {id} NOT NULL, `action` {id} NOT NULL, `amount` {int} NOT NULL, \
         `currency` {id} NOT NULL, `status` {id} NOT NULL, `due_at` {int} NOT NULL, \
         `created_at` {int} NOT NULL){options}",
        "CREATE INDEX `gateway_ledger_by_order` ON `gateway_ledger` (`order_id`)",
    ],
}];
