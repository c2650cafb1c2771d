//! The Processor API: a node of the user's own, with stores, forwarding and timers.

use std::{any::Any, marker::PhantomData, rc::Rc, time::Duration};

use millstream_topology::{Record, Result};

use crate::{
    AnyKey, Cx, FixedKeyContext, OutputHandle,
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

/// A schedule of a processor, as [`Context::schedule`] gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScheduleId(pub(crate) u32);

/// What a processor wants of its schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScheduleChange {
    Add {
        id: ScheduleId,
        every_ms: i64,
        clock: Clock,
    },
    Cancel(ScheduleId),
}

/// The changes that a processor has asked for and its task has not seen yet.
#[derive(Default)]
pub(crate) struct Schedules {
    made: u32,
    changes: Vec<ScheduleChange>,
}

/// One scheduled call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Punctuation {
    /// The schedule that is due.
    pub schedule: ScheduleId,
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
    pub(crate) cx: &'a mut Cx<'b>,
    next: &'a Next<K, V>,
    /// The further outputs, each an `Edge` of its types.
    exits: &'a [Box<dyn Any>],
    schedules: &'a mut Schedules,
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
    /// Has [`Processor::punctuate`] called every so often, at least a millisecond apart, until
    /// [`cancel`](Self::cancel). Missed calls are not made up for. A schedule made in
    /// [`Processor::init`] is made again at each start of the task; one made elsewhere is gone
    /// after a restart or an aborted transaction.
    ///
    /// By [`Clock::Stream`] the first call comes with the next record, by [`Clock::Wall`] after
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
    pub fn schedule(&mut self, every: Duration, clock: Clock) -> ScheduleId {
        let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
        let id = ScheduleId(self.schedules.made);
        self.schedules.made += 1;
        self.change(ScheduleChange::Add {
            id,
            every_ms,
            clock,
        });
        id
    }

    /// Ends a schedule; one that has ended is fine.
    pub fn cancel(&mut self, schedule: ScheduleId) {
        self.change(ScheduleChange::Cancel(schedule));
    }

    fn change(&mut self, change: ScheduleChange) {
        self.schedules.changes.push(change);
        *self.cx.rescheduled = true;
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

/// A processor as its task calls it outside records.
pub(crate) trait Live {
    fn init(&mut self, cx: &mut Cx<'_>) -> Result<()>;
    fn punctuate(&mut self, cx: &mut Cx<'_>, tick: Punctuation) -> Result<()>;
    /// Takes what it wants of its schedules since the last call.
    fn take_changes(&mut self) -> Vec<ScheduleChange>;
}

/// A processor with the nodes behind it.
pub(crate) struct Instance<P: Processor> {
    processor: P,
    next: Next<P::OutKey, P::OutValue>,
    exits: Vec<Box<dyn Any>>,
    schedules: Schedules,
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
            schedules: Schedules::default(),
        }
    }

    /// The processor, and what it can reach.
    fn with<'a, 'b>(
        &'a mut self,
        cx: &'a mut Cx<'b>,
    ) -> (&'a mut P, Context<'a, 'b, P::OutKey, P::OutValue>) {
        let Self {
            processor,
            next,
            exits,
            schedules,
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
        let (processor, mut context) = self.with(cx);
        processor.process(&mut context, record)
    }
}

impl<P: Processor> Live for Instance<P> {
    fn init(&mut self, cx: &mut Cx<'_>) -> Result<()> {
        let (processor, mut context) = self.with(cx);
        processor.init(&mut context)
    }

    fn punctuate(&mut self, cx: &mut Cx<'_>, tick: Punctuation) -> Result<()> {
        let (processor, mut context) = self.with(cx);
        processor.punctuate(&mut context, tick)
    }

    fn take_changes(&mut self) -> Vec<ScheduleChange> {
        std::mem::take(&mut self.schedules.changes)
    }
}

/// What a node shares with its task.
pub(crate) type Shared<T> = Rc<std::cell::RefCell<T>>;
