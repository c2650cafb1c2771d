//! `DataDir`: the folder of one process, held by one process at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use crate::failure::{Failure, Outcome};

/// Holds the lock, and who has it.
const LOCK: &str = "lock";
/// Holds the name of this instance.
const INSTANCE_ID: &str = "instance-id";

/// The folder of one process. It is held until this is dropped, also by a process that is killed.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Takes the folder, which is made if need be.
    pub(crate) fn take(path: &Path) -> Outcome<Self> {
        let unusable = |e: &std::io::Error| {
            Failure::at(
                format!(
                    "the data folder cannot be used. folder=`{}`",
                    path.display()
                ),
                e,
            )
        };
        std::fs::create_dir_all(path).map_err(|e| unusable(&e))?;
        let options = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .clone()
        };
        let mut lock = options().open(path.join(LOCK)).map_err(|e| unusable(&e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(unusable(&error)),
        }
        let pid = std::process::id().to_string();
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(|e| unusable(&e))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Takes a folder that is there: tools make none.
    pub(crate) fn take_existing(path: &Path) -> Outcome<Self> {
        if !path.is_dir() {
            let folder = path.display();
            return Err(Failure::Usage(format!(
                "there is no such data folder. folder=`{folder}`"
            )));
        }
        Self::take(path)
    }

    /// The name of this instance: random, and the same as long as the folder lives.
    pub(crate) fn instance_id(&self) -> Outcome<String> {
        let file = self.path.join(INSTANCE_ID);
        let unusable = |e: std::io::Error| {
            Failure::at(
                format!(
                    "the instance's name cannot be kept. file=`{}`",
                    file.display()
                ),
                &e,
            )
        };
        match std::fs::read_to_string(&file) {
            Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(error)),
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        // Written aside and renamed: a crash leaves the whole name or none.
        let aside = file.with_extension("new");
        let written = File::create(&aside).and_then(|mut file| {
            file.write_all(id.as_bytes())?;
            file.sync_all()
        });
        written
            .and_then(|()| std::fs::rename(&aside, &file))
            .map_err(unusable)?;
        Ok(id)
    }
}

fn in_use(path: &Path, lock: &mut File) -> Failure {
    let mut pid = String::new();
    // Without the number the message is as true.
    let _ = lock.read_to_string(&mut pid);
    let folder = path.display();
    Failure::Failed(format!(
        "another process works in the data folder; stop it, or name another folder with \
         --data-dir. folder=`{folder}`, pid={}",
        if pid.is_empty() {
            "unknown"
        } else {
            pid.trim()
        }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_and_says_who() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = DataDir::take(folder.path()).expect("free");
        let Err(Failure::Failed(reason)) = DataDir::take(folder.path()) else {
            panic!("taken twice");
        };
        assert!(
            reason.contains(&format!("pid={}", std::process::id())),
            "{reason}"
        );
        drop(held);
        DataDir::take(folder.path()).expect("free again");
    }

    #[test]
    fn an_instance_keeps_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = || {
            DataDir::take(folder.path())
                .and_then(|dir| dir.instance_id())
                .expect("a name")
        };
        let first = name();
        assert_eq!((first.len(), first), (32, name()));
    }

    #[test]
    fn a_tool_makes_no_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing");
        assert!(matches!(
            DataDir::take_existing(&missing),
            Err(Failure::Usage(_))
        ));
        assert!(!missing.exists());
    }
}
