//! `Projection`: from records to rows, as a pure function.

use std::{str::Utf8Error, sync::Arc};

use bytes::Bytes;
use millstream_broker::PartitionIx;
use millstream_topology::{BoxError, Headers};

use crate::Changes;

/// A committed record with where it stands.
#[derive(Clone, Debug)]
pub struct Message {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// Its partition among the claimed ones.
    pub(crate) claimed: PartitionIx,
}

impl Message {
    /// A record for tests of projections.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32, offset: i64) -> Self {
        Self {
            topic: topic.into(),
            partition,
            offset,
            timestamp: 0,
            key: None,
            value: None,
            headers: Headers::default(),
            claimed: PartitionIx(0),
        }
    }

    /// The key as text; a null key is empty text.
    ///
    /// # Errors
    /// Bytes that are not UTF-8.
    pub fn text_key(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(self.key.as_deref().unwrap_or_default())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Says which rows records mean.
///
/// It must be a pure function: the same records are projected again when a transaction is repeated
/// in parts, and rows of several records of one key may be asked for in one batch or in many. The
/// tables must come out the same however the records are cut into batches.
pub trait Projection: Send + Sync + 'static {
    /// The topics it reads, by full name.
    fn topics(&self) -> Vec<Arc<str>>;

    /// The rows of a batch, which holds records of its topics only. Within a partition they are in
    /// order.
    fn project(&self, batch: &[&Message], out: &mut Output);
}

/// What a projection makes of a batch.
#[derive(Default)]
pub struct Output {
    /// The rows to write and to delete.
    pub changes: Changes,
    pub(crate) rejects: Vec<Reject>,
}

/// A record that no projection can read.
pub(crate) struct Reject {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) error: BoxError,
}

impl Output {
    /// Sets a record aside: it becomes a dead letter, and the sink goes on behind it.
    pub fn reject(&mut self, message: &Message, error: impl Into<BoxError>) {
        self.rejects.push(Reject {
            topic: message.topic.clone(),
            partition: message.partition,
            offset: message.offset,
            error: error.into(),
        });
    }

    /// How many records were set aside.
    pub fn rejected(&self) -> usize {
        self.rejects.len()
    }
}
