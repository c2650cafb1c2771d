//! A member of a consumer group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use tracing::{debug, info, warn};

use super::{
    config::KafkaConfig,
    context::{MemberContext, Rebalance, Signal},
    create, deadline,
    joint_queue::JointQueue,
    offsets::committed,
    raw, retire, triage,
};
use crate::{
    Consumer, ConsumerConfig, Error, Event, Fetched, GroupMetadata, PartitionIx, Result, Start,
    TopicPartition,
};

/// A waiting poll looks at its queues at least this often, whatever their signals say.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A partition that was just assigned may not be ready for a seek yet.
const SEEK_WAIT: Duration = Duration::from_secs(10);

/// Pause between two tries of a question that the cluster could not answer yet.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long leaving the group and closing the client may hold up the caller.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// A static member of a classic group, assigned by range.
///
/// `Invariant:` partitions are assigned and given back only by [`Consumer::assign`] and
/// [`Consumer::unassign`], never inside librdkafka's callback.
pub(super) struct KafkaConsumer {
    config: KafkaConfig,
    group: ConsumerConfig,
    /// Holds the client; taken only when this is dropped.
    queue: Option<JointQueue<MemberContext>>,
    signal: Arc<Signal>,
    awaited: Option<Answer>,
    /// The caller holds partitions and was not told otherwise.
    holds: bool,
    /// The client was made anew: the answer awaited is for one that is gone.
    detached: bool,
    fenced: bool,
}

/// What the group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Assign,
    Unassign,
}

impl KafkaConsumer {
    pub(super) fn new(config: &KafkaConfig, group: ConsumerConfig) -> Result<Self> {
        let signal = Arc::new(Signal::default());
        Ok(Self {
            queue: Some(join(config, &group, &signal)?),
            config: config.clone(),
            group,
            signal,
            awaited: None,
            holds: false,
            detached: false,
            fenced: false,
        })
    }

    /// Starts over under the same name, which the brokers let a static member do at any time.
    ///
    /// A client whose session ran out forgets its member id and goes on with its heartbeats until
    /// the revocation is answered; brokers that remember the member then call it fenced, though
    /// nobody else is there. If there is somebody else after all, the new client is fenced again or
    /// fences in turn, and one of the two is told so.
    fn join_anew(&mut self) -> Result<Option<Event>> {
        warn!(member = %self.group.instance_id, "session ran out: member joins anew");
        let old = self
            .queue
            .replace(join(&self.config, &self.group, &self.signal)?);
        if let Some(old) = old {
            old.consumer().context().close();
            retire("consumer", old, CLOSE_WAIT);
        }
        self.detached = self.holds || self.awaited.is_some();
        if self.holds && self.awaited.is_none() {
            self.awaited = Some(Answer::Unassign);
            return Ok(Some(Event::Revoked { lost: true }));
        }
        Ok(None)
    }

    #[cfg(test)]
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    fn queue(&mut self) -> &mut JointQueue<MemberContext> {
        self.queue
            .as_mut()
            .expect("the queue is taken only when this is dropped")
    }

    fn consumer(&self) -> &BaseConsumer<MemberContext> {
        self.queue
            .as_ref()
            .expect("the queue is taken only when this is dropped")
            .consumer()
    }

    /// Serves rebalances, errors and log lines. This is also what tells the group that the member
    /// is alive.
    fn serve(&mut self) -> Result<Option<Event>> {
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
            // One rebalance after the other: the next one waits until this one is answered.
            let free = !self.detached;
            if let Some(event) = free.then(|| self.rebalance()).flatten() {
                return Ok(Some(event));
            }
            if self.queue().events_waiting() == 0 {
                return Ok(None);
            }
        }
    }

    fn rebalance(&mut self) -> Option<Event> {
        let event = match self.consumer().context().next_rebalance()? {
            Rebalance::Assign(partitions) => {
                self.awaited = Some(Answer::Assign);
                info!(member = %self.group.instance_id, partitions = partitions.len(), "partitions assigned");
                Event::Assigned(partitions)
            }
            Rebalance::Revoke { lost } => {
                self.awaited = Some(Answer::Unassign);
                info!(member = %self.group.instance_id, lost, "partitions revoked");
                Event::Revoked { lost }
            }
        };
        Some(event)
    }

    /// Most errors told here pass by themselves; a fatal one does not.
    fn check(&mut self, error: KafkaError) -> Result<Option<Event>> {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        if fatal && triage::is_fencing(error.rdkafka_error_code()) {
            if self.consumer().context().timed_out() {
                return self.join_anew();
            }
            self.fenced = true;
            return Err(Error::Fenced(self.group.instance_id.clone()));
        }
        if fatal {
            return Err(Error::client("consumer cannot go on", error));
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown) => {
                debug!(member = %self.group.instance_id, %error, "brokers are away");
            }
            _ => warn!(member = %self.group.instance_id, %error, "consumer reports an error"),
        }
        Ok(None)
    }

    /// True when the group still waits for this answer. It does not when the member was too slow
    /// with it and librdkafka joined anew: then the next rebalance is already due, and counts.
    fn answer(&mut self, with: Answer) -> Result<bool> {
        if self.awaited != Some(with) {
            return Err(Error::State("the group does not wait for this answer"));
        }
        self.awaited = None;
        let moved_on = self.detached || self.consumer().context().rebalance_is_due();
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
        if self.answer(Answer::Assign)? {
            self.holds = true;
            self.queue().assign(partitions)
        } else {
            Err(Error::State("the group has moved on: poll again"))
        }
    }

    fn unassign(&mut self) -> Result<()> {
        let awaited = self.answer(Answer::Unassign)?;
        self.holds = false;
        if awaited {
            self.queue().unassign()
        } else {
            self.queue().forget();
            Ok(())
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
        loop {
            let error = match self.queue().seek(partition, offset, SEEK_WAIT) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() >= until {
                return Err(Error::client(
                    format!("cannot seek. offset={offset}"),
                    error,
                ));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
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
        if raw::generation(self.consumer()) < 0 || !raw::is_member(self.consumer()) {
            return Err(Error::State("the member has not joined its group"));
        }
        let metadata: ConsumerGroupMetadata = self
            .consumer()
            .group_metadata()
            .ok_or(Error::State("the consumer has no group"))?;
        Ok(GroupMetadata::new(metadata))
    }

    fn close(mut self: Box<Self>, keep_place: bool) {
        if !keep_place {
            self.leave();
        }
    }
}

impl KafkaConsumer {
    /// Tells the group that this member does not come back. A static member that merely closes says
    /// nothing and keeps its place; one that unsubscribes first leaves like any other.
    fn leave(&mut self) {
        self.answer_as_closing();
        let consumer = self.consumer();
        consumer.unsubscribe();
        let until = Instant::now() + LEAVE_WAIT;
        while raw::is_member(consumer) {
            if Instant::now() >= until {
                warn!(member = %self.group.instance_id, "group was not left in time");
                return;
            }
            self.signal.wait(RETRY_PAUSE);
            // Events only: the context gives partitions back, and records are led elsewhere.
            drop(consumer.poll(Duration::ZERO));
        }
        info!(member = %self.group.instance_id, "group left");
    }

    /// From now on rebalances are answered by the context. One that was handed out and not answered
    /// would hold up closing for ever.
    fn answer_as_closing(&mut self) {
        self.consumer().context().close();
        while self.rebalance().is_some() {}
        let answered = match self.awaited.take() {
            None => Ok(()),
            Some(Answer::Assign) => self.consumer().assign(&TopicPartitionList::new()),
            Some(Answer::Unassign) => self.consumer().unassign(),
        };
        if let Err(error) = answered {
            warn!(member = %self.group.instance_id, %error, "rebalance was not answered while closing");
        }
    }
}

fn join(
    config: &KafkaConfig,
    group: &ConsumerConfig,
    signal: &Arc<Signal>,
) -> Result<JointQueue<MemberContext>> {
    let who = format!("{}/{}", group.group_id, group.instance_id);
    let consumer: BaseConsumer<_> = create(&config.member(group), MemberContext::new(who))?;
    let queue = JointQueue::new(Arc::new(consumer), Arc::clone(signal))?;
    let topics: Vec<&str> = group.topics.iter().map(|topic| &**topic).collect();
    let subscribed = queue.consumer().subscribe(&topics);
    subscribed.map_err(|e| Error::client("cannot subscribe", e))?;
    Ok(queue)
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.answer_as_closing();
        // Closing waits for the group, sometimes for ever: it gets a thread of its own.
        retire("consumer", self.queue.take(), CLOSE_WAIT);
    }
}
