//! Standbys: copies of the stores of tasks that other instances run, kept up to date so that a task
//! that comes here has little or nothing to read first.
//!
//! Each instance decides alone which copies it keeps, from what the [members](crate::Members) tell.
//! While they disagree there is a copy too many or too few, harmless as a standby only reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use millstream_state::{Fault, Replica};
use millstream_topology::{Result, TaskId};
use tracing::{info, warn};

use crate::{
    application::Shared,
    placement::hosts,
    stage::Stage,
    tails::{Tails, Unfit},
    task::{COMMITTED_BYTES_MAX, UNWRITTEN_BYTES_MAX, definitions, origins},
};

/// How often is looked which standbys belong here.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often is asked how far the tasks are.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// The longest wait for records, and so for noticing that the application stops.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// The standbys of this instance, and the tasks that its stream threads have.
#[derive(Default)]
pub(crate) struct Standbys(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// The tasks of each stream thread that has joined once: their bases are theirs.
    claims: BTreeMap<usize, BTreeSet<TaskId>>,
    replicas: BTreeMap<TaskId, Replica>,
}

impl Held {
    fn is_claimed(&self, task: TaskId) -> bool {
        self.claims.values().any(|tasks| tasks.contains(&task))
    }
}

impl Standbys {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("nothing panics with this lock")
    }

    /// From now on a stream thread has these tasks, opened or about to be. No standby of them is
    /// opened before it says otherwise.
    pub(crate) fn claim(&self, thread: usize, tasks: BTreeSet<TaskId>) {
        self.lock().claims.insert(thread, tasks);
    }

    /// The tasks that there are standbys of.
    pub(crate) fn tasks(&self) -> BTreeSet<TaskId> {
        self.lock().replicas.keys().copied().collect()
    }

    /// Lets `change` have the standby of a task; `None` when there is none, or none any more.
    pub(crate) fn with<T>(
        &self,
        task: TaskId,
        change: impl FnOnce(&mut Replica) -> T,
    ) -> Option<T> {
        self.lock().replicas.get_mut(&task).map(change)
    }

    /// The standby of a task that was claimed, if there is one. It goes on as the task's state.
    pub(crate) fn take(&self, task: TaskId) -> Option<Replica> {
        self.lock().replicas.remove(&task)
    }
}

/// Keeps the standbys of an instance.
pub(crate) struct Keeper {
    tails: Tails,
    looked: Option<Duration>,
    measured: Duration,
    flushed: Duration,
}

impl Keeper {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            tails: Tails::default(),
            looked: None,
            measured: shared.now(),
            flushed: shared.now(),
        }
    }

    /// Works until the application stops.
    pub(crate) fn run(mut self, shared: &Shared) {
        while self.step(shared, POLL_WAIT) {}
    }

    /// Opens and closes what is due, and applies what comes within `wait`; `false` when the
    /// application stops, or has no standbys.
    pub(crate) fn step(&mut self, shared: &Shared, wait: Duration) -> bool {
        if shared.config.num_standby_replicas == 0 {
            return false;
        }
        if shared.stopping() {
            self.let_go(shared, |_| true);
            return false;
        }
        if let Err(error) = self.work(shared, wait) {
            warn!(error = %error.chain(), "standbys cannot be kept up to date; tries again");
            self.tails = Tails::default();
            shared.clock.wait(wait);
        }
        true
    }

    fn work(&mut self, shared: &Shared, wait: Duration) -> Result<()> {
        let now = shared.now();
        if self.looked.is_none_or(|at| now - at >= LOOK_EVERY) {
            self.looked = Some(now);
            mend(shared);
            self.look(shared)?;
        }
        match shared.is_paused() || unwritten(shared) {
            false => {
                shared.before(Stage::StandbyRead, None);
                let read = self.tails.read(shared, wait);
                shared.after(Stage::StandbyRead, None);
                read?;
            }
            true => shared.clock.wait(wait),
        }
        if now - self.measured >= MEASURE_EVERY {
            self.measured = now;
            self.tails.measure(shared)?;
            self.tell(shared);
        }
        self.flush(shared, now);
        Ok(())
    }

    /// Opens what belongs here and closes what does not any more.
    fn look(&mut self, shared: &Shared) -> Result<()> {
        // Before the group has spoken all tasks seem to have no owner.
        if shared.standbys.lock().claims.is_empty() {
            return Ok(());
        }
        let wanted = wanted(shared);
        self.let_go(shared, |id| !wanted.contains(&id));
        let mut opened = false;
        for id in wanted {
            opened |= open(shared, id);
        }
        let held = shared.standbys.tasks();
        if opened || held != *self.tails.tasks() {
            self.tails = Tails::default();
            shared.before(Stage::StandbyFollow, None);
            let followed = Tails::follow(shared, held, |Unfit { task, found }| {
                discard(shared, task, &found);
            });
            shared.after(Stage::StandbyFollow, None);
            self.tails = followed?;
            self.tell(shared);
            // A disk tells what it is for from the start, like those of tasks.
            write(shared, |_| true);
        }
        Ok(())
    }

    /// Tells people and the other instances of the standbys.
    fn tell(&self, shared: &Shared) {
        let standbys = self.tails.status(&shared.standbys.tasks());
        shared.before(Stage::StandbyTell, None);
        let lags = standbys.iter().map(|s| (s.id.clone(), s.lag)).collect();
        shared.members.stand_by(lags);
        shared.board.publish_standbys(standbys);
        shared.after(Stage::StandbyTell, None);
    }

    fn flush(&mut self, shared: &Shared, now: Duration) {
        let timed = now - self.flushed >= shared.config.flush_interval;
        if timed {
            self.flushed = now;
        }
        write(shared, |replica| {
            let bytes = replica.committed_bytes();
            let failed = replica.flush_failure().is_some();
            (bytes > COMMITTED_BYTES_MAX && !failed) || (timed && (bytes > 0 || failed))
        });
    }

    /// Closes standbys; their bases stay on disk. What a stream thread is about to take stays.
    fn let_go(&mut self, shared: &Shared, which: impl Fn(TaskId) -> bool) {
        let mut held = shared.standbys.lock();
        let all = held.replicas.keys().copied();
        let gone: Vec<TaskId> = all
            .filter(|id| which(*id) && !held.is_claimed(*id))
            .collect();
        let gone: Vec<_> = gone
            .into_iter()
            .filter_map(|id| held.replicas.remove_entry(&id))
            .collect();
        drop(held);
        for (id, replica) in gone {
            shared.queries.deregister_standby(id);
            info!(task = %id, "standby is closed");
            shared.before(Stage::StandbyClose, Some(id));
            shared.flush_pool.write_out(&replica, &*shared.clock);
            shared.after(Stage::StandbyClose, Some(id));
        }
    }
}

/// Lets the standbys that are due write to disk what they hold.
fn write(shared: &Shared, is_due: impl Fn(&Replica) -> bool) {
    let held = shared.standbys.lock();
    let due = held.replicas.values().filter(|replica| is_due(replica));
    let jobs: Vec<_> = due.filter_map(Replica::start_flush).collect();
    drop(held);
    if jobs.is_empty() {
        return;
    }
    shared.before(Stage::StandbyFlush, None);
    for job in jobs {
        shared.flush_pool.submit(job);
    }
    shared.after(Stage::StandbyFlush, None);
}

/// Whether a standby holds so much that it must be written first.
fn unwritten(shared: &Shared) -> bool {
    let held = shared.standbys.lock();
    let mut replicas = held.replicas.values();
    replicas.any(|replica| replica.committed_bytes() > UNWRITTEN_BYTES_MAX)
}

/// Opens a standby; `false` when that is not possible yet, or there is one.
fn open(shared: &Shared, id: TaskId) -> bool {
    // With the lock, so that no stream thread claims it meanwhile and finds the base open.
    let mut held = shared.standbys.lock();
    if held.is_claimed(id) || held.replicas.contains_key(&id) {
        return false;
    }
    let definitions = definitions(&shared.topology, id.subtopology);
    shared.before(Stage::StandbyOpen, Some(id));
    let opened = shared.bases.open(id);
    let opened = opened.and_then(|base| Replica::open(base, &definitions));
    shared.after(Stage::StandbyOpen, Some(id));
    match opened {
        Ok(replica) => {
            shared.queries.register_standby(id, &replica);
            held.replicas.insert(id, replica);
            info!(task = %id, "standby is open");
            true
        }
        Err(error) => {
            match Fault::of(&error) {
                // A flush of its last owner waits, or somebody still reads.
                Some(Fault::Locked { .. }) => {}
                Some(fault) if fault.means_rebuild() => {
                    wipe(shared, id, &error.chain());
                }
                _ => warn!(task = %id, error = %error.chain(), "standby cannot be opened"),
            }
            false
        }
    }
}

/// Throws away standbys that are damaged, and closes those that take no more writes; both are
/// opened again.
fn mend(shared: &Shared) {
    let held = shared.standbys.lock();
    let replicas = held.replicas.iter();
    let damaged = replicas.filter_map(|(id, replica)| Some((*id, replica.damage()?)));
    let damaged: Vec<(TaskId, String)> = damaged.collect();
    drop(held);
    for (id, found) in damaged {
        discard(shared, id, &found);
    }
    let mut held = shared.standbys.lock();
    let Held { claims, replicas } = &mut *held;
    replicas.retain(|id, replica| {
        let stuck = replica.is_stuck() && !claims.values().any(|tasks| tasks.contains(id));
        if stuck {
            shared.queries.deregister_standby(*id);
            warn!(task = %id, "standby takes no more writes; it is opened again");
        }
        !stuck
    });
}

/// Deletes a standby that is damaged, or that no changelog fits.
fn discard(shared: &Shared, id: TaskId, found: &str) {
    let mut held = shared.standbys.lock();
    if held.is_claimed(id) {
        return;
    }
    if let Some(replica) = held.replicas.remove(&id) {
        shared.queries.deregister_standby(id);
        let base = replica.watch_base();
        drop(replica);
        shared.wait_until_closed(&base);
        wipe(shared, id, found);
    }
}

/// To be called with the lock.
fn wipe(shared: &Shared, id: TaskId, found: &str) {
    if let Err(error) = shared.throw_away(id, found) {
        warn!(task = %id, error = %error.chain(), "state of a standby stays");
    }
}

/// The tasks of which this instance should have a standby.
fn wanted(shared: &Shared) -> BTreeSet<TaskId> {
    let members = shared.members.list();
    let claimed: BTreeSet<TaskId> = {
        let held = shared.standbys.lock();
        held.claims.values().flatten().copied().collect()
    };
    let own = &shared.config.instance_id;
    let replicas = shared.config.num_standby_replicas;
    let subtopologies = 0..shared.layout.tasks.len() as u32;
    let followed = |sub: &u32| origins(&shared.topology, *sub).any(|origin| origin.is_some());
    let tasks = subtopologies.filter(followed).flat_map(|subtopology| {
        let partitions = 0..shared.layout.tasks[subtopology as usize] as i32;
        partitions.map(move |partition| TaskId {
            subtopology,
            partition,
        })
    });
    let tasks = tasks.filter(|id| !claimed.contains(id));
    tasks
        .filter(|id| hosts(*id, &members, own, replicas).any(|host| host == own))
        .collect()
}
