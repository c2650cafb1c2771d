//! `ForeignKey`: the topics and the store of a foreign-key join, as a constant.

use bytes::Bytes;
use millstream_topology::{KvStore, Topic};

/// What a foreign-key join from rows of `K` and `V` to rows of `FK` and `T` goes through.
///
/// Where a row of the left table refers to a row of the right one, the left side asks for it
/// through one topic, under the foreign key; the right side remembers in a store who has asked, and
/// answers through another topic, under the left row's key. The codecs of the two topics are those
/// of the keys, of the left values, of which the questions carry a hash, and of the right values,
/// which the answers carry. A hash stands for a value, so the codec must write equal values alike.
///
/// ```
/// use bytes::Bytes;
/// use millstream_operators::ForeignKey;
/// use millstream_topology::{bytes, text, u64_be, KvStore, Topic};
///
/// // An order (u64) names the id of its customer (String).
/// const CUSTOMER: ForeignKey<u64, String, String, String> = ForeignKey::new(
///     Topic::new("orders-asking", text(), text()),
///     Topic::new("customers-answering", u64_be(), text()),
///     KvStore::new("orders-by-customer", bytes(), bytes()),
/// );
/// ```
pub struct ForeignKey<K: 'static, V: 'static, FK: 'static, T: 'static> {
    pub(crate) questions: Topic<FK, V>,
    pub(crate) answers: Topic<K, T>,
    pub(crate) subscriptions: KvStore<Bytes, Bytes>,
}

impl<K, V, FK, T> Clone for ForeignKey<K, V, FK, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V, FK, T> Copy for ForeignKey<K, V, FK, T> {}

impl<K, V, FK, T> ForeignKey<K, V, FK, T> {
    /// Asks through `questions`, answers through `answers`, and remembers in `subscriptions` which
    /// left rows refer to a right one.
    pub const fn new(
        questions: Topic<FK, V>,
        answers: Topic<K, T>,
        subscriptions: KvStore<Bytes, Bytes>,
    ) -> Self {
        Self {
            questions,
            answers,
            subscriptions,
        }
    }
}
