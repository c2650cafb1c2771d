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

use millstream_broker::{Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_state::{Fault, Replica};
use millstream_topology::{ErrorKind, Result, TaskId};
use tracing::{info, warn};

use crate::{
    application::Shared,
    internal_topics::changelog_name,
    members::Member,
    old_state::{Ages, Standing},
    restore::{BATCH_RECORDS, begins_at, changelog_records},
    status::StandbyStatus,
    task::{COMMITTED_BYTES_MAX, UNWRITTEN_BYTES_MAX, definitions, logged_stores},
};

/// How often is looked which standbys belong here.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the ends of the changelogs are asked for.
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

    /// The standby of a task that was claimed, if there is one. It goes on as the task's state.
    pub(crate) fn take(&self, task: TaskId) -> Option<Replica> {
        self.lock().replicas.remove(&task)
    }
}

/// A changelog that is read.
struct Followed {
    task: TaskId,
    store: usize,
    name: String,
    partition: TopicPartition,
    position: i64,
    end: i64,
    /// The wall clock's time before the end was asked for.
    asked_ms: i64,
}

/// Keeps the standbys of an instance.
pub(crate) struct Keeper {
    reader: Option<Box<dyn Reader>>,
    /// By `PartitionIx` of the reader.
    followed: Vec<Followed>,
    looked: Option<Duration>,
    measured: Duration,
    flushed: Duration,
    fetched: Vec<Fetched>,
}

impl Keeper {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            reader: None,
            followed: Vec::new(),
            looked: None,
            measured: shared.now(),
            flushed: shared.now(),
            fetched: Vec::new(),
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
            self.reader = None;
            self.followed.clear();
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
        match &mut self.reader {
            Some(reader) if !unwritten(shared) => {
                self.fetched.clear();
                reader.poll(wait, BATCH_RECORDS, &mut self.fetched)?;
                self.apply(shared)?;
            }
            _ => shared.clock.wait(wait),
        }
        if now - self.measured >= MEASURE_EVERY {
            self.measured = now;
            self.measure(shared)?;
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
        let held: BTreeSet<TaskId> = shared.standbys.lock().replicas.keys().copied().collect();
        let followed: BTreeSet<TaskId> = self.followed.iter().map(|f| f.task).collect();
        if opened || held != followed {
            self.reader = None;
            self.followed.clear();
            self.follow(shared, held)?;
            self.tell(shared);
        }
        Ok(())
    }

    /// Begins to read the changelogs of these standbys, from where each store stands.
    fn follow(&mut self, shared: &Shared, tasks: BTreeSet<TaskId>) -> Result<()> {
        let mut followed = Vec::new();
        let mut ages = Ages::new(&*shared.admin, &*shared.clock);
        for task in tasks {
            for (store, name) in logged_stores(&shared.topology, task.subtopology).enumerate() {
                let Some(name) = name else { continue };
                let stored = match shared.standbys.lock().replicas.get(&task) {
                    Some(replica) => Standing {
                        position: replica.position(store),
                        level_ms: replica.level_ms(store),
                    },
                    None => continue,
                };
                let topic = changelog_name(&shared.config.application_id, name);
                let partition = TopicPartition::new(topic, task.partition);
                let admin = &*shared.admin;
                let begins = begins_at(admin, &mut ages, &partition, task, name, stored);
                if let Err(error) = &begins
                    && error.kind() == ErrorKind::State
                {
                    discard(shared, task, &error.chain());
                }
                let (position, end) = begins?;
                if stored.position.is_none() {
                    set_level(shared, task, store, ages.now_ms());
                }
                followed.push(Followed {
                    task,
                    store,
                    name: name.to_owned(),
                    partition,
                    position,
                    end,
                    asked_ms: ages.now_ms(),
                });
            }
        }
        if followed.is_empty() {
            return Ok(());
        }
        let starts: Vec<(TopicPartition, Start)> = followed
            .iter()
            .map(|f| (f.partition.clone(), Start::Offset(f.position)))
            .collect();
        let mut reader = shared.broker.reader()?;
        reader.assign(&starts)?;
        self.followed = followed;
        self.reader = Some(reader);
        Ok(())
    }

    fn apply(&mut self, shared: &Shared) -> Result<()> {
        self.fetched.sort_by_key(|f| (f.partition, f.offset));
        let mut held = shared.standbys.lock();
        for batch in self.fetched.chunk_by(|a, b| a.partition == b.partition) {
            let followed = &self.followed[batch[0].partition.0 as usize];
            let next = batch[batch.len() - 1].offset + 1;
            // A stream thread may have taken it meanwhile.
            if let Some(replica) = held.replicas.get_mut(&followed.task) {
                replica.restore(followed.store, &mut changelog_records(batch), next)?;
            }
        }
        drop(held);
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        for (at, followed) in self.followed.iter_mut().enumerate() {
            let position = reader.position(PartitionIx(at as u32))?;
            followed.position = followed.position.max(position);
        }
        Ok(())
    }

    /// Looks how far behind the standbys are.
    fn measure(&mut self, shared: &Shared) -> Result<()> {
        for followed in &mut self.followed {
            if followed.position >= followed.end {
                set_level(shared, followed.task, followed.store, followed.asked_ms);
            }
            followed.asked_ms = shared.clock.now_ms();
            followed.end = shared.admin.watermarks(&followed.partition)?.high;
        }
        self.tell(shared);
        Ok(())
    }

    /// Tells people and the other instances of the standbys.
    fn tell(&self, shared: &Shared) {
        let mut standbys: BTreeMap<TaskId, StandbyStatus> = BTreeMap::new();
        let held = shared.standbys.lock();
        for followed in &self.followed {
            if !held.replicas.contains_key(&followed.task) {
                continue;
            }
            let status = standbys.entry(followed.task).or_default();
            status.id = followed.task.to_string();
            status.lag += (followed.end - followed.position).max(0);
            status
                .positions
                .insert(followed.name.clone(), followed.position);
        }
        drop(held);
        let lags = standbys.values().map(|s| (s.id.clone(), s.lag)).collect();
        shared.members.stand_by(lags);
        shared
            .board
            .publish_standbys(standbys.into_values().collect());
    }

    fn flush(&mut self, shared: &Shared, now: Duration) {
        let timed = now - self.flushed >= shared.config.flush_interval;
        if timed {
            self.flushed = now;
        }
        let due = |replica: &&Replica| {
            let bytes = replica.committed_bytes();
            let is_large = bytes > COMMITTED_BYTES_MAX && replica.flush_failure().is_none();
            is_large || (timed && bytes > 0)
        };
        let held = shared.standbys.lock();
        let due = held.replicas.values().filter(due);
        let jobs: Vec<_> = due.filter_map(Replica::start_flush).collect();
        drop(held);
        for job in jobs {
            shared.flush_pool.submit(job);
        }
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
            shared.flush_pool.write_out(&replica, &*shared.clock);
        }
    }
}

/// Notes that a store of a standby had all of its changelog at that time.
fn set_level(shared: &Shared, task: TaskId, store: usize, at_ms: i64) {
    if let Some(replica) = shared.standbys.lock().replicas.get(&task) {
        replica.set_level(store, at_ms);
    }
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
    let opened = shared.bases.open(id);
    match opened.and_then(|base| Replica::open(base, &definitions)) {
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
    let logged = |sub: &u32| logged_stores(&shared.topology, *sub).any(|name| name.is_some());
    let tasks = subtopologies.filter(logged).flat_map(|subtopology| {
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

/// The instances that should have a standby of a task: the first of those that do not run it, in an
/// order of the task's own, so that an instance that comes or goes moves only what is its.
fn hosts<'a>(
    task: TaskId,
    members: &'a [Member],
    own: &str,
    replicas: usize,
) -> impl Iterator<Item = &'a str> {
    let task = task.to_string();
    // What this instance runs it knows better than by what it has told.
    let free = |m: &&Member| m.instance_id == own || !m.tasks.contains(&task);
    let mut free: Vec<&str> = members
        .iter()
        .filter(free)
        .map(|m| &*m.instance_id)
        .collect();
    free.sort_by_key(|instance| std::cmp::Reverse((score(&task, instance), *instance)));
    free.into_iter().take(replicas)
}

/// How much a task likes an instance: the same in every process (FNV-1a, then mixed as its upper
/// bits depend little on the last bytes).
fn score(task: &str, instance: &str) -> u64 {
    let bytes = task.bytes().chain([0]).chain(instance.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, tasks: &[&str]) -> Member {
        Member {
            instance_id: name.to_owned(),
            endpoint: None,
            tasks: tasks.iter().map(|t| (*t).to_owned()).collect(),
            standbys: BTreeMap::new(),
            at_ms: 0,
        }
    }

    fn task(partition: i32) -> TaskId {
        TaskId {
            subtopology: 0,
            partition,
        }
    }

    fn hosts_of(partition: i32, members: &[Member], replicas: usize) -> Vec<&str> {
        hosts(task(partition), members, "none", replicas).collect()
    }

    #[test]
    fn the_instance_that_runs_a_task_has_no_standby_of_it() {
        let members = [member("a", &["0_0"]), member("b", &[])];
        assert_eq!(hosts_of(0, &members, 1), ["b"]);
        assert_eq!(hosts_of(0, &members, 5), ["b"]);
        assert!(hosts_of(0, &members[..1], 1).is_empty());
    }

    #[test]
    fn an_instance_that_goes_moves_only_its_own_standbys() {
        let members: Vec<Member> = ["a", "b", "c", "d"].map(|n| member(n, &[])).into();
        let mut count: BTreeMap<&str, u32> = BTreeMap::new();
        for partition in 0..400 {
            let before = hosts_of(partition, &members, 1);
            let after = hosts_of(partition, &members[..3], 1);
            assert!(before == after || before == ["d"], "{before:?} {after:?}");
            *count.entry(before[0]).or_default() += 1;
        }
        assert!(count.len() == 4 && count.values().all(|n| (60..140).contains(n)));
    }
}
