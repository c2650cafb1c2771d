//! A member's place in its group: joining, being refused or replaced, leaving.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use tracing::{debug, info, warn};

use super::{
    RETRY_PAUSE,
    config::{GroupProtocol, KafkaConfig},
    consumer::{Answer, KafkaConsumer},
    context::{MemberContext, Rebalance, Signal},
    create, deadline,
    joint_queue::{JointQueue, list},
    raw, retire,
    share::{Change, Share},
    triage,
};
use crate::{ConsumerConfig, Error, Event, Result};

/// How long leaving the group and closing the client may hold up the caller.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// How long the group is asked who has this place, after this member was silent.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Pause before the brokers are asked again for a place that is another's.
const RELEASE_PAUSE: Duration = Duration::from_millis(500);

/// Subscribed to when leaving: no topic has such a name.
const NOTHING: &str = "^$";

/// The brokers refuse a member, as another one has its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    since: Instant,
    /// When they are asked again; `None` while they are.
    again_at: Option<Instant>,
}

/// A client that is no member yet.
pub(super) fn make(
    config: &KafkaConfig,
    group: &ConsumerConfig,
    signal: &Arc<Signal>,
) -> Result<JointQueue<MemberContext>> {
    let who = format!("{}/{}", group.group_id, group.instance_id);
    let incremental = config.group_protocol == GroupProtocol::Consumer;
    let context = MemberContext::new(who, incremental);
    let consumer: BaseConsumer<_> = create(&config.member(group), context)?;
    JointQueue::new(Arc::new(consumer), Arc::clone(signal))
}

/// Joins the group, in the background.
pub(super) fn subscribe(queue: &JointQueue<MemberContext>, group: &ConsumerConfig) -> Result<()> {
    let topics: Vec<&str> = group.topics.iter().map(|topic| &**topic).collect();
    let subscribed = queue.consumer().subscribe(&topics);
    subscribed.map_err(|e| Error::client("cannot subscribe", e))
}

/// Brokers name a static member `<instance id>-<uuid>` and any other `<client id>-<uuid>`, and tell
/// the instance id itself only in a newer request than the client sends.
pub(super) fn member_name(id: &str, client_id: &str) -> String {
    const UUID_LEN: usize = 36;
    let instance = id
        .len()
        .checked_sub(UUID_LEN + 1)
        .and_then(|at| id.split_at_checked(at))
        .filter(|(prefix, rest)| *prefix != client_id && rest.starts_with('-'))
        .map(|(prefix, _)| prefix);
    instance.unwrap_or(id).to_owned()
}

impl From<Rebalance> for Change {
    fn from(rebalance: Rebalance) -> Self {
        match rebalance {
            Rebalance::Assign(partitions) => Self::Give(partitions),
            Rebalance::Revoke { partitions, lost } => Self::Take { partitions, lost },
        }
    }
}

impl KafkaConsumer {
    /// Most errors told here pass by themselves; a fatal one does not.
    pub(super) fn check(&mut self, error: KafkaError) -> Result<Option<Event>> {
        let member = &self.group.instance_id;
        let code = error.rdkafka_error_code();
        if !matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            match code {
                Some(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                ) => debug!(%member, %error, "brokers are away"),
                _ => warn!(%member, %error, "consumer reports an error"),
            }
            return Ok(None);
        }
        if code == Some(RDKafkaErrorCode::UnreleasedInstanceId) {
            return self.wait_for_release();
        }
        if self.share.is_some() && triage::is_unsupported(code) {
            return Err(Error::Unsupported(format!(
                "the brokers do not know the group protocol `consumer`: use brokers from 4.0 on, \
                 or the protocol `classic`. told=`{error}`"
            )));
        }
        if triage::is_fencing(code) {
            // A client whose session ran out forgets its member id and goes on with its heartbeats
            // until the revocation is answered; brokers that remember the member then call it
            // fenced, though nobody else is there.
            if self.consumer().context().timed_out() {
                return self.settle();
            }
            self.fenced = true;
            return Err(Error::Fenced(self.group.instance_id.clone()));
        }
        Err(Error::client("consumer cannot go on", error))
    }

    /// The session ran out, and the client is about to join again, which takes the place from
    /// whoever has it by now. It waits until its revocation is answered, so there is time to ask.
    pub(super) fn lose_by_silence(&mut self) -> Result<Option<Event>> {
        match self.place_is_free()? {
            true => Ok(Some(self.tell(Event::Revoked { lost: true }))),
            false => Ok(self.lose()),
        }
    }

    /// After a silence: joins anew, unless another process has the place by now.
    pub(super) fn settle(&mut self) -> Result<Option<Event>> {
        match self.place_is_free()? {
            true => self.join_anew("session ran out"),
            false => Ok(self.lose()),
        }
    }

    /// After a silence, and while the client does not join: fails where another process has the
    /// place. `false` while the group does not answer: it is asked again then, and the client does
    /// not join before it has answered or was asked for long enough.
    fn place_is_free(&mut self) -> Result<bool> {
        let since = *self.unsettled.get_or_insert_with(Instant::now);
        let member = &self.group.instance_id;
        match self.place_is_taken(ASK_WAIT, false) {
            Ok(true) => {
                self.fenced = true;
                return Err(Error::Fenced(member.clone()));
            }
            Ok(false) => {}
            Err(error) if since.elapsed() < self.config.release_wait => {
                debug!(%member, %error, "asks again for its place");
                return Ok(false);
            }
            Err(error) => warn!(%member, %error, "the group does not say who has this place"),
        }
        self.unsettled = None;
        Ok(true)
    }

    /// Starts over under the same name, which the brokers let a static member do at any time.
    fn join_anew(&mut self, why: &str) -> Result<Option<Event>> {
        warn!(member = %self.group.instance_id, why, "member joins anew");
        let incremental = self.share.is_some();
        let new = make(&self.config, &self.group, &self.signal)?;
        if !incremental {
            subscribe(&new, &self.group)?;
        }
        if let Some(old) = self.queue.replace(new) {
            old.consumer().context().close();
            retire("consumer", old, CLOSE_WAIT);
        }
        if let (Some(queue), true) = (&self.queue, incremental) {
            // Brokers refuse a second member of a name as long as the first one is there.
            subscribe(queue, &self.group)?;
            self.share = Some(Share::default());
        }
        if let Some(refused) = &mut self.refused {
            refused.again_at = None;
        }
        Ok(self.lose())
    }

    /// What the caller holds is gone, and the client with it.
    fn lose(&mut self) -> Option<Event> {
        self.detached = self.holds || self.awaited.is_some();
        if self.holds && self.awaited.is_none() {
            self.awaited = Some(Answer::Unassign);
            return Some(Event::Revoked { lost: true });
        }
        None
    }

    /// Another member has the name. It may have died: then its place is free when its session ends.
    fn wait_for_release(&mut self) -> Result<Option<Event>> {
        let now = Instant::now();
        let member = &self.group.instance_id;
        let since = self.refused.map_or(now, |refused| refused.since);
        let at_most = self.config.release_wait;
        if now - since >= at_most {
            self.fenced = true;
            return Err(Error::Fenced(member.clone()));
        }
        if self.refused.is_none() {
            warn!(%member, ?at_most, "another member has this name: waits for its end");
        }
        self.refused = Some(Refused {
            since,
            again_at: Some(now + RELEASE_PAUSE),
        });
        Ok(self.lose())
    }

    pub(super) fn waits_for_release(&self) -> bool {
        self.refused
            .is_some_and(|refused| refused.again_at.is_some())
    }

    /// Tries for the place again, when it is time to.
    pub(super) fn ask_again(&mut self) -> Result<Option<Event>> {
        let at = self.refused.and_then(|refused| refused.again_at);
        match at.is_some_and(|at| Instant::now() >= at) {
            true => self.join_anew("place may be free by now"),
            false => Ok(None),
        }
    }

    /// Whether another process has this member's place. The brokers may call a client that is
    /// `joining` something that it does not know yet.
    ///
    /// Under the new protocol nobody can take the place of a member; one that has lost it by
    /// silence is refused when it joins again.
    pub(super) fn place_is_taken(&self, wait: Duration, joining: bool) -> Result<bool> {
        if self.fenced || self.share.is_some() {
            return Ok(self.fenced);
        }
        let until = deadline(wait);
        let consumer = self.consumer();
        let (group, member) = (&self.group.group_id, &self.group.instance_id);
        loop {
            // Not the newer `DescribeConsumerGroups`: a client that is closed after one that was
            // not answered in time stops the process (`rd_kafka_enq_once_del_source_return`).
            let groups = consumer
                .fetch_group_list(Some(group), wait)
                .map_err(|e| Error::client("cannot ask who is in the group", e))?;
            let members = groups.groups().iter().flat_map(|group| group.members());
            let mut own = members.filter(|m| member_name(m.id(), m.client_id()) == *member);
            let now = raw::member_id(consumer);
            let known = [now.clone(), consumer.context().member_id()];
            if own.all(|m| known.iter().flatten().any(|id| id == m.id())) {
                return Ok(false);
            }
            if !joining || now.is_some() || consumer.client().fatal_error().is_some() {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.signal.wait(RETRY_PAUSE);
        }
    }

    /// Tells the group that this member does not come back.
    ///
    /// A static member that merely closes says nothing and keeps its place. Under the classic
    /// protocol one that unsubscribes first leaves like any other. Under the new one librdkafka
    /// keeps its place in any case, so it gives up its partitions, and an empty place is left.
    pub(super) fn leave(&mut self) {
        self.answer_as_closing();
        let (consumer, member) = (self.consumer(), &self.group.instance_id);
        let incremental = self.share.is_some();
        let generation = raw::generation(consumer);
        if incremental {
            if generation <= 0 || consumer.client().fatal_error().is_some() {
                return;
            }
            if let Err(error) = consumer.subscribe(&[NOTHING]) {
                warn!(%member, %error, "partitions were not given up");
                return;
            }
        } else {
            consumer.unsubscribe();
        }
        let is_there = || match incremental {
            // The next generation begins for a member when it has given up what it had.
            true => raw::generation(consumer) == generation,
            false => raw::member_id(consumer).is_some(),
        };
        let until = Instant::now() + LEAVE_WAIT;
        while is_there() {
            if Instant::now() >= until {
                warn!(%member, "group was not left in time");
                return;
            }
            self.signal.wait(RETRY_PAUSE);
            // Events only: the context gives partitions back, and records are led elsewhere.
            drop(consumer.poll(Duration::ZERO));
        }
        info!(%member, "group left");
    }

    /// From now on rebalances are answered by the context. One that was handed out and not answered
    /// would hold up closing for ever.
    fn answer_as_closing(&mut self) {
        let consumer = self
            .queue
            .as_ref()
            .expect("the queue is taken only when this is dropped")
            .consumer();
        consumer.context().close();
        let mut waiting = Vec::new();
        while let Some(rebalance) = consumer.context().next_rebalance() {
            waiting.push(rebalance);
        }
        let member = &self.group.instance_id;
        let say = |error: KafkaError| {
            warn!(%member, %error, "rebalance was not answered while closing");
        };
        if let Some(share) = &mut self.share {
            let waiting = waiting.into_iter().map(Change::from);
            for change in share.unanswered().into_iter().chain(waiting) {
                let answered = match change {
                    Change::Give(partitions) => consumer.incremental_assign(&list(&partitions)),
                    Change::Take { partitions, .. } => {
                        consumer.incremental_unassign(&list(&partitions))
                    }
                };
                answered.unwrap_or_else(say);
            }
            return;
        }
        let last = waiting.pop().map(|rebalance| match rebalance {
            Rebalance::Assign(_) => Answer::Assign,
            Rebalance::Revoke { .. } => Answer::Unassign,
        });
        let answered = match last.or(self.awaited.take()) {
            None => Ok(()),
            Some(Answer::Assign) => consumer.assign(&TopicPartitionList::new()),
            Some(Answer::Unassign) => consumer.unassign(),
        };
        answered.unwrap_or_else(say);
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.answer_as_closing();
        // Closing waits for the group, sometimes for ever: it gets a thread of its own.
        retire("consumer", self.queue.take(), CLOSE_WAIT);
    }
}
