//! `Topic<K, V>`: a topic's name and types, the same constant in topology, test and tool.

use crate::{Codec, Serde};

/// Ends the name of a topic through which a stream is re-keyed: `<application>-<name>-repartition`.
pub const REPARTITION_SUFFIX: &str = "-repartition";
/// Ends the name of a topic that backs a store: `<application>-<store>-changelog`.
pub const CHANGELOG_SUFFIX: &str = "-changelog";

/// The name of a topic, with the types of its keys and values.
///
/// ```
/// use millstream_topology::{json, text, Topic};
/// const ORDERS: Topic<String, serde_json::Value> = Topic::new("orders", text(), json());
/// ```
pub struct Topic<K: 'static, V: 'static> {
    name: &'static str,
    key: Serde<K>,
    value: Serde<V>,
}

impl<K, V> Clone for Topic<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for Topic<K, V> {}

impl<K, V> Topic<K, V> {
    /// A topic with that name and those codecs.
    pub const fn new<CK, CV>(name: &'static str, key: CK, value: CV) -> Self
    where
        CK: Codec<Value = K>,
        CV: Codec<Value = V>,
    {
        Self {
            name,
            key: Serde::of(key),
            value: Serde::of(value),
        }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How keys are written.
    pub const fn key(&self) -> Serde<K> {
        self.key
    }

    /// How values are written.
    pub const fn value(&self) -> Serde<V> {
        self.value
    }
}

/// All topics whose names match a regular expression, with the types of their keys and values.
///
/// The expression covers the whole name; its syntax is that of the `regex` crate.
///
/// ```
/// use millstream_topology::{text, TopicPattern};
/// const CLICKS: TopicPattern<String, String> =
///     TopicPattern::new("clicks-[a-z]+", text(), text());
/// assert_eq!(CLICKS.pattern(), "clicks-[a-z]+");
/// ```
pub struct TopicPattern<K: 'static, V: 'static> {
    pattern: &'static str,
    key: Serde<K>,
    value: Serde<V>,
}

impl<K, V> Clone for TopicPattern<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for TopicPattern<K, V> {}

impl<K, V> TopicPattern<K, V> {
    /// The topics that match, read and written with those codecs.
    pub const fn new<CK, CV>(pattern: &'static str, key: CK, value: CV) -> Self
    where
        CK: Codec<Value = K>,
        CV: Codec<Value = V>,
    {
        Self {
            pattern,
            key: Serde::of(key),
            value: Serde::of(value),
        }
    }

    /// The regular expression.
    pub const fn pattern(&self) -> &'static str {
        self.pattern
    }

    /// How keys are written.
    pub const fn key(&self) -> Serde<K> {
        self.key
    }

    /// How values are written.
    pub const fn value(&self) -> Serde<V> {
        self.value
    }
}

/// A topic whose name each record decides when it is written.
///
/// ```
/// use millstream_topology::{text, AnyTopic};
/// const BY_COUNTRY: AnyTopic<String, String> = AnyTopic::new(text(), text());
/// ```
pub struct AnyTopic<K: 'static, V: 'static> {
    key: Serde<K>,
    value: Serde<V>,
}

impl<K, V> Clone for AnyTopic<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for AnyTopic<K, V> {}

impl<K, V> AnyTopic<K, V> {
    /// Records written with those codecs.
    pub const fn new<CK, CV>(key: CK, value: CV) -> Self
    where
        CK: Codec<Value = K>,
        CV: Codec<Value = V>,
    {
        Self {
            key: Serde::of(key),
            value: Serde::of(value),
        }
    }

    /// How keys are written.
    pub const fn key(&self) -> Serde<K> {
        self.key
    }

    /// How values are written.
    pub const fn value(&self) -> Serde<V> {
        self.value
    }
}
