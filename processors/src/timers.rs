//! `Timers`: things to look at when their time comes, in a store.
//!
//! Times are rounded up to [`GRAIN_MS`], and what is due in one grain lies together in lists, so
//! that a timer costs a few bytes of an entry that is written anyway. Timers are not taken back:
//! whoever armed one looks, when it fires, whether it still matters.

use std::collections::HashMap;

use millstream_operators::{Context, KvHandle};
use millstream_topology::Result;

use crate::model::TimerKey;

/// Timers fire up to this much too late, in milliseconds.
pub(crate) const GRAIN_MS: i64 = 250;
/// The most timers in one entry of the store.
const PART_TIMERS_MAX: usize = 256;
/// The most entries of the store that one call takes out.
const PARTS_TAKEN_MAX: usize = 8;
/// The most grains whose last part is remembered.
const GRAINS_REMEMBERED_MAX: usize = 1024;

/// Timers in the store of a processor.
pub(crate) struct Timers<T: 'static> {
    store: KvHandle<TimerKey, Vec<T>>,
    /// Where the list of a grain ends, as far as this processor knows; only a place to begin to
    /// look.
    last_parts: HashMap<i64, u32>,
}

impl<T: Clone + 'static> Timers<T> {
    pub(crate) fn new(store: KvHandle<TimerKey, Vec<T>>) -> Self {
        Self {
            store,
            last_parts: HashMap::new(),
        }
    }

    /// Has [`take_due`](Self::take_due) return `timer` once `due_ms` has come.
    pub(crate) fn arm<K, V>(
        &mut self,
        cx: &mut Context<'_, '_, K, V>,
        due_ms: i64,
        timer: T,
    ) -> Result<()> {
        let now_ms = cx.wall_clock_ms();
        let due_ms = due_ms.saturating_add(GRAIN_MS - 1).div_euclid(GRAIN_MS) * GRAIN_MS;
        let mut part = self.last_parts.get(&due_ms).copied().unwrap_or(0);
        let mut waiting = Some(timer);
        loop {
            cx.store(self.store)
                .update(&TimerKey { due_ms, part }, |slot| {
                    let (timers, _) = slot.get_or_insert_with(|| (Vec::new(), now_ms));
                    if timers.len() < PART_TIMERS_MAX {
                        timers.extend(waiting.take());
                    }
                    Ok(())
                })?;
            if waiting.is_none() {
                break;
            }
            part += 1;
        }
        if self.last_parts.len() >= GRAINS_REMEMBERED_MAX {
            self.last_parts.clear();
        }
        self.last_parts.insert(due_ms, part);
        Ok(())
    }

    /// Takes timers out that are due, not all of them if there are very many.
    pub(crate) fn take_due<K, V>(
        &mut self,
        cx: &mut Context<'_, '_, K, V>,
        now_ms: i64,
    ) -> Result<Vec<T>> {
        let end = TimerKey {
            due_ms: now_ms.saturating_add(1),
            part: 0,
        };
        let parts = cx
            .store(self.store)
            .range(None, Some(&end), PARTS_TAKEN_MAX)?;
        let mut due = Vec::new();
        for (key, timers, _) in parts {
            cx.store(self.store).delete(&key, now_ms)?;
            self.last_parts.remove(&key.due_ms);
            due.extend(timers);
        }
        Ok(due)
    }
}
