//! Damaged state: thrown away, counted, and not for ever.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use millstream_state::ByteStore;
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::warn;

use crate::{application::Shared, commit::Trouble, session::Session, task::Task};

/// So many rebuilds of one task in a row are no accident any more: the disk itself is failing.
const REBUILDS_MAX: u32 = 5;
/// After so much time without damage a task's rebuilds are forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// How long flushes and queries may keep a base open whose task is closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// How often each task's state was thrown away.
#[derive(Default)]
pub(crate) struct Rebuilds(Mutex<BTreeMap<TaskId, Count>>);

#[derive(Clone, Copy, Default)]
struct Count {
    total: u64,
    in_a_row: u32,
    last: Duration,
}

impl Rebuilds {
    /// By task, those that were rebuilt at all.
    pub(crate) fn totals(&self) -> BTreeMap<String, u64> {
        let counts = self.lock();
        let totals = counts
            .iter()
            .map(|(id, count)| (id.to_string(), count.total));
        totals.collect()
    }

    /// Counts one more; `false` when there were too many.
    fn add(&self, id: TaskId, now: Duration) -> bool {
        let mut counts = self.lock();
        let count = counts.entry(id).or_default();
        if now.saturating_sub(count.last) > FORGIVEN_AFTER {
            count.in_a_row = 0;
        }
        count.total += 1;
        count.in_a_row += 1;
        count.last = now;
        count.in_a_row <= REBUILDS_MAX
    }

    // Nothing that runs under the lock panics half-way through a change.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Throws a task's state away, as it was found damaged, or does not fit its changelogs.
    ///
    /// # Errors
    /// When it cannot be deleted. After too many times in a row the application is stopped.
    pub(crate) fn throw_away(&self, id: TaskId, found: &str) -> Result<()> {
        warn!(task = %id, found, "state cannot be used and is rebuilt from its changelogs");
        if self.rebuilds.add(id, self.now()) {
            return self.bases.wipe(id);
        }
        let what = || {
            let what = format!(
                "the state of a task is damaged again and again; replace the disk. task={id}, \
                 rebuilds={REBUILDS_MAX}, found={found}"
            );
            Error::new(ErrorKind::State, what)
        };
        self.fail(what());
        Err(what())
    }
}

impl Shared {
    /// Waits for flushes and queries, which may hold a base a little longer than its task, and
    /// would write into the next folder.
    pub(crate) fn wait_until_closed(&self, base: &Weak<dyn ByteStore>) {
        let deadline = self.now() + CLOSED_WITHIN;
        while base.strong_count() > 0 && self.now() < deadline {
            if !self.flush_pool.help() {
                self.clock.wait(Duration::from_millis(2));
            }
        }
    }
}

impl Session {
    /// After a turn that came to `worked`: rebuilds a task whose state turned out to be damaged,
    /// whoever has met the damage, and opens one again that takes no more writes. The other tasks
    /// keep what they have.
    ///
    /// Invariant: no commit has what was read from a damaged state: see `commit`.
    pub(crate) fn mend(&mut self, worked: Result<(), Trouble>) -> Result<(), Trouble> {
        match &worked {
            Err(Trouble::Producer(_)) => return worked,
            Err(Trouble::Error(error))
                if matches!(error.kind(), ErrorKind::Broker | ErrorKind::Fenced) =>
            {
                return worked;
            }
            Err(Trouble::Error(_)) | Ok(()) => {}
        }
        let mut tasks = self.tasks.iter();
        let damaged = tasks.find_map(|(id, task)| Some((*id, Some(task.state.damage()?))));
        let stuck = || self.tasks.iter().find(|(_, task)| task.state.is_stuck());
        let Some((id, found)) = damaged.or_else(|| Some((*stuck()?.0, None))) else {
            return worked;
        };
        self.reopen(id, found.as_deref())?;
        if self.slots.is_empty() {
            // Between two assignments there is nothing to read again, nor to restore.
            return Ok(());
        }
        let ids = self.tasks.keys().copied().collect();
        self.begin_restore(&ids)?;
        self.rewind()
    }

    /// Opens a task again, without its state if that was found damaged. The caller restores it.
    pub(crate) fn reopen(&mut self, id: TaskId, found: Option<&str>) -> Result<()> {
        self.shared.queries.deregister(id);
        let task = self.tasks.remove(&id);
        let queues = task.iter().flat_map(|task| task.group.queues());
        let committed: Vec<Option<i64>> = queues.map(|q| q.committed_offset()).collect();
        let base = task.as_ref().map(|task| task.state.watch_base());
        drop(task);
        if let Some(base) = base {
            self.shared.wait_until_closed(&base);
        }
        match found {
            Some(found) => self.shared.throw_away(id, found)?,
            None => warn!(task = %id, "state takes no more writes; it is opened again"),
        }
        if self.slots.is_empty() {
            return Ok(());
        }
        let mut task: Task = self.open_task(id)?;
        for (queue, at) in committed.into_iter().enumerate() {
            task.group.set_committed(queue, at);
        }
        self.tasks.insert(id, task);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rebuilds_in_a_row_are_bounded_and_forgiven() {
        let rebuilds = Rebuilds::default();
        let id = TaskId {
            subtopology: 0,
            partition: 3,
        };
        let at = Duration::from_secs;
        for n in 0..u64::from(REBUILDS_MAX) {
            assert!(rebuilds.add(id, at(n)));
        }
        assert!(!rebuilds.add(id, at(10)));
        assert!(rebuilds.add(id, at(10) + FORGIVEN_AFTER * 2));
        let total = u64::from(REBUILDS_MAX) + 2;
        assert_eq!(rebuilds.totals(), BTreeMap::from([(id.to_string(), total)]));
    }
}
