//! A member of a consumer group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use tracing::info;

use super::{
    again,
    config::{GroupProtocol, KafkaConfig},
    context::{MemberContext, Rebalance, Signal},
    deadline,
    joint_queue::JointQueue,
    offsets::committed,
    place::{Refused, make, subscribe},
    raw,
    share::{Change, Next, Share},
};
use crate::{
    Consumer, ConsumerConfig, Error, Event, Fetched, GroupMetadata, PartitionIx, Result, Start,
    TopicPartition,
};

/// A waiting poll looks at its queues at least this often, whatever their signals say.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A partition that was just assigned may not be ready for a seek yet.
const SEEK_WAIT: Duration = Duration::from_secs(10);

/// A member that has been in its group for so long without being given anything is told that it
/// has nothing; under the new protocol librdkafka does not say so.
const NOTHING_AFTER: Duration = Duration::from_secs(1);

/// A static member of a group, assigned by range.
///
/// `Invariant:` partitions are assigned and given back only by [`Consumer::assign`] and
/// [`Consumer::unassign`], never inside librdkafka's callback.
pub(super) struct KafkaConsumer {
    pub(super) config: KafkaConfig,
    pub(super) group: ConsumerConfig,
    /// Holds the client; taken only when this is dropped.
    pub(super) queue: Option<JointQueue<MemberContext>>,
    pub(super) signal: Arc<Signal>,
    pub(super) awaited: Option<Answer>,
    /// The caller holds partitions and was not told otherwise.
    pub(super) holds: bool,
    /// The client was made anew: the answer awaited is for one that is gone.
    pub(super) detached: bool,
    pub(super) fenced: bool,
    /// Since when it asks, after a silence, whether another process has its place.
    pub(super) unsettled: Option<Instant>,
    /// What the group has given, where it gives and takes partitions one by one.
    pub(super) share: Option<Share>,
    /// The brokers refuse this member, as another one has its name.
    pub(super) refused: Option<Refused>,
    /// Since when this member has been in its group without having anything.
    idle_since: Option<Instant>,
}

/// What the group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Assign,
    Unassign,
}

impl KafkaConsumer {
    pub(super) fn new(config: &KafkaConfig, group: ConsumerConfig) -> Result<Self> {
        let signal = Arc::new(Signal::default());
        let queue = make(config, &group, &signal)?;
        subscribe(&queue, &group)?;
        let incremental = config.group_protocol == GroupProtocol::Consumer;
        Ok(Self {
            queue: Some(queue),
            config: config.clone(),
            group,
            signal,
            awaited: None,
            holds: false,
            detached: false,
            fenced: false,
            unsettled: None,
            share: incremental.then(Share::default),
            refused: None,
            idle_since: None,
        })
    }

    #[cfg(test)]
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    pub(super) fn queue(&mut self) -> &mut JointQueue<MemberContext> {
        self.queue
            .as_mut()
            .expect("the queue is taken only when this is dropped")
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<MemberContext> {
        self.queue
            .as_ref()
            .expect("the queue is taken only when this is dropped")
            .consumer()
    }

    /// Serves rebalances, errors and log lines. This is also what tells the group that the member
    /// is alive.
    fn serve(&mut self) -> Result<Option<Event>> {
        if self.waits_for_release() {
            return self.ask_again();
        }
        if self.unsettled.is_some() {
            return self.settle();
        }
        loop {
            // All partitions are led away from this queue before they are assigned.
            let message = self.consumer().poll(Duration::ZERO).map(|message| {
                message.map(|_| Error::State("a record came through the queue of events"))
            });
            match message {
                None => {}
                Some(Ok(misled)) => return Err(misled),
                Some(Err(error)) => {
                    if let Some(event) = self.check(error)? {
                        return Ok(Some(event));
                    }
                }
            }
            if let Some(event) = self.rebalance()? {
                return Ok(Some(event));
            }
            if self.waits_for_release() {
                return Ok(None);
            }
            if self.queue().events_waiting() == 0 {
                if !self.holds {
                    // The name changes while the client joins, and is lost with its session.
                    let consumer = self.consumer();
                    consumer.context().remember(raw::member_id(consumer));
                }
                return Ok(self.tell_of_nothing());
            }
        }
    }

    /// One rebalance after the other: the next one waits until this one is answered.
    fn rebalance(&mut self) -> Result<Option<Event>> {
        if self.detached {
            return Ok(None);
        }
        let Some(share) = &mut self.share else {
            let context = self.consumer().context();
            let silent = context.timed_out();
            return match context.next_rebalance() {
                None => Ok(None),
                Some(Rebalance::Assign(partitions)) => {
                    Ok(Some(self.tell(Event::Assigned(partitions))))
                }
                Some(Rebalance::Revoke { lost: true, .. }) if silent => self.lose_by_silence(),
                Some(Rebalance::Revoke { lost, .. }) => {
                    Ok(Some(self.tell(Event::Revoked { lost })))
                }
            };
        };
        if self.awaited.is_some() {
            return Ok(None);
        }
        if let Some(event) = share.to_tell().filter(|_| !self.holds) {
            return Ok(Some(self.tell(event)));
        }
        while let Some(rebalance) = self.consumer().context().next_rebalance() {
            let told = self.holds;
            let share = self.share.get_or_insert_default();
            match share.hear(rebalance.into(), told) {
                Next::Tell(event) => return Ok(Some(self.tell(event))),
                Next::Answer(change) => self.release(change)?,
            }
        }
        Ok(None)
    }

    pub(super) fn tell(&mut self, event: Event) -> Event {
        let member = &self.group.instance_id;
        (self.refused, self.idle_since) = (None, None);
        match &event {
            Event::Records => {}
            Event::Assigned(partitions) => {
                self.awaited = Some(Answer::Assign);
                info!(%member, partitions = partitions.len(), "partitions assigned");
            }
            Event::Revoked { lost } => {
                self.awaited = Some(Answer::Unassign);
                info!(%member, lost, "partitions revoked");
            }
        }
        event
    }

    fn tell_of_nothing(&mut self) -> Option<Event> {
        let whole = match &self.share {
            Some(share) if !self.holds && self.awaited.is_none() && !self.detached => share.whole(),
            Some(_) | None => return None,
        };
        if raw::generation(self.consumer()) <= 0 {
            self.idle_since = None;
            return None;
        }
        let since = self.idle_since.get_or_insert_with(Instant::now);
        (since.elapsed() >= NOTHING_AFTER).then(|| self.tell(Event::Assigned(whole)))
    }

    /// Gives up what the group takes.
    fn release(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Give(_) => Ok(()),
            Change::Take { partitions, .. } => self.queue().unassign_some(&partitions),
        }
    }

    /// True when the group still waits for this answer. It does not when the member was too slow
    /// with it and librdkafka joined anew: then the next rebalance is already due, and counts. In
    /// groups of the new protocol librdkafka waits.
    fn answer(&mut self, with: Answer) -> Result<bool> {
        if self.awaited != Some(with) {
            return Err(Error::State("the group does not wait for this answer"));
        }
        self.awaited = None;
        let is_due = self.share.is_none() && self.consumer().context().rebalance_is_due();
        let moved_on = self.detached || is_due;
        self.detached = false;
        Ok(!moved_on)
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<Event> {
        if self.fenced {
            return Err(Error::Fenced(self.group.instance_id.clone()));
        }
        let until = deadline(wait);
        loop {
            if let Some(event) = self.serve()? {
                return Ok(event);
            }
            if limit > 0 && self.queue().take(limit, into)?.records {
                return Ok(Event::Records);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Event::Records);
            }
            self.signal.wait(left.min(LOOK_EVERY));
        }
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        if !self.answer(Answer::Assign)? {
            return Err(Error::State("the group has moved on: poll again"));
        }
        self.holds = true;
        match self.share.as_mut().map(Share::taken) {
            None => self.queue().assign(partitions),
            Some(added) => {
                let added = added.unwrap_or_default();
                self.queue().assign_more(partitions, &added, SEEK_WAIT)
            }
        }
    }

    fn unassign(&mut self) -> Result<()> {
        let awaited = self.answer(Answer::Unassign)?;
        self.holds = false;
        if !awaited {
            self.queue().forget();
            return Ok(());
        }
        match self.share.as_mut().map(Share::let_go) {
            None => self.queue().unassign(),
            Some(Some(change)) => self.release(change),
            Some(None) => {
                self.queue().forget();
                Ok(())
            }
        }
    }

    fn pause(&mut self, partition: PartitionIx) -> Result<()> {
        self.queue().pause(partition)
    }

    fn resume(&mut self, partition: PartitionIx) -> Result<()> {
        self.queue().resume(partition)
    }

    fn seek(&mut self, partition: PartitionIx, offset: i64) -> Result<()> {
        self.queue().position(partition)?;
        let until = Instant::now() + SEEK_WAIT;
        let queue = self.queue();
        again(until, || queue.seek(partition, offset, SEEK_WAIT))
            .map_err(|e| Error::client(format!("cannot seek. offset={offset}"), e))
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
        wait: Duration,
    ) -> Result<Vec<Option<i64>>> {
        // Read committed makes librdkafka ask for stable offsets: pending ones are refused, not
        // returned.
        committed(self.consumer(), partitions, wait)
    }

    fn group_metadata(&self) -> Result<GroupMetadata> {
        // Without a member id the brokers take offsets unchecked, from anybody.
        let least = i32::from(self.share.is_some());
        let consumer = self.consumer();
        if raw::generation(consumer) < least || raw::member_id(consumer).is_none() {
            return Err(Error::State("the member has not joined its group"));
        }
        let metadata: ConsumerGroupMetadata = self
            .consumer()
            .group_metadata()
            .ok_or(Error::State("the consumer has no group"))?;
        Ok(GroupMetadata::new(metadata))
    }

    fn is_replaced(&mut self, wait: Duration) -> Result<bool> {
        self.place_is_taken(wait, true)
    }

    fn close(mut self: Box<Self>, keep_place: bool) {
        if !keep_place {
            self.leave();
        }
    }
}
