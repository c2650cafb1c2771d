//! The whole shop as one topology.

use chrono_tz::Tz;
use millstream_operators::{StreamsBuilder, Topology};
use millstream_topology::Result;

use crate::{analytics, inventory, order};

/// What can be set about the shop's topology.
#[derive(Clone, Copy, Debug)]
pub struct ShopPolicy {
    /// How long orders wait.
    pub order: order::Policy,
    /// How long inventory waits.
    pub inventory: inventory::Policy,
    /// Whose days the reports count by.
    pub zone: Tz,
}

impl Default for ShopPolicy {
    fn default() -> Self {
        Self {
            order: order::Policy::default(),
            inventory: inventory::Policy::default(),
            zone: Tz::UTC,
        }
    }
}

/// The topology of the shop.
///
/// ```
/// use millstream_processors::topology::{ShopPolicy, shop};
///
/// let topology = shop(&ShopPolicy::default())?;
/// println!("{}", topology.describe());
/// # Ok::<(), millstream_topology::Error>(())
/// ```
///
/// # Errors
/// None that the tests would not have found.
pub fn shop(policy: &ShopPolicy) -> Result<Topology> {
    let b = StreamsBuilder::new();
    let replies = inventory::inventory(&b, policy.inventory);
    order::orders(&b, replies, policy.order);
    analytics::analytics(&b, policy.zone);
    b.build()
}
