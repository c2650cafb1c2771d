//! `Bases`: where tasks keep their state.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_state::{ByteStore, MemoryBytes, RocksBytes, RocksShared};
use millstream_topology::{Error, ErrorKind, Result, TaskId};

use crate::{
    config::{Config, StateKind},
    stage::{Moment, Stage},
};

/// Where the tasks of an instance keep their state: one base for all stores of a task.
///
/// What it opens holds what was ingested into the last one that it opened for this task, crashes
/// or not, until [`wipe`](Self::wipe).
pub trait Bases: Send + Sync {
    /// Opens the base of a task, empty if there was none.
    ///
    /// # Errors
    /// [`ErrorKind::State`] with a [`Fault`](millstream_state::Fault) when it is damaged or still
    /// open.
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>>;

    /// Deletes the state of a task; it is rebuilt from the changelogs.
    ///
    /// # Errors
    /// [`ErrorKind::State`] when it cannot be deleted.
    fn wipe(&self, task: TaskId) -> Result<()>;

    /// Hears of the steps by which state comes and goes, on the thread that takes them; without a
    /// task where a step is one of several. Nothing waits for an answer: it is for those who watch,
    /// such as a simulation that ends the process there.
    fn passes(&self, stage: Stage, moment: Moment, task: Option<TaskId>) {
        let _ = (stage, moment, task);
    }
}

/// Where a configuration says.
pub(crate) fn configured(config: &Config) -> Result<Box<dyn Bases>> {
    Ok(match &config.state {
        StateKind::Memory => Box::new(Memory),
        StateKind::Disk(root) => Box::new(Folders {
            root: root.join(&config.application_id),
            rocks: RocksShared::new(config.memory_budget / 4)?,
        }),
    })
}

/// Nothing is kept.
struct Memory;

impl Bases for Memory {
    fn open(&self, _: TaskId) -> Result<Arc<dyn ByteStore>> {
        Ok(Arc::new(MemoryBytes::default()))
    }

    fn wipe(&self, _: TaskId) -> Result<()> {
        Ok(())
    }
}

/// A RocksDB database for each task, in a folder named like the task.
struct Folders {
    root: PathBuf,
    rocks: RocksShared,
}

impl Folders {
    fn of(&self, task: TaskId) -> PathBuf {
        Path::new(&self.root).join(task.to_string())
    }
}

impl Bases for Folders {
    fn open(&self, task: TaskId) -> Result<Arc<dyn ByteStore>> {
        Ok(Arc::new(RocksBytes::open(&self.of(task), &self.rocks)?))
    }

    fn wipe(&self, task: TaskId) -> Result<()> {
        let folder = self.of(task);
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
