//! Everything that the simulated log knows, behind one lock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    SimConfig,
    faults::{Call, Failure, Fault, Faults, Phase},
    group::{Group, Proof, Seat},
    partition::{Partition, Topic},
};
use crate::{Appended, Cleanup, Error, OwnedRecord, ProducerError, Result, TopicPartition};

/// What is told to appenders, outside of the lock.
pub(super) type Answers = Vec<(Appended, Result<i64>)>;

pub(super) struct State {
    pub config: SimConfig,
    pub now: Duration,
    pub faults: Faults,
    /// Names of all clients ever made; the dead ones are false.
    pub clients: Vec<(String, bool)>,
    pub topics: BTreeMap<Arc<str>, Topic>,
    pub groups: BTreeMap<String, Group>,
    pub slots: BTreeMap<String, Slot>,
    transactions: u64,
    queue: VecDeque<Queued>,
}

/// Who holds a transactional id, as the coordinator sees it.
#[derive(Default)]
pub(super) struct Slot {
    pub epoch: u32,
    pub open: Option<Transaction>,
    /// A commit's first request is still on its way, at this epoch.
    late: Option<u32>,
}

pub(super) struct Transaction {
    number: u64,
    since: Duration,
    pub touched: BTreeSet<TopicPartition>,
    offsets: BTreeMap<(String, TopicPartition), i64>,
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
    Producer(&'a str, u32),
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
        let fail = |fault| E::from(Failure { call, fault });
        if !state.lives(self.client) {
            return Err(fail(None));
        }
        let mut changed = None;
        match state.faults.strike(call, Phase::Before) {
            None => {}
            Some(Fault::Rebalance) => state.rebalance_all(),
            Some(fault @ (Fault::ShortPoll | Fault::LateEndTxn)) => changed = Some(fault),
            Some(fault @ Fault::Indeterminate { .. }) if call == Call::Append => {
                changed = Some(fault);
            }
            Some(fault @ Fault::Indeterminate { applied: true }) => {
                effect(&mut state, None)?;
                return Err(fail(Some(fault)));
            }
            Some(fault) => {
                state.suffer(self.client, place, fault);
                return Err(fail(Some(fault)));
            }
        }
        let value = effect(&mut state, changed)?;
        match state.faults.strike(call, Phase::After) {
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
            faults: Faults::new(seed, config.rates.clone()),
            config,
            now: Duration::ZERO,
            clients: Vec::new(),
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            slots: BTreeMap::new(),
            transactions: 0,
            queue: VecDeque::new(),
        }
    }

    pub(super) fn lives(&self, client: usize) -> bool {
        self.clients[client].1
    }

    /// The client dies. What it has queued may be on the wire already, so chance decides whether
    /// that arrives; nobody is told.
    pub(super) fn kill(&mut self, client: usize) {
        self.clients[client].1 = false;
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
        let topic = self.topics.get_mut(&at.topic);
        usize::try_from(at.partition)
            .ok()
            .and_then(|number| topic?.partitions.get_mut(number))
            .ok_or_else(|| Error::UnknownPartition(at.clone()))
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
            if let Some(open) = &mut slot.open {
                open.touched.retain(|at| &*at.topic != name);
                open.offsets.retain(|(_, at), _| &*at.topic != name);
            }
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
        let mut open = self.slots.values().filter_map(|slot| slot.open.as_ref());
        let pending = open.any(|open| {
            let mut offsets = open.offsets.keys();
            offsets.any(|(other, at)| other == group && partitions.contains(at))
        });
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

    // Transactions.

    /// Fences all producers of that id before and ends their transaction. The new epoch.
    pub(super) fn init(&mut self, id: &str) -> u32 {
        self.end(id, false);
        let slot = self.slots.entry(id.to_owned()).or_default();
        slot.epoch = slot.epoch.checked_add(1).expect("epochs never go back");
        slot.late = None;
        slot.epoch
    }

    fn fence(&mut self, id: &str, epoch: u32) {
        if self.slots.get(id).is_some_and(|slot| slot.epoch == epoch) {
            self.init(id);
        }
    }

    /// That this producer is the newest of its id.
    pub(super) fn holder(&mut self, id: &str, epoch: u32) -> Result<&mut Slot, ProducerError> {
        let slot = self.slots.get_mut(id).filter(|slot| slot.epoch == epoch);
        slot.ok_or_else(|| ProducerError::Fenced(Error::Fenced(id.to_owned()).into()))
    }

    /// The open transaction of a producer, begun here if there is none.
    fn transaction(&mut self, id: &str, epoch: u32) -> Result<&mut Transaction, ProducerError> {
        let (number, since) = (self.transactions + 1, self.now);
        self.transactions = number;
        let slot = self.holder(id, epoch)?;
        Ok(slot.open.get_or_insert_with(|| Transaction {
            number,
            since,
            touched: BTreeSet::new(),
            offsets: BTreeMap::new(),
        }))
    }

    pub(super) fn send(
        &mut self,
        id: &str,
        epoch: u32,
        record: OwnedRecord,
    ) -> Result<i64, ProducerError> {
        self.holder(id, epoch)?;
        let known = self.partition(&record.to).map(|_| ());
        known.map_err(|error| ProducerError::Abort(error.into()))?;
        let open = self.transaction(id, epoch)?;
        open.touched.insert(record.to.clone());
        let number = open.number;
        let now = self.now;
        let partition = self.partition_mut(&record.to);
        let partition = partition.expect("it was found above");
        Ok(partition.append(record, Some(number), now))
    }

    pub(super) fn send_offsets(
        &mut self,
        id: &str,
        epoch: u32,
        offsets: &[(TopicPartition, i64)],
        proof: &Proof,
    ) -> Result<(), ProducerError> {
        self.holder(id, epoch)?;
        let group = &proof.seat.group;
        let now = self.now;
        self.group(group).expire(now);
        let checked = self.group(group).check(proof);
        checked.map_err(|why| ProducerError::Abort(why.into()))?;
        let open = self.transaction(id, epoch)?;
        for (at, offset) in offsets {
            open.offsets.insert((group.clone(), at.clone()), *offset);
        }
        Ok(())
    }

    /// A commit that is still on its way arrives, if this producer has a transaction for it.
    pub(super) fn late_end_arrives(&mut self, id: &str, epoch: u32) -> Result<(), ProducerError> {
        let slot = self.holder(id, epoch)?;
        if slot.open.is_some() && slot.late.take_if(|late| *late == epoch).is_some() {
            self.end(id, true);
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, id: &str, epoch: u32, late: bool) -> Result<(), ProducerError> {
        self.late_end_arrives(id, epoch)?;
        self.end(id, true);
        self.holder(id, epoch)?.late = late.then_some(epoch);
        Ok(())
    }

    pub(super) fn abort(&mut self, id: &str, epoch: u32) -> Result<(), ProducerError> {
        self.late_end_arrives(id, epoch)?;
        self.end(id, false);
        Ok(())
    }

    pub(super) fn late_end_is_out(&self, id: &str) -> bool {
        self.slots.get(id).is_some_and(|slot| slot.late.is_some())
    }

    /// Ends the open transaction of an id, if there is one.
    fn end(&mut self, id: &str, commit: bool) {
        let Some(open) = self.slots.get_mut(id).and_then(|slot| slot.open.take()) else {
            return;
        };
        for at in &open.touched {
            let partition = self.partition_mut(at);
            let partition = partition.expect("deleted topics are taken out of transactions");
            partition.end(open.number, commit);
        }
        if commit {
            for ((group, at), offset) in open.offsets {
                self.group(&group).committed.insert(at, offset);
            }
        }
    }

    // Time.

    pub(super) fn enqueue(
        &mut self,
        client: usize,
        record: OwnedRecord,
        done: Appended,
        fate: Option<Fault>,
    ) -> Result<()> {
        if self.queue.len() >= self.config.append_queue {
            return Err(Error::Full);
        }
        self.queue.push_back(Queued {
            client,
            record,
            done,
            fate,
        });
        Ok(())
    }

    pub(super) fn advance(&mut self, by: Duration) -> Answers {
        self.now += by;
        let mut answers = Vec::new();
        for queued in mem::take(&mut self.queue) {
            let lives = self.lives(queued.client);
            let arrives = lives || self.faults.rng.below(2) == 0;
            let lost = Fault::Indeterminate { applied: false };
            let written = if arrives && queued.fate != Some(lost) {
                let now = self.now;
                let at = queued.record.to.clone();
                let partition = self.partition_mut(&at);
                partition.map(|partition| partition.append(queued.record, None, now))
            } else {
                Err(Error::client("appending", "the record was lost"))
            };
            if lives {
                let answer = match queued.fate {
                    None => written,
                    Some(_) => Err(Error::client("appending", "the answer was lost")),
                };
                answers.push((queued.done, answer));
            }
        }
        let (now, timeout) = (self.now, self.config.transaction_timeout);
        let expired = |slot: &Slot| {
            let open = slot.open.as_ref();
            open.is_some_and(|open| open.since + timeout <= now)
        };
        let expired: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| expired(slot))
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.init(&id);
        }
        for group in self.groups.values_mut() {
            group.expire(now);
        }
        answers
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
        }
    }
}
