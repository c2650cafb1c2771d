//! A session's answers to the group: opening, restoring, keeping and closing tasks.

use std::{collections::BTreeSet, time::Duration};

use millstream_broker::{PartitionIx, ProducerError, Start, TopicPartition};
use millstream_state::Fault;
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{info, warn};

use crate::{
    application::Shared,
    commit::Trouble,
    partition_group::RecordQueue,
    restore::{Begun, Restoration, STUCK_AFTER},
    session::{Session, Slot},
    stage::Stage,
    task::{Surroundings, Task},
};

/// How long an earlier owner's open transaction may keep the group's offsets from being read.
const COMMITTED_WAIT: Duration = Duration::from_secs(60);
/// How long the group may take to say who has this member's place.
const PLACE_WAIT: Duration = Duration::from_secs(5);
/// How often it is asked.
const PLACE_TRIES: u32 = 6;
/// How long one question for them may take.
const COMMITTED_ASK: Duration = Duration::from_secs(5);
/// How long another thread may take to close a task that comes here.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// The pause before it is looked again whether it has.
pub(crate) const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Changelog records that are restored even in a pause, so that what hardly has moved is served on.
/// There is always something to read: markers of transactions take offsets, too.
const RESTORED_IN_PAUSE_MAX: i64 = 1000;

/// What the group gave, while not all of its tasks are open.
pub(crate) struct Assigned {
    /// With the offset that is committed.
    partitions: Vec<(TopicPartition, Option<i64>)>,
    /// When it is given up.
    until: Duration,
}

impl Session {
    /// The group gave this member these partitions: closes what went elsewhere, and begins to open
    /// what is new.
    pub(crate) fn take(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Trouble> {
        self.producing.take_over()?;
        let ids = self.readers.tasks_of(&partitions);
        let gone: Vec<TaskId> = self
            .tasks
            .keys()
            .filter(|id| !ids.contains(id))
            .copied()
            .collect();
        for id in gone {
            self.close_task(id);
        }
        self.shared
            .members
            .announce(self.index, self.tasks.keys().copied().collect());
        ids.iter()
            .for_each(|id| self.shared.before(Stage::Claim, Some(*id)));
        self.shared.standbys.claim(self.index, ids.clone());
        ids.iter()
            .for_each(|id| self.shared.after(Stage::Claim, Some(*id)));
        let committed = self.committed(&partitions)?;
        let starts: Vec<(TopicPartition, Start)> = partitions
            .iter()
            .zip(&committed)
            .map(|(p, at)| (p.clone(), at.map_or(Start::Earliest, Start::Offset)))
            .collect();
        self.consumer().assign(&starts)?;
        self.slots.clear();
        for at in 0..partitions.len() {
            self.consumer().pause(PartitionIx(at as u32))?;
        }
        self.assigned = Some(Assigned {
            partitions: partitions.into_iter().zip(committed).collect(),
            until: self.shared.now() + OPEN_WAIT,
        });
        Ok(())
    }

    /// Opens what the group gave. While another thread of this process has yet to close some of it,
    /// the group must be listened to: its next word may be that it goes elsewhere after all.
    pub(crate) fn open_assigned(&mut self) -> Result<(), Trouble> {
        let Some(assigned) = &self.assigned else {
            return Ok(());
        };
        let until = assigned.until;
        let partitions = assigned.partitions.iter().map(|(partition, _)| partition);
        let ids: BTreeSet<TaskId> = partitions.filter_map(|p| self.readers.task_of(p)).collect();
        for id in &ids {
            if !self.tasks.contains_key(id) {
                self.shared.before(Stage::Open, Some(*id));
                let opened = self.try_open(*id, until);
                self.shared.after(Stage::Open, Some(*id));
                let Some(task) = opened? else {
                    return Ok(());
                };
                self.tasks.insert(*id, task);
            }
        }
        let assigned = self.assigned.take().expect("looked at above");
        for (partition, at) in assigned.partitions {
            let id = self.readers.task_of(&partition);
            let id = id.ok_or_else(|| unknown(&partition))?;
            let task = self.tasks.get_mut(&id).expect("opened above");
            let of_topic = |q: &RecordQueue| q.topic == partition.topic;
            let queue = task.group.queues().iter().position(of_topic);
            let queue = queue.ok_or_else(|| unknown(&partition))?;
            // Another instance may have run a task that was kept, and changed no store.
            if task.is_started() && task.group.queues()[queue].committed_offset() != at {
                task.renew();
            }
            task.group.set_committed(queue, at);
            self.slots.push(Slot {
                task: id,
                queue,
                paused: true,
            });
        }
        let names: Vec<String> = ids.iter().map(TaskId::to_string).collect();
        info!(
            thread = self.index,
            tasks = names.join(" "),
            "tasks are assigned"
        );
        self.joined = true;
        self.begin_restore(&ids)
    }

    /// The group's committed offsets. An open transaction of an earlier owner may hold them: it is
    /// waited for, and told.
    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, Trouble> {
        let began = self.shared.now();
        let mut told = began;
        loop {
            let asked = self.shared.now();
            let error = match self.consumer().committed(partitions, COMMITTED_ASK) {
                Ok(committed) => {
                    self.waits_for = None;
                    return Ok(committed);
                }
                Err(error) => Error::from(error),
            };
            let now = self.shared.now();
            // What fails before its time fails for another reason.
            let timed_out = now - asked >= COMMITTED_ASK;
            if !timed_out || now - began >= COMMITTED_WAIT || self.shared.stopping() {
                return Err(error.into());
            }
            if now - told >= STUCK_AFTER {
                told = now;
                warn!(
                    thread = self.index,
                    error = %error.chain(),
                    "tasks cannot start before the committed offsets are known"
                );
            }
            self.waits_for = Some(error.chain());
            self.publish();
        }
    }

    pub(crate) fn begin_restore(&mut self, ids: &BTreeSet<TaskId>) -> Result<(), Trouble> {
        for at in 0..self.slots.len() {
            if !self.slots[at].paused {
                self.set_paused(at, true)?;
            }
        }
        // A task that is thrown away again and again stops the application.
        loop {
            let Shared {
                broker,
                admin,
                clock,
                config,
                ..
            } = &*self.shared;
            let (reader, id) = (broker.reader()?, &config.application_id);
            self.shared.before(Stage::RestoreBegin, None);
            let begun = Restoration::begin(reader, &**admin, id, &self.tasks, ids, &**clock);
            self.shared.after(Stage::RestoreBegin, None);
            match begun? {
                Begun::Restores(restoration) => {
                    self.restoring = Some(restoration);
                    return Ok(());
                }
                Begun::Unusable(tasks) => {
                    for (task, why) in tasks {
                        self.reopen(task, Some(&why.chain()))?;
                    }
                }
            }
        }
    }

    pub(crate) fn restore(&mut self) -> Result<(), Trouble> {
        let Some(restoring) = &mut self.restoring else {
            return Ok(());
        };
        if self.shared.is_paused() && restoring.all_remaining() > RESTORED_IN_PAUSE_MAX {
            restoring.rest(self.shared.now());
            return Ok(());
        }
        if self.tasks.values().any(Task::is_stalled) {
            return Ok(());
        }
        self.shared.before(Stage::RestoreRead, None);
        let read = restoring.step(&mut self.tasks, &self.shared.restored, self.shared.now());
        self.shared.after(Stage::RestoreRead, None);
        read?;
        for task in self.tasks.values_mut() {
            if let Some(job) = task.due_flush(false) {
                self.shared.flush_pool.submit(job);
            }
        }
        if !restoring.is_done() {
            return Ok(());
        }
        self.restoring = None;
        self.shared.before(Stage::RestoreStart, None);
        let started = self.start_tasks();
        self.shared.after(Stage::RestoreStart, None);
        started?;
        self.shared.before(Stage::RestoreAnnounce, None);
        for (id, task) in &self.tasks {
            self.shared.queries.register(*id, task);
        }
        self.shared
            .members
            .announce(self.index, self.tasks.keys().copied().collect());
        self.shared.after(Stage::RestoreAnnounce, None);
        self.resume_drained()
    }

    /// Starts the processors of tasks that have not started yet.
    pub(crate) fn start_tasks(&mut self) -> Result<(), Trouble> {
        let wall_clock_ms = self.shared.clock.now_ms();
        for task in self.tasks.values_mut().filter(|t| !t.is_started()) {
            let mut around = Surroundings {
                out: &mut self.producing,
                wall_clock_ms,
            };
            task.start(&mut around)?;
            // What a processor wrote when it started belongs to the next commit.
            self.uncommitted = true;
        }
        Ok(())
    }

    pub(crate) fn open_task(&mut self, id: TaskId) -> Result<Task> {
        let until = self.shared.now() + OPEN_WAIT;
        loop {
            if let Some(task) = self.try_open(id, until)? {
                return Ok(task);
            }
            self.shared.clock.wait(OPEN_PAUSE);
        }
    }

    /// Opens a task; `None` when that is to be tried again.
    fn try_open(&mut self, id: TaskId, until: Duration) -> Result<Option<Task>> {
        loop {
            let error = match self.shared.open_task(id) {
                Ok(task) => return Ok(Some(task)),
                Err(error) => error,
            };
            match Fault::of(&error) {
                // Another thread of this process still closes it; it has been told to. Or a flush
                // of its last owner waits.
                Some(Fault::Locked { .. }) if self.shared.now() < until => {
                    if !self.shared.flush_pool.help() {
                        return Ok(None);
                    }
                }
                Some(fault) if fault.means_rebuild() => {
                    self.shared.throw_away(id, &error.chain())?;
                }
                _ => return Err(error),
            }
        }
    }

    /// The group takes all partitions back. What is committed stays open, as most of it comes back.
    pub(crate) fn give_up(&mut self, lost: bool) -> Result<(), Trouble> {
        let stage = match lost {
            true => Stage::Lose,
            false => Stage::Revoke,
        };
        self.shared.before(stage, None);
        let given_up = self.give_up_tasks(lost);
        self.shared.after(stage, None);
        given_up
    }

    fn give_up_tasks(&mut self, lost: bool) -> Result<(), Trouble> {
        self.restoring = None;
        self.assigned = None;
        if lost {
            warn!(
                thread = self.index,
                "partitions were lost; others own them already"
            );
            self.discard();
        } else if let Err(trouble) = self.commit() {
            warn!(
                thread = self.index,
                ?trouble,
                "last commit before a rebalance failed"
            );
            self.discard();
            if !matches!(trouble, Trouble::Producer(ProducerError::Abort(_))) {
                return Err(trouble);
            }
        }
        for task in self.tasks.values_mut() {
            task.group.rewind();
        }
        self.slots.clear();
        self.consumer().unassign()?;
        Ok(())
    }

    /// Whether another process has this member's place. Joining takes the place from whoever has
    /// it, so a group that does not answer is asked again for a while.
    pub(crate) fn is_replaced(&mut self) -> bool {
        for _ in 0..PLACE_TRIES {
            match self.consumer().is_replaced(PLACE_WAIT) {
                Ok(replaced) => return replaced,
                Err(_) if self.shared.stopping() => return false,
                Err(error) => {
                    warn!(thread = self.index, %error, "the group does not say who has this place");
                }
            }
        }
        false
    }

    /// Drops all tasks with what they have not committed.
    pub(crate) fn discard(&mut self) {
        if let Err(error) = self.producing.abort() {
            warn!(thread = self.index, %error, "abort failed");
        }
        self.times.stats.aborts += 1;
        self.uncommitted = false;
        self.records_in_transaction = 0;
        for id in std::mem::take(&mut self.tasks).into_keys() {
            self.shared.queries.deregister(id);
        }
        self.shared.standbys.claim(self.index, BTreeSet::new());
        self.slots.clear();
        self.restoring = None;
        self.assigned = None;
    }

    /// Closes a task that is committed: its state goes to disk, so that its next start replays
    /// nothing.
    pub(crate) fn close_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        self.shared.queries.deregister(id);
        self.shared.before(Stage::Close, Some(id));
        let clock = &*self.shared.clock;
        self.shared
            .flush_pool
            .write_out(task.state.replica(), clock);
        self.shared.after(Stage::Close, Some(id));
    }
}

fn unknown(partition: &TopicPartition) -> Error {
    Error::new(
        ErrorKind::Broker,
        format!("the group gave a partition that nobody reads. partition=`{partition}`"),
    )
}
