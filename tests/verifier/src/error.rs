//! `Error`: why nothing could be verified.

use millstream_broker::TopicPartition;
use millstream_topology::BoxError;

/// A result of verifying; that a promise is broken is no error.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log says no.
    #[error(transparent)]
    Log(#[from] millstream_broker::Error),
    /// The topology does not run, or a reference failed on a record.
    #[error(transparent)]
    Topology(#[from] millstream_topology::Error),
    /// The database says no.
    #[error(transparent)]
    Tables(#[from] millstream_sinks::Error),
    /// The log brings nothing more, although there is more.
    #[error("the log does not answer. partition=`{0}`")]
    Silent(TopicPartition),
    /// The verifier itself panicked.
    #[error("verifying broke off")]
    Broken(#[source] tokio::task::JoinError),
    /// A record is not what its topic should have.
    #[error("a record cannot be read. partition=`{partition}`, offset={offset}")]
    Unreadable {
        /// Where it stands.
        partition: TopicPartition,
        /// Its offset.
        offset: i64,
        /// Why.
        source: BoxError,
    },
}
