//! A consumer group: who is in it, who owns what, and how far it has read.
//!
//! A rebalance is eager, as Kafka's classic protocol: every member that was told its partitions is
//! asked for them back; when all have answered, or were dropped for being too slow, the next
//! generation is dealt.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{
    Clock,
    partition::{Partition, Topic, lock},
    range,
    signal::Signal,
};
use crate::{ConsumerConfig, Error, Event, Result, TopicPartition};

/// A consumer's claim to the place of its name in a group.
#[derive(Debug)]
pub(super) struct Seat {
    pub instance_id: String,
    /// Later claims have greater numbers.
    pub number: u64,
}

/// What proves to a producer that its consumer still owns what it read.
#[derive(Clone)]
pub(super) struct Proof {
    pub group: Arc<Group>,
    pub instance_id: Arc<str>,
    pub seat: u64,
    pub generation: u32,
}

/// What a consumer learns from its group.
pub(super) enum News {
    Nothing,
    Event(Event),
    /// It was dropped for being silent too long.
    Dropped,
    /// Another consumer has its name now.
    Fenced,
}

pub(super) struct Group {
    pub id: String,
    clock: Clock,
    join_delay: Duration,
    state: Mutex<State>,
    /// Rung when the last commit on its way has arrived.
    settled: Condvar,
}

#[derive(Default)]
struct State {
    generation: u32,
    /// Since when a new generation is being prepared, and not before when it may begin.
    rebalance: Option<Instant>,
    members: BTreeMap<String, Member>,
    /// The latest seat of every name ever seen.
    seats: HashMap<String, u64>,
    committed: HashMap<(u32, i32), i64>,
    commits_on_their_way: usize,
}

struct Member {
    seat: u64,
    topics: Vec<Arc<str>>,
    session: Duration,
    signal: Arc<Signal>,
    last_seen: Instant,
    /// Closed, but its place is kept until the session ends.
    away: bool,
    stage: Stage,
    /// What it owns, until it has answered a revocation.
    partitions: Vec<TopicPartition>,
}

/// Where a member is on the way from one generation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Owns nothing and waits for a generation.
    Waiting,
    /// Has an assignment that it was not told yet.
    ToAssign,
    /// Was told its assignment.
    Assigned,
    /// Must be told to give it back.
    ToRevoke { since: Instant },
    /// Was told to give it back.
    Revoking { since: Instant },
}

impl Member {
    fn expires(&self) -> Instant {
        let silent = self.last_seen + self.session;
        match self.stage {
            Stage::ToRevoke { since } | Stage::Revoking { since } => {
                silent.min(since + self.session)
            }
            Stage::Waiting | Stage::ToAssign | Stage::Assigned => silent,
        }
    }
}

impl Group {
    pub(super) fn new(id: &str, clock: Clock, join_delay: Duration) -> Self {
        Self {
            id: id.to_owned(),
            clock,
            join_delay,
            state: Mutex::default(),
            settled: Condvar::new(),
        }
    }

    /// Takes the place of that name, from whoever has it.
    pub(super) fn join(&self, config: &ConsumerConfig, signal: &Arc<Signal>) -> Seat {
        let now = self.clock.instant();
        let mut state = lock(&self.state);
        let latest = state.seats.entry(config.instance_id.clone()).or_default();
        *latest += 1;
        let number = *latest;
        let kept = state.members.remove(&config.instance_id);
        let first = state.members.is_empty() && kept.is_none();
        if first {
            state.rebalance = None;
        }
        let mut member = Member {
            seat: number,
            topics: config.topics.clone(),
            session: config.session_timeout,
            signal: signal.clone(),
            last_seen: now,
            away: false,
            stage: Stage::Waiting,
            partitions: Vec::new(),
        };
        let mut place_is_kept = false;
        if let Some(old) = kept {
            old.signal.ring();
            if state.rebalance.is_none() && old.topics == config.topics {
                member.stage = Stage::ToAssign;
                member.partitions = old.partitions;
                place_is_kept = true;
            }
        }
        state.members.insert(config.instance_id.clone(), member);
        if !place_is_kept {
            let not_before = if first { now + self.join_delay } else { now };
            state.rebalance(now, not_before);
        }
        Seat {
            instance_id: config.instance_id.clone(),
            number,
        }
    }

    /// Says that the member is alive and asks what it must be told. `count` tells the partitions of
    /// a topic.
    pub(super) fn poll(&self, seat: &Seat, count: impl Fn(&str) -> u32) -> News {
        let now = self.clock.instant();
        let mut state = lock(&self.state);
        if let Some(member) = state.member(seat)
            && now < member.expires()
        {
            member.last_seen = now;
        }
        state.expire(now);
        state.deal(now, count);
        let Some(member) = state.member(seat) else {
            return match state.is_replaced(seat) {
                true => News::Fenced,
                false => News::Dropped,
            };
        };
        match member.stage {
            Stage::ToAssign => {
                member.stage = Stage::Assigned;
                News::Event(Event::Assigned(member.partitions.clone()))
            }
            Stage::ToRevoke { since } => {
                member.stage = Stage::Revoking { since };
                News::Event(Event::Revoked { lost: false })
            }
            Stage::Waiting | Stage::Assigned | Stage::Revoking { .. } => News::Nothing,
        }
    }

    /// How long this member may wait before it must poll again, for its own sake or the group's.
    pub(super) fn patience(&self, seat: &Seat) -> Duration {
        let now = self.clock.instant();
        let mut state = lock(&self.state);
        let own = state.member(seat).map(|member| member.session / 3);
        let not_before = state.rebalance.filter(|&not_before| not_before > now);
        let expiry = state.members.values().map(Member::expires).min();
        let next = not_before.into_iter().chain(expiry).min();
        let next = next.map_or(Duration::MAX, |next| next.saturating_duration_since(now));
        // A little more, so that it is over when the member looks.
        next.saturating_add(Duration::from_millis(1))
            .min(own.unwrap_or_default())
    }

    /// Whether another consumer has had the seat's name since.
    pub(super) fn is_replaced(&self, seat: &Seat) -> bool {
        lock(&self.state).is_replaced(seat)
    }

    /// The member has given its partitions back.
    pub(super) fn unassign(&self, seat: &Seat) {
        let now = self.clock.instant();
        let mut state = lock(&self.state);
        if let Some(member) = state.member(seat) {
            member.last_seen = now;
            if let Stage::ToRevoke { .. } | Stage::Revoking { .. } = member.stage {
                member.stage = Stage::Waiting;
                member.partitions.clear();
            }
            // The others may only wait for this one.
            state.ring_all();
        }
    }

    pub(super) fn leave(&self, seat: &Seat, keep_place: bool) {
        let now = self.clock.instant();
        let mut state = lock(&self.state);
        let Some(member) = state.member(seat) else {
            return;
        };
        if keep_place {
            member.away = true;
            member.last_seen = now;
            match member.stage {
                Stage::Assigned => member.stage = Stage::ToAssign,
                Stage::ToRevoke { .. } | Stage::Revoking { .. } => {
                    member.stage = Stage::Waiting;
                    member.partitions.clear();
                }
                Stage::Waiting | Stage::ToAssign => {}
            }
            state.ring_all();
        } else {
            state.members.remove(&seat.instance_id);
            state.rebalance(now, now);
        }
    }

    /// Proof of the present generation.
    pub(super) fn proof(self: &Arc<Self>, seat: &Seat) -> Result<Proof> {
        let mut state = lock(&self.state);
        let generation = state.generation;
        if state.member(seat).is_none() {
            return Err(Error::State("the member is not in its group"));
        }
        Ok(Proof {
            group: self.clone(),
            instance_id: seat.instance_id.as_str().into(),
            seat: seat.number,
            generation,
        })
    }

    /// That the member of this proof owns the partitions now.
    pub(super) fn check<'a>(
        &self,
        proof: &Proof,
        partitions: impl Iterator<Item = &'a Arc<Partition>>,
    ) -> Result<(), String> {
        lock(&self.state).check(proof, partitions, self.clock.instant())
    }

    /// As [`check`](Self::check); from now on until the pass is given back,
    /// [`committed`](Self::committed) waits.
    pub(super) fn begin_commit(
        self: &Arc<Self>,
        proof: &Proof,
        offsets: &[(Arc<Partition>, i64)],
    ) -> Result<CommitPass, String> {
        let mut state = lock(&self.state);
        let partitions = offsets.iter().map(|(partition, _)| partition);
        state.check(proof, partitions, self.clock.instant())?;
        state.commits_on_their_way += 1;
        Ok(CommitPass(self.clone()))
    }

    /// As [`begin_commit`](Self::begin_commit), for one who is no member of a group that has none.
    pub(super) fn begin_set(self: &Arc<Self>) -> Result<CommitPass, String> {
        let mut state = lock(&self.state);
        state.expire(self.clock.instant());
        if let Some(member) = state.members.keys().next() {
            return Err(format!("the group has members. member=`{member}`"));
        }
        state.commits_on_their_way += 1;
        Ok(CommitPass(self.clone()))
    }

    /// Durable offsets.
    pub(super) fn publish_offsets(&self, offsets: &[(Arc<Partition>, i64)]) {
        let mut state = lock(&self.state);
        for (partition, offset) in offsets {
            let key = (partition.topic_id, partition.at.partition);
            state.committed.insert(key, *offset);
        }
    }

    pub(super) fn restore_offset(&self, topic: u32, partition: i32, offset: i64) {
        lock(&self.state)
            .committed
            .insert((topic, partition), offset);
    }

    /// Takes over the offsets of a group that was just read from disk.
    pub(super) fn take_offsets(&self, stored: &Self) {
        let committed = std::mem::take(&mut lock(&stored.state).committed);
        lock(&self.state).committed = committed;
    }

    /// A topic was made or deleted: its readers are dealt partitions anew.
    pub(super) fn topic_changed(&self, topic: &Topic) {
        lock(&self.state)
            .committed
            .retain(|(id, _), _| *id != topic.id);
        self.deal_again(topic);
    }

    /// The readers of a topic are dealt partitions anew.
    pub(super) fn deal_again(&self, topic: &Topic) {
        let now = self.clock.instant();
        let mut state = lock(&self.state);
        let mut members = state.members.values();
        if members.any(|member| member.topics.contains(&topic.name)) {
            state.rebalance(now, now);
        }
    }

    /// The committed offsets, behind all commits on their way.
    pub(super) fn committed(
        &self,
        partitions: &[Arc<Partition>],
        wait: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let (state, waited) = self
            .settled
            .wait_timeout_while(lock(&self.state), wait, |state| {
                state.commits_on_their_way > 0
            })
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::client(
                "reading committed offsets",
                "a commit is on its way",
            ));
        }
        let of = |p: &Arc<Partition>| state.committed.get(&(p.topic_id, p.at.partition)).copied();
        Ok(partitions.iter().map(of).collect())
    }

    pub(super) fn instance_ids(&self) -> Vec<String> {
        let mut state = lock(&self.state);
        state.expire(self.clock.instant());
        state.members.keys().cloned().collect()
    }
}

/// The right to write a group's offsets. While it lasts, nobody is told older ones.
pub(super) struct CommitPass(Arc<Group>);

impl Drop for CommitPass {
    fn drop(&mut self) {
        let mut state: MutexGuard<'_, State> = lock(&self.0.state);
        state.commits_on_their_way -= 1;
        self.0.settled.notify_all();
    }
}

impl State {
    fn member(&mut self, seat: &Seat) -> Option<&mut Member> {
        self.members
            .get_mut(&seat.instance_id)
            .filter(|member| member.seat == seat.number && !member.away)
    }

    fn is_replaced(&self, seat: &Seat) -> bool {
        self.seats.get(&seat.instance_id) != Some(&seat.number)
    }

    fn ring_all(&self) {
        self.members
            .values()
            .for_each(|member| member.signal.ring());
    }

    /// Asks everybody for their partitions back; the next generation begins when all have answered.
    fn rebalance(&mut self, now: Instant, not_before: Instant) {
        if self.rebalance.is_none() {
            self.rebalance = Some(not_before);
        }
        for member in self.members.values_mut() {
            match member.stage {
                Stage::Assigned => member.stage = Stage::ToRevoke { since: now },
                Stage::ToAssign => {
                    member.stage = Stage::Waiting;
                    member.partitions.clear();
                }
                Stage::Waiting | Stage::ToRevoke { .. } | Stage::Revoking { .. } => {}
            }
        }
        self.ring_all();
    }

    /// Drops members that were silent, or slow to answer, for longer than their session.
    fn expire(&mut self, now: Instant) {
        let before = self.members.len();
        self.members.retain(|_, member| {
            let alive = now < member.expires();
            if !alive {
                member.signal.ring();
            }
            alive
        });
        if self.members.len() < before {
            self.rebalance(now, now);
        }
    }

    /// Begins the next generation if all have answered.
    fn deal(&mut self, now: Instant, count: impl Fn(&str) -> u32) {
        let due = self.rebalance.is_some_and(|not_before| not_before <= now);
        let answered = |member: &Member| member.stage == Stage::Waiting;
        if !due || !self.members.values().all(answered) {
            return;
        }
        self.rebalance = None;
        self.generation += 1;
        let topics: Vec<&[Arc<str>]> = self.members.values().map(|m| &m.topics[..]).collect();
        let shares = range::assign(&topics, count);
        for (member, share) in self.members.values_mut().zip(shares) {
            member.partitions = share;
            member.stage = Stage::ToAssign;
        }
        self.ring_all();
    }

    fn check<'a>(
        &self,
        proof: &Proof,
        mut partitions: impl Iterator<Item = &'a Arc<Partition>>,
        now: Instant,
    ) -> Result<(), String> {
        let name = &proof.instance_id;
        let member = self
            .members
            .get(&**name)
            .filter(|member| member.seat == proof.seat && now < member.expires())
            .ok_or_else(|| format!("member is not in its group any more. member=`{name}`"))?;
        if proof.generation != self.generation {
            return Err(format!(
                "member's generation is over. member=`{name}`, its={}, present={}",
                proof.generation, self.generation
            ));
        }
        match partitions.find(|partition| !member.partitions.contains(&partition.at)) {
            Some(other) => Err(format!(
                "member does not own the partition. member=`{name}`, partition=`{}`",
                other.at
            )),
            None => Ok(()),
        }
    }
}
