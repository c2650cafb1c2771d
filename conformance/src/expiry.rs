//! Expired windows in recorded stores.
//!
//! The format says that a store lists no window older than its retention. The recorded stores of
//! scenarios with a record cache list them all the same, because the cache's own view does not hide
//! them; here they are left out there too.

use serde::Deserialize;

use crate::{
    interpreter::StoreField,
    scenario::{Scenario, StoreEntry},
    steps::windows::WindowField,
};

/// What a step says of a store of windows.
#[derive(Deserialize)]
struct Kept {
    window: WindowField,
    store: StoreField,
}

/// The recorded entries of a store that the format says it lists. `shown` are those that the driver
/// has: the latest window may stand among them alone.
pub(crate) fn listed(
    scenario: &Scenario,
    store: &str,
    mut recorded: Vec<StoreEntry>,
    shown: &[StoreEntry],
) -> Vec<StoreEntry> {
    if !scenario.config.caching {
        return recorded;
    }
    let kept = |step: &serde_json::Map<String, serde_json::Value>| {
        let kept: Kept = serde_json::from_value(step.clone().into()).ok()?;
        (kept.store.name == store).then_some(kept)
    };
    let Some(kept) = scenario.topology.iter().find_map(kept) else {
        return recorded;
    };
    let time = |entry: &StoreEntry| {
        let (start, end) = entry.window?;
        Some(match kept.window {
            WindowField::Session { .. } => end,
            WindowField::Tumbling { .. }
            | WindowField::Hopping { .. }
            | WindowField::Sliding { .. }
            | WindowField::Unlimited { .. } => start,
        })
    };
    let latest = recorded.iter().chain(shown).filter_map(time).max();
    let retention_ms = kept.store.retention.unwrap_or(kept.window.retention_ms());
    let expired = |entry: &StoreEntry| {
        let age = latest.zip(time(entry)).map(|(latest, time)| latest - time);
        age.is_some_and(|age| age >= retention_ms)
    };
    recorded.retain(|entry| !expired(entry));
    recorded
}
