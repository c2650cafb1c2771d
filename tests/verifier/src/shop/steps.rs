//! The steps of stock: what an event says must follow from the one before.

use millstream_processors::model::{InventoryChange, Stock};

/// True when a change makes `after` of `before`. Answers that are given again change nothing, and
/// keep the version.
pub(super) fn follows(before: Stock, change: &InventoryChange, after: Stock) -> bool {
    if after.version == before.version {
        return after == before;
    }
    if after.version != before.version + 1 {
        return false;
    }
    let made = |on_hand: i64, reserved: i64, sold: i64| {
        after.on_hand - before.on_hand == on_hand
            && after.reserved - before.reserved == reserved
            && after.sold - before.sold == sold
    };
    match change {
        InventoryChange::Reserved { quantity, .. } => made(0, i64::from(*quantity), 0),
        InventoryChange::Released { quantity, .. } => made(0, -i64::from(*quantity), 0),
        InventoryChange::Confirmed { quantity, .. } => {
            let pieces = i64::from(*quantity);
            made(-pieces, -pieces, pieces)
        }
        // Pieces that were held still, when the customer took the order back, were never sold.
        InventoryChange::Restocked { quantity, .. } => {
            let pieces = i64::from(*quantity);
            made(pieces, 0, -pieces) || made(0, -pieces, 0)
        }
        InventoryChange::Adjusted { delta, .. } => made(*delta, 0, 0),
        InventoryChange::Refused { .. }
        | InventoryChange::Expiring { .. }
        | InventoryChange::AdjustmentRefused { .. } => made(0, 0, 0),
    }
}
