//! `KStream`: a stream of records, and the operators on it.

use std::{fmt::Debug, sync::Arc};

use millstream_topology::{
    AnyTopic, BoxError, Error, ErrorKind, NodeId, NodeKind, Record, Result, Topic, TopicRole,
    WindowStore,
};

use crate::{
    Cx, FixedKeyProcessor, Grouped, JoinWindow, JoinWith, KTable, LeftJoinWith, MaybeNull,
    OuterJoinWith, Outputs, Processor, Stores, TableStore,
    build::TaskBuild,
    builder::{SharedDraft, add_node},
    edge::{Next, Port},
    join::{Side, Within},
    ops,
};

/// A stream of records. Methods take it by value; `clone` it to use it twice.
pub struct KStream<K: 'static, V: 'static> {
    pub(crate) draft: SharedDraft,
    pub(crate) id: NodeId,
    pub(crate) port: Port<K, V>,
    /// True when keys may no longer be those by which the records are partitioned.
    pub(crate) rekeyed: bool,
}

impl<K, V> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            draft: self.draft.clone(),
            id: self.id,
            port: self.port.clone(),
            rekeyed: self.rekeyed,
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KStream<K, V> {
    pub(crate) fn new(draft: &SharedDraft, id: NodeId, rekeyed: bool) -> Self {
        Self {
            draft: draft.clone(),
            id,
            port: Port::new(),
            rekeyed,
        }
    }

    /// Adds a node behind this stream; `make` gives its body, once for each task.
    pub(crate) fn unary<K2, V2, F>(
        self,
        kind: NodeKind,
        make: impl Fn(&mut TaskBuild<'_>, Next<K2, V2>) -> F + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Clone + 'static,
        V2: Clone + 'static,
        F: FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()> + 'static,
    {
        let id = add_node(&self.draft, kind, &[self.id]);
        let out = KStream::new(&self.draft, id, self.rekeyed);
        let port = out.port.clone();
        self.port.subscribe(Arc::new(move |build| {
            let next = port.connect(build);
            let body = make(build, next);
            build.node(id, body)
        }));
        out
    }

    /// Adds a node behind this stream that nothing follows.
    pub(crate) fn terminal<F>(
        self,
        id: NodeId,
        make: impl Fn(&mut TaskBuild<'_>) -> F + Send + Sync + 'static,
    ) where
        F: FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()> + 'static,
    {
        self.port.subscribe(Arc::new(move |build| {
            let body = make(build);
            build.node(id, body)
        }));
    }

    fn marked_rekeyed(mut self) -> Self {
        self.rekeyed = true;
        self
    }

    /// True when keys may no longer be those by which the records are partitioned, so that what
    /// needs equal keys in one task needs a [`repartition`](Self::repartition) before.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// assert!(!b.stream(IN).filter(|_, line| !line.is_empty()).is_rekeyed());
    /// assert!(b.stream(IN).map(|key, value| (value, key)).is_rekeyed());
    /// ```
    pub fn is_rekeyed(&self) -> bool {
        self.rekeyed
    }

    /// Names the node, for `describe()`, metrics and errors; the name is unique in the topology.
    ///
    /// Records pass untouched, nulls too. The name is none of a topic or store: those have their
    /// descriptors'.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// b.stream(IN).filter(|_, line| line.len() < 80).named("short-lines");
    /// assert!(b.build()?.describe().to_string().contains("short-lines"));
    /// # Ok::<(), millstream_topology::Error>(())
    /// ```
    pub fn named(self, name: &str) -> Self {
        let mut draft = self.draft.lock();
        let renamed = draft.plan.rename(self.id, name);
        draft.check_in(self.id, renamed);
        drop(draft);
        self
    }

    /// Keeps the records that `keep` accepts; the others are not counted as dropped.
    ///
    /// It is asked about nulls too, where keys or values are `Option`s. Timestamp and headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let short = b.stream(IN).filter(|_, line| line.len() < 80);
    /// ```
    pub fn filter(self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        ops::filter::filter(self, Arc::new(keep))
    }

    /// Keeps the records that `drop` does not accept: [`filter`](Self::filter) the other way round.
    ///
    /// Nulls, timestamp and headers are as there.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let said = b.stream(IN).filter_not(|_, line| line.is_empty());
    /// ```
    pub fn filter_not(self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        ops::filter::filter(self, Arc::new(move |k, v| !drop(k, v)))
    }

    /// Changes the value; the key stays, so that nothing needs to be repartitioned.
    ///
    /// Called for null values too, where values are `Option`s. Timestamp and headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let lengths = b.stream(IN).map_values(|_, line| line.len() as u64);
    /// ```
    pub fn map_values<V2: Clone + 'static>(
        self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        ops::map_values::map_values(self, Arc::new(move |k, v| Ok(map(k, v))))
    }

    /// Changes the value with a function that may fail; the application's policy for processing
    /// errors decides what becomes of the record then: stop, skip, or set aside.
    ///
    /// Else as [`map_values`](Self::map_values): called for null values too, where values are
    /// `Option`s; timestamp and headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let numbers = b.stream(IN).try_map_values(|_, line| line.parse::<u64>());
    /// ```
    pub fn try_map_values<V2: Clone + 'static, E: Into<BoxError>>(
        self,
        map: impl Fn(&K, V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        ops::map_values::map_values(self, Arc::new(move |k, v| map(k, v).map_err(user_error)))
    }

    /// Changes key and value. What needs equal keys in one task then needs a
    /// [`repartition`](Self::repartition) first.
    ///
    /// Called for nulls too, where keys or values are `Option`s. Timestamp and headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let swapped = b.stream(IN).map(|key, value| (value, key));
    /// ```
    pub fn map<K2: Clone + 'static, V2: Clone + 'static>(
        self,
        map: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        ops::map::map(self, Arc::new(move |k, v| Ok(map(k, v)))).marked_rekeyed()
    }

    /// Changes the key; value, timestamp and headers stay. What needs equal keys in one task then
    /// needs a [`repartition`](Self::repartition) first: [`rekey`](Self::rekey) does both.
    ///
    /// Called for nulls too, where keys or values are `Option`s; the new key may be an `Option`
    /// whose `None` is null.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{nullable, text, Topic};
    /// # const WORDS: Topic<String, String> = Topic::new("words", text(), text());
    /// const BY_LETTER: Topic<Option<char>, String> =
    ///     Topic::new("by-letter", nullable(text()), text());
    /// # let b = StreamsBuilder::new();
    /// b.stream(WORDS).select_key(|_, word| word.chars().next()).to(BY_LETTER);
    /// ```
    pub fn select_key<K2: Clone + 'static>(
        self,
        key: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        ops::map::rekey(self, Arc::new(key)).marked_rekeyed()
    }

    /// As [`map`](Self::map), with a function that may fail; the application's policy for
    /// processing errors decides what becomes of the record then.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let by_number = b.stream(IN).try_map(|key, value| value.parse::<u64>().map(|n| (n, key)));
    /// ```
    pub fn try_map<K2: Clone + 'static, V2: Clone + 'static, E: Into<BoxError>>(
        self,
        map: impl Fn(K, V) -> Result<(K2, V2), E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        ops::map::map(self, Arc::new(move |k, v| map(k, v).map_err(user_error))).marked_rekeyed()
    }

    /// Makes none, one or several records of each, in order. What needs equal keys in one task then
    /// needs a [`repartition`](Self::repartition) first.
    ///
    /// Called for nulls too, where keys or values are `Option`s. Each result has the timestamp and
    /// the headers of the record that it was made of.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let words = b.stream(IN).flat_map(|key, line| {
    ///     line.split(' ').map(|word| (word.to_owned(), key.clone())).collect::<Vec<_>>()
    /// });
    /// ```
    pub fn flat_map<K2, V2, I>(
        self,
        map: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Clone + 'static,
        V2: Clone + 'static,
        I: IntoIterator<Item = (K2, V2)> + 'static,
    {
        ops::flat_map::flat_map(self, Arc::new(move |k, v| Ok(map(k, v)))).marked_rekeyed()
    }

    /// As [`flat_map`](Self::flat_map), with a function that may fail; the application's policy for
    /// processing errors decides what becomes of the record then.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let both = b.stream(IN).try_flat_map(|key, value| {
    ///     value.parse::<u64>().map(|n| [(key.clone(), n), (key, n + 1)])
    /// });
    /// ```
    pub fn try_flat_map<K2, V2, I, E>(
        self,
        map: impl Fn(K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Clone + 'static,
        V2: Clone + 'static,
        I: IntoIterator<Item = (K2, V2)> + 'static,
        E: Into<BoxError>,
    {
        ops::flat_map::flat_map(self, Arc::new(move |k, v| map(k, v).map_err(user_error)))
            .marked_rekeyed()
    }

    /// Makes none, one or several values of each record, in order; the key stays, so that nothing
    /// needs to be repartitioned.
    ///
    /// Called for null values too, where values are `Option`s. Each result has the timestamp and
    /// the headers of the record that it was made of.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let words = b.stream(IN).flat_map_values(|_, line| {
    ///     line.split(' ').map(str::to_owned).collect::<Vec<_>>()
    /// });
    /// ```
    pub fn flat_map_values<V2, I>(
        self,
        map: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K, V2>
    where
        V2: Clone + 'static,
        I: IntoIterator<Item = V2> + 'static,
    {
        ops::flat_map::flat_map_values(self, Arc::new(map))
    }

    /// Looks at each record, nulls too, and passes it on untouched.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let same = b.stream(IN).peek(|key, value| println!("{key} = {value}"));
    /// ```
    pub fn peek(self, look: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        ops::peek::peek(self, Arc::new(look))
    }

    /// Prints each record on standard output, as `[label]: key, value`; nothing follows. A null is
    /// `None`.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// b.stream(IN).print("in");
    /// ```
    pub fn print(self, label: &'static str)
    where
        K: Debug,
        V: Debug,
    {
        ops::print::print(self, label, Arc::new(|line| println!("{line}")));
    }

    /// As [`print`](Self::print), to wherever `write` brings the lines.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// b.stream(IN).print_to("in", |line| eprintln!("{line}"));
    /// ```
    pub fn print_to(self, label: &'static str, write: impl Fn(&str) + Send + Sync + 'static)
    where
        K: Debug,
        V: Debug,
    {
        ops::print::print(self, label, Arc::new(write));
    }

    /// Does something for each record, nulls too; nothing follows. It may be done again for a
    /// record whose transaction was aborted.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// b.stream(IN).for_each(|key, value| println!("{key} = {value}"));
    /// ```
    pub fn for_each(self, act: impl Fn(K, V) + Send + Sync + 'static) {
        ops::peek::for_each(self, Arc::new(act));
    }

    /// The records of both streams, nulls too, untouched; between the two there is no order. A
    /// stream merged with itself gives each record once.
    ///
    /// If the keys of one may have changed, those of the result may.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const OTHER: Topic<String, String> = Topic::new("other", text(), text());
    /// let all = b.stream(IN).merge(b.stream(OTHER));
    /// ```
    pub fn merge(self, other: Self) -> Self {
        ops::merge::merge(self, other)
    }

    /// Sends each record to the first branch that takes it, untouched. One that no branch takes is
    /// gone, uncounted.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, Topic};
    /// # const CENTS: Topic<String, u64> = Topic::new("cents", text(), u64_be());
    /// # const REVIEW: Topic<String, u64> = Topic::new("review", text(), u64_be());
    /// # const ACCEPTED: Topic<String, u64> = Topic::new("accepted", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let mut split = b.stream(CENTS).split();
    /// split.when(|_, cents| *cents > 10_000).to(REVIEW);
    /// split.otherwise().to(ACCEPTED);
    /// ```
    pub fn split(self) -> Split<K, V> {
        let rekeyed = self.rekeyed;
        let draft = self.draft.clone();
        let (id, branches) = ops::split::split(self);
        Split {
            draft,
            id,
            branches,
            rekeyed,
        }
    }

    /// Gives each record a new key and sends it through a topic of the application
    /// (`<application>-<name>-repartition`), so that equal keys meet in one task.
    ///
    /// The descriptor names the topic and says how the new key and the value are written. Value,
    /// timestamp and headers stay; null values pass. A null key, where the new key is an `Option`,
    /// vanishes in the topic, uncounted, unless a join behind it has a use for it.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const BY_LENGTH: Topic<u64, String> = Topic::new("by-length", u64_be(), text());
    /// const HOW_MANY: KvStore<u64, u64> = KvStore::new("how-many", u64_be(), u64_be());
    /// b.stream(IN).rekey(BY_LENGTH, |_, line| line.len() as u64).group_by_key().count(HOW_MANY);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn rekey<K2: Clone + 'static>(
        self,
        through: Topic<K2, V>,
        key: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        ops::repartition::repartition(ops::map::rekey(self, Arc::new(key)), through, None)
    }

    /// Sends the stream through a topic of the application, so that equal keys meet in one task.
    ///
    /// Value, timestamp and headers stay. A null key vanishes in the topic, as with
    /// [`rekey`](Self::rekey).
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const BY_VALUE: Topic<String, String> = Topic::new("by-value", text(), text());
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// let swapped = b.stream(IN).map(|key, value| (value, key));
    /// swapped.repartition(BY_VALUE).group_by_key().count(SEEN);
    /// ```
    pub fn repartition(self, through: Topic<K, V>) -> Self {
        ops::repartition::repartition(self, through, None)
    }

    /// As [`repartition`](Self::repartition), with a number of partitions, so that more tasks, or
    /// fewer, work on what follows. Zero is refused, and so is a join with a topic of another
    /// number.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const SPREAD: Topic<String, String> = Topic::new("spread", text(), text());
    /// let spread = b.stream(IN).repartition_to(SPREAD, 12);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn repartition_to(self, through: Topic<K, V>, partitions: u32) -> Self {
        ops::repartition::repartition(self, through, Some(partitions))
    }

    /// Says that the keys are still those by which the records are partitioned, although a `map` or
    /// `process` might have changed them. If they are not, equal keys end up in different tasks.
    ///
    /// Records pass untouched, nulls too.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// let same = b.stream(IN).map(|key, value| (key, value.len())).with_unchanged_key();
    /// same.group_by_key().count(SEEN);
    /// ```
    pub fn with_unchanged_key(mut self) -> Self {
        self.rekeyed = false;
        self
    }

    /// Writes the stream to a topic, nulls too, with timestamps and headers; the partition is
    /// murmur2 of the key, as in Kafka's own clients. The topic must exist.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const OUT: Topic<String, String> = Topic::new("out", text(), text());
    /// b.stream(IN).to(OUT);
    /// ```
    pub fn to(self, topic: Topic<K, V>) {
        ops::sink::sink(self, topic, TopicRole::External);
    }

    /// Writes each record to a topic that it chooses. The topics must exist, and can be none of the
    /// application's own.
    ///
    /// Nulls, timestamps, headers and partitions are as with [`to`](Self::to). A topic that the log
    /// did not have when the application started is an error of writing: the policy `produce`
    /// decides what becomes of the record.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, AnyTopic, Topic};
    /// # const ORDERS: Topic<String, String> = Topic::new("orders", text(), text());
    /// const BY_COUNTRY: AnyTopic<String, String> = AnyTopic::new(text(), text());
    /// # let b = StreamsBuilder::new();
    /// b.stream(ORDERS).to_dynamic(BY_COUNTRY, |_, country| format!("orders-{country}"));
    /// ```
    pub fn to_dynamic(
        self,
        topics: AnyTopic<K, V>,
        choose: impl Fn(&K, &V) -> String + Send + Sync + 'static,
    ) {
        ops::sink::sink_to_any(self, topics, Arc::new(choose));
    }

    /// The stream as a table: the newest value of each key, kept in a store. A value of `None`,
    /// where values are `Option`s, deletes its key; keys that may be null go through
    /// [`drop_null_keys`](KStream::drop_null_keys) first.
    ///
    /// Every update is applied and passed on, with its timestamp and headers, as
    /// [`table`](crate::StreamsBuilder::table) does.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{i64_be, text, KvStore, Topic};
    /// const READINGS: Topic<String, i64> = Topic::new("readings", text(), i64_be());
    /// const WARM: KvStore<String, i64> = KvStore::new("warm", text(), i64_be());
    /// # let b = StreamsBuilder::new();
    /// // A sensor below 20 degrees is not in the table.
    /// let warm = b.stream(READINGS).map_values(|_, degrees| Some(degrees).filter(|d| *d >= 20));
    /// warm.to_table(WARM);
    /// ```
    pub fn to_table<T: Clone + 'static>(self, store: impl TableStore<K, T>) -> KTable<K, T>
    where
        V: Into<Option<T>>,
    {
        self.require_partitioned("to_table");
        ops::table::to_table(self, store)
    }

    /// Groups by the key. Records pass untouched: what becomes of timestamps and headers is a
    /// matter of the aggregation.
    ///
    /// Keys that may be null go through [`drop_null_keys`](KStream::drop_null_keys) first, because
    /// a store has none; values through [`drop_null_values`](KStream::drop_null_values), unless the
    /// aggregation is to see them as `Option`s.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{nullable, text, u64_be, KvStore, Topic};
    /// const CLICKS: Topic<Option<String>, String> =
    ///     Topic::new("clicks", nullable(text()), text());
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// b.stream(CLICKS).drop_null_keys().group_by_key().count(SEEN);
    /// # assert!(b.build().is_ok());
    /// ```
    ///
    /// Without `drop_null_keys` the store has the wrong type:
    ///
    /// ```compile_fail,E0308
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{nullable, text, u64_be, KvStore, Topic};
    /// # const CLICKS: Topic<Option<String>, String> =
    /// #     Topic::new("clicks", nullable(text()), text());
    /// # const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// b.stream(CLICKS).group_by_key().count(SEEN);
    /// ```
    pub fn group_by_key(self) -> Grouped<K, V> {
        self.require_partitioned("group_by_key");
        Grouped::new(self)
    }

    /// Groups by a new key, through a topic of the application as [`rekey`](Self::rekey).
    ///
    /// Nulls, timestamp and headers are as with [`rekey`](Self::rekey): a null new key vanishes in
    /// the topic.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// # let b = StreamsBuilder::new();
    /// const BY_VALUE: Topic<String, String> = Topic::new("by-value", text(), text());
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    /// let counts = b.stream(IN).group_by(BY_VALUE, |_, value| value.clone()).count(SEEN);
    /// ```
    pub fn group_by<K2: Clone + 'static>(
        self,
        through: Topic<K2, V>,
        key: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> Grouped<K2, V> {
        Grouped::new(self.rekey(through, key))
    }

    /// Joins with a table, a global table, or a stream within a window; records without partner are
    /// left out.
    ///
    /// A record without a key is dropped and counted, and so is one without a value in a join with
    /// a stream, or with a table [with grace](KTable::with_grace). A join with a plain or a global
    /// table does not look at the value: of a `KStream<K, Option<V>>` the joiner gets the `Option`,
    /// and [`drop_null_values`](KStream::drop_null_values) in front gives Kafka Streams' rule. Of a
    /// global table it is the key looked up, not the record's, that must be there.
    ///
    /// A result has the headers of the record that caused it. Its timestamp is that record's; in a
    /// join with a stream the greater one of both sides'.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, KvStore, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const NAMES: Topic<String, String> = Topic::new("names", text(), text());
    /// # const BY_ID: KvStore<String, String> = KvStore::new("by-id", text(), text());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let (orders, payments) = (b.stream(ORDERS), b.stream(PAYMENTS));
    /// let names = b.table(NAMES, BY_ID);
    /// let named = orders.clone().join(&names, |cents, name| format!("{name}: {cents}"));
    /// let paid = orders.join(payments.within(mins(10), LEFT, RIGHT), |due, paid| due - paid);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn join<J, VO>(
        self,
        other: J,
        joiner: impl Fn(&J::Left, &J::Value) -> VO + Send + Sync + 'static,
    ) -> KStream<J::Key, VO>
    where
        J: JoinWith<K, V>,
        VO: Clone + 'static,
    {
        other.join_from(self, Arc::new(move |_, left, right| joiner(left, right)))
    }

    /// As [`join`](Self::join), with the key for the joiner.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const NAMES: Topic<String, String> = Topic::new("names", text(), text());
    /// # const BY_ID: KvStore<String, String> = KvStore::new("by-id", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let names = b.table(NAMES, BY_ID);
    /// let lines = b.stream(ORDERS).join_with_key(&names, |id, cents, name| {
    ///     format!("{id} ({name}): {cents}")
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn join_with_key<J, VO>(
        self,
        other: J,
        joiner: impl Fn(&J::Key, &J::Left, &J::Value) -> VO + Send + Sync + 'static,
    ) -> KStream<J::Key, VO>
    where
        J: JoinWith<K, V>,
        VO: Clone + 'static,
    {
        other.join_from(self, Arc::new(joiner))
    }

    /// As [`join`](Self::join), with the records of this side that find no partner: the joiner gets
    /// `None` for it. Records without a key have none. In a join with a stream, a record goes on
    /// alone when its window has closed, grace included.
    ///
    /// A record without a value, and the timestamp and headers of a pair, are as there. What goes
    /// on alone has its own timestamp; its headers are its own, or, where it had to wait for its
    /// window, those of the record that moved the time.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{bytes, mins, text, u64_be, KvStore, Topic, WindowStore};
    /// # use bytes::Bytes;
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// const UNPAID: KvStore<Bytes, Bytes> = KvStore::new("unpaid", bytes(), bytes());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).unmatched(UNPAID);
    /// let settled = b.stream(ORDERS).left_join(payments, |_, paid| paid.is_some());
    /// ```
    pub fn left_join<J, VO>(
        self,
        other: J,
        joiner: impl Fn(&J::Left, Option<&J::Value>) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO>
    where
        J: LeftJoinWith<K, V>,
        VO: Clone + 'static,
    {
        other.left_join_from(self, Arc::new(move |_, left, right| joiner(left, right)))
    }

    /// As [`left_join`](Self::left_join), with the key for the joiner.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, KvStore, Topic};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const NAMES: Topic<String, String> = Topic::new("names", text(), text());
    /// # const BY_ID: KvStore<String, String> = KvStore::new("by-id", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let names = b.table(NAMES, BY_ID);
    /// let lines = b.stream(ORDERS).left_join_with_key(&names, |id, cents, name| match name {
    ///     Some(name) => format!("{id} ({name}): {cents}"),
    ///     None => format!("{id}: {cents}"),
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn left_join_with_key<J, VO>(
        self,
        other: J,
        joiner: impl Fn(&K, &J::Left, Option<&J::Value>) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO>
    where
        J: LeftJoinWith<K, V>,
        VO: Clone + 'static,
    {
        other.left_join_from(self, Arc::new(joiner))
    }

    /// As [`join`](Self::join) with a stream, with the records of either side that find no partner:
    /// the joiner gets `None` for it, never for both.
    ///
    /// A left record without a key is joined with nothing; a right one is where the keys of this
    /// stream can be null, else dropped and counted. Records without a value are dropped and
    /// counted. Timestamp and headers are as with [`left_join`](Self::left_join).
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{bytes, mins, text, u64_be, KvStore, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # const WAITING: KvStore<Bytes, Bytes> = KvStore::new("waiting", bytes(), bytes());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).unmatched(WAITING);
    /// let open = b.stream(ORDERS).outer_join(payments, |due, paid| {
    ///     due.copied().unwrap_or(0).abs_diff(paid.copied().unwrap_or(0))
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn outer_join<J, VO>(
        self,
        other: J,
        joiner: impl Fn(Option<&J::Left>, Option<&J::Value>) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO>
    where
        J: OuterJoinWith<K, V>,
        VO: Clone + 'static,
    {
        other.outer_join_from(self, Arc::new(move |_, left, right| joiner(left, right)))
    }

    /// As [`outer_join`](Self::outer_join), with the key for the joiner.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{bytes, mins, text, u64_be, KvStore, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # const WAITING: KvStore<Bytes, Bytes> = KvStore::new("waiting", bytes(), bytes());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).unmatched(WAITING);
    /// let lines = b.stream(ORDERS).outer_join_with_key(payments, |id, due, paid| {
    ///     format!("{id}: due {due:?}, paid {paid:?}")
    /// });
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn outer_join_with_key<J, VO>(
        self,
        other: J,
        joiner: impl Fn(&K, Option<&J::Left>, Option<&J::Value>) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO>
    where
        J: OuterJoinWith<K, V>,
        VO: Clone + 'static,
    {
        other.outer_join_from(self, Arc::new(joiner))
    }

    /// Joins the stream with itself, over one buffer: a record meets those whose times are close,
    /// as the left one and as the right one, and itself once. A record without key or value is
    /// dropped and counted. Timestamps and headers are those of [`join`](Self::join) with a stream.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, Topic, WindowStore};
    /// # const CLICKS: Topic<String, u64> = Topic::new("clicks", text(), u64_be());
    /// const RECENT: WindowStore<String, u64> = WindowStore::new("recent", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let pairs = b.stream(CLICKS).join_self(mins(1), RECENT, |_, one, other| (*one, *other));
    /// ```
    pub fn join_self<K2, V2, VO>(
        self,
        window: impl Into<JoinWindow>,
        store: WindowStore<K2, V2>,
        joiner: impl Fn(&K2, &V2, &V2) -> VO + Send + Sync + 'static,
    ) -> KStream<K2, VO>
    where
        K: MaybeNull<K2>,
        V: MaybeNull<V2>,
        K2: Clone + 'static,
        V2: Clone + 'static,
        VO: Clone + 'static,
    {
        self.require_partitioned("join_self");
        ops::self_join::self_join(self, window.into(), store, Arc::new(joiner))
    }

    /// This stream as the right-hand side of a join: records whose times differ by no more than a
    /// duration meet, or those that a [`JoinWindow`] says. The two stores buffer the left and the
    /// right side; their types are those of the streams, without `Option`.
    ///
    /// What becomes of nulls, timestamps and headers says the join: [`join`](Self::join),
    /// [`left_join`](Self::left_join), [`outer_join`](Self::outer_join).
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{mins, text, u64_be, KvStore, Topic, WindowStore};
    /// # const ORDERS: Topic<String, u64> = Topic::new("orders", text(), u64_be());
    /// # const PAYMENTS: Topic<String, u64> = Topic::new("payments", text(), u64_be());
    /// # const NAMES: Topic<String, String> = Topic::new("names", text(), text());
    /// # const BY_ID: KvStore<String, String> = KvStore::new("by-id", text(), text());
    /// # const LEFT: WindowStore<String, u64> = WindowStore::new("left", text(), u64_be());
    /// # const RIGHT: WindowStore<String, u64> = WindowStore::new("right", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let payments = b.stream(PAYMENTS).within(mins(10), LEFT, RIGHT).grace(mins(1));
    /// let settled = b.stream(ORDERS).join(payments, |due, paid| due == paid);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn within<K2, L, R>(
        self,
        window: impl Into<JoinWindow>,
        left: WindowStore<K2, L>,
        right: WindowStore<K2, R>,
    ) -> Within<K2, L, R>
    where
        K: MaybeNull<K2>,
        V: MaybeNull<R>,
        K2: Clone + 'static,
        L: Clone + 'static,
        R: Clone + 'static,
    {
        self.require_partitioned("within");
        Within {
            right: Side::of(self),
            window: window.into(),
            left_buffer: left,
            right_buffer: right,
        }
    }

    /// Runs a [`Processor`] of the user's on each record. `make` is called once for each task with
    /// handles on the stores named.
    ///
    /// Called for nulls too, where keys or values are `Option`s. What is forwarded has the
    /// timestamp and the headers that the processor gives it. What needs equal keys in one task
    /// then needs a [`repartition`](Self::repartition) first, or
    /// [`with_unchanged_key`](Self::with_unchanged_key).
    ///
    /// ```
    /// use millstream_operators::{Context, KvHandle, Processor, StreamsBuilder};
    /// use millstream_topology::{text, u64_be, KvStore, Record, Result, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// const SEEN: KvStore<String, u64> = KvStore::new("seen", text(), u64_be());
    ///
    /// /// Passes the first record of each key on.
    /// struct First(KvHandle<String, u64>);
    ///
    /// impl Processor for First {
    /// #     type Key = String;
    /// #     type Value = String;
    /// #     type OutKey = String;
    /// #     type OutValue = String;
    ///     // … the types of keys and values
    ///     fn process(
    ///         &mut self,
    ///         cx: &mut Context<'_, '_, String, String>,
    ///         record: Record<String, String>,
    ///     ) -> Result<()> {
    ///         if cx.store(self.0).get(&record.key)?.is_some() {
    ///             return Ok(());
    ///         }
    ///         cx.store(self.0).put(&record.key, 1, record.timestamp)?;
    ///         cx.forward(record)
    ///     }
    /// }
    ///
    /// # let b = StreamsBuilder::new();
    /// let first = b.stream(IN).process(SEEN, First);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn process<S, P>(
        self,
        stores: S,
        make: impl Fn(S::Handles) -> P + Send + Sync + 'static,
    ) -> KStream<P::OutKey, P::OutValue>
    where
        S: Stores,
        P: Processor<Key = K, Value = V>,
    {
        ops::process::process(self, stores, make).marked_rekeyed()
    }

    /// Runs a [`FixedKeyProcessor`] of the user's on each record: it cannot change keys, so that
    /// what comes out is partitioned as before. `make` is called once for each task with handles on
    /// the stores named.
    ///
    /// Called for nulls too, where keys or values are `Option`s. What is forwarded has the
    /// timestamp and the headers that the processor gives it.
    ///
    /// ```
    /// use millstream_operators::{FixedKeyContext, FixedKeyProcessor, FixedKeyRecord};
    /// # use millstream_operators::StreamsBuilder;
    /// use millstream_topology::{text, Result, Topic};
    /// # const IN: Topic<String, String> = Topic::new("in", text(), text());
    ///
    /// /// Puts the offset before the value.
    /// struct Numbered;
    ///
    /// impl FixedKeyProcessor for Numbered {
    /// #     type Key = String;
    /// #     type Value = String;
    /// #     type OutValue = String;
    ///     // … the types of keys and values
    ///     fn process(
    ///         &mut self,
    ///         cx: &mut FixedKeyContext<'_, '_, String, String>,
    ///         record: FixedKeyRecord<String, String>,
    ///     ) -> Result<()> {
    ///         let numbered = format!("{} {}", cx.offset(), record.value);
    ///         cx.forward(record.with_value(numbered))
    ///     }
    /// }
    ///
    /// # let b = StreamsBuilder::new();
    /// let numbered = b.stream(IN).process_values((), |()| Numbered);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn process_values<S, P>(
        self,
        stores: S,
        make: impl Fn(S::Handles) -> P + Send + Sync + 'static,
    ) -> KStream<K, P::OutValue>
    where
        S: Stores,
        P: FixedKeyProcessor<Key = K, Value = V>,
    {
        ops::process_values::process_values(self, stores, make)
    }

    /// As [`process`](Self::process), with further outputs, each with types of its own. Returns
    /// what [`Context::forward`](crate::Context::forward) leads to, and the outputs.
    ///
    /// Nulls, timestamps and headers are as there, for each output.
    ///
    /// ```
    /// use millstream_operators::{Context, Output, OutputHandle, Processor, StreamsBuilder};
    /// use millstream_topology::{text, u64_be, Record, Result, Topic};
    ///
    /// const IN: Topic<String, String> = Topic::new("in", text(), text());
    /// const NUMBERS: Topic<String, u64> = Topic::new("numbers", text(), u64_be());
    /// const WORDS: Topic<String, String> = Topic::new("words", text(), text());
    ///
    /// struct Sort(OutputHandle<String, u64>);
    ///
    /// impl Processor for Sort {
    ///     type Key = String;
    ///     type Value = String;
    ///     type OutKey = String;
    ///     type OutValue = String;
    ///
    ///     fn process(
    ///         &mut self,
    ///         cx: &mut Context<'_, '_, String, String>,
    ///         record: Record<String, String>,
    ///     ) -> Result<()> {
    ///         match record.value.parse() {
    ///             Ok(number) => cx.forward_to(self.0, record.with_value(number)),
    ///             Err(_) => cx.forward(record),
    ///         }
    ///     }
    /// }
    ///
    /// let b = StreamsBuilder::new();
    /// let (words, numbers) =
    ///     b.stream(IN).process_to((), Output::new("numbers-out"), |(), numbers| Sort(numbers));
    /// words.to(WORDS);
    /// numbers.to(NUMBERS);
    /// b.build()?;
    /// # Ok::<(), millstream_topology::Error>(())
    /// ```
    ///
    /// An output takes records of its own types only: give the handle the types of the records,
    /// here `OutputHandle<String, String>`, or the record the types of the output.
    ///
    /// ```compile_fail,E0308
    /// # use millstream_operators::{Context, OutputHandle, Processor};
    /// # use millstream_topology::{Record, Result};
    /// struct Sort(OutputHandle<String, u64>);
    ///
    /// impl Processor for Sort {
    /// #     type Key = String;
    /// #     type Value = String;
    /// #     type OutKey = String;
    /// #     type OutValue = String;
    ///     // … the types of keys and values
    ///     fn process(
    ///         &mut self,
    ///         cx: &mut Context<'_, '_, String, String>,
    ///         record: Record<String, String>,
    ///     ) -> Result<()> {
    ///         cx.forward_to(self.0, record)
    ///     }
    /// }
    /// ```
    pub fn process_to<S, O, P>(
        self,
        stores: S,
        outputs: O,
        make: impl Fn(S::Handles, O::Handles) -> P + Send + Sync + 'static,
    ) -> (KStream<P::OutKey, P::OutValue>, O::Streams)
    where
        S: Stores,
        O: Outputs,
        P: Processor<Key = K, Value = V>,
    {
        ops::process_to::process_to(self, stores, outputs, make)
    }

    pub(crate) fn require_partitioned(&self, operator: &str) {
        if self.rekeyed {
            let what = format!(
                "{operator} needs equal keys in one task, but the key may have changed; put \
                 `.repartition(TOPIC)` in between, or `.with_unchanged_key()` if it has not"
            );
            self.draft.lock().refuse(self.id, what);
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KStream<Option<K>, V> {
    /// Drops the records without a key and counts them, as Kafka Streams does in front of what
    /// needs a key. From here on a key is no longer an `Option`.
    ///
    /// A stream whose keys are marked as changed stays so. Timestamp and headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{nullable, text, u64_be, KvStore, Topic};
    /// const CLICKS: Topic<Option<String>, String> =
    ///     Topic::new("clicks", nullable(text()), text());
    /// const BY_USER: KvStore<String, u64> = KvStore::new("clicks-by-user", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// b.stream(CLICKS).drop_null_keys().group_by_key().count(BY_USER);
    /// ```
    pub fn drop_null_keys(self) -> KStream<K, V> {
        ops::drop_nulls::drop_null_keys(self)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KStream<K, Option<V>> {
    /// Drops the records without a value and counts them. From here on a value is no longer an
    /// `Option`.
    ///
    /// A stream whose keys are marked as changed stays so. Timestamp and headers stay.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{nullable, text, KvStore, Topic};
    /// const EDITS: Topic<String, Option<String>> = Topic::new("edits", text(), nullable(text()));
    /// const LONGEST: KvStore<String, String> = KvStore::new("longest", text(), text());
    /// # let b = StreamsBuilder::new();
    /// let texts = b.stream(EDITS).drop_null_values();
    /// texts.group_by_key().reduce(LONGEST, |a, b| if a.len() >= b.len() { a } else { b });
    /// ```
    pub fn drop_null_values(self) -> KStream<K, V> {
        ops::drop_nulls::drop_null_values(self)
    }
}

fn user_error(source: impl Into<BoxError>) -> Error {
    Error::caused(ErrorKind::User, "a function failed on a record", source)
}

/// The branches of a stream; the first that takes a record gets it, the others do not see it.
pub struct Split<K: 'static, V: 'static> {
    draft: SharedDraft,
    id: NodeId,
    branches: ops::split::Branches<K, V>,
    rekeyed: bool,
}

impl<K: Clone + 'static, V: Clone + 'static> Split<K, V> {
    /// The records that no branch before takes and `take` accepts. It is asked about nulls too,
    /// where keys or values are `Option`s. Records pass untouched.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, Topic};
    /// # const CENTS: Topic<String, u64> = Topic::new("cents", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let mut split = b.stream(CENTS).split();
    /// let large = split.when(|_, cents| *cents > 10_000);
    /// let free = split.when(|_, cents| *cents == 0);
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn when(&mut self, take: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> KStream<K, V> {
        self.branch(Arc::new(take))
    }

    /// The records that no branch takes, nulls too, untouched. Without it they are dropped,
    /// uncounted.
    ///
    /// ```
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{text, u64_be, Topic};
    /// # const CENTS: Topic<String, u64> = Topic::new("cents", text(), u64_be());
    /// # let b = StreamsBuilder::new();
    /// let mut split = b.stream(CENTS).split();
    /// let large = split.when(|_, cents| *cents > 10_000);
    /// let others = split.otherwise();
    /// # assert!(b.build().is_ok());
    /// ```
    pub fn otherwise(mut self) -> KStream<K, V> {
        self.branch(Arc::new(|_, _| true))
    }

    fn branch(&mut self, take: ops::filter::Predicate<K, V>) -> KStream<K, V> {
        let id = add_node(&self.draft, NodeKind::Branch, &[self.id]);
        let out = KStream::new(&self.draft, id, self.rekeyed);
        self.branches.add(take, id, out.port.clone());
        out
    }
}
