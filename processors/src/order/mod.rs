//! Orders: from the customer's request to a final state.
//!
//! ```text
//! shop.orders ──────────┐
//! order-replies ────────┼─▶ saga (stores: orders, order-timers) ─┬─▶ shop.order-events
//! shop.payment-results ─┘                                        ├─▶ shop.inventory-commands
//!                                                                └─▶ shop.payment-intents
//! ```

mod state;
mod input;
mod policy;
mod saga;
mod processor;

use millstream_operators::{KStream, StreamsBuilder};

use crate::{
    model::{LineReply, OrderCommand, OrderId},
    timers::Timers,
    topics::{
        INVENTORY_COMMANDS, ORDER_EVENTS, ORDER_STORE, ORDER_TIMERS, ORDERS, PAYMENT_INTENTS,
        PAYMENT_RESULTS,
    },
};
use processor::OrderProcessor;

pub use input::{Effect, OrderInput};
pub use policy::Policy;
pub use saga::{Decision, apply};
pub use state::{GatewayCall, LineState, OrderState};

/// Adds the orders to a topology. `replies` are inventory's answers, by order.
pub fn orders(b: &StreamsBuilder, replies: KStream<OrderId, LineReply>, policy: Policy) {
    let commands = b
        .stream(ORDERS)
        .named("orders")
        .map_values(|_, command| match command {
            OrderCommand::Place(place) => OrderInput::Place(place),
            OrderCommand::Cancel { restock } => OrderInput::Cancel { restock },
        });
    let results = b.stream(PAYMENT_RESULTS).named("payment-results");
    let effects = commands
        .merge(replies.map_values(|_, reply| OrderInput::Reply(reply)))
        .merge(results.map_values(|_, result| OrderInput::Payment(result)))
        .process((ORDER_STORE, ORDER_TIMERS), move |(orders, timers)| {
            OrderProcessor::new(orders, Timers::new(timers), policy)
        })
        .named("order-saga");

    let mut split = effects.split();
    split
        .when(|_, effect| matches!(effect, Effect::Inventory(..)))
        .named("to-inventory")
        .flat_map(|_, effect| match effect {
            Effect::Inventory(sku, command) => Some((sku, command)),
            Effect::Event(_) | Effect::Payment(_) | Effect::WakeAt(_) => None,
        })
        .to(INVENTORY_COMMANDS);
    split
        .when(|_, effect| matches!(effect, Effect::Event(_)))
        .named("to-everybody")
        .flat_map(|order_id, effect| match effect {
            Effect::Event(event) => Some((order_id, *event)),
            Effect::Inventory(..) | Effect::Payment(_) | Effect::WakeAt(_) => None,
        })
        .to(ORDER_EVENTS);
    split
        .when(|_, effect| matches!(effect, Effect::Payment(_)))
        .named("to-gateway")
        .flat_map(|order_id, effect| match effect {
            Effect::Payment(intent) => Some((order_id, intent)),
            Effect::Inventory(..) | Effect::Event(_) | Effect::WakeAt(_) => None,
        })
        .to(PAYMENT_INTENTS);
}
