//! Inventory: holds pieces for orders and counts them.
//!
//! ```text
//! shop.inventory-commands ─┐                                      ┌─▶ shop.inventory-events
//! shop.products ───────────┴─▶ stock (inventory, reservations …) ─┴─▶ order-replies
//! ```

pub mod stock;
mod processor;

use std::time::Duration;

use millstream_operators::{KStream, StreamsBuilder};

use crate::{
    model::{LineReply, OrderId},
    timers::Timers,
    topics::{
        ADJUSTMENT_STORE, INVENTORY_COMMANDS, INVENTORY_EVENTS, LISTING_STORE, ORDER_REPLIES,
        PRODUCTS, RESERVATION_STORE, RESERVATION_TIMERS, STOCK_STORE,
    },
};
use processor::{InventoryInput, InventoryProcessor, Stores};

pub use stock::{Adjustment, Listing, Reservation, ReservationState};

/// How long inventory remembers and waits.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// After this time an order is asked about pieces that are still held for it, and a reservation
    /// that is settled is forgotten. Much longer than orders take to become final.
    pub held_for: Duration,
    /// How long until an order is asked again.
    pub ask_again: Duration,
    /// How long a product that an order asks for may take to arrive from the catalogue, before the
    /// order is told that there is none.
    pub listing_wait: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            held_for: Duration::from_secs(15 * 60),
            ask_again: Duration::from_secs(60),
            listing_wait: Duration::from_secs(1),
        }
    }
}

impl Policy {
    fn held_for_ms(&self) -> i64 {
        i64::try_from(self.held_for.as_millis()).unwrap_or(i64::MAX)
    }

    fn ask_again_ms(&self) -> i64 {
        i64::try_from(self.ask_again.as_millis()).unwrap_or(i64::MAX)
    }

    fn listing_wait_ms(&self) -> i64 {
        i64::try_from(self.listing_wait.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Adds the inventory to a topology. Returns its answers, by order.
pub fn inventory(b: &StreamsBuilder, policy: Policy) -> KStream<OrderId, LineReply> {
    let commands = b.stream(INVENTORY_COMMANDS).named("inventory-commands");
    let products = b.stream(PRODUCTS).named("products");
    let stores = (
        STOCK_STORE,
        RESERVATION_STORE,
        ADJUSTMENT_STORE,
        LISTING_STORE,
        RESERVATION_TIMERS,
    );
    let events = commands
        .map_values(|_, command| InventoryInput::Command(command))
        .merge(products.map_values(|_, p| InventoryInput::Listing(p.map(Listing::from))))
        .process(
            stores,
            move |(stock, reservations, adjustments, listings, timers)| {
                let stores = Stores {
                    stock,
                    reservations,
                    adjustments,
                    listings,
                };
                InventoryProcessor::new(stores, Timers::new(timers), policy)
            },
        )
        .named("stock");

    events.clone().to(INVENTORY_EVENTS);
    events
        .filter(|_, event| event.replies_to().is_some())
        .named("answers")
        .flat_map(|sku, event| event.into_reply(sku))
        .repartition(ORDER_REPLIES)
        .named("order-replies")
}
