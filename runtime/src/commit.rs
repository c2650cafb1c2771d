//! The commit: the order of its steps is what makes the engine exactly-once.

use std::collections::BTreeMap;

use millstream_broker::{Consumer, ProducerError, TopicIx, TopicPartition};
use millstream_topology::{Error, ErrorKind, Result, TaskId};

use crate::{
    outbox::Producing,
    task::{Surroundings, Task},
};

/// Why a piece of a thread's work did not get done, by what the thread does about it.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The producer says what to do.
    Producer(ProducerError),
    /// Anything else.
    Error(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<millstream_broker::Error> for Trouble {
    fn from(error: millstream_broker::Error) -> Self {
        Self::Error(error.into())
    }
}

impl From<ProducerError> for Trouble {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}

/// What a commit did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// How many input partitions moved on.
    pub(crate) partitions: usize,
    /// True when there was something to commit.
    pub(crate) wrote: bool,
}

/// Commits all tasks of a thread in one transaction.
///
/// Invariant: nothing reaches a store's committed layer before the log's transaction has committed,
/// and nothing uncommitted ever reaches the disk; so an abort or a crash leaves nothing to wipe.
pub(crate) fn commit(
    tasks: &mut BTreeMap<TaskId, Task>,
    producing: &mut Producing,
    consumer: &dyn Consumer,
    wall_clock_ms: i64,
) -> Result<Committed, Trouble> {
    // 1. What operators held back goes out, then every changed entry goes to its changelog. The
    //    order matters: what is emitted may change stores further down.
    for task in tasks.values_mut() {
        let mut around = Surroundings {
            out: producing,
            wall_clock_ms,
        };
        flushed(task.flush(&mut around), producing)?;
    }
    for task in tasks.values_mut() {
        let logged = log_changes(task, producing);
        flushed(logged, producing)?;
    }
    let mut offsets: Vec<(TopicPartition, i64)> =
        tasks.values().flat_map(Task::uncommitted_offsets).collect();
    if offsets.is_empty() && !producing.is_open() {
        return Ok(Committed::default());
    }
    let partitions = offsets.len();
    // Brokers ask whether the tasks are still this member's only where offsets are committed, too.
    // So what timers alone have done is committed with an offset that stands already.
    if offsets.is_empty() {
        offsets.extend(tasks.values().flat_map(Task::standing_offsets).next());
    }

    // A read of damaged state may have failed without the operator passing that on.
    if let Some(found) = tasks.values().find_map(|task| task.state.damage()) {
        return Err(Error::new(ErrorKind::State, found).into());
    }

    // 2. to 4. Drain, add the offsets with fresh proof of the group's generation, commit.
    producing.commit(&offsets, &consumer.group_metadata()?)?;

    // 5. Only now the stores take the changes as committed, with the changelog positions they
    //    reflect.
    let ends = ends_of(producing);
    for task in tasks.values_mut() {
        let positions = changelog_positions(task, producing, &ends);
        task.state.commit(&positions)?;
        // The commit proves that the tasks were still this member's, and so that nobody else has
        // written to their changelogs.
        task.state.set_all_level(wall_clock_ms);
        task.mark_committed();
    }
    // 6. Writing the committed layer to disk is for the background: see `session`.
    Ok(Committed {
        partitions,
        wrote: true,
    })
}

/// A node's failure may be the producer's; then the producer's own word decides.
fn flushed(result: Result<()>, producing: &mut Producing) -> Result<(), Trouble> {
    result.map_err(|error| match producing.take_failure() {
        Some(failure) => Trouble::Producer(failure),
        None => Trouble::Error(error),
    })
}

fn log_changes(task: &mut Task, producing: &mut Producing) -> Result<()> {
    if !task.state.is_dirty() {
        return Ok(());
    }
    let partition = task.id.partition;
    let changelogs: Vec<Option<TopicIx>> = task
        .logged_stores()
        .map(|name| name.and_then(|n| producing.changelog(n)))
        .collect();
    task.state
        .write_changelog(&mut |store, key, value, timestamp| {
            let topic = changelogs[store].expect("a store that logs has a changelog");
            producing.log_change(topic, partition, key, value, timestamp)
        })
}

fn ends_of(producing: &Producing) -> BTreeMap<(TopicIx, i32), i64> {
    let mut ends = BTreeMap::new();
    producing.ends(&mut |topic, partition, end| {
        ends.insert((topic, partition), end);
    });
    ends
}

fn changelog_positions(
    task: &Task,
    producing: &Producing,
    ends: &BTreeMap<(TopicIx, i32), i64>,
) -> Vec<(usize, i64)> {
    let position = |(store, name): (usize, Option<&str>)| {
        let topic = producing.changelog(name?)?;
        Some((store, *ends.get(&(topic, task.id.partition))?))
    };
    let logged = task.logged_stores().enumerate().filter_map(position);
    // A store that is restored from an input stands where the input does.
    let read = task.refills().filter_map(|(store, _, queue)| {
        let next = queue.next_offset().or(queue.committed_offset())?;
        Some((store, next))
    });
    logged.chain(read).collect()
}
