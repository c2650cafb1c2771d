//! The Processor API: a node of the user's own, with stores, forwarding and timers.

use std::{any::Any, marker::PhantomData, rc::Rc, sync::Arc, time::Duration};

use millstream_state::{Kv, KvDefinition, StoreDefinition, Window, WindowDefinition};
use millstream_topology::{KvStore, NodeId, Record, Result, StoreId, WindowStore};

use crate::{
    AnyKey, Cx, FixedKeyContext, OutputHandle,
    build::TaskBuild,
    builder::Draft,
    edge::{Edge, Next},
};

/// The clock that a schedule follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The greatest timestamp seen: moves with the records only.
    Stream,
    /// The wall clock.
    Wall,
}

/// One scheduled call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Punctuation {
    /// The clock of the schedule.
    pub clock: Clock,
    /// The time on that clock now, in milliseconds; not the time at which the call was due.
    pub time_ms: i64,
}

/// A node of the user's own; [`KStream::process`](crate::KStream::process) runs it.
///
/// Nulls come as typed: of a `KStream<Option<K>, V>` the records have an `Option` for key. Output
/// goes to [`Context::forward`]; the records forwarded get the timestamp and the headers that they
/// carry.
///
/// ```
/// use std::time::Duration;
///
/// use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation, StreamsBuilder};
/// use millstream_topology::{text, u64_be, KvStore, Record, Result, Topic};
/// # const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
/// # const TOTALS: Topic<String, u64> = Topic::new("totals", text(), u64_be());
/// const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
///
/// /// Counts the records of each key, and tells the counts once a minute.
/// struct Minutely(KvHandle<String, u64>);
///
/// impl Processor for Minutely {
///     type Key = String;
///     type Value = String;
///     type OutKey = String;
///     type OutValue = u64;
///
///     fn init(&mut self, cx: &mut Context<'_, '_, String, u64>) -> Result<()> {
///         cx.schedule(Duration::from_secs(60), Clock::Stream);
///         Ok(())
///     }
///
///     fn process(
///         &mut self,
///         cx: &mut Context<'_, '_, String, u64>,
///         record: Record<String, String>,
///     ) -> Result<()> {
///         let mut counts = cx.store(self.0);
///         let count = counts.get(&record.key)?.unwrap_or(0) + 1;
///         counts.put(&record.key, count, record.timestamp)
///     }
///
///     fn punctuate(
///         &mut self,
///         cx: &mut Context<'_, '_, String, u64>,
///         tick: Punctuation,
///     ) -> Result<()> {
///         for (key, count, _) in cx.store(self.0).range(None, None, usize::MAX)? {
///             cx.forward(Record::new(key, count, tick.time_ms))?;
///         }
///         Ok(())
///     }
/// }
///
/// let b = StreamsBuilder::new();
/// b.stream(CLICKS).process(COUNTS, Minutely).to(TOTALS);
/// # assert!(b.build().is_ok());
/// ```
pub trait Processor: 'static {
    /// Key of the records it takes.
    type Key: 'static;
    /// Value of the records it takes.
    type Value: 'static;
    /// Key of the records it forwards.
    type OutKey: Clone + 'static;
    /// Value of the records it forwards.
    type OutValue: Clone + 'static;

    /// Called once when the task starts, with its stores restored: the place for
    /// [`Context::schedule`].
    ///
    /// # Errors
    /// An error keeps the task from starting.
    fn init(&mut self, cx: &mut Context<'_, '_, Self::OutKey, Self::OutValue>) -> Result<()> {
        let _ = cx;
        Ok(())
    }

    /// Called for each record.
    ///
    /// # Errors
    /// The application's policy for processing errors decides what becomes of the record.
    fn process(
        &mut self,
        cx: &mut Context<'_, '_, Self::OutKey, Self::OutValue>,
        record: Record<Self::Key, Self::Value>,
    ) -> Result<()>;

    /// Called when a schedule is due.
    ///
    /// # Errors
    /// An error of the user's own ([`ErrorKind::User`](millstream_topology::ErrorKind::User), or
    /// [`ErrorKind::Data`](millstream_topology::ErrorKind::Data)) stops the application: no record
    /// could be skipped or set aside, so no policy covers a timer.
    fn punctuate(
        &mut self,
        cx: &mut Context<'_, '_, Self::OutKey, Self::OutValue>,
        tick: Punctuation,
    ) -> Result<()> {
        let _ = (cx, tick);
        Ok(())
    }
}

/// What a processor can reach while it is called.
pub struct Context<'a, 'b, K, V, R = AnyKey> {
    cx: &'a mut Cx<'b>,
    next: &'a Next<K, V>,
    /// The further outputs, each an `Edge` of its types.
    exits: &'a [Box<dyn Any>],
    schedules: &'a mut Vec<(i64, Clock)>,
    rule: PhantomData<R>,
}

impl<'b, K: Clone, V: Clone> Context<'_, 'b, K, V> {
    /// Hands a record to the nodes behind, and returns when they have processed it. Null keys and
    /// values go on as they are; timestamp and headers are those that the record carries.
    ///
    /// ```
    /// # use millstream_operators::Context;
    /// # use millstream_topology::{Record, Result};
    /// // In `process`: the record, and a copy of it a millisecond later.
    /// fn twice(
    ///     cx: &mut Context<'_, '_, String, String>,
    ///     record: Record<String, String>,
    /// ) -> Result<()> {
    ///     let later = record.timestamp + 1;
    ///     cx.forward(record.clone())?;
    ///     cx.forward(record.at(later))
    /// }
    /// ```
    ///
    /// # Errors
    /// What a node behind fails with; pass it on with `?`.
    pub fn forward(&mut self, record: Record<K, V>) -> Result<()> {
        self.push(record)
    }

    /// Hands a record to the nodes behind one of the outputs of
    /// [`KStream::process_to`](crate::KStream::process_to), which has an example. Nulls, timestamp
    /// and headers are as with [`forward`](Self::forward).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// When the handle is another processor's.
    pub fn forward_to<A: 'static, B: 'static>(
        &mut self,
        output: OutputHandle<A, B>,
        record: Record<A, B>,
    ) -> Result<()> {
        let exit = self
            .exits
            .get(output.index)
            .and_then(|exit| exit.downcast_ref::<Edge<A, B>>());
        let exit = exit.expect("a processor forwards to its own outputs");
        exit.borrow_mut().push(self.cx, record)
    }

    pub(crate) fn with_fixed_key(&mut self) -> FixedKeyContext<'_, 'b, K, V> {
        Context {
            cx: &mut *self.cx,
            next: self.next,
            exits: self.exits,
            schedules: &mut *self.schedules,
            rule: PhantomData,
        }
    }
}

impl<K: Clone, V: Clone, R> Context<'_, '_, K, V, R> {
    pub(crate) fn push(&mut self, record: Record<K, V>) -> Result<()> {
        self.next.push(self.cx, record)
    }
}

impl<K, V, R> Context<'_, '_, K, V, R> {
    /// A key-value store of this node, to read and to write. Keys and values are not null: a
    /// deletion is `delete`. An entry has the timestamp that it is put with, and no headers.
    ///
    /// ```
    /// # use millstream_operators::{Context, KvHandle};
    /// # use millstream_topology::{Record, Result};
    /// // In `process`, with a handle that the processor got when it was made:
    /// fn count(
    ///     cx: &mut Context<'_, '_, String, u64>,
    ///     counts: KvHandle<String, u64>,
    ///     record: Record<String, String>,
    /// ) -> Result<()> {
    ///     let count = cx.store(counts).get(&record.key)?.unwrap_or(0) + 1;
    ///     cx.store(counts).put(&record.key, count, record.timestamp)?;
    ///     cx.forward(record.with_value(count))
    /// }
    /// ```
    pub fn store<A, B: Clone + 'static>(&mut self, handle: KvHandle<A, B>) -> Kv<'_, A, B> {
        self.cx.state.kv(handle.index, &handle.store)
    }

    /// A key-value store of another node, to read: see [`Reads`] for an example.
    pub fn read<A, B: Clone + 'static>(&mut self, handle: ReadHandle<A, B>) -> KvRead<'_, A, B> {
        KvRead(self.cx.state.kv(handle.index, &handle.store))
    }

    /// A window store of this node: values by key and window start. Keys are not null; `put` of
    /// `None` deletes. An entry has the timestamp that it is put with, and no headers.
    ///
    /// ```
    /// # use millstream_operators::{Context, WindowHandle};
    /// # use millstream_topology::{Record, Result};
    /// // In `process`: passes the first record of each key and minute on.
    /// fn once_a_minute(
    ///     cx: &mut Context<'_, '_, String, String>,
    ///     seen: WindowHandle<String, u64>,
    ///     record: Record<String, String>,
    /// ) -> Result<()> {
    ///     let minute = record.timestamp - record.timestamp.rem_euclid(60_000);
    ///     if cx.window(seen).get(&record.key, minute)?.is_some() {
    ///         return Ok(());
    ///     }
    ///     cx.window(seen).put(&record.key, minute, Some(1), record.timestamp)?;
    ///     cx.forward(record)
    /// }
    /// ```
    pub fn window<A, B: Clone + 'static>(
        &mut self,
        handle: WindowHandle<A, B>,
    ) -> Window<'_, A, B> {
        self.cx.state.window(handle.index, &handle.store)
    }

    /// Has [`Processor::punctuate`] called every so often, at least a millisecond apart; the place
    /// for it is [`Processor::init`]. Missed calls are not made up for.
    ///
    /// By [`Clock::Stream`] the first call comes with the first record, by [`Clock::Wall`] after
    /// `every`. What is forwarded then has the timestamp that the processor gives it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream_operators::{Clock, Context};
    /// # use millstream_topology::Result;
    /// // In `init`:
    /// fn init(cx: &mut Context<'_, '_, String, u64>) -> Result<()> {
    ///     cx.schedule(Duration::from_secs(60), Clock::Stream);
    ///     cx.schedule(Duration::from_secs(1), Clock::Wall);
    ///     Ok(())
    /// }
    /// ```
    pub fn schedule(&mut self, every: Duration, clock: Clock) {
        let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
        self.schedules.push((every_ms, clock));
    }

    /// Wall clock in milliseconds since the Unix epoch; stands still within a batch of records.
    pub fn wall_clock_ms(&self) -> i64 {
        self.cx.wall_clock_ms
    }

    /// Greatest timestamp that the task has seen, in milliseconds; -1 before the first record.
    pub fn stream_time_ms(&self) -> i64 {
        self.cx.stream_time_ms
    }

    /// The partition that the task reads.
    pub fn partition(&self) -> i32 {
        self.cx.site.partition
    }

    /// The topic of the record; empty outside a record.
    pub fn topic(&self) -> &str {
        &self.cx.site.topic
    }

    /// The offset of the record; -1 outside a record.
    pub fn offset(&self) -> i64 {
        self.cx.site.offset
    }

    /// Counts a record that had to be dropped: in the task's figures and in `/metrics`.
    pub fn count_dropped(&mut self) {
        self.cx.counters.dropped += 1;
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $store:ident) => {
        $(#[$doc])*
        pub struct $name<K: 'static, V: 'static> {
            index: usize,
            store: $store<K, V>,
        }
        impl<K, V> Clone for $name<K, V> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<K, V> Copy for $name<K, V> {}
    };
}
handle!(
    /// A processor's key to one of its key-value stores.
    KvHandle,
    KvStore
);
handle!(
    /// A processor's key to a key-value store of another node.
    ReadHandle,
    KvStore
);
handle!(
    /// A processor's key to one of its window stores.
    WindowHandle,
    WindowStore
);

/// A key-value store of another node, to read.
///
/// It cannot be written: only the operator that keeps a store writes it, else the table and its
/// changes would part. To write, keep a `KvStore` of the processor's own, and reach it by
/// [`Context::store`].
///
/// ```
/// # use millstream_operators::{Context, ReadHandle};
/// # use millstream_topology::Result;
/// fn look(cx: &mut Context<'_, '_, String, u64>, names: ReadHandle<u64, String>) -> Result<()> {
///     cx.read(names).get(&7)?;
///     Ok(())
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use millstream_operators::{Context, ReadHandle};
/// # use millstream_topology::Result;
/// fn write(cx: &mut Context<'_, '_, String, u64>, names: ReadHandle<u64, String>) -> Result<()> {
///     cx.read(names).put(&7, "Ada".to_owned(), 0)?;
///     Ok(())
/// }
/// ```
pub struct KvRead<'a, K: 'static, V: 'static>(Kv<'a, K, V>);

impl<K: 'static, V: Clone + 'static> KvRead<'_, K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&mut self, key: &K) -> Result<Option<V>> {
        self.0.get(key)
    }

    /// The value of a key, and its timestamp.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with_timestamp(&mut self, key: &K) -> Result<Option<(V, i64)>> {
        self.0.get_with_timestamp(key)
    }

    /// The first `limit` entries with `from <= key < to`, in the order of the encoded keys; without
    /// bounds, from the first, to the last.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn range(
        &mut self,
        from: Option<&K>,
        to: Option<&K>,
        limit: usize,
    ) -> Result<Vec<(K, V, i64)>> {
        self.0.range(from, to, limit)
    }
}

/// Gives a processor a store of a table or an aggregation to read: it is no store of the
/// processor's own, so it cannot write there, and a store that nobody keeps is refused.
///
/// ```
/// use millstream_operators::{Context, Processor, ReadHandle, Reads, StreamsBuilder};
/// use millstream_topology::{text, KvStore, Record, Result, Topic};
///
/// const NAMES: Topic<String, String> = Topic::new("names", text(), text());
/// const NAME_OF: KvStore<String, String> = KvStore::new("name-of", text(), text());
/// const GREETINGS: Topic<String, String> = Topic::new("greetings", text(), text());
///
/// struct Address(ReadHandle<String, String>);
///
/// impl Processor for Address {
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
///         let name = cx.read(self.0).get(&record.key)?.unwrap_or_default();
///         let greeting = format!("{} {name}", record.value);
///         cx.forward(record.with_value(greeting))
///     }
/// }
///
/// let b = StreamsBuilder::new();
/// b.table(NAMES, NAME_OF);
/// b.stream(GREETINGS).process(Reads(NAME_OF), Address);
/// b.build()?;
/// # Ok::<(), millstream_topology::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Reads<S>(
    /// The descriptor of the store.
    pub S,
);

/// The stores of a processor: one descriptor, or a tuple of up to six, or `()` for none.
///
/// A window store comes with its retention: `(STORE, Duration)`.
///
/// ```
/// # use millstream_operators::{Context, KvHandle, Processor, StreamsBuilder, WindowHandle};
/// # use millstream_topology::{days, text, u64_be, KvStore, Record, Result, Topic, WindowStore};
/// # const IN: Topic<String, String> = Topic::new("in", text(), text());
/// const EVER: KvStore<String, u64> = KvStore::new("ever", text(), u64_be());
/// const DAILY: WindowStore<String, u64> = WindowStore::new("daily", text(), u64_be());
///
/// struct Count {
///     ever: KvHandle<String, u64>,
///     daily: WindowHandle<String, u64>,
/// }
/// # impl Processor for Count {
/// #     type Key = String;
/// #     type Value = String;
/// #     type OutKey = String;
/// #     type OutValue = String;
/// #     fn process(
/// #         &mut self,
/// #         cx: &mut Context<'_, '_, String, String>,
/// #         record: Record<String, String>,
/// #     ) -> Result<()> {
/// #         cx.store(self.ever).put(&record.key, 1, record.timestamp)?;
/// #         cx.window(self.daily).put(&record.key, 0, Some(1), record.timestamp)
/// #     }
/// # }
///
/// let b = StreamsBuilder::new();
/// let make = |(ever, daily)| Count { ever, daily };
/// b.stream(IN).process((EVER, (DAILY, days(30))), make);
/// # assert!(b.build().is_ok());
/// ```
///
/// Processors that name one store share it, and so run in one task; they give it the same types and
/// the same retention, else the topology is refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no set of stores",
    note = "name the processor's stores: one `KvStore` constant, a tuple of them, or `()`"
)]
pub trait Stores: Copy + Send + Sync + 'static {
    /// What the processor gets for them.
    type Handles;

    #[doc(hidden)]
    fn connect(self, draft: &mut Draft, node: NodeId);
    #[doc(hidden)]
    fn handles(self, draft: &dyn Fn(&str) -> usize) -> Self::Handles;
}

impl Stores for () {
    type Handles = ();
    fn connect(self, _draft: &mut Draft, _node: NodeId) {}
    fn handles(self, _index: &dyn Fn(&str) -> usize) {}
}

impl<K: 'static, V: Clone + 'static> Stores for KvStore<K, V> {
    type Handles = KvHandle<K, V>;
    fn connect(self, draft: &mut Draft, node: NodeId) {
        draft.share_store(
            node,
            Arc::new(KvDefinition(self)) as Arc<dyn StoreDefinition>,
        );
    }
    fn handles(self, index: &dyn Fn(&str) -> usize) -> Self::Handles {
        KvHandle {
            index: index(self.name()),
            store: self,
        }
    }
}

impl<K: 'static, V: Clone + 'static> Stores for Reads<KvStore<K, V>> {
    type Handles = ReadHandle<K, V>;
    fn connect(self, draft: &mut Draft, node: NodeId) {
        draft.want_store(
            node,
            Arc::new(KvDefinition(self.0)) as Arc<dyn StoreDefinition>,
        );
    }
    fn handles(self, index: &dyn Fn(&str) -> usize) -> Self::Handles {
        ReadHandle {
            index: index(self.0.name()),
            store: self.0,
        }
    }
}

impl<K: 'static, V: Clone + 'static> Stores for (WindowStore<K, V>, Duration) {
    type Handles = WindowHandle<K, V>;
    fn connect(self, draft: &mut Draft, node: NodeId) {
        let retention_ms = self.1.as_millis() as i64;
        let definition = WindowDefinition {
            store: self.0,
            retention_ms,
            duplicates: false,
        };
        draft.share_store(node, Arc::new(definition) as Arc<dyn StoreDefinition>);
    }
    fn handles(self, index: &dyn Fn(&str) -> usize) -> Self::Handles {
        WindowHandle {
            index: index(self.0.name()),
            store: self.0,
        }
    }
}

macro_rules! stores_of_a_tuple {
    ($($name:ident $at:tt),+) => {
        impl<$($name: Stores),+> Stores for ($($name,)+) {
            type Handles = ($($name::Handles,)+);
            fn connect(self, draft: &mut Draft, node: NodeId) {
                $(self.$at.connect(draft, node);)+
            }
            fn handles(self, index: &dyn Fn(&str) -> usize) -> Self::Handles {
                ($(self.$at.handles(index),)+)
            }
        }
    };
}
stores_of_a_tuple!(A 0, B 1);
stores_of_a_tuple!(A 0, B 1, C 2);
stores_of_a_tuple!(A 0, B 1, C 2, D 3);
stores_of_a_tuple!(A 0, B 1, C 2, D 3, E 4);
stores_of_a_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

/// A processor as its task calls it outside records.
pub(crate) trait Live {
    fn init(&mut self, cx: &mut Cx<'_>) -> Result<Vec<(i64, Clock)>>;
    fn punctuate(&mut self, cx: &mut Cx<'_>, tick: Punctuation) -> Result<()>;
}

/// A processor with the nodes behind it.
pub(crate) struct Instance<P: Processor> {
    processor: P,
    next: Next<P::OutKey, P::OutValue>,
    exits: Vec<Box<dyn Any>>,
}

impl<P: Processor> Instance<P> {
    pub(crate) fn new(
        processor: P,
        next: Next<P::OutKey, P::OutValue>,
        exits: Vec<Box<dyn Any>>,
    ) -> Self {
        Self {
            processor,
            next,
            exits,
        }
    }

    /// The processor, and what it can reach.
    fn with<'a, 'b>(
        &'a mut self,
        cx: &'a mut Cx<'b>,
        schedules: &'a mut Vec<(i64, Clock)>,
    ) -> (&'a mut P, Context<'a, 'b, P::OutKey, P::OutValue>) {
        let Self {
            processor,
            next,
            exits,
        } = self;
        (
            processor,
            Context {
                cx,
                next,
                exits,
                schedules,
                rule: PhantomData,
            },
        )
    }

    pub(crate) fn process(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<P::Key, P::Value>,
    ) -> Result<()> {
        let mut late = Vec::new();
        let (processor, mut context) = self.with(cx, &mut late);
        processor.process(&mut context, record)?;
        debug_assert!(late.is_empty(), "schedules are made in init");
        Ok(())
    }
}

impl<P: Processor> Live for Instance<P> {
    fn init(&mut self, cx: &mut Cx<'_>) -> Result<Vec<(i64, Clock)>> {
        let mut schedules = Vec::new();
        let (processor, mut context) = self.with(cx, &mut schedules);
        processor.init(&mut context)?;
        Ok(schedules)
    }

    fn punctuate(&mut self, cx: &mut Cx<'_>, tick: Punctuation) -> Result<()> {
        let mut late = Vec::new();
        let (processor, mut context) = self.with(cx, &mut late);
        processor.punctuate(&mut context, tick)
    }
}

/// The task's index of each store that a processor named.
pub(crate) fn handles_of<S: Stores>(
    stores: S,
    build: &TaskBuild<'_>,
    ids: &[StoreId],
) -> S::Handles {
    let index = |name: &str| {
        let named = |id: &&StoreId| build.store_name(**id) == name;
        let id = ids
            .iter()
            .find(named)
            .expect("the processor is connected to its stores");
        build.store(*id)
    };
    stores.handles(&index)
}

/// What a node shares with its task.
pub(crate) type Shared<T> = Rc<std::cell::RefCell<T>>;
