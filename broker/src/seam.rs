//! The traits of the seam, and the values that cross it.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_topology::Headers;

use crate::{ProducerError, Result};

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// That partition of that topic.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Position of a partition in the list given to [`Consumer::assign`] or [`Reader::assign`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionIx(pub u32);

/// A topic's number within one [`Producer`], so that sending a record needs no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicIx(pub u32);

/// One record as read from a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// Which of the assigned partitions it comes from.
    pub partition: PartitionIx,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// One record to write, borrowed from its maker.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The topic, as [`Producer::topic`] numbered it.
    pub topic: TopicIx,
    /// The partition.
    pub partition: i32,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a Headers,
}

/// One record to write, owned.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedRecord {
    /// Where to.
    pub to: TopicPartition,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// A log: makes the clients that the runtime works with.
pub trait Broker: Send + Sync {
    /// Topics, offsets and groups.
    ///
    /// # Errors
    /// When no client can be made.
    fn admin(&self) -> Result<Arc<dyn Admin>>;

    /// A member of a consumer group, to be used by one thread.
    ///
    /// # Errors
    /// When no client can be made.
    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>>;

    /// A transactional producer, to be used by one thread. Call [`Producer::init`] before anything
    /// else.
    ///
    /// # Errors
    /// When no client can be made.
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>>;

    /// A reader outside any group.
    ///
    /// # Errors
    /// When no client can be made.
    fn reader(&self) -> Result<Box<dyn Reader>>;

    /// An idempotent writer without transactions, shared by all who append from outside.
    ///
    /// # Errors
    /// When no client can be made.
    fn appender(&self) -> Result<Arc<dyn Appender>>;
}

/// How a member joins its group.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// The group.
    pub group_id: String,
    /// A stable name of this member: a restart within the session timeout gets its partitions back.
    pub instance_id: String,
    /// The topics; all members of a group name the same, so that equal partitions land on one
    /// member.
    pub topics: Vec<Arc<str>>,
    /// How long a silent member keeps its partitions, where that is the member's to say.
    pub session_timeout: Duration,
}

/// What a poll brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Zero or more records were appended to the list.
    Records,
    /// These partitions are this member's. The group waits for [`Consumer::assign`].
    Assigned(Vec<TopicPartition>),
    /// All partitions are taken away. The group waits for [`Consumer::unassign`].
    Revoked {
        /// True when they already belong to others: nothing of them can be committed any more.
        lost: bool,
    },
}

/// Where a partition is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At that offset.
    Offset(i64),
    /// At the oldest record.
    Earliest,
    /// Behind the newest record.
    Latest,
}

/// A member of a consumer group.
pub trait Consumer {
    /// Waits up to `wait` for the first record or event, then takes what is there without waiting.
    ///
    /// At most `limit` records are appended to `into`. The member counts as alive as long as this
    /// is called.
    ///
    /// # Errors
    /// When the client cannot go on. Brokers that are away are no error: the client tries again by
    /// itself.
    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<Event>;

    /// Answers [`Event::Assigned`]: reading starts at these places. A partition's index in this
    /// list is its [`PartitionIx`] until the next call. Offsets that no longer exist start at the
    /// oldest record.
    ///
    /// # Errors
    /// When the group no longer expects it.
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()>;

    /// Answers [`Event::Revoked`]: reading stops, records not yet returned are dropped.
    ///
    /// # Errors
    /// When the group no longer expects it.
    fn unassign(&mut self) -> Result<()>;

    /// Stops returning records of a partition until [`resume`](Self::resume).
    ///
    /// # Errors
    /// When the partition is not assigned.
    fn pause(&mut self, partition: PartitionIx) -> Result<()>;

    /// Goes on returning records of a partition, without a gap.
    ///
    /// # Errors
    /// When the partition is not assigned.
    fn resume(&mut self, partition: PartitionIx) -> Result<()>;

    /// The next record returned of the partition is the one at `offset` or the first behind it.
    ///
    /// # Errors
    /// When the partition is not assigned.
    fn seek(&mut self, partition: PartitionIx, offset: i64) -> Result<()>;

    /// The group's committed offsets; `None` where there is none. Waits for open transactions of
    /// earlier owners to end, up to `wait`.
    ///
    /// # Errors
    /// When they cannot be had in time.
    fn committed(
        &mut self,
        partitions: &[TopicPartition],
        wait: Duration,
    ) -> Result<Vec<Option<i64>>>;

    /// Proof of this member's present generation, fresh for every commit.
    ///
    /// # Errors
    /// When the member has not joined.
    fn group_metadata(&self) -> Result<GroupMetadata>;

    /// Whether another consumer, of whatever process, has this one's place by now. A place that
    /// was lost by silence, and that nobody took, is not replaced. Waits up to `wait` for the
    /// answer.
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn is_replaced(&mut self, wait: Duration) -> Result<bool>;

    /// Leaves the group. With `keep_place` a static member's partitions stay reserved until its
    /// session times out, so that a quick restart moves nothing.
    fn close(self: Box<Self>, keep_place: bool);
}

/// Proof of a consumer's generation; what is inside is the log's own business.
pub struct GroupMetadata(Box<dyn Any>);

impl GroupMetadata {
    /// Wraps what the log's producer will unwrap.
    pub fn new(proof: impl Any) -> Self {
        Self(Box::new(proof))
    }

    /// What was wrapped, if it is a `T`.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// A transactional producer.
///
/// The order of calls is: `init`, then for each transaction `begin`, `send`…, `drain`,
/// `send_offsets`, and `commit` or `abort`. What an error means is its [`ProducerError`] variant.
pub trait Producer {
    /// Fences every older producer with this id and ends its open transaction.
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn init(&mut self) -> Result<(), ProducerError>;

    /// Numbers a topic; the same name gives the same number.
    fn topic(&mut self, name: &str) -> TopicIx;

    /// Begins a transaction.
    ///
    /// # Errors
    /// When this producer is fenced or one is open.
    fn begin(&mut self) -> Result<(), ProducerError>;

    /// Adds a record to the transaction; waits while buffers are full.
    ///
    /// # Errors
    /// When the record is refused, or this producer is fenced.
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), ProducerError>;

    /// Waits until the log has every record sent so far.
    ///
    /// # Errors
    /// When one of them failed.
    fn drain(&mut self) -> Result<(), ProducerError>;

    /// Adds the group's offsets (of the next record to read) to the transaction.
    ///
    /// # Errors
    /// When the member has lost its partitions: [`ProducerError::Abort`].
    fn send_offsets(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
    ) -> Result<(), ProducerError>;

    /// Commits: records and offsets become visible together.
    ///
    /// # Errors
    /// On an error the transaction is not committed, or its fate is settled by the next `init`.
    fn commit(&mut self) -> Result<(), ProducerError>;

    /// Drops the open transaction; none open is fine.
    ///
    /// # Errors
    /// When this producer is fenced.
    fn abort(&mut self) -> Result<(), ProducerError>;

    /// After a commit: calls `each` with every partition that this producer ever wrote and the
    /// offset behind its newest committed record there.
    fn ends(&self, each: &mut dyn FnMut(TopicIx, i32, i64));
}

/// Reads partitions outside any group: for restoring, standbys, sinks and tools.
pub trait Reader: Send {
    /// Reads these partitions from these places, instead of what was read before.
    ///
    /// # Errors
    /// When the log refuses.
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()>;

    /// As [`Consumer::poll`], without a group.
    ///
    /// # Errors
    /// When an offset does not exist any more, or the client cannot go on.
    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<()>;

    /// The offset of the next record that a poll may return. It moves over aborted records and
    /// markers, so it reaches the high watermark even where no record is left to return.
    ///
    /// # Errors
    /// When the partition is not assigned.
    fn position(&mut self, partition: PartitionIx) -> Result<i64>;
}

/// Called once when an appended record is durable (with its offset) or failed.
pub type Appended = Box<dyn FnOnce(Result<i64>) + Send>;

/// Appends records one by one, durably, from any thread.
pub trait Appender: Send + Sync {
    /// Queues a record; `done` is called from another thread and must not block.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) at once when too many records wait: the caller sheds
    /// load. `done` is not called then.
    fn append(&self, record: OwnedRecord, done: Appended) -> Result<()>;
}

/// What happens to old records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Deleted when older than this; `None` keeps them for ever.
    Delete {
        /// In milliseconds.
        retention_ms: Option<i64>,
    },
    /// The newest record of each key is kept; a null value deletes its key after a while.
    Compact,
    /// Both.
    CompactAndDelete {
        /// In milliseconds.
        retention_ms: i64,
    },
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTopic {
    /// The full name.
    pub name: Arc<str>,
    /// How many partitions.
    pub partitions: u32,
    /// What happens to old records.
    pub cleanup: Cleanup,
}

/// A topic that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicInfo {
    /// The full name.
    pub name: Arc<str>,
    /// How many partitions it has.
    pub partitions: u32,
}

/// The ends of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Offset of the oldest record.
    pub low: i64,
    /// Offset behind the newest record, those of open transactions included.
    pub high: i64,
}

/// Topics, offsets and groups.
pub trait Admin: Send + Sync {
    /// Tells one log from another, also after its data was wiped.
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn cluster_id(&self) -> Result<String>;

    /// The topics, without the log's internal ones, by name.
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn topics(&self) -> Result<Vec<TopicInfo>>;

    /// Creates topics; one that exists with that number of partitions is fine.
    ///
    /// # Errors
    /// When one exists with another number of partitions, or the log refuses.
    fn create_topics(&self, topics: &[NewTopic]) -> Result<()>;

    /// Deletes topics; one that does not exist is fine.
    ///
    /// # Errors
    /// When the log refuses.
    fn delete_topics(&self, topics: &[&str]) -> Result<()>;

    /// The ends of a partition.
    ///
    /// # Errors
    /// When the partition does not exist, or the log does not answer in time.
    fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks>;

    /// How long compaction keeps null values of a topic, at least, after it has met them, so that
    /// who is not too slow learns of each; `None` for a topic that is not compacted.
    ///
    /// # Errors
    /// When the topic does not exist, or the log does not answer in time.
    fn tombstone_retention(&self, topic: &str) -> Result<Option<Duration>>;

    /// Whether the end of a transaction takes an offset of its own in each partition that the
    /// transaction has written, as Kafka's markers do.
    fn ends_take_offsets(&self) -> bool;

    /// The group's committed offsets; `None` where there is none.
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn committed(&self, group_id: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>>;

    /// Sets committed offsets of a group that has no members; the others stay.
    ///
    /// # Errors
    /// When the group has members, a partition does not exist, or the log refuses.
    fn set_committed(&self, group_id: &str, offsets: &[(TopicPartition, i64)]) -> Result<()>;

    /// The offset of the first record whose timestamp is that or a later one. Where there is none,
    /// `None`, or an offset behind all records: a log's own marks may count, and records of
    /// transactions that are open or aborted.
    ///
    /// # Errors
    /// When the partition does not exist, or the log does not answer in time.
    fn offset_at(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>>;

    /// Deletes the records before these offsets.
    ///
    /// # Errors
    /// When the log refuses.
    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<()>;

    /// The groups by name, each with the instance ids or member ids of its members.
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn groups(&self) -> Result<Vec<(String, Vec<String>)>>;
}
