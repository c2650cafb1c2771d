//! Processors of values: nodes of the user's own that cannot change keys.

use millstream_topology::{Headers, Record, Result};

use crate::{Context, Punctuation};

/// A record whose key nobody can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedKeyRecord<K, V> {
    key: K,
    /// The value.
    pub value: V,
    /// Event time in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The headers, in order.
    pub headers: Headers,
}

impl<K, V> FixedKeyRecord<K, V> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: V2) -> FixedKeyRecord<K, V2> {
        let Self {
            key,
            timestamp,
            headers,
            ..
        } = self;
        FixedKeyRecord {
            key,
            value,
            timestamp,
            headers,
        }
    }
}

impl<K, V> FixedKeyRecord<K, V> {
    /// Only the operator makes one, of a record that came in: so no other key can be forwarded.
    pub(crate) fn of(record: Record<K, V>) -> Self {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        Self {
            key,
            value,
            timestamp,
            headers,
        }
    }
}

impl<K, V> From<FixedKeyRecord<K, V>> for Record<K, V> {
    fn from(record: FixedKeyRecord<K, V>) -> Self {
        let FixedKeyRecord {
            key,
            value,
            timestamp,
            headers,
        } = record;
        Self {
            key,
            value,
            timestamp,
            headers,
        }
    }
}

/// Says of a [`Context`] that records may be forwarded with any key.
pub enum AnyKey {}

/// Says of a [`Context`] that records are forwarded with the key that they came with.
pub enum FixedKey {}

/// What a [`FixedKeyProcessor`] can reach while it is called.
///
/// A record with another key cannot be forwarded, nor the key of one be set. To change keys, write
/// a [`Processor`](crate::Processor) and run it with [`process`](crate::KStream::process).
///
/// ```
/// # use millstream_operators::{FixedKeyContext, FixedKeyRecord};
/// # use millstream_topology::Result;
/// type In = FixedKeyRecord<String, u64>;
///
/// fn add(cx: &mut FixedKeyContext<'_, '_, String, u64>, record: In) -> Result<()> {
///     let more = record.value + 1;
///     cx.forward(record.with_value(more))
/// }
/// ```
///
/// ```compile_fail,E0308
/// # use millstream_operators::{FixedKeyContext, FixedKeyRecord};
/// # use millstream_topology::{Record, Result};
/// type In = FixedKeyRecord<String, u64>;
///
/// fn rename(cx: &mut FixedKeyContext<'_, '_, String, u64>, record: In) -> Result<()> {
///     cx.forward(Record::new("other".to_owned(), record.value, record.timestamp))
/// }
/// ```
///
/// ```compile_fail,E0616
/// # use millstream_operators::{FixedKeyContext, FixedKeyRecord};
/// # use millstream_topology::Result;
/// type In = FixedKeyRecord<String, u64>;
///
/// fn rename(cx: &mut FixedKeyContext<'_, '_, String, u64>, mut record: In) -> Result<()> {
///     record.key = "other".to_owned();
///     cx.forward(record)
/// }
/// ```
pub type FixedKeyContext<'a, 'b, K, V> = Context<'a, 'b, K, V, FixedKey>;

impl<K: Clone, V: Clone> FixedKeyContext<'_, '_, K, V> {
    /// Hands a record to the nodes behind, and returns when they have processed it. Its key is that
    /// of a record that came in, because no other can be made; value, timestamp and headers are
    /// those that it carries. A timer can forward a record that the processor has kept. There is an
    /// example at [`FixedKeyContext`].
    ///
    /// # Errors
    /// What a node behind fails with; pass it on with `?`.
    pub fn forward(&mut self, record: FixedKeyRecord<K, V>) -> Result<()> {
        self.push(record.into())
    }
}

/// A node of the user's own that cannot change keys, so that equal keys stay in one task behind it.
///
/// Nulls come as typed: of a `KStream<Option<K>, V>` the records have an `Option` for key. What is
/// forwarded has the timestamp and the headers that it carries.
///
/// ```
/// use millstream_operators::{FixedKeyContext, FixedKeyProcessor, FixedKeyRecord, KvHandle};
/// use millstream_topology::Result;
///
/// /// Passes a value on if it differs from the one before.
/// struct Changes {
///     last: KvHandle<String, String>,
/// }
///
/// impl FixedKeyProcessor for Changes {
///     type Key = String;
///     type Value = String;
///     type OutValue = String;
///
///     fn process(
///         &mut self,
///         cx: &mut FixedKeyContext<'_, '_, String, String>,
///         record: FixedKeyRecord<String, String>,
///     ) -> Result<()> {
///         let mut last = cx.store(self.last);
///         if last.get(record.key())?.as_ref() == Some(&record.value) {
///             return Ok(());
///         }
///         last.put(record.key(), record.value.clone(), record.timestamp)?;
///         cx.forward(record)
///     }
/// }
/// ```
pub trait FixedKeyProcessor: 'static {
    /// Key of the records it takes and forwards.
    type Key: Clone + 'static;
    /// Value of the records it takes.
    type Value: 'static;
    /// Value of the records it forwards.
    type OutValue: Clone + 'static;

    /// Called once when the task starts, with its stores restored: the place for
    /// [`Context::schedule`].
    ///
    /// # Errors
    /// An error keeps the task from starting.
    fn init(&mut self, cx: &mut FixedKeyContext<'_, '_, Self::Key, Self::OutValue>) -> Result<()> {
        let _ = cx;
        Ok(())
    }

    /// Called for each record.
    ///
    /// # Errors
    /// The application's policy for processing errors decides what becomes of the record.
    fn process(
        &mut self,
        cx: &mut FixedKeyContext<'_, '_, Self::Key, Self::OutValue>,
        record: FixedKeyRecord<Self::Key, Self::Value>,
    ) -> Result<()>;

    /// Called when a schedule is due.
    ///
    /// # Errors
    /// An error of the user's own ([`ErrorKind::User`](millstream_topology::ErrorKind::User), or
    /// [`ErrorKind::Data`](millstream_topology::ErrorKind::Data)) stops the application: no record
    /// could be skipped or set aside, so no policy covers a timer.
    fn punctuate(
        &mut self,
        cx: &mut FixedKeyContext<'_, '_, Self::Key, Self::OutValue>,
        tick: Punctuation,
    ) -> Result<()> {
        let _ = (cx, tick);
        Ok(())
    }
}
