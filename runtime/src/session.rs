//! `Session`: one membership of a stream thread in its group: poll, process, commit, until told
//! otherwise.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use millstream_broker::{Consumer, ConsumerConfig, Event, Fetched, PartitionIx, ProducerError};
use millstream_operators::{Clock, RawRecord};
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::warn;

use crate::{
    application::Shared,
    assignment::Readers,
    commit::{Trouble, commit},
    config::Config,
    outbox::Producing,
    partition_group::Buffered,
    policy::{ErrorPolicy, dead_letter_headers},
    rebalance::{Assigned, OPEN_PAUSE},
    restore::Restoration,
    status::CommitTimes,
    task::{Failed, Surroundings, Task},
};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 5000;
/// The longest wait for records when there is nothing else to do.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Records in one transaction after which it is committed early, so that no log has to hold more.
const TRANSACTION_RECORDS_MAX: usize = 20_000;
/// Where a partition's records go: a task and a queue of it.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) task: TaskId,
    pub(crate) queue: usize,
    pub(crate) paused: bool,
}

pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) readers: Readers,
    pub(crate) consumer: Option<Box<dyn Consumer>>,
    pub(crate) producing: Producing,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    /// By `PartitionIx` of the present assignment; empty between revoke and assign.
    pub(crate) slots: Vec<Slot>,
    /// What the group gave and is not taken yet.
    pub(crate) assigned: Option<Assigned>,
    pub(crate) restoring: Option<Restoration>,
    /// What it waits for before it can restore, when that takes long.
    pub(crate) waits_for: Option<String>,
    pub(crate) joined: bool,
    pub(crate) last_commit: Duration,
    /// True when something was done that a commit must record.
    pub(crate) uncommitted: bool,
    pub(crate) records_in_transaction: usize,
    pub(crate) last_flush: Duration,
    pub(crate) last_publish: Duration,
    pub(crate) last_purge: Duration,
    pub(crate) times: CommitTimes,
    fetched: Vec<Fetched>,
}

fn member(config: &Config, index: usize) -> String {
    format!("{}-{}-{index}", config.application_id, config.instance_id)
}

impl Session {
    /// Joins the group.
    pub(crate) fn join(shared: &Arc<Shared>, index: usize) -> Result<Self, Trouble> {
        let config = &shared.config;
        let member = member(config, index);
        let producing = Producing::new(
            shared.broker.producer(&member)?,
            &shared.topology,
            &config.application_id,
            &shared.layout,
            config.policies.dead_letter_topic,
        );
        let readers = Readers::of(&shared.topology, &config.application_id);
        let consumer = shared.broker.consumer(ConsumerConfig {
            group_id: config.application_id.clone(),
            instance_id: member,
            topics: readers.topics(),
            session_timeout: config.session_timeout,
        })?;
        let now = shared.now();
        Ok(Self {
            shared: shared.clone(),
            index,
            readers,
            consumer: Some(consumer),
            producing,
            tasks: BTreeMap::new(),
            slots: Vec::new(),
            assigned: None,
            restoring: None,
            waits_for: None,
            joined: false,
            last_commit: now,
            uncommitted: false,
            records_in_transaction: 0,
            last_flush: now,
            last_publish: now,
            last_purge: now,
            times: CommitTimes::new(),
            fetched: Vec::with_capacity(POLL_RECORDS_MAX),
        })
    }

    /// What this member is called in its group.
    pub(crate) fn member(&self) -> String {
        member(&self.shared.config, self.index)
    }

    /// One turn of the work: polls, processes, commits what is due.
    pub(crate) fn step(&mut self) -> Result<(), Trouble> {
        let worked = match self.turn() {
            Err(Trouble::Producer(ProducerError::Abort(cause))) => {
                warn!(thread = self.index, error = %cause, "transaction is aborted and repeated");
                self.rewind()
            }
            other => other,
        };
        self.mend(worked)
    }

    fn turn(&mut self) -> Result<(), Trouble> {
        let wait = self.wait();
        let mut fetched = std::mem::take(&mut self.fetched);
        fetched.clear();
        let event = self.consumer().poll(wait, POLL_RECORDS_MAX, &mut fetched);
        let delivered = event.map(|event| match event {
            Event::Records => self.deliver(&mut fetched),
            Event::Assigned(partitions) => self.take(partitions),
            Event::Revoked { lost } => self.give_up(lost),
        });
        self.fetched = fetched;
        delivered??;
        self.open_assigned()?;
        self.restore()?;
        self.process()?;
        self.punctuate()?;
        if self.commit_is_due() {
            self.commit()?;
        }
        self.housekeeping()
    }

    /// False while a rebalance or a restore keeps the tasks from working, as they may be others' by
    /// now, and while the application is paused.
    fn works(&self) -> bool {
        !self.slots.is_empty() && self.restoring.is_none() && !self.shared.is_paused()
    }

    pub(crate) fn consumer(&mut self) -> &mut dyn Consumer {
        self.consumer
            .as_deref_mut()
            .expect("the consumer is there until the session closes")
    }

    /// How long the next poll may wait.
    fn wait(&self) -> Duration {
        if self.assigned.is_some() {
            return OPEN_PAUSE;
        }
        let stalled = self.tasks.values().any(Task::is_stalled);
        let has_work = |task: &Task| !task.group.is_empty() && !task.is_stalled();
        let has_work = self.restoring.is_some() && !stalled || self.tasks.values().any(has_work);
        if has_work && !self.shared.is_paused() {
            return Duration::ZERO;
        }
        let mut wait = IDLE_WAIT;
        if self.uncommitted {
            let since = self.shared.since(self.last_commit);
            wait = wait.min(self.shared.config.commit_pause.saturating_sub(since));
        }
        let timers = self.tasks.values();
        let timers = timers.filter(|task| self.works() && !task.is_stalled());
        if let Some(due) = timers.filter_map(Task::next_wall_clock_ms).min() {
            let ms = due.saturating_sub(self.shared.clock.now_ms()).max(0);
            wait = wait.min(Duration::from_millis(ms as u64));
        }
        wait
    }

    fn deliver(&mut self, fetched: &mut Vec<Fetched>) -> Result<(), Trouble> {
        for record in fetched.drain(..) {
            let slot = self.slots[record.partition.0 as usize];
            let task = self
                .tasks
                .get_mut(&slot.task)
                .expect("an assigned task is open");
            let Fetched {
                key,
                value,
                timestamp,
                headers,
                offset,
                ..
            } = record;
            let raw = RawRecord {
                key,
                value,
                timestamp,
                headers,
            };
            task.add(slot.queue, Buffered { offset, raw });
        }
        let most = self.shared.config.buffered_records_max;
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            let full = self.tasks[&slot.task].group.queues()[slot.queue].waiting() > most;
            if full && !slot.paused {
                self.set_paused(at, true)?;
            }
        }
        Ok(())
    }

    pub(crate) fn set_paused(&mut self, at: usize, paused: bool) -> Result<(), Trouble> {
        self.slots[at].paused = paused;
        let partition = PartitionIx(at as u32);
        match paused {
            true => self.consumer().pause(partition)?,
            false => self.consumer().resume(partition)?,
        }
        Ok(())
    }

    /// Reads on where enough of what waited has been processed.
    pub(crate) fn resume_drained(&mut self) -> Result<(), Trouble> {
        let few = self.shared.config.buffered_records_max / 2;
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            if slot.paused && self.restoring.is_none() {
                let waiting = self.tasks[&slot.task].group.queues()[slot.queue].waiting();
                if waiting <= few {
                    self.set_paused(at, false)?;
                }
            }
        }
        Ok(())
    }

    fn process(&mut self) -> Result<(), Trouble> {
        if !self.works() {
            return Ok(());
        }
        let turn = self.shared.config.records_per_turn;
        let interval = self.shared.config.commit_interval;
        loop {
            let wall_clock_ms = self.shared.clock.now_ms();
            let mut any = false;
            let tasks = self.tasks.iter().filter(|(_, task)| !task.is_stalled());
            for id in tasks.map(|(id, _)| *id).collect::<Vec<_>>() {
                let done = self.process_task(id, turn, wall_clock_ms)?;
                any |= done > 0;
                self.records_in_transaction += done;
            }
            self.uncommitted |= any;
            let full = self.records_in_transaction >= TRANSACTION_RECORDS_MAX;
            if !any || full || self.shared.since(self.last_commit) >= interval {
                return self.resume_drained();
            }
        }
    }

    fn process_task(
        &mut self,
        id: TaskId,
        turn: usize,
        wall_clock_ms: i64,
    ) -> Result<usize, Trouble> {
        let task = self.tasks.get_mut(&id).expect("the task is open");
        let mut done = 0;
        while done < turn {
            let mut around = Surroundings {
                out: &mut self.producing,
                wall_clock_ms,
            };
            // A panic of a user's function must not take the thread down. Nodes and stores may be
            // half done then, so they are thrown away and built anew before anything else runs.
            let step = catch_unwind(AssertUnwindSafe(|| -> Result<(), Box<Failed>> {
                while done < turn && task.process_one(&mut around)? {
                    done += 1;
                    task.punctuate(Clock::Stream, &mut around)
                        .map_err(|e| task.failed(e))?;
                }
                Ok(())
            }));
            match step {
                Ok(Ok(())) => break,
                Ok(Err(failed)) => {
                    done += 1;
                    self.times.stats.failed_records += 1;
                    Self::dispose(&self.shared, &mut self.producing, &failed)?;
                }
                // It is the state that failed, not the record.
                Err(_) if let Some(found) = task.state.damage() => {
                    return Err(Error::new(ErrorKind::State, found).into());
                }
                Err(_) => {
                    let at = task.in_progress.take();
                    return self.recover_from_panic(id, at).map(|()| 0);
                }
            }
        }
        Ok(done)
    }

    /// Deals with a record that failed as its policy says.
    fn dispose(shared: &Shared, producing: &mut Producing, failed: &Failed) -> Result<(), Trouble> {
        if let Some(failure) = producing.take_failure() {
            return Err(failure.into());
        }
        let Failed {
            error,
            site,
            raw: Some(raw),
        } = failed
        else {
            let why = "a timer failed";
            return Err(Error::caused(failed.error.kind(), why, failed.error.chain()).into());
        };
        let (topic, partition, offset) = (&*site.topic, site.partition, site.offset);
        match shared.config.policies.for_error(error) {
            ErrorPolicy::Fail => Err(Error::caused(
                error.kind(),
                format!("a record failed. topic=`{topic}`, partition={partition}, offset={offset}"),
                error.chain(),
            )
            .into()),
            ErrorPolicy::Skip => {
                warn!(topic, partition, offset, error = %error.chain(), "record is skipped");
                Ok(())
            }
            ErrorPolicy::DeadLetter => {
                warn!(topic, partition, offset, error = %error.chain(), "record is set aside");
                let headers = dead_letter_headers(raw, site, error);
                let (key, value) = (raw.key.as_deref(), raw.value.as_deref());
                Ok(producing.dead_letter(key, value, raw.timestamp, &headers)?)
            }
        }
    }

    fn recover_from_panic(&mut self, id: TaskId, at: Option<(usize, i64)>) -> Result<(), Trouble> {
        let Some((queue, offset)) = at else {
            return Err(Error::new(ErrorKind::User, "a function panicked outside a record").into());
        };
        warn!(task = %id, offset, "a function panicked; the record is repeated as a failure");
        self.rewind()?;
        let task = self.tasks.get_mut(&id).expect("the task is open");
        task.group.mark_poison(queue, offset);
        Ok(())
    }

    /// Throws away everything since the last commit and reads it again.
    pub(crate) fn rewind(&mut self) -> Result<(), Trouble> {
        self.producing.abort()?;
        self.times.stats.aborts += 1;
        self.uncommitted = false;
        self.records_in_transaction = 0;
        for task in self.tasks.values_mut() {
            task.rewind();
        }
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            let queue = &self.tasks[&slot.task].group.queues()[slot.queue];
            let offset = queue.committed_offset().unwrap_or(0);
            self.consumer().seek(PartitionIx(at as u32), offset)?;
        }
        // Tasks that wait for the group or are restored start when they are up to date.
        if self.restoring.is_none() && !self.slots.is_empty() {
            self.start_tasks()?;
        }
        Ok(())
    }

    fn punctuate(&mut self) -> Result<(), Trouble> {
        if !self.works() {
            return Ok(());
        }
        let wall_clock_ms = self.shared.clock.now_ms();
        for task in self.tasks.values_mut().filter(|task| !task.is_stalled()) {
            let mut around = Surroundings {
                out: &mut self.producing,
                wall_clock_ms,
            };
            let fired = task.punctuate(Clock::Wall, &mut around);
            match fired {
                Ok(any) => self.uncommitted |= any,
                Err(error) => {
                    return Err(match self.producing.take_failure() {
                        Some(failure) => failure.into(),
                        None => error.into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Under load at the interval; at once when the input has run dry, so that an idle pipeline
    /// answers in milliseconds, and in a pause, which may be long.
    fn commit_is_due(&self) -> bool {
        if !self.uncommitted {
            return false;
        }
        let since = self.shared.since(self.last_commit);
        let config = &self.shared.config;
        let dry = self.tasks.values().all(|t| t.group.is_empty());
        since >= config.commit_interval
            || (dry && since >= config.commit_pause)
            || self.shared.is_paused()
            || self.records_in_transaction >= TRANSACTION_RECORDS_MAX
    }

    pub(crate) fn commit(&mut self) -> Result<(), Trouble> {
        if !self.uncommitted && !self.producing.is_open() {
            return Ok(());
        }
        let started = self.shared.now();
        let wall_clock_ms = self.shared.clock.now_ms();
        let consumer = self.consumer.as_deref().expect("the consumer is there");
        let done = commit(
            &mut self.tasks,
            &mut self.producing,
            consumer,
            wall_clock_ms,
        )?;
        if done.wrote {
            self.times.record(self.shared.since(started));
        }
        self.uncommitted = false;
        self.records_in_transaction = 0;
        self.last_commit = self.shared.now();
        self.shed();
        Ok(())
    }

    /// Keeps what the stores hold in memory within the budget. Only right after a commit is
    /// everything clean, and so may be dropped.
    fn shed(&mut self) {
        let config = &self.shared.config;
        // A thread that leaves still has its tasks, so that there may be none but it.
        let threads = self.shared.roster.wanted().max(1);
        let share = config.memory_budget / 2 / threads / self.tasks.len().max(1);
        for task in self.tasks.values_mut() {
            if task.state.live_bytes() > share {
                task.state.shed(share / 2);
            }
        }
    }
}
