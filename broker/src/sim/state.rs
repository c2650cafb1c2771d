//! Everything that the simulated log knows, behind one lock.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    SimConfig,
    faults::{Call, Failure, Fault, Faults, Phase},
    group::{Group, Seat},
    partition::{Partition, Topic},
    trace::Trace,
    transactions::Slot,
};
use crate::{Appended, Cleanup, Error, OwnedRecord, Result, TopicPartition};

/// What is told to appenders, outside of the lock.
pub(super) type Answers = Vec<(Appended, Result<i64>)>;

pub(super) struct State {
    pub config: SimConfig,
    pub now: Duration,
    pub faults: Faults,
    pub trace: Trace,
    /// All clients ever made.
    pub clients: Vec<Client>,
    pub topics: BTreeMap<Arc<str>, Topic>,
    pub groups: BTreeMap<String, Group>,
    pub slots: BTreeMap<Arc<str>, Slot>,
    /// How many transactions have begun.
    pub transactions: u64,
    /// While nobody coordinates groups and transactions.
    away_until: Option<Duration>,
    queue: Vec<Queued>,
    answers: Vec<Answer>,
}

pub(super) struct Client {
    pub name: String,
    pub lives: bool,
    /// How far its machine's wall clock is off.
    pub skew_ms: i64,
}

/// What an appender is still to be told.
struct Answer {
    client: usize,
    due: Duration,
    done: Appended,
    answer: Result<i64>,
}

struct Queued {
    client: usize,
    record: OwnedRecord,
    done: Appended,
    fate: Option<Fault>,
}

/// Whom a fencing fault hits.
pub(super) enum Place<'a> {
    Nobody,
    Producer(&'a Arc<str>, u32),
    Seat(&'a Seat),
}

/// A client's access to the log.
#[derive(Clone)]
pub(super) struct Handle {
    pub state: Arc<Mutex<State>>,
    pub client: usize,
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn find_mut<'a>(
    topics: &'a mut BTreeMap<Arc<str>, Topic>,
    at: &TopicPartition,
) -> Result<&'a mut Partition> {
    let topic = topics.get_mut(&at.topic);
    usize::try_from(at.partition)
        .ok()
        .and_then(|number| topic?.partitions.get_mut(number))
        .ok_or_else(|| Error::UnknownPartition(at.clone()))
}

impl Handle {
    /// A call through the seam, with whatever may go wrong around its effect. The effect is told of
    /// faults that change it instead of failing it.
    pub(super) fn call<T, E: From<Failure>>(
        &self,
        call: Call,
        place: &Place<'_>,
        effect: impl FnOnce(&mut State, Option<Fault>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut state = lock(&self.state);
        let mut met = None;
        let result = self.attempt(&mut state, call, place, effect, &mut met);
        let now = state.now;
        state
            .trace
            .note(now, self.client, call, met, result.is_ok());
        result
    }

    /// `met` is the fault that happened last.
    fn attempt<T, E: From<Failure>>(
        &self,
        state: &mut State,
        call: Call,
        place: &Place<'_>,
        effect: impl FnOnce(&mut State, Option<Fault>) -> Result<T, E>,
        met: &mut Option<Fault>,
    ) -> Result<T, E> {
        let fail = |fault| E::from(Failure { call, fault });
        if !state.lives(self.client) {
            return Err(fail(None));
        }
        let mut changed = None;
        *met = state.faults.strike(call, Phase::Before);
        match *met {
            None => {}
            Some(Fault::Rebalance) => state.rebalance_all(),
            Some(Fault::ClockJump) => state.set_clock(self.client),
            Some(Fault::CoordinatorAway) => state.send_coordinator_away(),
            Some(
                fault @ (Fault::ShortPoll
                | Fault::LateEndTxn
                | Fault::SlowMarkers
                | Fault::SlowAnswer),
            ) => changed = Some(fault),
            Some(fault @ Fault::Indeterminate { .. }) if call == Call::Append => {
                changed = Some(fault);
            }
            // Behind a coordinator that is away nothing can be applied: it fails further down.
            Some(Fault::Indeterminate { applied: true })
                if call.is_coordinated() && state.coordinator_is_away() => {}
            Some(fault @ Fault::Indeterminate { applied: true }) => {
                effect(state, None)?;
                return Err(fail(Some(fault)));
            }
            Some(
                fault @ (Fault::Crash
                | Fault::Retriable
                | Fault::Abortable
                | Fault::Fatal
                | Fault::Fenced
                | Fault::Indeterminate { applied: false }
                | Fault::Full),
            ) => {
                state.suffer(self.client, place, fault);
                return Err(fail(Some(fault)));
            }
        }
        if call.is_coordinated() && state.coordinator_is_away() {
            return Err(fail(Some(Fault::CoordinatorAway)));
        }
        let value = effect(state, changed)?;
        let after = state.faults.strike(call, Phase::After);
        *met = after.or(*met);
        match after {
            None => Ok(value),
            Some(Fault::Rebalance) => {
                state.rebalance_all();
                Ok(value)
            }
            Some(fault) => {
                state.suffer(self.client, place, fault);
                Err(fail(Some(fault)))
            }
        }
    }
}

impl State {
    pub(super) fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            faults: Faults::new(seed, &config.rates),
            trace: Trace::new(config.history_calls_max),
            config,
            now: Duration::ZERO,
            clients: Vec::new(),
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            slots: BTreeMap::new(),
            transactions: 0,
            away_until: None,
            queue: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn lives(&self, client: usize) -> bool {
        self.clients[client].lives
    }

    /// The client dies: nothing that it does from now on has an effect.
    pub(super) fn kill(&mut self, client: usize) {
        self.clients[client].lives = false;
    }

    fn suffer(&mut self, client: usize, place: &Place<'_>, fault: Fault) {
        match (fault, place) {
            (Fault::Crash, _) => self.kill(client),
            (Fault::Fenced, Place::Producer(id, epoch)) => self.fence(id, *epoch),
            (Fault::Fenced, Place::Seat(seat)) => {
                let now = self.now;
                self.group(&seat.group).fence(seat, now);
            }
            _ => {}
        }
    }

    /// Sets the wall clock of a client's machine to a time around the right one.
    fn set_clock(&mut self, client: usize) {
        let most = self.config.clock_jump;
        let by = self.faults.rng.up_to(most * 2);
        self.clients[client].skew_ms = by.as_millis() as i64 - most.as_millis() as i64;
    }

    fn send_coordinator_away(&mut self) {
        let back = self.now + self.faults.rng.up_to(self.config.coordinator_pause);
        self.away_until = self.away_until.max(Some(back));
    }

    pub(super) fn coordinator_is_away(&self) -> bool {
        self.away_until.is_some()
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.config.start_ms + self.now.as_millis() as i64
    }

    // Topics.

    pub(super) fn partition(&self, at: &TopicPartition) -> Result<&Partition> {
        let topic = self.topics.get(&at.topic);
        usize::try_from(at.partition)
            .ok()
            .and_then(|number| topic?.partitions.get(number))
            .ok_or_else(|| Error::UnknownPartition(at.clone()))
    }

    pub(super) fn partition_mut(&mut self, at: &TopicPartition) -> Result<&mut Partition> {
        find_mut(&mut self.topics, at)
    }

    pub(super) fn topic_changed(&mut self, name: &str) {
        let now = self.now;
        for group in self.groups.values_mut() {
            group.topic_changed(name, now);
        }
    }

    pub(super) fn delete_topic(&mut self, name: &str) {
        if self.topics.remove(name).is_none() {
            return;
        }
        for slot in self.slots.values_mut() {
            slot.forget_topic(name);
        }
        self.topic_changed(name);
    }

    /// Old records go, as each topic's cleanup says.
    pub(super) fn compact(&mut self) {
        let (now, now_ms) = (self.now, self.now_ms());
        for topic in self.topics.values_mut() {
            let (compacts, retention) = match topic.cleanup {
                Cleanup::Delete { retention_ms } => (false, retention_ms),
                Cleanup::Compact => (true, None),
                Cleanup::CompactAndDelete { retention_ms } => (true, Some(retention_ms)),
            };
            for partition in &mut topic.partitions {
                if let Some(retention) = retention {
                    partition.retain_since(now_ms.saturating_sub(retention));
                }
                if compacts {
                    partition.compact(now, self.config.tombstones);
                }
            }
        }
    }

    // Groups.

    pub(super) fn group(&mut self, id: &str) -> &mut Group {
        if !self.groups.contains_key(id) {
            self.groups.insert(id.to_owned(), Group::default());
        }
        self.groups.get_mut(id).expect("it was inserted above")
    }

    pub(super) fn rebalance_all(&mut self) {
        let now = self.now;
        for group in self.groups.values_mut() {
            group.rebalance(now, now);
        }
    }

    /// The group's offsets; an error while an open transaction has others for them.
    pub(super) fn stable_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<i64>>> {
        let mut slots = self.slots.values();
        let pending = slots.any(|slot| slot.holds_offsets(group, partitions));
        if pending {
            return Err(Error::client(
                "reading committed offsets",
                "a transaction with offsets is open",
            ));
        }
        self.offsets(group, partitions)
    }

    pub(super) fn offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<i64>>> {
        let group = self.groups.get(group);
        let of = |at: &TopicPartition| {
            self.partition(at)?;
            Ok(group.and_then(|group| group.committed.get(at).copied()))
        };
        partitions.iter().map(of).collect()
    }

    // Time.

    pub(super) fn enqueue(
        &mut self,
        client: usize,
        record: OwnedRecord,
        done: Appended,
        fate: Option<Fault>,
    ) -> Result<()> {
        if self.queue.len() + self.answers.len() >= self.config.append_queue {
            return Err(Error::Full);
        }
        self.queue.push(Queued {
            client,
            record,
            done,
            fate,
        });
        Ok(())
    }

    pub(super) fn advance(&mut self, by: Duration) -> Answers {
        self.now += by;
        let now = self.now;
        self.trace.mix(by.as_nanos() as u64);
        if self.away_until.take_if(|back| *back <= now).is_some() {
            self.groups
                .values_mut()
                .for_each(|group| group.forgive(now));
        }
        for queued in mem::take(&mut self.queue) {
            self.write(queued);
        }
        if !self.coordinator_is_away() {
            self.expire_transactions();
            self.groups.values_mut().for_each(|group| group.expire(now));
        }
        self.answers_due()
    }

    /// A record arrives. What a client had on its way when it died arrives or not.
    fn write(&mut self, queued: Queued) {
        let (now, client) = (self.now, queued.client);
        let arrives = self.lives(client) || self.faults.rng.below(2) == 0;
        let lost = Fault::Indeterminate { applied: false };
        let written = if arrives && queued.fate != Some(lost) {
            let at = queued.record.to.clone();
            let partition = self.partition_mut(&at);
            partition.map(|partition| partition.append(queued.record, None, now))
        } else {
            Err(Error::client("appending", "the record was lost"))
        };
        let (answer, due) = match queued.fate {
            Some(Fault::SlowAnswer) => {
                let most = self.config.answer_delay;
                (written, now + self.faults.rng.up_to(most))
            }
            Some(_) => (Err(Error::client("appending", "the answer was lost")), now),
            None => (written, now),
        };
        self.answers.push(Answer {
            client,
            due,
            done: queued.done,
            answer,
        });
    }

    /// What appenders are told now, in any order; the dead are told nothing.
    fn answers_due(&mut self) -> Answers {
        let mut due = Vec::new();
        for told in mem::take(&mut self.answers) {
            if !self.lives(told.client) {
                continue;
            }
            if told.due <= self.now {
                due.push((told.done, told.answer));
            } else {
                self.answers.push(told);
            }
        }
        self.faults.rng.shuffle(&mut due);
        due
    }

    pub(super) fn check(&self) {
        for (name, topic) in &self.topics {
            let dense = matches!(topic.cleanup, Cleanup::Delete { .. });
            for (number, partition) in topic.partitions.iter().enumerate() {
                let at = TopicPartition::new(name.clone(), number as i32);
                partition.check(&at, dense);
            }
        }
        for (id, group) in &self.groups {
            group.check_owners(id);
            group.check_offsets(id);
        }
    }
}
