//! A consumer group in virtual time: eager rebalances, as the embedded log has them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{ConsumerConfig, Event, TopicPartition, embedded::range};

/// A consumer's claim to the place of its name.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub group: String,
    pub instance_id: String,
    /// Later claims have greater numbers.
    pub number: u64,
}

/// What proves a consumer's generation to a producer.
pub(super) struct Proof {
    pub seat: Seat,
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

#[derive(Default)]
pub(super) struct Group {
    pub generation: u32,
    /// Not before when the next generation may begin, while one is being prepared.
    rebalance: Option<Duration>,
    members: BTreeMap<String, Member>,
    seats: BTreeMap<String, u64>,
    pub committed: BTreeMap<TopicPartition, i64>,
    /// The first committed offset that was less than the one before.
    went_back: Option<String>,
}

struct Member {
    seat: u64,
    topics: Vec<Arc<str>>,
    session: Duration,
    last_seen: Duration,
    /// Closed, but its place is kept until the session ends.
    away: bool,
    stage: Stage,
    partitions: Vec<TopicPartition>,
}

/// Where a member is on the way from one generation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    ToAssign,
    Assigned,
    ToRevoke { since: Duration },
    Revoking { since: Duration },
}

impl Member {
    fn expires(&self) -> Duration {
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
    /// Takes the place of that name, from whoever has it.
    pub(super) fn join(&mut self, config: &ConsumerConfig, now: Duration, delay: Duration) -> Seat {
        let number = self.next_seat(&config.instance_id);
        let kept = self.members.remove(&config.instance_id);
        let first = self.members.is_empty() && kept.is_none();
        if first {
            self.rebalance = None;
        }
        let mut member = Member {
            seat: number,
            topics: config.topics.clone(),
            session: config.session_timeout,
            last_seen: now,
            away: false,
            stage: Stage::Waiting,
            partitions: Vec::new(),
        };
        let place = kept.filter(|old| self.rebalance.is_none() && old.topics == config.topics);
        let moves = place.is_none();
        if let Some(old) = place {
            member.stage = Stage::ToAssign;
            member.partitions = old.partitions;
        }
        self.members.insert(config.instance_id.clone(), member);
        if moves {
            self.rebalance(now, if first { now + delay } else { now });
        }
        Seat {
            group: config.group_id.clone(),
            instance_id: config.instance_id.clone(),
            number,
        }
    }

    fn next_seat(&mut self, instance_id: &str) -> u64 {
        let latest = self.seats.entry(instance_id.to_owned()).or_default();
        *latest += 1;
        *latest
    }

    /// Gives the seat's place to nobody, as if another member of its name had come and gone.
    pub(super) fn fence(&mut self, seat: &Seat, now: Duration) {
        if self.member(seat).is_some() {
            self.next_seat(&seat.instance_id);
            self.members.remove(&seat.instance_id);
            self.rebalance(now, now);
        }
    }

    /// Says that the member is alive and asks what it must be told.
    pub(super) fn poll(&mut self, seat: &Seat, now: Duration, count: impl Fn(&str) -> u32) -> News {
        if let Some(member) = self.member(seat)
            && now < member.expires()
        {
            member.last_seen = now;
        }
        self.expire(now);
        self.deal(now, count);
        let Some(member) = self.member(seat) else {
            return match self.is_replaced(seat) {
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

    /// Whether another consumer has had the seat's name since.
    pub(super) fn is_replaced(&self, seat: &Seat) -> bool {
        self.seats.get(&seat.instance_id) != Some(&seat.number)
    }

    /// The member has given its partitions back.
    pub(super) fn unassign(&mut self, seat: &Seat, now: Duration) {
        if let Some(member) = self.member(seat) {
            member.last_seen = now;
            if let Stage::ToRevoke { .. } | Stage::Revoking { .. } = member.stage {
                member.stage = Stage::Waiting;
                member.partitions.clear();
            }
        }
    }

    pub(super) fn leave(&mut self, seat: &Seat, keep_place: bool, now: Duration) {
        let Some(member) = self.member(seat) else {
            return;
        };
        if !keep_place {
            self.members.remove(&seat.instance_id);
            self.rebalance(now, now);
            return;
        }
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
    }

    pub(super) fn member_is_in(&self, seat: &Seat) -> bool {
        let member = self.members.get(&seat.instance_id);
        member.is_some_and(|member| member.seat == seat.number && !member.away)
    }

    /// That this proof is of the present generation. As in Kafka, partitions are not looked at.
    pub(super) fn check(&self, proof: &Proof) -> Result<(), String> {
        let name = &proof.seat.instance_id;
        let member = self.members.get(name);
        if member.is_none_or(|member| member.seat != proof.seat.number) {
            return Err(format!(
                "member is not in its group any more. member=`{name}`"
            ));
        }
        if proof.generation != self.generation {
            return Err(format!(
                "member's generation is over. member=`{name}`, its={}, present={}",
                proof.generation, self.generation
            ));
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, at: TopicPartition, offset: i64) {
        let before = self.committed.get(&at).copied();
        if before.is_some_and(|before| offset < before) && self.went_back.is_none() {
            self.went_back = Some(format!("partition=`{at}`, from={before:?}, to={offset}"));
        }
        self.committed.insert(at, offset);
    }

    /// All members count as just seen: a new coordinator does not know how long they were silent.
    pub(super) fn forgive(&mut self, now: Duration) {
        for member in self.members.values_mut() {
            member.last_seen = now;
            if let Stage::ToRevoke { since } | Stage::Revoking { since } = &mut member.stage {
                *since = now;
            }
        }
    }

    /// A topic was made or deleted: its readers are dealt partitions anew.
    pub(super) fn topic_changed(&mut self, topic: &str, now: Duration) {
        self.committed.retain(|at, _| &*at.topic != topic);
        let mut topics = self.members.values().flat_map(|member| &member.topics);
        if topics.any(|read| &**read == topic) {
            self.rebalance(now, now);
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (&String, &Vec<TopicPartition>)> {
        self.members
            .iter()
            .map(|(id, member)| (id, &member.partitions))
    }

    fn member(&mut self, seat: &Seat) -> Option<&mut Member> {
        self.members
            .get_mut(&seat.instance_id)
            .filter(|member| member.seat == seat.number && !member.away)
    }

    /// Asks everybody for their partitions back; the next generation begins when all have answered.
    pub(super) fn rebalance(&mut self, now: Duration, not_before: Duration) {
        self.rebalance.get_or_insert(not_before);
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
    }

    /// Drops members that were silent, or slow to answer, for longer than their session.
    pub(super) fn expire(&mut self, now: Duration) {
        let before = self.members.len();
        self.members.retain(|_, member| now < member.expires());
        if self.members.len() < before {
            self.rebalance(now, now);
        }
    }

    /// Begins the next generation if all have answered.
    fn deal(&mut self, now: Duration, count: impl Fn(&str) -> u32) {
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
        self.check_owners("dealt");
    }

    /// Asserts that no committed offset was ever less than the one before.
    pub(super) fn check_offsets(&self, group: &str) {
        let went_back = &self.went_back;
        assert!(
            went_back.is_none(),
            "a committed offset went back. group=`{group}`, {}",
            went_back.as_deref().unwrap_or_default()
        );
    }

    /// Asserts that each partition has one owner at most.
    pub(super) fn check_owners(&self, group: &str) {
        let mut owners = BTreeMap::new();
        for (id, member) in &self.members {
            for at in &member.partitions {
                let other = owners.insert(at, id);
                assert!(
                    other.is_none(),
                    "a partition has two owners. group=`{group}`, partition=`{at}`, \
                     one={other:?}, other=`{id}`"
                );
            }
        }
    }
}
