//! What becomes of records that fail: stop, skip, or set aside.

use bytes::Bytes;
use millstream_operators::{RawRecord, RecordSite};
use millstream_topology::{Error, ErrorKind, Headers};

/// What becomes of a record that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// The transaction is aborted and the application stops with the error.
    #[default]
    Fail,
    /// The record is dropped, logged and counted; its offset advances.
    Skip,
    /// The record is written to the dead-letter topic in the same transaction; its offset advances.
    DeadLetter,
}

/// Policies by what failed.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// For records that do not decode.
    pub decode: ErrorPolicy,
    /// For records on which a function of the user failed or panicked. What it had written to
    /// stores and topics before it failed stays (KIP-1033).
    pub process: ErrorPolicy,
    /// For records one of whose results could not be written, because it does not encode or chose a
    /// topic that does not exist (Kafka Streams' production exception handler). It is the record
    /// that is skipped or set aside; what it had written before stays.
    pub produce: ErrorPolicy,
    /// The topic that [`ErrorPolicy::DeadLetter`] writes to.
    pub dead_letter_topic: Option<&'static str>,
}

impl Policies {
    /// The policy for an error; what is neither data nor user code always stops.
    pub(crate) fn for_error(&self, error: &Error) -> ErrorPolicy {
        let policy = match error.kind() {
            ErrorKind::Data | ErrorKind::User if error.is_on_output() => self.produce,
            ErrorKind::Data => self.decode,
            ErrorKind::User => self.process,
            ErrorKind::Config
            | ErrorKind::Topology
            | ErrorKind::State
            | ErrorKind::Broker
            | ErrorKind::Fenced => ErrorPolicy::Fail,
        };
        match (policy, self.dead_letter_topic) {
            // Without a topic there is no place to set a record aside, and dropping it silently is
            // no way out.
            (ErrorPolicy::DeadLetter, None) => ErrorPolicy::Fail,
            (policy, _) => policy,
        }
    }
}

/// Longest error text in a dead letter.
const MESSAGE_BYTES_MAX: usize = 2000;

/// The headers of a dead letter: those of the record, and Kafka's own names for where it came from
/// and why it is here (KIP-1034).
pub(crate) fn dead_letter_headers(record: &RawRecord, site: &RecordSite, error: &Error) -> Headers {
    let mut headers = record.headers.clone();
    let mut text = error.chain();
    while text.len() > MESSAGE_BYTES_MAX {
        text.pop();
    }
    let mut add = |name: &str, value: String| headers.push(name, Some(Bytes::from(value)));
    add("__streams.errors.exception", format!("{:?}", error.kind()));
    add("__streams.errors.message", text);
    add("__streams.errors.topic", site.topic.to_string());
    add("__streams.errors.partition", site.partition.to_string());
    add("__streams.errors.offset", site.offset.to_string());
    headers
}
