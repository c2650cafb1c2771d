//! Errors of logs, by what the caller does about them.

use millstream_topology::{BoxError, ErrorKind};

use crate::TopicPartition;

/// A result of a log.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// What a log says no with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The topic or partition does not exist.
    #[error("no such topic or partition. partition=`{0}`")]
    UnknownPartition(TopicPartition),
    /// A topic exists with another number of partitions.
    #[error(
        "topic exists with another number of partitions. topic=`{topic}`, has={has}, wanted={wanted}"
    )]
    PartitionCount {
        /// The topic.
        topic: String,
        /// What it has.
        has: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// The offset is older than the oldest record or behind the end.
    #[error(
        "offset does not exist. partition=`{partition}`, offset={offset}, low={low}, high={high}"
    )]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: i64,
        /// Oldest offset.
        low: i64,
        /// End offset.
        high: i64,
    },
    /// Too much waits to be written: shed load and try again later.
    #[error("too many records wait to be written")]
    Full,
    /// Somebody else owns this client's place.
    #[error("another member has taken this one's place. member=`{0}`")]
    Fenced(String),
    /// The log cannot do what it is configured to.
    #[error("{0}")]
    Unsupported(String),
    /// A call that the present state does not allow: a bug of the caller.
    #[error("call out of order: {0}")]
    State(&'static str),
    /// The log's data is damaged.
    #[error("log is corrupt: {0}")]
    Corrupt(String),
    /// The log did not do it; trying again later may help.
    #[error("{what}")]
    Client {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: BoxError,
    },
}

impl Error {
    /// The client or the log below failed at `what`.
    pub fn client(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Client {
            what: what.into(),
            source: source.into(),
        }
    }
}

impl From<Error> for millstream_topology::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Fenced(_) => ErrorKind::Fenced,
            Error::PartitionCount { .. } | Error::UnknownPartition(_) | Error::Unsupported(_) => {
                ErrorKind::Config
            }
            Error::OffsetOutOfRange { .. }
            | Error::Full
            | Error::State(_)
            | Error::Corrupt(_)
            | Error::Client { .. } => ErrorKind::Broker,
        };
        Self::caused(kind, "the log failed", error)
    }
}

/// What a transactional producer says no with: each variant is another thing to do.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// Abort the transaction, go back to the committed offsets and state, begin again.
    #[error("transaction must be aborted")]
    Abort(#[source] BoxError),
    /// Drop the producer, ask the group who owns the partitions, then make a new one.
    #[error("producer is fenced or its transaction expired")]
    Fenced(#[source] BoxError),
    /// Drop the producer and make a new one.
    #[error("producer cannot go on")]
    Fatal(#[source] BoxError),
}

impl From<ProducerError> for millstream_topology::Error {
    fn from(error: ProducerError) -> Self {
        let kind = match &error {
            ProducerError::Fenced(_) => ErrorKind::Fenced,
            ProducerError::Abort(_) | ProducerError::Fatal(_) => ErrorKind::Broker,
        };
        Self::caused(kind, "the log's producer failed", error)
    }
}
