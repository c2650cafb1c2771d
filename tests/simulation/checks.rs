//! What must hold when all is at rest, whatever the application does.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_broker::sim::Committed;
use millstream_operators::Topology;
use millstream_state::ByteStore;
use millstream_topology::{StoreKind, TaskId};

use crate::{machine::Disk, world::World};

/// A record, without where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    pub(crate) timestamp: i64,
}

impl Row {
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

/// The disk of each task.
type Disks = BTreeMap<TaskId, Disk>;

/// Lets everything come to rest, has `judge` look at what came out, and compares the disks of tasks
/// and of standbys with what a new machine restores.
pub(crate) fn come_to_rest(
    world: &mut World<'_>,
    judge: impl FnOnce(&World<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let checked = world.heal().and_then(|()| {
        if let Some(why) = world.broken.first() {
            return Err(why.clone());
        }
        world.log.check();
        judge(world)?;
        let beside = world.standby_disks();
        let kept = world.stop()?;
        let mut rebuilt = world.rebuild()?;
        same_disks(world.topology(), &kept, &rebuilt)?;
        rebuilt.retain(|task, _| beside.contains_key(task));
        let same = same_disks(world.topology(), &beside, &rebuilt);
        same.map_err(|why| format!("standby: {why}"))
    });
    checked.map_err(|why| format!("{why} ({:?})", world.events))
}

/// Each disk holds what a machine without one restores from the changelogs (I3). Windows and
/// sessions older than their retention are dropped at some time or other, so they may differ.
fn same_disks(topology: &Topology, kept: &Disks, rebuilt: &Disks) -> Result<(), String> {
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
        for (id, retention) in retentions(topology, &rebuilt) {
            let time = |key: &Bytes| retention.time(id, key);
            let newest = keys.iter().filter_map(|key| time(key)).max();
            let first_kept = newest.unwrap_or(0) - retention.ms();
            keys.retain(|key| time(key).is_none_or(|time| time > first_kept));
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

/// How long a store keeps what it has, by the time that its keys end with.
enum Retention {
    /// `id ‖ key ‖ start ‖ sequence`
    Window(i64),
    /// `id ‖ key ‖ end ‖ start`
    Session(i64),
}

impl Retention {
    fn ms(&self) -> i64 {
        match self {
            Self::Window(ms) | Self::Session(ms) => *ms,
        }
    }

    /// The time of an entry of the store with that id.
    fn time(&self, id: u16, key: &[u8]) -> Option<i64> {
        let key = key.strip_prefix(&id.to_be_bytes())?;
        let behind = match self {
            Self::Window(_) => 4,
            Self::Session(_) => 8,
        };
        let (_, time) = key[..key.len() - behind].split_last_chunk::<8>()?;
        Some(i64::from_be_bytes(*time))
    }
}

/// The stores of a base whose entries expire.
fn retentions(topology: &Topology, base: &BTreeMap<Bytes, Bytes>) -> Vec<(u16, Retention)> {
    let names = base.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(NAMES)?;
        let (id, _kind) = value.split_first_chunk()?;
        Some((name, u16::from_be_bytes(*id)))
    });
    let expiring = names.filter_map(|(name, id)| {
        let stores = topology.plan().stores();
        let store = stores.iter().find(|store| store.name.as_bytes() == name)?;
        match store.kind {
            StoreKind::KeyValue | StoreKind::Buffer => None,
            StoreKind::Window { retention_ms, .. } => Some((id, Retention::Window(retention_ms))),
            StoreKind::Session { retention_ms } => Some((id, Retention::Session(retention_ms))),
        }
    });
    expiring.collect()
}

/// Where a base keeps the names of its stores.
const NAMES: &[u8] = &[0, 0, 1];
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
