//! `Session`: one membership of a stream thread in its group: poll, process, commit, until told otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{catch_unwind, AssertUnwindSafe},
    time::{Duration, Instant},
};

use millstream_broker::{
    Consumer, ConsumerConfig, Event, Fetched, PartitionIx, ProducerError, Start, TopicPartition,
};
use millstream_operators::{Clock, RawRecord};
use millstream_state::Fault;
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{info, warn};

use crate::{
    application::Shared,
    assignment::Readers,
    commit::{commit, Trouble},
    flush_pool,
    outbox::Producing,
    partition_group::Buffered,
    policy::{dead_letter_headers, ErrorPolicy},
    restore::Restoration,
    status::{CommitTimes, StoreStatus, TaskPhase, TaskStatus, ThreadStatus},
    task::{Failed, Surroundings, Task},
};

/// Records that one poll may bring.
const POLL_RECORDS_MAX: usize = 5000;
/// The longest wait for records when there is nothing else to do.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Records in one transaction after which it is committed early, so that no log has to hold more.
const TRANSACTION_RECORDS_MAX: usize = 20_000;
/// How long an earlier owner's open transaction may keep the group's offsets from being read.
const COMMITTED_WAIT: Duration = Duration::from_secs(60);
/// How long another thread may take to close a task that comes here.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// How often the status is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);
/// Bytes of committed changes of one task above which they are written to disk at once.
const COMMITTED_BYTES_MAX: usize = 16 << 20;
/// How long closing a task may take to write its state to disk.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Where a partition's records go: a task and a queue of it.
#[derive(Clone, Copy)]
struct Slot {
    task: TaskId,
    queue: usize,
    paused: bool,
}

pub(crate) struct Session<'a> {
    shared: &'a Shared,
    index: usize,
    readers: Readers,
    consumer: Option<Box<dyn Consumer>>,
    producing: Producing,
    tasks: BTreeMap<TaskId, Task>,
    /// By `PartitionIx` of the present assignment; empty between revoke and assign.
    slots: Vec<Slot>,
    restoring: Option<Restoration>,
    joined: bool,
    last_commit: Instant,
    /// True when something was done that a commit must record.
    uncommitted: bool,
    records_in_transaction: usize,
    last_flush: Instant,
    last_publish: Instant,
    last_purge: Instant,
    pub(crate) times: CommitTimes,
}

impl<'a> Session<'a> {
    /// Joins the group.
    pub(crate) fn join(
        shared: &'a Shared,
        index: usize,
        times: CommitTimes,
    ) -> Result<Self, Trouble> {
        let config = &shared.config;
        let member = format!("{}-{}-{index}", config.application_id, config.instance_id);
        let producing = Producing::new(
            shared.broker.producer(&member)?,
            &shared.topology,
            &config.application_id,
            &shared.layout,
            config.policies.dead_letter_topic,
        )?;
        let readers = Readers::of(&shared.topology, &config.application_id);
        let consumer = shared.broker.consumer(ConsumerConfig {
            group_id: config.application_id.clone(),
            instance_id: member,
            topics: readers.topics(),
            session_timeout: config.session_timeout,
        })?;
        let now = Instant::now();
        Ok(Self {
            shared,
            index,
            readers,
            consumer: Some(consumer),
            producing,
            tasks: BTreeMap::new(),
            slots: Vec::new(),
            restoring: None,
            joined: false,
            last_commit: now,
            uncommitted: false,
            records_in_transaction: 0,
            last_flush: now,
            last_publish: now,
            last_purge: now,
            times,
        })
    }

    /// Works until the application stops.
    pub(crate) fn run(&mut self) -> Result<(), Trouble> {
        let mut fetched = Vec::with_capacity(POLL_RECORDS_MAX);
        while !self.shared.stopping() {
            match self.turn(&mut fetched) {
                Err(Trouble::Producer(ProducerError::Abort(cause))) => {
                    warn!(thread = self.index, error = %cause, "transaction is aborted and repeated");
                    self.rewind()?;
                }
                other => other?,
            }
        }
        self.commit()
    }

    fn turn(&mut self, fetched: &mut Vec<Fetched>) -> Result<(), Trouble> {
        let wait = self.wait();
        fetched.clear();
        match self.consumer().poll(wait, POLL_RECORDS_MAX, fetched)? {
            Event::Records => self.deliver(fetched)?,
            Event::Assigned(partitions) => self.take(&partitions)?,
            Event::Revoked { lost } => self.give_up(lost)?,
        }
        self.restore()?;
        self.process()?;
        self.punctuate()?;
        if self.commit_is_due() {
            self.commit()?;
        }
        self.housekeeping()
    }

    /// False while a rebalance or a restore keeps the tasks from working: they may be others' by now.
    fn works(&self) -> bool {
        !self.slots.is_empty() && self.restoring.is_none()
    }

    fn consumer(&mut self) -> &mut dyn Consumer {
        self.consumer.as_deref_mut().expect("the consumer is there until the session closes")
    }

    /// How long the next poll may wait.
    fn wait(&self) -> Duration {
        if self.restoring.is_some() || self.tasks.values().any(|t| !t.group.is_empty()) {
            return Duration::ZERO;
        }
        let mut wait = IDLE_WAIT;
        if self.uncommitted {
            let since = self.last_commit.elapsed();
            wait = wait.min(self.shared.config.commit_pause.saturating_sub(since));
        }
        let timers = self.tasks.values().filter(|_| self.works());
        if let Some(due) = timers.filter_map(Task::next_wall_clock_ms).min() {
            let ms = due.saturating_sub(self.shared.clock.now_ms()).max(0);
            wait = wait.min(Duration::from_millis(ms as u64));
        }
        wait
    }

    fn deliver(&mut self, fetched: &mut Vec<Fetched>) -> Result<(), Trouble> {
        for record in fetched.drain(..) {
            let slot = self.slots[record.partition.0 as usize];
            let task = self.tasks.get_mut(&slot.task).expect("an assigned task is open");
            let Fetched { key, value, timestamp, headers, offset, .. } = record;
            let raw = RawRecord { key, value, timestamp, headers };
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

    fn set_paused(&mut self, at: usize, paused: bool) -> Result<(), Trouble> {
        self.slots[at].paused = paused;
        let partition = PartitionIx(at as u32);
        match paused {
            true => self.consumer().pause(partition)?,
            false => self.consumer().resume(partition)?,
        }
        Ok(())
    }

    /// Reads on where enough of what waited has been processed.
    fn resume_drained(&mut self) -> Result<(), Trouble> {
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

    // ---- rebalance

    /// The group gave this member these partitions: opens what is new, closes what went elsewhere.
    fn take(&mut self, partitions: &[TopicPartition]) -> Result<(), Trouble> {
        let ids = self.readers.tasks_of(partitions);
        let gone: Vec<TaskId> = self.tasks.keys().filter(|id| !ids.contains(id)).copied().collect();
        for id in gone {
            self.close_task(id);
        }
        for id in &ids {
            if !self.tasks.contains_key(id) {
                let task = self.open_task(*id)?;
                self.tasks.insert(*id, task);
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
            let id = self.readers.task_of(partition).ok_or_else(|| unknown(partition))?;
            let task = self.tasks.get_mut(&id).expect("opened above");
            let of_topic = |q: &crate::partition_group::RecordQueue| q.topic == partition.topic;
            let queue = task.group.queues().iter().position(of_topic);
            let queue = queue.ok_or_else(|| unknown(partition))?;
            task.group.set_committed(queue, at);
            self.slots.push(Slot { task: id, queue, paused: false });
        }
        let names: Vec<String> = ids.iter().map(TaskId::to_string).collect();
        info!(thread = self.index, tasks = names.join(" "), "tasks are assigned");
        self.joined = true;
        self.begin_restore(&ids)
    }

    fn begin_restore(&mut self, ids: &BTreeSet<TaskId>) -> Result<(), Trouble> {
        for at in 0..self.slots.len() {
            self.set_paused(at, true)?;
        }
        let reader = self.shared.broker.reader()?;
        let admin = &*self.shared.admin;
        let application = &self.shared.config.application_id;
        match Restoration::begin(reader, admin, application, &self.tasks, ids) {
            Ok(restoration) => {
                self.restoring = Some(restoration);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::State => {
                warn!(thread = self.index, error = %error.chain(), "local state is discarded");
                let open: Vec<TaskId> = self.tasks.keys().copied().collect();
                self.tasks.clear();
                for id in open {
                    self.shared.bases.wipe(id)?;
                }
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn restore(&mut self) -> Result<(), Trouble> {
        let Some(restoring) = &mut self.restoring else { return Ok(()) };
        restoring.step(&mut self.tasks)?;
        for task in self.tasks.values_mut() {
            if task.state.committed_bytes() > COMMITTED_BYTES_MAX {
                if let Some(job) = task.state.start_flush() {
                    self.shared.flush_pool.submit(job);
                }
            }
        }
        if !restoring.is_done() {
            return Ok(());
        }
        self.restoring = None;
        self.start_tasks()?;
        for (id, task) in &self.tasks {
            self.shared.queries.register(*id, task);
        }
        self.shared.members.announce(self.index, self.tasks.keys().copied().collect());
        self.resume_drained()
    }

    /// Starts the processors of tasks that have not started yet.
    fn start_tasks(&mut self) -> Result<(), Trouble> {
        let wall_clock_ms = self.shared.clock.now_ms();
        for task in self.tasks.values_mut().filter(|t| !t.is_started()) {
            let mut around = Surroundings { out: &mut self.producing, wall_clock_ms };
            task.start(&mut around)?;
            // What a processor wrote when it started belongs to the next commit.
            self.uncommitted = true;
        }
        Ok(())
    }

    fn open_task(&mut self, id: TaskId) -> Result<Task> {
        let deadline = Instant::now() + OPEN_WAIT;
        loop {
            let error = match self.shared.open_task(id) {
                Ok(task) => return Ok(task),
                Err(error) => error,
            };
            match Fault::of(&error) {
                // Another thread of this process still closes it; it has been told to.
                Some(Fault::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(50));
                }
                Some(fault) if fault.means_rebuild() => {
                    warn!(task = %id, error = %error.chain(), "state is damaged and is rebuilt");
                    self.shared.bases.wipe(id)?;
                }
                _ => return Err(error),
            }
        }
    }

    /// The group takes all partitions back. What is committed stays open, as most of it comes back.
    fn give_up(&mut self, lost: bool) -> Result<(), Trouble> {
        self.restoring = None;
        if lost {
            warn!(thread = self.index, "partitions were lost; others own them already");
            self.discard();
        } else if let Err(trouble) = self.commit() {
            warn!(thread = self.index, ?trouble, "last commit before a rebalance failed");
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
    fn discard(&mut self) {
        if let Err(error) = self.producing.abort() {
            warn!(thread = self.index, %error, "abort failed");
        }
        self.times.stats.aborts += 1;
        self.uncommitted = false;
        self.records_in_transaction = 0;
        for id in std::mem::take(&mut self.tasks).into_keys() {
            self.shared.queries.deregister(id);
        }
        self.slots.clear();
        self.restoring = None;
    }

    /// Closes a task that is committed: its state goes to disk, so that its next start replays nothing.
    fn close_task(&mut self, id: TaskId) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        self.shared.queries.deregister(id);
        let deadline = Instant::now() + CLOSE_WAIT;
        while task.state.committed_bytes() > 0 && Instant::now() < deadline {
            match task.state.start_flush() {
                Some(job) => flush_pool::run(job),
                None => std::thread::park_timeout(Duration::from_millis(2)),
            }
        }
    }

    // ---- processing

    fn process(&mut self) -> Result<(), Trouble> {
        if !self.works() {
            return Ok(());
        }
        let turn = self.shared.config.records_per_turn;
        let interval = self.shared.config.commit_interval;
        loop {
            let wall_clock_ms = self.shared.clock.now_ms();
            let mut any = false;
            for id in self.tasks.keys().copied().collect::<Vec<_>>() {
                let done = self.process_task(id, turn, wall_clock_ms)?;
                any |= done > 0;
                self.records_in_transaction += done;
            }
            self.uncommitted |= any;
            let full = self.records_in_transaction >= TRANSACTION_RECORDS_MAX;
            if !any || full || self.last_commit.elapsed() >= interval {
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
            let mut around = Surroundings { out: &mut self.producing, wall_clock_ms };
            // A panic of a user's function must not take the thread down. Nodes and stores may be half
            // done then, so they are thrown away and built anew before anything else runs.
            let step = catch_unwind(AssertUnwindSafe(|| -> Result<(), Box<Failed>> {
                while done < turn && task.process_one(&mut around)? {
                    done += 1;
                    task.punctuate(Clock::Stream, &mut around).map_err(|e| task.failed(e))?;
                }
                Ok(())
            }));
            match step {
                Ok(Ok(())) => break,
                Ok(Err(failed)) => {
                    done += 1;
                    self.times.stats.failed_records += 1;
                    Self::dispose(self.shared, &mut self.producing, &failed)?;
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
        let Failed { error, site, raw: Some(raw) } = failed else {
            let why = "a timer failed";
            return Err(Error::caused(failed.error.kind(), why, failed.error.chain()).into());
        };
        let (topic, partition, offset) = (&*site.topic, site.partition, site.offset);
        match shared.config.policies.for_error(error) {
            ErrorPolicy::Fail => Err(Error::caused(
                error.kind(),
                format!(
                    "a record failed. topic=`{topic}`, partition={partition}, offset={offset}"
                ),
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

    fn recover_from_panic(
        &mut self,
        id: TaskId,
        at: Option<(usize, i64)>,
    ) -> Result<(), Trouble> {
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
    fn rewind(&mut self) -> Result<(), Trouble> {
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
        if self.restoring.is_none() {
            self.start_tasks()?;
        }
        Ok(())
    }

    fn punctuate(&mut self) -> Result<(), Trouble> {
        if !self.works() {
            return Ok(());
        }
        let wall_clock_ms = self.shared.clock.now_ms();
        for task in self.tasks.values_mut() {
            let mut around = Surroundings { out: &mut self.producing, wall_clock_ms };
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

    // ---- commit and housekeeping

    /// Under load at the interval; at once when the input has run dry, so that an idle pipeline answers in
    /// milliseconds.
    fn commit_is_due(&self) -> bool {
        if !self.uncommitted {
            return false;
        }
        let since = self.last_commit.elapsed();
        let config = &self.shared.config;
        let dry = self.tasks.values().all(|t| t.group.is_empty());
        since >= config.commit_interval
            || (dry && since >= config.commit_pause)
            || self.records_in_transaction >= TRANSACTION_RECORDS_MAX
    }

    fn commit(&mut self) -> Result<(), Trouble> {
        if !self.uncommitted && !self.producing.is_open() {
            return Ok(());
        }
        let started = Instant::now();
        let wall_clock_ms = self.shared.clock.now_ms();
        let consumer = self.consumer.as_deref().expect("the consumer is there");
        let done = commit(&mut self.tasks, &mut self.producing, consumer, wall_clock_ms)?;
        if done.wrote {
            self.times.record(started.elapsed());
        }
        self.uncommitted = false;
        self.records_in_transaction = 0;
        self.last_commit = Instant::now();
        Ok(())
    }

    fn housekeeping(&mut self) -> Result<(), Trouble> {
        let config = &self.shared.config;
        let timed = self.last_flush.elapsed() >= config.flush_interval;
        if timed {
            self.last_flush = Instant::now();
        }
        let share = config.memory_budget / 2 / config.threads / self.tasks.len().max(1);
        for task in self.tasks.values_mut() {
            let bytes = task.state.committed_bytes();
            if bytes > COMMITTED_BYTES_MAX || (timed && bytes > 0) {
                if let Some(job) = task.state.start_flush() {
                    self.shared.flush_pool.submit(job);
                }
            }
            if timed && task.state.live_bytes() > share {
                task.state.shed(share / 2);
            }
        }
        if self.last_purge.elapsed() >= config.purge_interval {
            self.last_purge = Instant::now();
            self.purge();
        }
        if self.last_publish.elapsed() >= PUBLISH_EVERY {
            self.last_publish = Instant::now();
            self.publish();
        }
        Ok(())
    }

    /// Deletes what repartition topics hold before the committed offsets. It can wait, so a failure is
    /// only logged.
    fn purge(&mut self) {
        let done: Vec<(TopicPartition, i64)> = self
            .tasks
            .values()
            .flat_map(|t| t.group.queues())
            .filter(|q| self.shared.is_repartition(&q.topic))
            .filter_map(|q| {
                Some((TopicPartition::new(q.topic.clone(), q.partition), q.committed_offset()?))
            })
            .collect();
        if done.is_empty() {
            return;
        }
        if let Err(error) = self.shared.admin.delete_records(&done) {
            warn!(thread = self.index, %error, "repartition topics could not be purged");
        }
    }

    fn publish(&self) {
        let tasks = self.tasks.values().map(|t| self.task_status(t)).collect();
        let commits = self.times.snapshot();
        let status = ThreadStatus { index: self.index, joined: self.joined, tasks, commits };
        let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
        for task in self.tasks.values() {
            for (name, records) in task.node_records() {
                *nodes.entry(name).or_default() += records;
            }
        }
        self.shared.board.publish(status, nodes);
    }

    fn task_status(&self, task: &Task) -> TaskStatus {
        let restoring = self.restoring.as_ref();
        let position = |q: &crate::partition_group::RecordQueue| {
            let next = q.next_offset().or(q.committed_offset())?;
            Some((format!("{}-{}", q.topic, q.partition), next))
        };
        TaskStatus {
            id: task.id.to_string(),
            phase: if restoring.is_some() { TaskPhase::Restoring } else { TaskPhase::Running },
            restore_remaining: restoring.map_or(0, |r| r.remaining(task.id)),
            records: task.records,
            dropped: task.counters.dropped,
            buffered: task.group.queues().iter().map(|q| q.waiting()).sum(),
            stream_time_ms: task.group.stream_time(),
            positions: task.group.queues().iter().filter_map(position).collect(),
            stores: task
                .store_names()
                .enumerate()
                .map(|(at, name)| StoreStatus {
                    name: name.to_owned(),
                    position: task.state.position(at),
                    replayed: task.replayed.get(name).copied().unwrap_or(0),
                })
                .collect(),
        }
    }

    /// Ends the membership. Committed state goes to disk; what is not committed is dropped.
    pub(crate) fn close(mut self) -> CommitTimes {
        if self.producing.is_open() {
            self.discard();
        }
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.close_task(id);
        }
        if let Some(consumer) = self.consumer.take() {
            consumer.close(false);
        }
        self.joined = false;
        self.publish();
        self.times
    }
}

fn unknown(partition: &TopicPartition) -> Error {
    Error::new(
        ErrorKind::Broker,
        format!("the group gave a partition that nobody reads. partition=`{partition}`"),
    )
}
