//! `suppress`: what decides when changes of a table that are held back go on.

use std::time::Duration;

use millstream_topology::{Error, ErrorKind, NodeId, Plan, Result, SuppressStore, Windowed};

use crate::{KTable, ops, windows::millis_of};

/// Holds changes back until their window has closed; made by [`until_window_closes`].
#[derive(Clone, Copy, Debug)]
pub struct UntilWindowCloses(());

/// Holds the changes of a table with windowed keys back until the window has closed, so that only
/// the final result of each window goes on. Deletions, timestamps and headers are as
/// [`suppress`](KTable::suppress) says.
///
/// ```
/// # use millstream_operators::{StreamsBuilder, until_window_closes};
/// # use millstream_topology::{
/// #     SuppressStore, Topic, Tumbling, WindowStore, Windowed, mins, text, u64_be, windowed,
/// # };
/// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
/// # const COUNTS: WindowStore<String, u64> = WindowStore::new("counts", text(), u64_be());
/// const OPEN: SuppressStore<Windowed<String>, u64> =
///     SuppressStore::new("open", windowed(text()), u64_be());
/// # let b = StreamsBuilder::new();
/// let minutes = b.stream(CLICKS).group_by_key().windowed_by(Tumbling::of(mins(1)));
/// let final_counts = minutes.count(COUNTS).suppress(until_window_closes(), OPEN);
/// # assert!(b.build().is_ok());
/// ```
pub fn until_window_closes() -> UntilWindowCloses {
    UntilWindowCloses(())
}

/// Holds changes back for a time; made by [`until_time_limit`].
#[derive(Clone, Copy, Debug)]
pub struct UntilTimeLimit {
    limit: Duration,
    records_max: usize,
}

/// Holds the changes of a key back until the time of the table has gone on by `limit` since the
/// first of them. Deletions, timestamps and headers are as [`suppress`](KTable::suppress) says.
///
/// ```
/// # use millstream_operators::{StreamsBuilder, until_time_limit};
/// # use millstream_topology::{secs, text, u64_be, KvStore, SuppressStore, Topic};
/// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
/// # const EVER: KvStore<String, u64> = KvStore::new("ever", text(), u64_be());
/// const RECENT: SuppressStore<String, u64> = SuppressStore::new("recent", text(), u64_be());
/// # let b = StreamsBuilder::new();
/// let counts = b.stream(CLICKS).group_by_key().count(EVER);
/// let calm = counts.suppress(until_time_limit(secs(10)), RECENT);
/// # assert!(b.build().is_ok());
/// ```
pub fn until_time_limit(limit: Duration) -> UntilTimeLimit {
    UntilTimeLimit {
        limit,
        records_max: usize::MAX,
    }
}

impl UntilTimeLimit {
    /// Holds no more than so many keys back; when there are more, the one that has waited longest
    /// goes on early. Without it their number is not bounded.
    ///
    /// ```
    /// # use millstream_operators::{StreamsBuilder, until_time_limit};
    /// # use millstream_topology::{secs, text, u64_be, KvStore, SuppressStore, Topic};
    /// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// # const EVER: KvStore<String, u64> = KvStore::new("ever", text(), u64_be());
    /// const RECENT: SuppressStore<String, u64> = SuppressStore::new("recent", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let counts = b.stream(CLICKS).group_by_key().count(EVER);
    /// let calm = until_time_limit(secs(10)).max_records(1_000);
    /// counts.suppress(calm, RECENT);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn max_records(mut self, records_max: usize) -> Self {
        self.records_max = records_max;
        self
    }
}

/// What a change that is held back waits for: [`until_window_closes`] or [`until_time_limit`].
#[diagnostic::on_unimplemented(
    message = "a table keyed by `{K}` cannot be suppressed by `{Self}`",
    note = "`until_window_closes()` needs a table with windowed keys, `until_time_limit(duration)` \
            takes every table"
)]
pub trait SuppressUntil<K> {
    #[doc(hidden)]
    fn rule(self, plan: &Plan, table: NodeId) -> Result<Rule<K>>;
}

/// When changes go on.
pub struct Rule<K> {
    /// What changes are ordered by: from the key and the timestamp.
    pub(crate) time_of: fn(&K, i64) -> i64,
    /// How far the table's time must have gone beyond that.
    pub(crate) wait_ms: i64,
    /// How many keys may wait.
    pub(crate) records_max: usize,
    /// True when a key's first result is its last, so that nobody needs to know of deletions.
    pub(crate) is_final: bool,
}

impl<K> SuppressUntil<Windowed<K>> for UntilWindowCloses {
    fn rule(self, plan: &Plan, table: NodeId) -> Result<Rule<Windowed<K>>> {
        let Some(wait_ms) = plan.window_closes_after_ms(table) else {
            let what = "the table does not come from an aggregation in windows, so nothing tells \
                        when one closes; suppress `until_time_limit` instead";
            return Err(Error::new(ErrorKind::Topology, what));
        };
        Ok(Rule {
            time_of: |key, _| key.end,
            wait_ms,
            records_max: usize::MAX,
            is_final: true,
        })
    }
}

impl<K> SuppressUntil<K> for UntilTimeLimit {
    fn rule(self, _: &Plan, _: NodeId) -> Result<Rule<K>> {
        Ok(Rule {
            time_of: |_, timestamp| timestamp,
            wait_ms: millis_of(self.limit),
            records_max: self.records_max,
            is_final: false,
        })
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    /// Holds the changes of the table back in a buffer, and passes on only the last one of each
    /// key.
    ///
    /// With [`until_window_closes`] the result of a window goes on once, when the window's end and
    /// its grace (of sessions: the gap too) lie behind; deleted windows, such as sessions that
    /// became part of others, do not go on at all. With [`until_time_limit`] a key goes on when the
    /// limit is over since its first change in the buffer; a deletion is a change like any other.
    ///
    /// Time is the greatest timestamp of the changes that reach the operator: nothing goes on while
    /// the table does not change. Changes that go on together are ordered by the time that they
    /// waited for, then key, then window. Each has the timestamp and the headers of the last change
    /// of its key, and as old value the one that went on before it. There are no null keys in a
    /// table; a null value is a deletion.
    ///
    /// Reads of the resulting table show, for a key that is held back, the value that went on
    /// before.
    ///
    /// ```
    /// # use millstream_operators::{StreamsBuilder, until_time_limit, until_window_closes};
    /// # use millstream_topology::{
    /// #     KvStore, SuppressStore, Topic, Tumbling, WindowStore, Windowed, mins, secs, text,
    /// #     u64_be,
    /// #     windowed,
    /// # };
    /// const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// const PER_MINUTE: WindowStore<String, u64> =
    ///     WindowStore::new("per-minute", text(), u64_be());
    /// const OPEN: SuppressStore<Windowed<String>, u64> =
    ///     SuppressStore::new("open-minutes", windowed(text()), u64_be());
    /// const EVER: KvStore<String, u64> = KvStore::new("ever", text(), u64_be());
    /// const RECENT: SuppressStore<String, u64> =
    ///     SuppressStore::new("recent", text(), u64_be());
    ///
    /// let b = StreamsBuilder::new();
    /// let clicks = b.stream(CLICKS);
    /// let minutes = clicks.clone().group_by_key().windowed_by(Tumbling::of(mins(1)));
    /// minutes.count(PER_MINUTE).suppress(until_window_closes(), OPEN).to_stream().print("final");
    /// let ever = clicks.group_by_key().count(EVER);
    /// let calm = until_time_limit(secs(10)).max_records(1_000);
    /// ever.suppress(calm, RECENT).to_stream().print("now and then");
    /// # assert!(b.build().is_ok());
    /// ```
    ///
    /// A table without windows has none that closes:
    ///
    /// ```compile_fail,E0277
    /// # use millstream_operators::{StreamsBuilder, until_window_closes};
    /// # use millstream_topology::{KvStore, SuppressStore, Topic, text, u64_be};
    /// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
    /// # const EVER: KvStore<String, u64> = KvStore::new("ever", text(), u64_be());
    /// # const RECENT: SuppressStore<String, u64> = SuppressStore::new("r", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let ever = b.stream(CLICKS).group_by_key().count(EVER);
    /// ever.suppress(until_window_closes(), RECENT);
    /// ```
    pub fn suppress(
        &self,
        until: impl SuppressUntil<K>,
        buffer: SuppressStore<K, V>,
    ) -> KTable<K, V> {
        let rule = {
            let draft = self.draft.lock();
            match self.history {
                None => until.rule(&draft.plan, self.id),
                Some(_) => Err(Error::new(
                    ErrorKind::Topology,
                    "a versioned table cannot be suppressed: its late updates belong to the past; \
                     keep the table in a `KvStore`",
                )),
            }
        };
        match rule {
            Ok(rule) => ops::suppress::suppress(self, rule, buffer),
            Err(error) => {
                self.draft.lock().check_in(self.id, Err(error));
                self.clone()
            }
        }
    }
}
