//! Orders: from the customer's request to a final state.

pub mod saga;
mod state;

pub use saga::Policy;
pub use state::{GatewayCall, LineState, OrderState};
