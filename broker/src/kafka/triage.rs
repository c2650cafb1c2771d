//! librdkafka's errors, by what the caller does about them.

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

use crate::ProducerError;

/// What to do about a failed step of a transaction.
#[derive(Debug)]
pub(super) enum Step {
    /// The same call with the same arguments may succeed.
    Again(KafkaError),
    /// It has failed.
    Failed(ProducerError),
}

/// The order of the questions matters: a fenced producer also says that its transaction needs an
/// abort.
pub(super) fn step(error: KafkaError, fatal: Option<Code>) -> Step {
    let KafkaError::Transaction(told) = &error else {
        return Step::Failed(failed(error, fatal));
    };
    if told.is_fatal() || fatal.is_some() {
        let code = told.code();
        return Step::Failed(gone(error, fatal.or(Some(code))));
    }
    if told.txn_requires_abort() {
        return Step::Failed(ProducerError::Abort(error.into()));
    }
    if told.is_retriable() {
        return Step::Again(error);
    }
    Step::Failed(ProducerError::Fatal(error.into()))
}

/// A record that could not be delivered costs its transaction, unless the producer itself is done
/// for.
pub(super) fn failed(error: KafkaError, fatal: Option<Code>) -> ProducerError {
    match fatal {
        Some(_) => gone(error, fatal),
        None => ProducerError::Abort(error.into()),
    }
}

fn gone(error: KafkaError, fatal: Option<Code>) -> ProducerError {
    if is_fencing(fatal) {
        ProducerError::Fenced(error.into())
    } else {
        ProducerError::Fatal(error.into())
    }
}

/// Somebody else uses this name, or a transaction expired: the brokers do not say which.
pub(super) fn is_fencing(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::InvalidProducerIdMapping
                | Code::UnknownProducerId
                | Code::FencedInstanceId
        )
    )
}

/// The brokers do not know a request, or do not take it.
pub(super) fn is_unsupported(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::UnsupportedFeature | Code::UnsupportedVersion | Code::UnsupportedAssignor)
    )
}

/// Errors of a cluster that is starting, electing or waiting for a transaction to end.
pub(super) fn may_pass(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::WaitingForCoordinator
                | Code::RequestTimedOut
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::OffsetNotAvailable
                | Code::KafkaStorageError
                | Code::UnstableOffsetCommit
                | Code::RebalanceInProgress
        )
    )
}

/// There is no such topic or partition.
pub(super) fn is_unknown(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    )
}
