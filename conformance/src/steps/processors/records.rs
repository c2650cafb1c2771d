//! Processors that act on records only.

use millstream_operators::{Processor, ReadHandle};
use millstream_topology::{Headers, Result};

use super::{At, In, Own, count, counted, stored_key};
use crate::{
    functions::{cut, shown},
    text::{Key, Text},
};

/// Those that keep nothing.
pub(super) enum Stateless {
    /// Forwards the record, and again a millisecond later.
    Fan,
    /// Forwards the record at another time.
    ShiftTime {
        /// By how much it is moved.
        ms: i64,
    },
    /// Tells the stream time in the value.
    StreamTime,
    /// Adds a header that tells the value.
    AddHeader,
    /// Takes all headers away.
    StripHeaders,
}

impl Processor for Stateless {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutKey = Option<Key>;
    type OutValue = Option<Text>;

    fn process(&mut self, cx: &mut At<'_, '_>, mut record: In) -> Result<()> {
        let value = shown(record.value.as_deref()).to_owned();
        match self {
            Self::Fan => {
                let mut again = record.clone();
                again.timestamp += 1;
                again.value = Some(cut(format!("{value}'")));
                cx.forward(record)?;
                return cx.forward(again);
            }
            Self::ShiftTime { ms } => record.timestamp += *ms,
            Self::StreamTime => {
                record.value = Some(cut(format!("{value}@{}", cx.stream_time_ms())));
            }
            Self::AddHeader => record.headers.push("p", bytes::Bytes::from(value)),
            Self::StripHeaders => record.headers = Headers::default(),
        }
        cx.forward(record)
    }
}

/// Those with a store of their own.
pub(super) enum Stored {
    /// Forwards values that differ from the key's last.
    Dedup(Own),
    /// Tells how many records the key has had.
    RunningCount(Own),
}

impl Stored {
    pub(super) fn dedup(seen: Own) -> Self {
        Self::Dedup(seen)
    }

    pub(super) fn running_count(counts: Own) -> Self {
        Self::RunningCount(counts)
    }
}

impl Processor for Stored {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutKey = Option<Key>;
    type OutValue = Option<Text>;

    fn process(&mut self, cx: &mut At<'_, '_>, mut record: In) -> Result<()> {
        let key = stored_key(&record.key);
        match self {
            Self::Dedup(seen) => {
                let mut seen = cx.store(*seen);
                match &record.value {
                    None => seen.delete(&key, record.timestamp)?,
                    Some(value) if seen.get(&key)?.as_ref() == Some(value) => return Ok(()),
                    Some(value) => seen.put(&key, value.clone(), record.timestamp)?,
                }
            }
            Self::RunningCount(counts) => {
                let count = count(cx.store(*counts), &key, record.timestamp)?;
                record.value = counted(&record.value, &count);
            }
        }
        cx.forward(record)
    }
}

/// Tells what a table has under the record's key.
pub(super) struct Lookup(pub(super) ReadHandle<Key, Text>);

impl Processor for Lookup {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutKey = Option<Key>;
    type OutValue = Option<Text>;

    fn process(&mut self, cx: &mut At<'_, '_>, mut record: In) -> Result<()> {
        let found = match &record.key {
            Some(key) => cx.read(self.0).get_with_timestamp(key)?,
            None => None,
        };
        let found = found.map_or("null".to_owned(), |(value, at)| format!("{value}@{at}"));
        record.value = Some(cut(format!("{}/{found}", shown(record.value.as_deref()))));
        cx.forward(record)
    }
}
