//! Topics, offsets and groups.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context as TaskContext, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic as Wanted, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    metadata::MetadataTopic,
    types::RDKafkaErrorCode as Code,
};
use tracing::warn;

use super::{
    config::KafkaConfig,
    context::{Context, lock},
    create, deadline,
    offsets::{committed, is_missing},
    place::member_name,
    raw, retire, triage,
};
use crate::{Admin, Cleanup, Error, NewTopic, Result, TopicInfo, TopicPartition, Watermarks};

/// Groups whose offsets are asked for keep a client each; the oldest go first.
const GROUP_CLIENTS_MAX: usize = 8;

/// Pause between two looks at the cluster's metadata while a change spreads.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What brokers call the state of a classic group without members.
const NOBODY: &str = "Empty";

/// How long brokers keep null values in compacted topics unless they are told otherwise.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Librdkafka's name for "as many copies as the brokers are told to keep".
const DEFAULT_REPLICATION: i32 = -1;

/// One client that changes things, one that looks, and one for each group asked about.
pub(super) struct KafkaAdmin {
    config: KafkaConfig,
    admin: Option<AdminClient<Context>>,
    watcher: Option<BaseConsumer<Context>>,
    groups: Mutex<BTreeMap<String, BaseConsumer<Context>>>,
}

impl KafkaAdmin {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self> {
        Ok(Self {
            admin: Some(create(&config.admin(), Context::new("admin"))?),
            watcher: Some(create(&config.watching(), Context::new("admin"))?),
            groups: Mutex::default(),
            config: config.clone(),
        })
    }

    fn admin(&self) -> &AdminClient<Context> {
        self.admin.as_ref().expect("clients are taken only on drop")
    }

    /// The client that looks; its log lines are read here, as nobody else polls it.
    fn watcher(&self) -> &BaseConsumer<Context> {
        let watcher = self
            .watcher
            .as_ref()
            .expect("clients are taken only on drop");
        drop(watcher.poll(Duration::ZERO));
        watcher
    }

    /// Calls with the client for a group's offsets, which is made if need be.
    fn with_group<T>(
        &self,
        group_id: &str,
        call: impl FnOnce(&BaseConsumer<Context>) -> Result<T>,
    ) -> Result<T> {
        let mut groups = lock(&self.groups);
        if !groups.contains_key(group_id) {
            if groups.len() >= GROUP_CLIENTS_MAX {
                retire("admin", groups.pop_first(), CLOSE_WAIT);
            }
            let client = create(&self.config.group_reader(group_id), Context::new("admin"))?;
            groups.insert(group_id.to_owned(), client);
        }
        let client = groups
            .get(group_id)
            .expect("it was inserted when it was missing");
        drop(client.poll(Duration::ZERO));
        call(client)
    }

    fn options(&self) -> AdminOptions {
        let wait = self.config.request_timeout;
        AdminOptions::new()
            .request_timeout(Some(wait))
            .operation_timeout(Some(wait))
    }

    /// The listing tells the members of classic groups alone.
    fn members_of_either_protocol(&self, group_id: &str) -> Result<Vec<String>> {
        let wait = self.config.request_timeout;
        raw::members(self.watcher(), group_id, wait)
            .map_err(|e| Error::client("cannot describe a group", e))
    }

    /// All topics.
    fn look(&self) -> Result<HashMap<String, Look>> {
        let metadata = self
            .watcher()
            .fetch_metadata(None, self.config.request_timeout)
            .map_err(|e| Error::client("cannot list topics", e))?;
        let topics = metadata.topics().iter().filter(|t| t.error().is_none());
        let look = |t: &MetadataTopic| Look {
            partitions: u32::try_from(t.partitions().len()).unwrap_or(u32::MAX),
            ready: t.partitions().iter().all(|p| p.leader() >= 0),
        };
        Ok(topics.map(|t| (t.name().to_owned(), look(t))).collect())
    }

    /// Both ends of a partition.
    ///
    /// librdkafka asks for each of them by itself, and where only one is answered it says that both
    /// are there: what it says of an empty partition too. A restore up to that end would miss what
    /// the log holds. So where both are the same, each is asked for again, alone: such a question
    /// fails where it is not answered.
    fn ends(&self, of: &TopicPartition) -> std::result::Result<Watermarks, KafkaError> {
        let wait = self.config.request_timeout;
        let (low, high) = self
            .watcher()
            .fetch_watermarks(&of.topic, of.partition, wait)?;
        if low < high {
            return Ok(Watermarks { low, high });
        }
        Ok(Watermarks {
            low: self.end(of, Offset::Beginning)?,
            high: self.end(of, Offset::End)?,
        })
    }

    /// One end of a partition.
    fn end(&self, of: &TopicPartition, which: Offset) -> std::result::Result<i64, KafkaError> {
        let mut asked = TopicPartitionList::with_capacity(1);
        asked.add_partition_offset(&of.topic, of.partition, which)?;
        let wait = self.config.request_timeout;
        // The names of the ends are times to this question, as they are in Kafka's protocol.
        let told = self.watcher().offsets_for_times(asked, wait)?;
        let told = told.find_partition(&of.topic, of.partition);
        let told = told.ok_or(KafkaError::OffsetFetch(Code::UnknownPartition))?;
        told.error()?;
        match told.offset() {
            Offset::Offset(offset) => Ok(offset),
            _ => Err(KafkaError::OffsetFetch(Code::LeaderNotAvailable)),
        }
    }

    /// Waits until a change is seen in the metadata.
    fn wait_until(&self, what: &str, seen: impl Fn(&HashMap<String, Look>) -> bool) -> Result<()> {
        let until = deadline(self.config.request_timeout);
        while !seen(&self.look()?) {
            if Instant::now() >= until {
                let error = KafkaError::AdminOp(Code::OperationTimedOut);
                return Err(Error::client(what, error));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// A topic in the metadata.
struct Look {
    partitions: u32,
    /// Every partition has a leader, so it can be written and read.
    ready: bool,
}

fn wanted(topic: &NewTopic) -> Wanted<'_> {
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    Wanted::new(
        &topic.name,
        partitions,
        TopicReplication::Fixed(DEFAULT_REPLICATION),
    )
}

/// The broker's names for what happens to old records.
fn cleanup(cleanup: Cleanup) -> (&'static str, Option<String>) {
    match cleanup {
        Cleanup::Delete { retention_ms } => (
            "delete",
            Some(retention_ms.map_or_else(|| "-1".to_owned(), |ms| ms.to_string())),
        ),
        Cleanup::Compact => ("compact", None),
        Cleanup::CompactAndDelete { retention_ms } => {
            ("compact,delete", Some(retention_ms.to_string()))
        }
    }
}

impl Admin for KafkaAdmin {
    fn cluster_id(&self) -> Result<String> {
        let id = self
            .watcher()
            .client()
            .fetch_cluster_id(self.config.request_timeout);
        id.ok_or_else(|| {
            let error = KafkaError::MetadataFetch(Code::OperationTimedOut);
            Error::client("cluster does not tell its id", error)
        })
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics: Vec<_> = self
            .look()?
            .into_iter()
            .filter(|(name, _)| !name.starts_with("__"))
            .map(|(name, look)| TopicInfo {
                name: name.into(),
                partitions: look.partitions,
            })
            .collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let cleanups: Vec<_> = topics.iter().map(|topic| cleanup(topic.cleanup)).collect();
        let wanted = topics
            .iter()
            .zip(&cleanups)
            .map(|(topic, (policy, retention))| {
                let wanted = wanted(topic).set("cleanup.policy", policy);
                match retention {
                    Some(ms) => wanted.set("retention.ms", ms),
                    None => wanted,
                }
            });
        let wanted: Vec<_> = wanted.collect();
        let results = block_on(self.admin().create_topics(&wanted, &self.options()))
            .map_err(|e| Error::client("cannot create topics", e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(Error::client(
                        format!("cannot create topic. name=`{name}`"),
                        error,
                    ));
                }
            }
        }
        self.wait_until("topics were created but do not appear", |now| {
            topics
                .iter()
                .all(|topic| now.get(&*topic.name).is_some_and(|look| look.ready))
        })?;
        let now = self.look()?;
        for topic in topics {
            let has = now.get(&*topic.name).map_or(0, |look| look.partitions);
            if has != topic.partitions {
                return Err(Error::PartitionCount {
                    topic: topic.name.to_string(),
                    has,
                    wanted: topic.partitions,
                });
            }
        }
        Ok(())
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let results = block_on(self.admin().delete_topics(topics, &self.options()))
            .map_err(|e| Error::client("cannot delete topics", e))?;
        for result in results {
            match result {
                Ok(_) => {}
                Err((_, code)) if triage::is_unknown(Some(code)) => {}
                Err((name, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(Error::client(
                        format!("cannot delete topic. name=`{name}`"),
                        error,
                    ));
                }
            }
        }
        self.wait_until("topics were deleted but do not disappear", |now| {
            !topics.iter().any(|topic| now.contains_key(*topic))
        })
    }

    fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks> {
        let until = deadline(self.config.request_timeout);
        loop {
            let wait = self.config.request_timeout;
            let error = match self.ends(partition) {
                Ok(ends) => return Ok(ends),
                Err(error) => error,
            };
            let code = error.rdkafka_error_code();
            let unknown = triage::is_unknown(code);
            if unknown && is_missing(self.watcher(), partition, wait) {
                return Err(Error::UnknownPartition(partition.clone()));
            }
            if Instant::now() >= until || !(unknown || triage::may_pass(code)) {
                return Err(Error::client(
                    format!("cannot ask for the ends. of=`{partition}`"),
                    error,
                ));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn tombstone_retention(&self, topic: &str) -> Result<Option<Duration>> {
        let cannot = |e| Error::client(format!("cannot read settings. topic=`{topic}`"), e);
        let asked = [ResourceSpecifier::Topic(topic)];
        let told = block_on(self.admin().describe_configs(&asked, &self.options()));
        // A topic that is not there, or whose settings may not be read, comes without any.
        let told = told.map_err(cannot)?.pop().and_then(|told| told.ok());
        let Some(told) = told.filter(|told| !told.entries.is_empty()) else {
            let at = TopicPartition::new(topic, 0);
            if is_missing(self.watcher(), &at, self.config.request_timeout) {
                return Err(Error::UnknownPartition(at));
            }
            let assumed_ms = TOMBSTONES_KEPT.as_millis() as u64;
            warn!(
                topic,
                assumed_ms,
                "settings of a topic cannot be read; its tombstones are taken to stay as long as \
                 brokers keep them by themselves"
            );
            return Ok(Some(TOMBSTONES_KEPT));
        };
        let setting = |name| told.get(name).and_then(|entry| entry.value.as_deref());
        if setting("cleanup.policy").is_some_and(|policy| !policy.contains("compact")) {
            return Ok(None);
        }
        let kept = setting("delete.retention.ms").and_then(|ms| ms.parse().ok());
        Ok(Some(kept.map_or(TOMBSTONES_KEPT, Duration::from_millis)))
    }

    fn ends_take_offsets(&self) -> bool {
        true
    }

    fn committed(&self, group_id: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        self.with_group(group_id, |client| {
            committed(client, partitions, self.config.request_timeout)
        })
    }

    fn set_committed(&self, group_id: &str, offsets: &[(TopicPartition, i64)]) -> Result<()> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        let wait = self.config.request_timeout;
        for (of, offset) in offsets {
            if is_missing(self.watcher(), of, wait) {
                return Err(Error::UnknownPartition(of.clone()));
            }
            list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*offset))
                .map_err(|e| Error::client(format!("no such offset. offset={offset}"), e))?;
        }
        if offsets.is_empty() {
            return Ok(());
        }
        // Brokers take offsets from one who is no member only as long as the group has none.
        self.with_group(group_id, |client| {
            let until = deadline(wait);
            loop {
                let Err(error) = client.commit(&list, CommitMode::Sync) else {
                    return Ok(());
                };
                let code = error.rdkafka_error_code();
                if Instant::now() >= until || !triage::may_pass(code) {
                    return Err(Error::client(
                        format!("cannot set committed offsets. group=`{group_id}`"),
                        error,
                    ));
                }
                thread::sleep(LOOK_EVERY);
            }
        })
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
        // Of a partition that has gone, the error is that of its ends.
        self.watermarks(partition)?;
        let cannot = |e| {
            Error::client(
                format!("cannot ask for the offset at a time. of=`{partition}`"),
                e,
            )
        };
        let mut list = TopicPartitionList::with_capacity(1);
        let (topic, at) = (&*partition.topic, partition.partition);
        list.add_partition_offset(topic, at, Offset::Offset(timestamp))
            .map_err(cannot)?;
        let wait = self.config.request_timeout;
        let found = self.watcher().offsets_for_times(list, wait);
        let found = found.map_err(cannot)?;
        let Some(found) = found.find_partition(topic, at) else {
            return Ok(None);
        };
        found.error().map_err(cannot)?;
        Ok(match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    }

    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<()> {
        if before.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(before.len());
        for (of, offset) in before {
            list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*offset))
                .map_err(|e| Error::client(format!("no such offset. offset={offset}"), e))?;
        }
        let done = block_on(self.admin().delete_records(&list, &self.options()))
            .map_err(|e| Error::client("cannot delete records", e))?;
        for (of, offset) in before {
            let Some(Err(error)) = done
                .find_partition(&of.topic, of.partition)
                .map(|e| e.error())
            else {
                continue;
            };
            let code = error.rdkafka_error_code();
            let wait = self.config.request_timeout;
            if triage::is_unknown(code) && is_missing(self.watcher(), of, wait) {
                return Err(Error::UnknownPartition(of.clone()));
            }
            if code == Some(Code::OffsetOutOfRange) {
                let ends = self.watermarks(of)?;
                return Err(Error::OffsetOutOfRange {
                    partition: of.clone(),
                    offset: *offset,
                    low: ends.low,
                    high: ends.high,
                });
            }
            return Err(Error::client(
                format!("cannot delete records. of=`{of}`"),
                error,
            ));
        }
        Ok(())
    }

    fn groups(&self) -> Result<Vec<(String, Vec<String>)>> {
        let list = self
            .watcher()
            .fetch_group_list(None, self.config.request_timeout);
        let list = list.map_err(|e| Error::client("cannot list groups", e))?;
        let groups = list.groups().iter().map(|group| {
            let members = group.members().iter();
            let mut members: Vec<_> = members
                .map(|m| member_name(m.id(), m.client_id()))
                .collect();
            if members.is_empty() && group.state() != NOBODY {
                members = self.members_of_either_protocol(group.name())?;
            }
            members.sort_unstable();
            Ok::<_, Error>((group.name().to_owned(), members))
        });
        let mut groups: Vec<_> = groups.collect::<Result<_>>()?;
        groups.sort_unstable();
        Ok(groups)
    }
}

impl Drop for KafkaAdmin {
    fn drop(&mut self) {
        let groups = std::mem::take(&mut *lock(&self.groups));
        retire(
            "admin",
            (self.admin.take(), self.watcher.take(), groups),
            CLOSE_WAIT,
        );
    }
}

/// Waits for an answer that librdkafka's own timeout bounds.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_members_are_called_by_their_instance() {
        let uuid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        let check = |id: String, name: &str| assert_eq!(member_name(&id, "millstream"), name);
        check(format!("shop-0-1-{uuid}"), "shop-0-1");
        check(format!("millstream-{uuid}"), &format!("millstream-{uuid}"));
        check("short".to_owned(), "short");
    }

    #[test]
    fn records_kept_for_ever_have_an_explicit_retention() {
        let policy = |c| cleanup(c);
        assert_eq!(
            policy(Cleanup::Delete { retention_ms: None }),
            ("delete", Some("-1".to_owned()))
        );
        assert_eq!(policy(Cleanup::Compact), ("compact", None));
        let both = Cleanup::CompactAndDelete { retention_ms: 7 };
        assert_eq!(policy(both), ("compact,delete", Some("7".to_owned())));
    }
}
