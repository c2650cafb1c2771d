//! `Application`: a topology that runs.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use millstream_broker::{Admin, Broker};
use millstream_operators::{Globals, Topology};
use millstream_state::{ByteStore, MemoryBytes, RocksBytes, RocksShared};
use millstream_topology::{Error, ErrorKind, Result, TaskId};
use tracing::{error, info};

use crate::{
    clock::{SystemClock, WallClock},
    config::{Config, StateKind},
    flush_pool::FlushPool,
    global_tables::{Follower, Ready},
    internal_topics::{Layout, find_topics, full_name, prepare},
    members::Members,
    queries::Queries,
    status::{Board, Status},
    stream_thread,
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
    pub(crate) bases: Bases,
    pub(crate) queries: Queries,
    pub(crate) members: Members,
    pub(crate) board: Board,
    pub(crate) flush_pool: FlushPool,
    globals: Ready,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Shared {
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
        let base = self.bases.open(id)?;
        let application = &self.config.application_id;
        let globals = self.globals.views();
        Task::open(&self.topology, id, base, globals, |topic, role| {
            full_name(application, topic, role)
        })
    }
}

/// Where tasks keep their state.
pub(crate) struct Bases {
    kind: StateKind,
    application_id: String,
    rocks: RocksShared,
}

impl Bases {
    fn folder(&self, root: &std::path::Path, id: TaskId) -> PathBuf {
        root.join(&self.application_id).join(id.to_string())
    }

    fn open(&self, id: TaskId) -> Result<Arc<dyn ByteStore>> {
        match &self.kind {
            StateKind::Memory => Ok(Arc::new(MemoryBytes::default())),
            StateKind::Disk(root) => Ok(Arc::new(RocksBytes::open(
                &self.folder(root, id),
                &self.rocks,
            )?)),
        }
    }

    /// Deletes the state of a task; it is rebuilt from the changelogs.
    pub(crate) fn wipe(&self, id: TaskId) -> Result<()> {
        let StateKind::Disk(root) = &self.kind else {
            return Ok(());
        };
        let folder = self.folder(root, id);
        match fs::remove_dir_all(&folder) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => {
                let what = format!("state could not be deleted. folder=`{}`", folder.display());
                Err(Error::caused(ErrorKind::State, what, e))
            }
        }
    }
}

/// Whether an application serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Some thread has not joined yet, or restores.
    Starting,
    /// All tasks of this instance run.
    Running,
    /// It was told to stop.
    Stopping,
    /// It stopped with that error.
    Failed(String),
}

/// A topology that runs on a log. Dropping it closes it.
pub struct Application {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
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
        config.check()?;
        let admin = broker.admin()?;
        let topology = &find_topics(&*admin, topology, &config.application_id)?;
        let layout = prepare(&*admin, topology, &config.application_id)?;
        let rocks = RocksShared::new(config.memory_budget / 4)?;
        let bases = Bases {
            kind: config.state.clone(),
            application_id: config.application_id.clone(),
            rocks,
        };
        let follower = match topology.globals().is_empty() {
            true => None,
            false => Some(Follower::begin(topology, broker.reader()?, &*admin)?),
        };
        // Last of what needs the log, and so may fail: its thread would outlive a failed start.
        let members = Members::start(&*broker, &*admin, &config, clock.clone())?;
        let queries = Queries::new(topology, &layout, members.clone());
        let flush_pool = FlushPool::start().map_err(no_thread)?;
        let shared = Arc::new(Shared {
            topology: topology.clone(),
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
            globals: Ready::default(),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let mut threads: Vec<_> = follow(&shared, follower)?.into_iter().collect();
        for index in 0..shared.config.threads {
            let shared = shared.clone();
            let name = format!("millstream-{index}");
            let run = move || {
                shared.globals.wait(|| shared.stopping());
                let ran = catch_unwind(AssertUnwindSafe(|| stream_thread::run(&shared, index)));
                if ran.is_err() {
                    let what = format!("a stream thread panicked. thread={index}");
                    shared.fail(Error::new(ErrorKind::User, what));
                }
            };
            threads.push(
                std::thread::Builder::new()
                    .name(name)
                    .spawn(run)
                    .map_err(no_thread)?,
            );
        }
        info!(
            application = shared.config.application_id,
            threads = threads.len(),
            "started"
        );
        Ok(Self { shared, threads })
    }

    /// Whether it serves.
    pub fn health(&self) -> Health {
        if let Some(failure) = &*self.shared.failure.lock().expect("failing does not panic") {
            return Health::Failed(failure.chain());
        }
        if self.shared.stopping() {
            return Health::Stopping;
        }
        let threads = self.shared.board.read().threads;
        let running = |t: &crate::status::ThreadStatus| {
            t.joined
                && t.tasks
                    .iter()
                    .all(|task| task.phase == crate::status::TaskPhase::Running)
        };
        match threads.len() == self.shared.config.threads && threads.iter().all(running) {
            true => Health::Running,
            false => Health::Starting,
        }
    }

    /// Threads, tasks, stores and commits at this moment.
    pub fn status(&self) -> Status {
        self.shared.board.read()
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
    pub fn close(mut self) -> Result<()> {
        self.stop();
        match self
            .shared
            .failure
            .lock()
            .expect("failing does not panic")
            .take()
        {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A panic in there was reported through `fail`.
            let _ = thread.join();
        }
        self.shared.members.close();
    }
}

/// Starts the thread that keeps the global tables up to date, if there are any.
fn follow(shared: &Arc<Shared>, follower: Option<Follower>) -> Result<Option<JoinHandle<()>>> {
    let Some(follower) = follower else {
        shared.globals.reach(Globals::default());
        return Ok(None);
    };
    let shared = shared.clone();
    let run = move || {
        let policies = &shared.config.policies;
        let follow = || follower.run(&shared.globals, policies, &shared.stop);
        let failure = match catch_unwind(AssertUnwindSafe(follow)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorKind::User, "the thread of the global tables panicked"),
        };
        shared.fail(failure);
    };
    let thread = std::thread::Builder::new().name("millstream-global".to_owned());
    thread.spawn(run).map(Some).map_err(no_thread)
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop();
    }
}

fn no_thread(source: std::io::Error) -> Error {
    Error::caused(ErrorKind::Config, "a thread could not be started", source)
}
