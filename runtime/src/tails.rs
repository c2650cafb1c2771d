//! `Tails`: what the standbys of an instance read: changelogs to their ends, and inputs that stores
//! are restored from up to the offset that the group has committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use millstream_broker::{Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_operators::Refill;
use millstream_state::Replica;
use millstream_topology::{ErrorKind, Result, TaskId};

use crate::{
    application::Shared,
    internal_topics::changelog_name,
    restore::{BATCH_RECORDS, ahead, as_records, begins_at, changelog_records, refill_entries},
    stage::Stage,
    stale_reads::Standing,
    status::StandbyStatus,
    task::{Origin, origins},
};

/// What one store of a standby is read from.
struct Tail {
    task: TaskId,
    store: usize,
    name: String,
    partition: TopicPartition,
    /// How records become entries, of a store that is restored from an input.
    refill: Option<Refill>,
    position: i64,
    /// Where the task stood when it was asked last: the end of the changelog, or the offset of the
    /// input that the group has committed. What lies behind that in an input is still to be
    /// processed.
    end: i64,
    /// An end that is not reached yet, and when it was asked for.
    goal: Option<(Duration, i64)>,
    standing: Arc<Standing>,
    /// A stream thread has taken the standby, so that what is read goes nowhere.
    taken: bool,
}

impl Tail {
    /// The end was asked for at `asked`.
    fn set_end(&mut self, end: i64, asked: Duration) {
        self.end = end;
        // The goal stays until it is reached: a standby that is always a little behind would
        // never reach one that is moved each time.
        self.goal.get_or_insert((asked, end));
        self.advance(self.position);
    }

    /// Applies what `change` does to the standby's store, if the standby is still there.
    fn apply(
        &mut self,
        shared: &Shared,
        change: impl FnOnce(&mut Replica, usize) -> Result<()>,
    ) -> Result<()> {
        let (task, store) = (self.task, self.store);
        let applied = shared
            .standbys
            .with(task, |replica| {
                shared.before(Stage::StandbyApply, Some(task));
                let changed = change(replica, store);
                shared.after(Stage::StandbyApply, Some(task));
                changed
            })
            .transpose()?;
        self.taken |= applied.is_none();
        Ok(())
    }

    /// Everything before `position` is applied.
    fn advance(&mut self, position: i64) {
        if self.taken {
            return;
        }
        self.position = self.position.max(position);
        if let Some((asked, _)) = self.goal.take_if(|(_, end)| *end <= self.position) {
            self.standing.was_level(asked);
        }
        self.standing.set_lag(self.lag());
    }

    fn lag(&self) -> i64 {
        (self.end - self.position).max(0)
    }
}

/// What the standbys of an instance read.
#[derive(Default)]
pub(crate) struct Tails {
    /// Those of changelogs first.
    list: Vec<Tail>,
    /// Reads the changelogs, by their place in the list; `None` when there are none.
    changelogs: Option<Box<dyn Reader>>,
    /// Reads inputs, each up to a target and then not at all: what lies behind is not to be kept.
    inputs: Option<Box<dyn Reader>>,
    /// What `inputs` reads now, by its `PartitionIx`: place in the list and target.
    round: Vec<(usize, i64)>,
    fetched: Vec<Fetched>,
    tasks: BTreeSet<TaskId>,
}

/// Why a standby cannot go on from where it stands.
pub(crate) struct Unfit {
    pub(crate) task: TaskId,
    pub(crate) found: String,
}

impl Tails {
    /// The tasks whose standbys are followed.
    pub(crate) fn tasks(&self) -> &BTreeSet<TaskId> {
        &self.tasks
    }

    /// Reads the stores of these standbys, from where each stands. Those that stand where their
    /// log has never been are told to `unfit`.
    pub(crate) fn follow(
        shared: &Shared,
        tasks: BTreeSet<TaskId>,
        unfit: impl Fn(Unfit),
    ) -> Result<Self> {
        let mut list = Vec::new();
        for task in &tasks {
            for (store, origin) in origins(&shared.topology, task.subtopology).enumerate() {
                let Some(origin) = origin else { continue };
                match Tail::begin(shared, *task, store, origin) {
                    Ok(tail) => list.extend(tail),
                    Err(error) => {
                        if error.kind() == ErrorKind::State {
                            let (task, found) = (*task, error.chain());
                            unfit(Unfit { task, found });
                        }
                        return Err(error);
                    }
                }
            }
        }
        list.sort_by_key(|tail: &Tail| tail.refill.is_some());
        let starts: Vec<_> = list
            .iter()
            .filter(|tail| tail.refill.is_none())
            .map(Tail::start)
            .collect();
        let mut tails = Self {
            list,
            tasks,
            ..Self::default()
        };
        if !starts.is_empty() {
            let mut reader = shared.broker.reader()?;
            reader.assign(&starts)?;
            tails.changelogs = Some(reader);
        }
        Ok(tails)
    }

    /// Reads what comes within `wait` and applies it.
    pub(crate) fn read(&mut self, shared: &Shared, wait: Duration) -> Result<()> {
        self.begin_round(shared)?;
        // Only one of the two is waited for, and one that reads up to a target has something.
        let in_round = !self.round.is_empty();
        let wait_for_changelogs = if in_round { Duration::ZERO } else { wait };
        if let Some(mut reader) = self.changelogs.take() {
            let read = self.read_changelogs(shared, &mut *reader, wait_for_changelogs);
            self.changelogs = Some(reader);
            read?;
        } else if !in_round {
            shared.clock.wait(wait);
        }
        if in_round && let Some(mut reader) = self.inputs.take() {
            let read = self.read_inputs(shared, &mut *reader, wait);
            self.inputs = Some(reader);
            read?;
        }
        Ok(())
    }

    fn read_changelogs(
        &mut self,
        shared: &Shared,
        reader: &mut dyn Reader,
        wait: Duration,
    ) -> Result<()> {
        self.fetched.clear();
        reader.poll(wait, BATCH_RECORDS, &mut self.fetched)?;
        self.fetched.sort_by_key(|f| (f.partition, f.offset));
        for batch in self.fetched.chunk_by(|a, b| a.partition == b.partition) {
            let next = batch[batch.len() - 1].offset + 1;
            let tail = &mut self.list[batch[0].partition.0 as usize];
            tail.apply(shared, |replica, store| {
                replica.restore(store, &mut changelog_records(batch), next)
            })?;
        }
        let changelogs = self.list.iter_mut().take_while(|t| t.refill.is_none());
        for (at, tail) in changelogs.enumerate() {
            tail.advance(reader.position(PartitionIx(at as u32))?);
        }
        Ok(())
    }

    /// Begins to read the inputs of which more is committed than was read, all those at once.
    fn begin_round(&mut self, shared: &Shared) -> Result<()> {
        let list = &self.list;
        let is_read = |at: &usize| {
            self.round
                .iter()
                .any(|(read, target)| read == at && list[*at].position < *target)
        };
        let is_due = |at: &usize| list[*at].refill.is_some() && list[*at].lag() > 0;
        let due: Vec<usize> = (0..list.len()).filter(is_due).collect();
        if due.iter().all(is_read) {
            return Ok(());
        }
        let starts: Vec<_> = due.iter().map(|at| list[*at].start()).collect();
        let mut reader = match self.inputs.take() {
            Some(reader) => reader,
            None => shared.broker.reader()?,
        };
        reader.assign(&starts)?;
        self.inputs = Some(reader);
        self.round = due.into_iter().map(|at| (at, self.list[at].end)).collect();
        Ok(())
    }

    fn read_inputs(
        &mut self,
        shared: &Shared,
        reader: &mut dyn Reader,
        wait: Duration,
    ) -> Result<()> {
        self.fetched.clear();
        reader.poll(wait, BATCH_RECORDS, &mut self.fetched)?;
        self.fetched.sort_by_key(|f| (f.partition, f.offset));
        for batch in self.fetched.chunk_by(|a, b| a.partition == b.partition) {
            let (at, target) = self.round[batch[0].partition.0 as usize];
            let tail = &mut self.list[at];
            let (Some(refill), Some(batch)) = (&tail.refill, before(batch, target)) else {
                continue;
            };
            let next = batch[batch.len() - 1].offset + 1;
            let entries = refill_entries(refill, batch);
            tail.apply(shared, |replica, store| {
                replica.restore(store, &mut as_records(&entries), next)
            })?;
        }
        for (at, (tail, target)) in self.round.iter().enumerate() {
            let tail = &mut self.list[*tail];
            if tail.position >= *target {
                continue;
            }
            let position = reader.position(PartitionIx(at as u32))?.min(*target);
            if position == *target {
                tail.apply(shared, |replica, store| {
                    replica.restore(store, &mut std::iter::empty(), position)
                })?;
            }
            tail.advance(position);
        }
        let list = &self.list;
        if (self.round.iter()).all(|(at, target)| list[*at].position >= *target) {
            self.round.clear();
            reader.assign(&[])?;
        }
        Ok(())
    }

    /// Asks how far the tasks are.
    pub(crate) fn measure(&mut self, shared: &Shared) -> Result<()> {
        for tail in self.list.iter_mut().filter(|tail| tail.refill.is_none()) {
            let asked = shared.now();
            tail.set_end(shared.admin.watermarks(&tail.partition)?.high, asked);
        }
        let inputs = self.list.iter_mut().filter(|tail| tail.refill.is_some());
        let mut inputs: Vec<&mut Tail> = inputs.collect();
        let partitions: Vec<_> = inputs.iter().map(|tail| tail.partition.clone()).collect();
        if !partitions.is_empty() {
            let asked = shared.now();
            let group = &shared.config.application_id;
            let committed = shared.admin.committed(group, &partitions)?;
            for (tail, committed) in inputs.iter_mut().zip(committed) {
                tail.set_end(committed.unwrap_or(0), asked);
            }
        }
        Ok(())
    }

    /// What is told of the standbys among `held`.
    pub(crate) fn status(&self, held: &BTreeSet<TaskId>) -> Vec<StandbyStatus> {
        let mut standbys: BTreeMap<TaskId, StandbyStatus> = BTreeMap::new();
        for tail in self.list.iter().filter(|tail| held.contains(&tail.task)) {
            let status = standbys.entry(tail.task).or_default();
            status.id = tail.task.to_string();
            status.lag += tail.lag();
            status.positions.insert(tail.name.clone(), tail.position);
        }
        standbys.into_values().collect()
    }
}

impl Tail {
    /// `None` when the standby is gone.
    fn begin(
        shared: &Shared,
        task: TaskId,
        store: usize,
        (name, refill): Origin<'_>,
    ) -> Result<Option<Self>> {
        let Some(stored) = shared
            .standbys
            .with(task, |replica| replica.position(store))
        else {
            return Ok(None);
        };
        let Some(standing) = shared.queries.standing(name, task.partition) else {
            return Ok(None);
        };
        let topic = match refill {
            Some(refill) => refill.topic().clone(),
            None => changelog_name(&shared.config.application_id, name),
        };
        let partition = TopicPartition::new(topic, task.partition);
        let asked = shared.now();
        let (position, end) = match refill {
            None => begins_at(&*shared.admin, &partition, task, name, stored)?,
            Some(_) => {
                // A topic may have fewer partitions than its sub-topology has tasks.
                let counts = &shared.layout.partitions;
                if counts
                    .get(&partition.topic)
                    .is_none_or(|n| task.partition as u32 >= *n)
                {
                    return Ok(None);
                }
                let ends = shared.admin.watermarks(&partition)?;
                let group = &shared.config.application_id;
                let committed = shared
                    .admin
                    .committed(group, std::slice::from_ref(&partition))?;
                let end = committed[0].unwrap_or(0).min(ends.high);
                if let Some(at) = stored.filter(|at| *at > end) {
                    return Err(ahead(task, name, at, end));
                }
                (stored.unwrap_or(0).max(ends.low), end)
            }
        };
        let mut tail = Self {
            task,
            store,
            name: name.to_owned(),
            partition,
            refill: refill.cloned(),
            position,
            end,
            goal: None,
            standing,
            taken: false,
        };
        // As with a store that was restored, its disk then tells of it, though it may have nothing.
        tail.apply(shared, |replica, store| {
            replica.restore(store, &mut std::iter::empty(), position.min(end))
        })?;
        tail.set_end(end, asked);
        Ok(Some(tail))
    }

    fn start(&self) -> (TopicPartition, Start) {
        (self.partition.clone(), Start::Offset(self.position))
    }
}

/// The records before `offset`; `None` when there are none.
fn before(batch: &[Fetched], offset: i64) -> Option<&[Fetched]> {
    let before = &batch[..batch.partition_point(|f| f.offset < offset)];
    (!before.is_empty()).then_some(before)
}
