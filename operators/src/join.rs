//! What a stream can be joined with: a table, or another stream within a window.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_topology::{KvStore, WindowStore};

use crate::{KStream, KTable, ops};

pub(crate) type Joiner<V, T, VO> = Arc<dyn Fn(&V, &T) -> VO + Send + Sync>;
pub(crate) type LeftJoiner<V, T, VO> = Arc<dyn Fn(&V, Option<&T>) -> VO + Send + Sync>;

/// The right-hand side of an inner join.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be joined with a stream keyed by `{K}`",
    note = "join a `&KTable` with the same key type, or a stream with a window: \
            `other.within(duration, LEFT_STORE, RIGHT_STORE)`"
)]
pub trait JoinWith<K, V>: Sized {
    /// What the joiner gets from this side.
    type Value: Clone + 'static;

    #[doc(hidden)]
    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: Joiner<V, Self::Value, VO>,
    ) -> KStream<K, VO>;
}

/// The right-hand side of a left join.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be left-joined with a stream keyed by `{K}`",
    note = "left-join a `&KTable` with the same key type, or a stream with a window and a store for \
            records that wait for a partner: \
            `other.within(duration, LEFT_STORE, RIGHT_STORE).unmatched(STORE)`"
)]
pub trait LeftJoinWith<K, V>: Sized {
    /// What the joiner gets from this side.
    type Value: Clone + 'static;

    #[doc(hidden)]
    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: LeftJoiner<V, Self::Value, VO>,
    ) -> KStream<K, VO>;
}

impl<K: Clone + 'static, V: Clone + 'static, T: Clone + 'static> JoinWith<K, V> for &KTable<K, T> {
    type Value = T;

    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: Joiner<V, T, VO>,
    ) -> KStream<K, VO> {
        let inner = move |v: &V, t: Option<&T>| t.map(|t| joiner(v, t));
        ops::table_join::table_join(left, self, Arc::new(inner))
    }
}

impl<K: Clone + 'static, V: Clone + 'static, T: Clone + 'static> LeftJoinWith<K, V>
    for &KTable<K, T>
{
    type Value = T;

    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, V>,
        joiner: LeftJoiner<V, T, VO>,
    ) -> KStream<K, VO> {
        let outer = move |v: &V, t: Option<&T>| Some(joiner(v, t));
        ops::table_join::table_join(left, self, Arc::new(outer))
    }
}

/// A stream on the right-hand side, with the window and the buffers of both sides.
///
/// A left record at `t` meets right records from `t - before` to `t + after`, both ends included.
pub struct Within<K: 'static, L: 'static, R: 'static> {
    pub(crate) right: KStream<K, R>,
    pub(crate) before_ms: i64,
    pub(crate) after_ms: i64,
    pub(crate) grace_ms: i64,
    pub(crate) left_buffer: WindowStore<K, L>,
    pub(crate) right_buffer: WindowStore<K, R>,
}

impl<K: Clone + 'static, L: Clone + 'static, R: Clone + 'static> Within<K, L, R> {
    pub(crate) fn new(
        right: KStream<K, R>,
        difference: Duration,
        left_buffer: WindowStore<K, L>,
        right_buffer: WindowStore<K, R>,
    ) -> Self {
        let ms = difference.as_millis() as i64;
        Self {
            right,
            before_ms: ms,
            after_ms: ms,
            grace_ms: 0,
            left_buffer,
            right_buffer,
        }
    }

    /// Right records may be older than the left one by no more than this.
    pub fn before(mut self, before: Duration) -> Self {
        self.before_ms = before.as_millis() as i64;
        self
    }

    /// Right records may be newer than the left one by no more than this.
    pub fn after(mut self, after: Duration) -> Self {
        self.after_ms = after.as_millis() as i64;
        self
    }

    /// Late records are joined up to this long after the window has closed.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace_ms = grace.as_millis() as i64;
        self
    }

    /// The store in which left records wait for a partner, for a left join. Its keys are made by
    /// the operator: time, then the record's key.
    pub fn unmatched(self, store: KvStore<Bytes, L>) -> WithinUnmatched<K, L, R> {
        WithinUnmatched {
            within: self,
            store,
        }
    }
}

/// [`Within`] with a store for records that wait for a partner.
pub struct WithinUnmatched<K: 'static, L: 'static, R: 'static> {
    pub(crate) within: Within<K, L, R>,
    pub(crate) store: KvStore<Bytes, L>,
}

impl<K: Clone + 'static, L: Clone + 'static, R: Clone + 'static> JoinWith<K, L>
    for Within<K, L, R>
{
    type Value = R;

    fn join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, L>,
        joiner: Joiner<L, R, VO>,
    ) -> KStream<K, VO> {
        ops::stream_join::inner(left, self, joiner)
    }
}

impl<K: Clone + 'static, L: Clone + 'static, R: Clone + 'static> LeftJoinWith<K, L>
    for WithinUnmatched<K, L, R>
{
    type Value = R;

    fn left_join_from<VO: Clone + 'static>(
        self,
        left: KStream<K, L>,
        joiner: LeftJoiner<L, R, VO>,
    ) -> KStream<K, VO> {
        ops::stream_join::left(left, self, joiner)
    }
}
