//! Inventory: holds pieces for orders and counts them.

pub mod stock;

pub use stock::{Adjustment, Listing, Reservation, ReservationState};
