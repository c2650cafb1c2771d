//! The shop in SQL: tables, what the topics mean for them, and the queries of the door and of
//! `verify`.
//!
//! | topic | tables |
//! |---|---|
//! | `shop.order-events` | `orders`, `order_lines`, `payments`, `order_events` |
//! | `shop.inventory-events` | `inventory` |
//! | `shop.products` | `products` |
//! | `shop.analytics.*` | `orders_per_day`, `revenue_per_hour`, `top_products`, `order_status` |
//!
//! The tables are projections: they hold what the topics said up to the offsets in `sink_progress`,
//! and can be filled again from the topics at any time. `gateway_ledger` is different: it is the
//! books of the simulated payment gateway, kept in the same database and derived from nothing.

mod catalogue;
mod ledger;
mod order_queries;
mod orders;
mod report_queries;
mod reports;
mod schema;
mod stock;

#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use millstream_sinks::{Database, Message, Output, Projection, Result};
use millstream_topology::BoxError;
use serde::de::DeserializeOwned;

pub use order_queries::{ORDERS_PER_PAGE_MAX, OrderCursor, OrderPage, OrderQuery};
pub use report_queries::Window;
pub use schema::MIGRATIONS;

/// The component under which the shop's migrations are recorded.
pub const COMPONENT: &str = "shop";

/// The projections of all topics, for one sink.
pub fn projections() -> Vec<Arc<dyn Projection>> {
    vec![
        Arc::new(orders::Orders),
        Arc::new(stock::Inventory),
        Arc::new(catalogue::Catalogue),
        Arc::new(reports::Reports),
    ]
}

/// The shop's tables, for reading. Cloning it is cheap.
#[derive(Clone)]
pub struct Tables {
    database: Database,
}

impl Tables {
    /// Brings the tables up to date and opens them.
    ///
    /// # Errors
    /// What [`Database::migrate`] says.
    pub async fn open(database: Database) -> Result<Self> {
        database.migrate(COMPONENT, MIGRATIONS).await?;
        Ok(Self { database })
    }

    /// The database they are in.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

/// Reads a value; null is an error.
fn decode<T: DeserializeOwned>(message: &Message) -> Result<T, BoxError> {
    let value = message.value.as_deref().ok_or("the value is null")?;
    Ok(serde_json::from_slice(value)?)
}

/// Projects the newest readable record of each key; the ones before mean nothing any more.
///
/// Unreadable records newer than that are set aside. Older ones are never looked at.
fn project_newest(
    batch: &[&Message],
    out: &mut Output,
    mut project: impl FnMut(&Message, &mut Output) -> Result<(), BoxError>,
) {
    let mut done = HashSet::with_capacity(batch.len());
    for message in batch.iter().rev() {
        let place = (&*message.topic, message.partition, message.key.as_deref());
        if done.contains(&place) {
            continue;
        }
        match project(message, out) {
            Ok(()) => {
                done.insert(place);
            }
            Err(error) => out.reject(message, error),
        }
    }
}
