//! What must hold when all is at rest, whatever the application does.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_broker::{TopicPartition, sim::Committed};
use millstream_state::ByteStore;
use millstream_topology::TaskId;

use crate::{cases::PARTITIONS, machine::Disk, world::World};

/// A record, without where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    pub(crate) timestamp: i64,
}

impl Row {
    pub(crate) fn new(key: &str, value: impl Into<Bytes>, timestamp: i64) -> Self {
        Self {
            key: key.to_owned(),
            value: value.into(),
            timestamp,
        }
    }

    pub(crate) fn of(written: &Committed) -> Self {
        let record = &written.record;
        let key = record.key.as_deref().unwrap_or_default();
        Self {
            key: text(key),
            value: record.value.clone().unwrap_or_default(),
            timestamp: record.timestamp,
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A partition holds exactly these records, in this order.
pub(crate) fn same(at: &TopicPartition, got: &[Committed], wanted: &[Row]) -> Result<(), String> {
    let got: Vec<Row> = got.iter().map(Row::of).collect();
    if got == wanted {
        return Ok(());
    }
    let first = got
        .iter()
        .zip(wanted)
        .position(|(got, wanted)| got != wanted);
    let first = first.unwrap_or(got.len().min(wanted.len()));
    Err(format!(
        "{at} differs from record {first} on: {} records, {} expected; got {:?}, expected {:?}",
        got.len(),
        wanted.len(),
        got.get(first),
        wanted.get(first)
    ))
}

/// A partition holds exactly these sequences, each in its order, however interleaved.
pub(crate) fn interleaved(
    at: &TopicPartition,
    got: &[Committed],
    sequences: &[Vec<Row>],
) -> Result<(), String> {
    let mut wanted: BTreeMap<&Row, i64> = BTreeMap::new();
    for row in sequences.iter().flatten() {
        *wanted.entry(row).or_default() += 1;
    }
    let got: Vec<Row> = got.iter().map(Row::of).collect();
    for row in &got {
        *wanted.entry(row).or_default() -= 1;
    }
    if let Some((row, missing)) = wanted.into_iter().find(|(_, missing)| *missing != 0) {
        return Err(format!("{at}: {missing} of {row:?} are missing"));
    }
    for sequence in sequences {
        let mut rest = got.iter();
        if let Some(row) = sequence.iter().find(|row| !rest.any(|r| r == *row)) {
            return Err(format!("{at}: {row:?} is out of order"));
        }
    }
    Ok(())
}

/// The disk of each task.
pub(crate) type Disks = BTreeMap<TaskId, Disk>;

/// Lets everything come to rest, has `judge` look at what came out, and compares the disks of tasks
/// with what a new machine restores. Returns those of standbys, and what was restored.
pub(crate) fn come_to_rest(
    world: &mut World<'_>,
    retention_ms: Option<i64>,
    judge: impl FnOnce(&World<'_>) -> Result<(), String>,
) -> Result<(Disks, Disks), String> {
    let checked = world.heal().and_then(|()| {
        if let Some(why) = world.broken.first() {
            return Err(why.clone());
        }
        world.log.check();
        judge(world)?;
        let beside = world.standby_disks();
        let kept = world.stop()?;
        let rebuilt = world.rebuild()?;
        same_disks(&kept, &rebuilt, retention_ms)?;
        Ok((beside, rebuilt))
    });
    checked.map_err(|why| format!("{why} ({:?})", world.events))
}

/// Each disk holds what a machine without one restores from the changelogs (I3). Windows older than
/// the retention are dropped at some time or other, so they may differ.
pub(crate) fn same_disks(
    kept: &BTreeMap<TaskId, Disk>,
    rebuilt: &BTreeMap<TaskId, Disk>,
    retention_ms: Option<i64>,
) -> Result<(), String> {
    if !kept.keys().eq(rebuilt.keys()) {
        return Err(format!(
            "tasks differ: {:?} {:?}",
            kept.keys(),
            rebuilt.keys()
        ));
    }
    for (task, disk) in kept {
        let (kept, rebuilt) = (dump(disk, *task), dump(&rebuilt[task], *task));
        let mut keys: Vec<&Bytes> = kept.keys().chain(rebuilt.keys()).collect();
        keys.sort();
        keys.dedup();
        // When a store was level with its changelog is each machine's own.
        keys.retain(|key| !key.starts_with(LEVELS));
        if let Some(retention_ms) = retention_ms {
            let newest = keys.iter().filter_map(|key| window_start(key)).max();
            let first_kept = newest.unwrap_or(0) - retention_ms;
            keys.retain(|key| window_start(key).is_none_or(|start| start > first_kept));
        }
        for key in keys {
            let (kept, rebuilt) = (kept.get(key), rebuilt.get(key));
            let same = match (kept, rebuilt) {
                (Some(kept), Some(rebuilt)) if key.starts_with(METAS) => fits(kept, rebuilt),
                (kept, rebuilt) => kept == rebuilt,
            };
            if !same {
                return Err(format!(
                    "state of {task} differs from its changelogs at {key:?}: kept {kept:?}, \
                     rebuilt {rebuilt:?}"
                ));
            }
        }
    }
    Ok(())
}

/// The start of the window that an entry is of: `id ‖ key ‖ start ‖ sequence`.
fn window_start(key: &[u8]) -> Option<i64> {
    let (rest, _sequence) = key.split_last_chunk::<4>()?;
    let (rest, start) = rest.split_last_chunk::<8>()?;
    (!rest.starts_with(&[0, 0])).then(|| i64::from_be_bytes(*start))
}

/// Where a base keeps positions and times.
const METAS: &[u8] = &[0, 0, 2];
/// Where it keeps when stores were level with their changelogs.
const LEVELS: &[u8] = &[0, 0, 3];

/// A kept position is not ahead of the rebuilt one, which may count one more marker. Times are not
/// compared: those that operators look at decide what comes out, and that is.
fn fits(kept: &[u8], rebuilt: &[u8]) -> bool {
    let position = |meta: &[u8]| {
        let bytes = meta[..8].try_into().expect("8 bytes");
        i64::from_be_bytes(bytes)
    };
    position(kept) <= position(rebuilt)
}

fn dump(disk: &Disk, task: TaskId) -> BTreeMap<Bytes, Bytes> {
    let bytes = disk.of(task).unwrap_or_default();
    let scan = bytes.scan(&[], None).expect("memory is read");
    scan.collect::<millstream_topology::Result<_>>()
        .expect("memory is read")
}

/// For each partition of `from` the rows that a task makes of it, in order.
pub(crate) fn each_partition(
    world: &World<'_>,
    from: &str,
    to: &str,
    mut fold: impl FnMut(&[Committed]) -> Vec<Row>,
) -> Result<(), String> {
    let (inputs, outputs) = (world.records(from), world.records(to));
    for p in 0..PARTITIONS as usize {
        let at = TopicPartition::new(to, p as i32);
        same(&at, &outputs[p], &fold(&inputs[p]))?;
    }
    Ok(())
}
