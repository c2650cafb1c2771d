//! `Stepped`: an application without threads, for simulations: whoever holds it decides which part
//! works next, and what time it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_broker::Broker;
use millstream_operators::Topology;
use millstream_topology::Result;

use crate::{
    application::{Health, Shared, Workers},
    bases::Bases,
    clock::WallClock,
    config::Config,
    flush_pool::FlushPool,
    global_tables::{Follower, Reading},
    members::{Herald, Members},
    queries::Queries,
    standby::Keeper,
    status::Status,
    stream_thread::{Step, StreamThread},
};

/// A part of an application that works by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The stream thread of that index.
    Thread(usize),
    /// What tells the other instances of this one, and hears of them.
    Members,
    /// What reads the global tables.
    Globals,
    /// What keeps the standbys.
    Standbys,
    /// What writes committed state to disk.
    Flush,
}

/// An application that does nothing but what its holder tells it to: the same tasks, commits and
/// rebalances as [`Application`](crate::Application), in an order that a seed decides.
///
/// Dropping it is a crash: nothing is committed, nothing is written, nobody is told.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_broker::{Admin, Appender, Broker, Cleanup, NewTopic, OwnedRecord};
/// use millstream_broker::{TopicPartition, sim::{SimClient, SimConfig, SimLog}};
/// use millstream_operators::StreamsBuilder;
/// use millstream_runtime::{Bases, Config, Health, Part, Stepped, WallClock};
/// use millstream_state::{ByteStore, MemoryBytes};
/// use millstream_topology::{Headers, KvStore, Result, TaskId, Topic, text, u64_be};
///
/// const WORDS: Topic<String, String> = Topic::new("words", text(), text());
/// const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
///
/// struct Virtual(SimLog, SimClient);
///
/// impl WallClock for Virtual {
///     fn now_ms(&self) -> i64 { self.1.now_ms() }
///     fn monotonic(&self) -> Duration { self.0.now() }
///     fn wait(&self, _: Duration) {}
/// }
///
/// struct InMemory;
///
/// impl Bases for InMemory {
///     fn open(&self, _: TaskId) -> Result<Arc<dyn ByteStore>> {
///         Ok(Arc::new(MemoryBytes::default()))
///     }
///     fn wipe(&self, _: TaskId) -> Result<()> { Ok(()) }
/// }
///
/// let log = SimLog::new(1, SimConfig::default());
/// let client = log.client("a");
/// client.admin()?.create_topics(&[NewTopic {
///     name: "words".into(), partitions: 1, cleanup: Cleanup::Delete { retention_ms: None },
/// }])?;
/// client.appender()?.append(
///     OwnedRecord {
///         to: TopicPartition::new("words", 0),
///         timestamp: 0,
///         key: Some("a".into()),
///         value: Some("x".into()),
///         headers: Headers::default(),
///     },
///     Box::new(|written| assert!(written.is_ok())),
/// )?;
///
/// let b = StreamsBuilder::new();
/// b.stream(WORDS).group_by_key().count(COUNTS);
/// let config = Config::new("example", "unused");
/// let clock = Arc::new(Virtual(log.clone(), client.clone()));
/// let bases = Box::new(InMemory);
/// let mut app = Stepped::open(&b.build()?, Arc::new(client), config, clock, bases)?;
/// for _ in 0..50 {
///     app.step(Part::Thread(0));
///     log.advance(Duration::from_millis(10));
/// }
/// assert_eq!(app.health(), Health::Running);
/// assert_eq!(app.queries().get(&COUNTS, &"a".to_owned())?.map(|(count, _)| count), Some(1));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct Stepped {
    shared: Arc<Shared>,
    threads: BTreeMap<usize, StreamThread>,
    herald: Herald,
    follower: Option<Follower>,
    keeper: Keeper,
}

impl Stepped {
    /// Creates the internal topics; nothing else happens before [`step`](Self::step).
    ///
    /// # Errors
    /// As [`Application::start`](crate::Application::start).
    pub fn open(
        topology: &Topology,
        broker: Arc<dyn Broker>,
        config: Config,
        clock: Arc<dyn WallClock>,
        bases: Box<dyn Bases>,
    ) -> Result<Self> {
        let (shared, workers) =
            Shared::open(topology, broker, config, clock, bases, FlushPool::idle())?;
        let Workers { herald, globals } = workers;
        let follower = globals.map(Reading::open).transpose()?;
        let threads = 0..shared.config.threads;
        Ok(Self {
            threads: threads
                .map(|index| (index, StreamThread::new(&shared, index)))
                .collect(),
            keeper: Keeper::new(&shared),
            shared,
            herald,
            follower,
        })
    }

    /// Lets a part work for one turn. `false` when it has nothing to do any more, or not yet.
    pub fn step(&mut self, part: Part) -> bool {
        match part {
            Part::Thread(index) => self.step_thread(index),
            Part::Members => self.herald.step(Duration::ZERO),
            Part::Globals => self.follower.as_mut().is_some_and(|follower| {
                let stepped = self.shared.follow(follower, Duration::ZERO);
                stepped.map_err(|error| self.shared.fail(error)).is_ok()
            }),
            Part::Standbys => self.keeper.step(&self.shared, Duration::ZERO),
            Part::Flush => self.shared.flush_pool.help(),
        }
    }

    fn step_thread(&mut self, index: usize) -> bool {
        let may_work = self.shared.tables_are_there() || self.shared.roster.is_leaving(index);
        let Some(thread) = self.threads.get_mut(&index).filter(|_| may_work) else {
            return false;
        };
        let step = thread.step();
        if step == Step::Ended {
            self.threads.remove(&index);
        }
        step == Step::Worked
    }

    /// The indices of the stream threads that have not ended.
    pub fn threads(&self) -> impl Iterator<Item = usize> {
        self.threads.keys().copied()
    }

    /// As [`Application::add_thread`](crate::Application::add_thread).
    ///
    /// # Errors
    /// As there.
    pub fn add_thread(&mut self) -> Result<usize> {
        let index = self.shared.add_thread()?;
        let thread = StreamThread::new(&self.shared, index);
        self.threads.insert(index, thread);
        Ok(index)
    }

    /// As [`Application::remove_thread`](crate::Application::remove_thread): the thread leaves when
    /// it is stepped.
    ///
    /// # Errors
    /// As there.
    pub fn remove_thread(&self) -> Result<Option<usize>> {
        self.shared.remove_thread()
    }

    /// As [`Application::pause`](crate::Application::pause).
    pub fn pause(&self) {
        self.shared.pause();
    }

    /// As [`Application::resume`](crate::Application::resume).
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// From now on threads finish what they have and end; step each until it returns `false`.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// As [`Application::health`](crate::Application::health).
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// As [`Application::status`](crate::Application::status).
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// As [`Application::queries`](crate::Application::queries).
    pub fn queries(&self) -> Queries {
        self.shared.queries.clone()
    }

    /// As [`Application::members`](crate::Application::members).
    pub fn members(&self) -> Members {
        self.shared.members.clone()
    }
}
