//! A session's answers to the group: opening, restoring, keeping and closing tasks.

use std::{collections::BTreeSet, time::Duration};

use millstream_broker::{ProducerError, Start, TopicPartition};
use millstream_state::Fault;
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{info, warn};

use crate::{
    commit::Trouble,
    partition_group::RecordQueue,
    restore::{Ahead, Restoration},
    session::{Session, Slot},
    stage::Stage,
    task::{Surroundings, Task},
};

/// How long an earlier owner's open transaction may keep the group's offsets from being read.
const COMMITTED_WAIT: Duration = Duration::from_secs(60);
/// How long another thread may take to close a task that comes here.
const OPEN_WAIT: Duration = Duration::from_secs(30);

impl Session {
    /// The group gave this member these partitions: opens what is new, closes what went elsewhere.
    pub(crate) fn take(&mut self, partitions: &[TopicPartition]) -> Result<(), Trouble> {
        let ids = self.readers.tasks_of(partitions);
        let gone: Vec<TaskId> = self
            .tasks
            .keys()
            .filter(|id| !ids.contains(id))
            .copied()
            .collect();
        for id in gone {
            self.close_task(id);
        }
        ids.iter()
            .for_each(|id| self.shared.before(Stage::Claim, Some(*id)));
        self.shared.standbys.claim(self.index, ids.clone());
        ids.iter()
            .for_each(|id| self.shared.after(Stage::Claim, Some(*id)));
        for id in &ids {
            if !self.tasks.contains_key(id) {
                self.shared.before(Stage::Open, Some(*id));
                let opened = self.open_task(*id);
                self.shared.after(Stage::Open, Some(*id));
                self.tasks.insert(*id, opened?);
            }
        }
        let committed = self.consumer().committed(partitions, COMMITTED_WAIT)?;
        let starts: Vec<(TopicPartition, Start)> = partitions
            .iter()
            .zip(&committed)
            .map(|(p, at)| (p.clone(), at.map_or(Start::Earliest, Start::Offset)))
            .collect();
        self.consumer().assign(&starts)?;
        self.slots.clear();
        for (partition, at) in partitions.iter().zip(committed) {
            let id = self
                .readers
                .task_of(partition)
                .ok_or_else(|| unknown(partition))?;
            let task = self.tasks.get_mut(&id).expect("opened above");
            let of_topic = |q: &RecordQueue| q.topic == partition.topic;
            let queue = task.group.queues().iter().position(of_topic);
            let queue = queue.ok_or_else(|| unknown(partition))?;
            // Another instance may have run a task that was kept, and changed no store.
            if task.is_started() && task.group.queues()[queue].committed_offset() != at {
                task.renew();
            }
            task.group.set_committed(queue, at);
            self.slots.push(Slot {
                task: id,
                queue,
                paused: false,
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

    pub(crate) fn begin_restore(&mut self, ids: &BTreeSet<TaskId>) -> Result<(), Trouble> {
        for at in 0..self.slots.len() {
            self.set_paused(at, true)?;
        }
        let reader = self.shared.broker.reader()?;
        let admin = &*self.shared.admin;
        let application = &self.shared.config.application_id;
        let now = self.shared.now();
        self.shared.before(Stage::RestoreBegin, None);
        let begun = Restoration::begin(reader, admin, application, &self.tasks, ids, now);
        self.shared.after(Stage::RestoreBegin, None);
        match begun {
            Ok(restoration) => {
                self.restoring = Some(restoration);
                Ok(())
            }
            Err(error) => match Ahead::of(&error) {
                Some(ahead) => {
                    self.reopen(ahead.task, Some(&error.chain()))?;
                    self.begin_restore(ids)
                }
                None => Err(error.into()),
            },
        }
    }

    pub(crate) fn restore(&mut self) -> Result<(), Trouble> {
        let Some(restoring) = &mut self.restoring else {
            return Ok(());
        };
        if self.tasks.values().any(Task::is_stalled) {
            return Ok(());
        }
        self.shared.before(Stage::RestoreRead, None);
        let read = restoring.step(&mut self.tasks, self.shared.now());
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
        let deadline = self.shared.now() + OPEN_WAIT;
        loop {
            let error = match self.shared.open_task(id) {
                Ok(task) => return Ok(task),
                Err(error) => error,
            };
            match Fault::of(&error) {
                // Another thread of this process still closes it; it has been told to. Or a flush
                // of its last owner waits.
                Some(Fault::Locked { .. }) if self.shared.now() < deadline => {
                    if !self.shared.flush_pool.help() {
                        self.shared.clock.wait(Duration::from_millis(50));
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
