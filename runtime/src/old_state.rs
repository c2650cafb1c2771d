//! Old state: a disk that was away for longer than the log keeps tombstones.
//!
//! A compacted changelog forgets a deletion some time after it: first the values of the key go,
//! then the null value that deleted it. A store that comes back later replays what is left, does
//! not learn of the deletion, and would have the key for ever. So a store keeps with its position
//! when it was last level with its changelog, and where that is too long ago it is read anew from
//! the beginning.

use std::{collections::BTreeMap, time::Duration};

use millstream_broker::{Admin, TopicPartition};
use millstream_topology::{Error, ErrorKind, Result, TaskId};

use crate::clock::WallClock;

/// Of the time that tombstones stay this part is not counted on: the clocks of brokers and
/// instances differ, and reading takes time, too.
const MARGIN: i64 = 4;

/// How a store stands when it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    /// What it reflects of its changelog.
    pub(crate) position: Option<i64>,
    /// When it was last known to reflect all of it.
    pub(crate) level_ms: Option<i64>,
}

/// Judges stores by their age.
pub(crate) struct Ages<'a> {
    admin: &'a dyn Admin,
    now_ms: i64,
    /// How long topics keep tombstones, of those that were asked for.
    retentions: BTreeMap<String, Option<Duration>>,
}

impl<'a> Ages<'a> {
    pub(crate) fn new(admin: &'a dyn Admin, clock: &dyn WallClock) -> Self {
        Self {
            admin,
            now_ms: clock.now_ms(),
            retentions: BTreeMap::new(),
        }
    }

    /// The time by which stores are judged. It was taken before anything was asked of the log, so
    /// who has then read up to the ends was level at this time.
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// How many offsets may lie before the end of a changelog although nothing was written: the
    /// mark of the last transaction. Whatever else a transaction writes takes two of them.
    pub(crate) fn marks(&self) -> i64 {
        i64::from(self.admin.ends_take_offsets())
    }

    /// Whether a store may be brought forward over `unread` offsets of a topic.
    ///
    /// # Errors
    /// [`TooOld`] behind [`ErrorKind::State`] when it may not; [`ErrorKind::Broker`] when the log
    /// does not tell.
    pub(crate) fn check(
        &mut self,
        partition: &TopicPartition,
        task: TaskId,
        store: &str,
        stored: Stored,
        unread: i64,
    ) -> Result<()> {
        if stored.position.is_none() || unread <= 0 {
            return Ok(());
        }
        let topic = &*partition.topic;
        let kept = match self.retentions.get(topic) {
            Some(kept) => *kept,
            None => {
                let kept = self.admin.tombstone_retention(topic)?;
                self.retentions.insert(topic.to_owned(), kept);
                kept
            }
        };
        match kept {
            Some(kept) if is_too_old(stored.level_ms, self.now_ms, kept) => {
                let old = TooOld {
                    task,
                    store: store.to_owned(),
                    level_ms: stored.level_ms,
                    now_ms: self.now_ms,
                    kept_ms: millis(kept),
                };
                Err(Error::caused(ErrorKind::State, "state is too old", old))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether tombstones that were written after `level_ms` may be gone. A time that lies in the
/// future by more than the margin tells that a clock was set, and so tells nothing.
fn is_too_old(level_ms: Option<i64>, now_ms: i64, kept: Duration) -> bool {
    let Some(level_ms) = level_ms else {
        return true;
    };
    let kept_ms = millis(kept);
    let margin_ms = kept_ms / MARGIN;
    let away_ms = now_ms.saturating_sub(level_ms);
    !(-margin_ms..=kept_ms - margin_ms).contains(&away_ms)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A store that was away for too long.
#[derive(Debug, thiserror::Error)]
#[error(
    "a store was away for longer than its changelog surely keeps tombstones, so deletions may have \
     been missed. task={task}, store=`{store}`, level_ms={level_ms:?}, now_ms={now_ms}, \
     tombstones_kept_ms={kept_ms}"
)]
pub(crate) struct TooOld {
    pub(crate) task: TaskId,
    store: String,
    level_ms: Option<i64>,
    now_ms: i64,
    kept_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_too_old_when_tombstones_may_be_gone_or_a_clock_was_set() {
        let kept = Duration::from_millis(1000);
        for (level_ms, old) in [
            (None, true),
            (Some(10_000), false),
            (Some(9_250), false),
            (Some(9_249), true),
            (Some(0), true),
            (Some(10_250), false),
            (Some(10_251), true),
            (Some(i64::MIN), true),
            (Some(i64::MAX), true),
        ] {
            assert_eq!(is_too_old(level_ms, 10_000, kept), old, "{level_ms:?}");
        }
        let for_ever = Duration::MAX;
        assert!(!is_too_old(Some(0), 10_000, for_ever));
        assert!(is_too_old(Some(9_999), 10_000, Duration::ZERO));
    }
}
