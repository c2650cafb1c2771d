//! `Record`: a key, a value, a time and headers, owned and moved from node to node.

use std::sync::Arc;

use bytes::Bytes;

/// One record on its way through a topology.
///
/// `timestamp` is in milliseconds since the Unix epoch, as in Kafka.
///
/// ```
/// use millstream_topology::Record;
///
/// let record = Record::new("a", 1, 10);
/// assert_eq!(record.with_value("one").value, "one");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Event time in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The headers, in order; empty for most records.
    pub headers: Headers,
}

impl<K, V> Record<K, V> {
    /// A record without headers.
    pub fn new(key: K, value: V, timestamp: i64) -> Self {
        Self {
            key,
            value,
            timestamp,
            headers: Headers::default(),
        }
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: V2) -> Record<K, V2> {
        Record {
            key: self.key,
            value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }

    /// The same record with another key.
    pub fn with_key<K2>(self, key: K2) -> Record<K2, V> {
        Record {
            key,
            value: self.value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }

    /// The same record at another time.
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }
}

/// What a table says when a key changes: the value that holds from now on, and the one before.
///
/// `new` is `None` when the key was deleted (Kafka's tombstone).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The value from now on; `None` means deleted.
    pub new: Option<V>,
    /// The value before this change, where the table knows it.
    pub old: Option<V>,
    /// False for a late update of a versioned table: it changes what held in the past, not what
    /// holds now.
    pub latest: bool,
}

impl<V> Change<V> {
    /// A change of what holds now.
    pub fn new(new: Option<V>, old: Option<V>) -> Self {
        Self {
            new,
            old,
            latest: true,
        }
    }
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name; names may repeat.
    pub name: Arc<str>,
    /// The value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

/// The headers of a record, in order. Cloning an empty list costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// Adds a header at the end.
    pub fn push(&mut self, name: impl Into<Arc<str>>, value: impl Into<Option<Bytes>>) {
        self.0.push(Header {
            name: name.into(),
            value: value.into(),
        });
    }

    /// The value of the last header with that name.
    ///
    /// ```
    /// let mut headers = millstream_topology::Headers::default();
    /// headers.push("trace", bytes::Bytes::from("7f"));
    /// assert_eq!(headers.last("trace").as_deref(), Some(b"7f".as_slice()));
    /// ```
    pub fn last(&self, name: &str) -> Option<Bytes> {
        self.0
            .iter()
            .rev()
            .find(|h| &*h.name == name)
            .and_then(|h| h.value.clone())
    }

    /// The headers in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.iter()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Header;
    type IntoIter = std::slice::Iter<'a, Header>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromIterator<Header> for Headers {
    fn from_iter<I: IntoIterator<Item = Header>>(headers: I) -> Self {
        Self(headers.into_iter().collect())
    }
}
