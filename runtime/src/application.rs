//! `Application`: a topology that runs.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use millstream_broker::{Admin, Broker};
use millstream_operators::{Globals, Topology};
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{error, info};

use crate::{
    bases::{self, Bases},
    clock::{SystemClock, WallClock},
    config::Config,
    flush_pool::FlushPool,
    global_tables::{Follower, Reading, Ready},
    internal_topics::{Layout, find_topics, full_name, plan},
    manifest_topic::admit,
    members::{Herald, Members},
    queries::Queries,
    rebuilds::Rebuilds,
    restore::Restored,
    roster::Roster,
    stage::Stage,
    standby::{Keeper, Standbys},
    status::{Board, Status, ThreadStatus},
    stream_thread::StreamThread,
    task::Task,
};

/// What the threads of an application share.
pub(crate) struct Shared {
    pub(crate) topology: Topology,
    pub(crate) config: Config,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) admin: Arc<dyn Admin>,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) layout: Layout,
    pub(crate) bases: Box<dyn Bases>,
    pub(crate) queries: Queries,
    pub(crate) members: Members,
    pub(crate) board: Board,
    pub(crate) roster: Roster,
    pub(crate) flush_pool: FlushPool,
    pub(crate) rebuilds: Rebuilds,
    pub(crate) restored: Restored,
    pub(crate) standbys: Standbys,
    globals: Ready,
    pub(crate) pause: AtomicBool,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// What works beside the stream threads.
pub(crate) struct Workers {
    pub(crate) herald: Herald,
    /// Reads the global tables, if there are any.
    pub(crate) globals: Option<Reading>,
}

impl Shared {
    /// Creates the internal topics and looks at the others.
    pub(crate) fn open(
        topology: &Topology,
        broker: Arc<dyn Broker>,
        config: Config,
        clock: Arc<dyn WallClock>,
        bases: Box<dyn Bases>,
        flush_pool: FlushPool,
    ) -> Result<(Arc<Self>, Workers)> {
        config.check()?;
        let admin = broker.admin()?;
        let topology = find_topics(&*admin, topology, &config.application_id)?;
        let plans = plan(&*admin, &topology, &config.application_id)?;
        let admission = admit(&*broker, &*admin, &*clock, &topology, &config, &plans)?;
        let bases = admission.placed(bases);
        let layout = plans.carry_out(&*admin)?;
        let (members, herald) = Members::open(&*broker, &*admin, &config, clock.clone())?;
        let queries = Queries::new(&topology, &layout, members.clone());
        let globals = Ready::default();
        let reading = match topology.globals().is_empty() {
            true => {
                globals.reach(Globals::default());
                None
            }
            false => Some(Reading::begin(&topology, broker.reader()?, &*admin)?),
        };
        let shared = Self {
            roster: Roster::of(config.threads),
            topology,
            config,
            broker,
            admin,
            clock,
            layout,
            bases,
            queries,
            members,
            board: Board::default(),
            flush_pool,
            rebuilds: Rebuilds::default(),
            restored: Restored::default(),
            standbys: Standbys::default(),
            globals,
            pause: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        Ok((
            Arc::new(shared),
            Workers {
                herald,
                globals: reading,
            },
        ))
    }

    /// The time for measuring.
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn since(&self, then: Duration) -> Duration {
        self.now().saturating_sub(then)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether the global tables can be read, so that threads may work.
    pub(crate) fn tables_are_there(&self) -> bool {
        self.globals.is_reached()
    }

    /// One step of the reader of the global tables.
    pub(crate) fn follow(&self, follower: &mut Follower, wait: Duration) -> Result<()> {
        follower.step(&self.globals, &self.config.policies, &*self.clock, wait)
    }

    /// Whether it serves.
    pub(crate) fn health(&self) -> Health {
        if let Some(failure) = &*self.failure.lock().expect("failing does not panic") {
            return Health::Failed(failure.chain());
        }
        if self.stopping() {
            return Health::Stopping;
        }
        let status = self.status();
        if let Some(why) = status.threads.iter().find_map(ThreadStatus::stalled_by) {
            return Health::Stalled(why.to_owned());
        }
        if status.paused {
            return Health::Paused;
        }
        match status.is_up_to_date() {
            true => Health::Running,
            false => Health::Starting,
        }
    }

    /// Threads, tasks, stores and commits at this moment.
    pub(crate) fn status(&self) -> Status {
        let mut status = Status {
            threads_wanted: self.roster.wanted(),
            paused: self.is_paused(),
            rebuilds: self.rebuilds.totals(),
            restored: self.restored.stats(),
            ..self.board.read()
        };
        self.queries.date(&mut status.standbys);
        for thread in &mut status.threads {
            thread.leaving = self.roster.is_leaving(thread.index);
        }
        status
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pause.load(Ordering::Acquire)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn fail(&self, failure: Error) {
        error!(error = %failure.chain(), "the application stops");
        self.failure
            .lock()
            .expect("failing does not panic")
            .get_or_insert(failure);
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn is_repartition(&self, topic: &str) -> bool {
        self.topology
            .subtopologies()
            .iter()
            .flat_map(|s| &s.sources)
            .any(|(name, role)| {
                matches!(role, millstream_topology::TopicRole::Repartition { .. })
                    && *full_name(&self.config.application_id, name, *role) == *topic
            })
    }

    pub(crate) fn open_task(&self, id: TaskId) -> Result<Task> {
        let application = &self.config.application_id;
        let name = |topic: &str, role| full_name(application, topic, role);
        let globals = self.globals.views();
        // It goes on answering stale reads until the task serves.
        if let Some(replica) = self.standbys.take(id) {
            info!(task = %id, "standby becomes the task");
            self.before(Stage::Take, Some(id));
            let task = Task::over(&self.topology, id, replica, globals, name);
            self.after(Stage::Take, Some(id));
            return Ok(task);
        }
        let base = self.bases.open(id)?;
        Task::open(&self.topology, id, base, globals, name)
    }
}

/// Whether an application serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Some thread has not joined yet, or restores.
    Starting,
    /// All tasks of this instance run.
    Running,
    /// It was told to pause: it processes nothing, but stays in the group and answers queries.
    Paused,
    /// State cannot be written to disk, for that reason. It goes on by itself when it can again.
    Stalled(String),
    /// It was told to stop.
    Stopping,
    /// It stopped with that error.
    Failed(String),
}

/// Why nobody finds the locks of an application poisoned.
const LOCK: &str = "nothing panics with this lock";

/// A topology that runs on a log. Dropping it closes it.
///
/// While it runs its stream threads can be [added](Self::add_thread) and
/// [removed](Self::remove_thread), and it can be [paused](Self::pause).
pub struct Application {
    pub(crate) shared: Arc<Shared>,
    /// The stream threads by index. One that has left stays here until its index is given again.
    pub(crate) threads: Mutex<BTreeMap<usize, JoinHandle<()>>>,
    /// What works beside them.
    others: Mutex<Vec<JoinHandle<()>>>,
}

impl Application {
    /// Creates the internal topics, starts the threads and returns; they join the group and restore
    /// their tasks in the background.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] and [`ErrorKind::Topology`] for what cannot run, [`ErrorKind::Broker`]
    /// when the log does not answer.
    pub fn start(topology: &Topology, broker: Arc<dyn Broker>, config: Config) -> Result<Self> {
        Self::start_with_clock(topology, broker, config, Arc::new(SystemClock))
    }

    /// As [`start`](Self::start), with a clock of the caller's.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_clock(
        topology: &Topology,
        broker: Arc<dyn Broker>,
        config: Config,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self> {
        let bases = bases::configured(&config)?;
        let flush_pool = FlushPool::start().map_err(no_thread)?;
        let (shared, workers) = Shared::open(topology, broker, config, clock, bases, flush_pool)?;
        // From here on an error drops this, which ends the threads that were started.
        let application = Self {
            shared,
            threads: Mutex::default(),
            others: Mutex::default(),
        };
        let shared = &application.shared;
        let Workers { herald, globals } = workers;
        application.beside("members", move || herald.run())?;
        if let Some(reading) = globals {
            let shared = shared.clone();
            application.beside("global", move || follow(&shared, reading))?;
        }
        if shared.config.num_standby_replicas > 0 {
            let shared = shared.clone();
            application.beside("standbys", move || stand_by(&shared))?;
        }
        for index in 0..shared.config.threads {
            let thread = start_thread(shared, index)?;
            let mut threads = application.threads.lock().expect(LOCK);
            threads.insert(index, thread);
        }
        info!(
            application = shared.config.application_id,
            threads = shared.config.threads,
            "started"
        );
        Ok(application)
    }

    /// Starts what works beside the stream threads.
    fn beside(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = spawn(name.to_owned(), run)?;
        self.others.lock().expect(LOCK).push(thread);
        Ok(())
    }

    /// Whether it serves.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Threads, tasks, stores and commits at this moment.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// What this application runs.
    pub fn topology(&self) -> &Topology {
        &self.shared.topology
    }

    /// Reads the stores; clones may be kept longer than the application.
    pub fn queries(&self) -> Queries {
        self.shared.queries.clone()
    }

    /// The instances of this application.
    pub fn members(&self) -> Members {
        self.shared.members.clone()
    }

    /// Finishes the transactions, writes the state to disk and leaves the group.
    ///
    /// # Errors
    /// What it failed with, if it had failed.
    pub fn close(self) -> Result<()> {
        self.stop()
    }

    /// As [`close`](Self::close), for an application that others hold, too.
    ///
    /// # Errors
    /// As there.
    pub fn stop(&self) -> Result<()> {
        self.end();
        let mut failure = self.shared.failure.lock().expect("failing does not panic");
        match failure.take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn end(&self) {
        self.shared.stop();
        self.shared.members.close();
        let threads = std::mem::take(&mut *self.threads.lock().expect(LOCK));
        let others = std::mem::take(&mut *self.others.lock().expect(LOCK));
        for thread in threads.into_values().chain(others) {
            // A function of the user that holds the application may be the last to let it go.
            if thread.thread().id() == std::thread::current().id() {
                continue;
            }
            // A panic in there was reported through `fail`.
            let _ = thread.join();
        }
    }
}

/// Keeps the global tables up to date until the application stops.
fn follow(shared: &Shared, reading: Reading) {
    let (ready, policies) = (&shared.globals, &shared.config.policies);
    let follow = || {
        let follower = reading.open()?;
        follower.run(ready, policies, &*shared.clock, &shared.stop)
    };
    let failure = match catch_unwind(AssertUnwindSafe(follow)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => Error::new(ErrorKind::User, "the thread of the global tables panicked"),
    };
    shared.fail(failure);
}

/// Keeps the standbys up to date until the application stops.
fn stand_by(shared: &Shared) {
    let keep = || Keeper::new(shared).run(shared);
    if catch_unwind(AssertUnwindSafe(keep)).is_err() {
        shared.fail(Error::new(
            ErrorKind::User,
            "the thread of the standbys panicked",
        ));
    }
}

/// Starts the stream thread that has this place.
pub(crate) fn start_thread(shared: &Arc<Shared>, index: usize) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    let run = move || {
        let leaving = || shared.roster.is_leaving(index);
        shared.globals.wait(|| shared.stopping() || leaving());
        let thread = StreamThread::new(&shared, index);
        if catch_unwind(AssertUnwindSafe(|| thread.run())).is_err() {
            let what = format!("a stream thread panicked. thread={index}");
            shared.fail(Error::new(ErrorKind::User, what));
        }
    };
    spawn(index.to_string(), run)
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(format!("millstream-{name}"));
    thread.spawn(run).map_err(no_thread)
}

impl Drop for Application {
    fn drop(&mut self) {
        self.end();
    }
}

fn no_thread(source: std::io::Error) -> Error {
    Error::caused(ErrorKind::Config, "a thread could not be started", source)
}
