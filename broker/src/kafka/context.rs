//! What librdkafka tells its clients besides records: log lines, errors, rebalances, deliveries.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    producer::{DeliveryResult, ProducerContext},
    types::RDKafkaRespErr,
};
use tracing::{debug, info, trace, warn};

use super::raw;
use crate::TopicPartition;

/// One line about lost connections per process in this time; the others are counted.
const CONNECTION_NOISE_EVERY: Duration = Duration::from_secs(10);

static CONNECTION_NOISE: Mutex<Option<(Instant, u64)>> = Mutex::new(None);

/// What all clients share: a name for the log, and a count of connections lost in use.
#[derive(Debug)]
pub(super) struct Context {
    who: Arc<str>,
    trouble: AtomicU64,
}

impl Context {
    pub(super) fn new(who: impl Into<Arc<str>>) -> Self {
        Self {
            who: who.into(),
            trouble: AtomicU64::new(0),
        }
    }

    /// How many requests were lost without an answer so far: timed out, or their connection broke.
    pub(super) fn trouble(&self) -> u64 {
        self.trouble.load(Ordering::Relaxed)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, line: &str) {
        let who = &*self.who;
        // A connection that fails while it is being made had no request on it.
        if fac == "REQTMOUT" || (fac == "FAIL" && line.contains("in state UP")) {
            self.trouble.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(fac, "FAIL" | "REQTMOUT" | "ERROR" | "GETPID") {
            if let Some(unsaid) = connection_line_is_due(Instant::now()) {
                warn!(client = who, unsaid, "kafka connection: {line}");
            } else {
                debug!(client = who, "kafka connection: {line}");
            }
            return;
        }
        match level {
            // Errors of consequence are also returned by the calls they hit.
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => warn!(client = who, fac, "kafka client: {line}"),
            RDKafkaLogLevel::Notice => info!(client = who, fac, "kafka client: {line}"),
            RDKafkaLogLevel::Info => debug!(client = who, fac, "kafka client: {line}"),
            RDKafkaLogLevel::Debug => trace!(client = who, fac, "kafka client: {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Connection errors are log lines as well; the others are returned by the calls they hit.
        debug!(client = &*self.who, %error, "kafka client reports an error: {reason}");
    }

    fn stats_raw(&self, _: &[u8]) {}
}

/// The number of lines left out since the last one, if another may be printed now.
fn connection_line_is_due(now: Instant) -> Option<u64> {
    let mut last = lock(&CONNECTION_NOISE);
    match &mut *last {
        Some((at, unsaid)) if now.duration_since(*at) < CONNECTION_NOISE_EVERY => {
            *unsaid += 1;
            None
        }
        other => Some(other.replace((now, 0)).map_or(0, |(_, unsaid)| unsaid)),
    }
}

impl ConsumerContext for Context {}

/// A rebalance that waits for the caller to answer. In a group of the new protocol the partitions
/// are those that come or go, otherwise they are all.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(Vec<TopicPartition>),
    Revoke {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
}

/// The context of a group's member: rebalances are kept for the next poll.
#[derive(Debug)]
pub(super) struct MemberContext {
    common: Context,
    /// The group gives and takes partitions one by one.
    incremental: bool,
    /// What the group called this member last.
    member_id: Mutex<Option<String>>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    timed_out: AtomicBool,
    closing: AtomicBool,
}

impl MemberContext {
    pub(super) fn new(who: impl Into<Arc<str>>, incremental: bool) -> Self {
        Self {
            common: Context::new(who),
            incremental,
            member_id: Mutex::default(),
            rebalances: Mutex::default(),
            timed_out: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    pub(super) fn rebalance_is_due(&self) -> bool {
        !lock(&self.rebalances).is_empty()
    }

    /// What the group called this member last, also after the client has forgotten it.
    pub(super) fn member_id(&self) -> Option<String> {
        lock(&self.member_id).clone()
    }

    /// Keeps what the group calls this member now, if it is in the group.
    pub(super) fn remember(&self, member_id: Option<String>) {
        if member_id.is_some() {
            *lock(&self.member_id) = member_id;
        }
    }

    /// True when the session ran out, as the client believes, and nothing was assigned since.
    pub(super) fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::SeqCst)
    }

    /// From now on nobody answers rebalances, so they are answered here: closing waits for that.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, line: &str) {
        if fac == "SESSTMOUT" {
            self.timed_out.store(true, Ordering::SeqCst);
        }
        self.common.log(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.common.error(error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for MemberContext {
    // The default answers at once. This one only remembers: librdkafka and the group wait for the
    // answer, heartbeats go on, and until then the old generation may still commit.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let gives = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            let answered = match (self.incremental, gives) {
                (false, _) => consumer.unassign(),
                (true, true) => consumer.incremental_assign(partitions),
                (true, false) => consumer.incremental_unassign(partitions),
            };
            if let Err(error) = answered {
                warn!(%error, "partitions were not given back while closing");
            }
            return;
        }
        let rebalance = if gives {
            self.timed_out.store(false, Ordering::SeqCst);
            self.remember(raw::member_id(consumer));
            Rebalance::Assign(named(partitions))
        } else {
            Rebalance::Revoke {
                partitions: named(partitions),
                lost: consumer.assignment_lost(),
            }
        };
        lock(&self.rebalances).push_back(rebalance);
    }
}

fn named(partitions: &TopicPartitionList) -> Vec<TopicPartition> {
    // `elements` panics on an empty list.
    if partitions.count() == 0 {
        return Vec::new();
    }
    let elements = partitions.elements();
    elements
        .iter()
        .map(|e| TopicPartition::new(e.topic(), e.partition()))
        .collect()
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    // Deliveries are read from the event queue by the producer itself; only those that purging a
    // dying client brings up come here, and nobody waits for them any more.
    fn delivery(&self, _: &DeliveryResult<'_>, _: usize) {}
}

/// Wakes the polling thread when one of its queues is no longer empty.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn raise(&self) {
        *lock(&self.raised) = true;
        self.changed.notify_one();
    }

    /// Waits until raised, at most so long, and lowers it again. Tells whether it was raised.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let raised = lock(&self.raised);
        let waited = self
            .changed
            .wait_timeout_while(raised, at_most, |raised| !*raised);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// A panic elsewhere leaves these small values whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble_after(fac: &str, line: &str) -> u64 {
        let context = Context::new("test");
        context.log(RDKafkaLogLevel::Info, fac, line);
        context.trouble()
    }

    #[test]
    fn only_connections_lost_in_use_count_as_trouble() {
        let lost = "kafka:9092/1: Disconnected (after 5123ms in state UP)";
        let refused =
            "kafka:9092/1: Connect failed: Connection refused (after 0ms in state CONNECT)";
        assert_eq!(trouble_after("FAIL", lost), 1);
        assert_eq!(trouble_after("FAIL", refused), 0);
        assert_eq!(
            trouble_after("REQTMOUT", "Timed out EndTxnRequest in flight"),
            1
        );
        assert_eq!(trouble_after("OFFSET", "offset reset"), 0);
    }

    #[test]
    fn a_signal_raised_before_the_wait_is_not_lost() {
        let signal = Signal::default();
        signal.raise();
        let start = Instant::now();
        assert!(signal.wait(Duration::from_secs(20)));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(!signal.wait(Duration::ZERO), "it was lowered");
    }
}
