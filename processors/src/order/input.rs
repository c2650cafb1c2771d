//! What an order hears, and what it wants done.

use crate::model::{
    InventoryCommand, LineReply, OrderEvent, PaymentIntent, PaymentResult, PlaceOrder, Sku,
};

/// What an order hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderInput {
    /// The customer orders.
    Place(PlaceOrder),
    /// The customer no longer wants it.
    Cancel {
        /// After a refund: whether the goods go back on the shelf.
        restock: bool,
    },
    /// Inventory answers.
    Reply(LineReply),
    /// The gateway answers.
    Payment(PaymentResult),
    /// A time that the order asked for has come.
    Due,
}

/// What an order wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell everybody what happened.
    Event(Box<OrderEvent>),
    /// Tell inventory about a line.
    Inventory(Sku, InventoryCommand),
    /// Have the gateway called.
    Payment(PaymentIntent),
    /// Send [`OrderInput::Due`] at that time, in epoch milliseconds. Others may still come earlier.
    WakeAt(i64),
}
