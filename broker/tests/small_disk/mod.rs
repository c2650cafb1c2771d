//! A disk that is really full: a test runs itself again as a child with a small one.
//!
//! The child has a file system in memory, mounted where nobody else sees it. Where mounting is not
//! permitted, the disk is as large as ever, and a limit of the process makes every write to it fail
//! while it is "full".

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Tells the child where its disk is, and of what kind.
const CHILD_DISK: &str = "MILLSTREAM_TEST_SMALL_DISK";
const CHILD_KIND: &str = "MILLSTREAM_TEST_SMALL_DISK_KIND";

/// Mounts a small disk at `$1`, then runs the rest.
const MOUNT: &str = r#"mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@""#;
/// Lets writes beyond the limit fail instead of ending the process.
const LIMIT: &str = r#"trap "" XFSZ && shift && exec "$@""#;

pub(crate) struct SmallDisk {
    pub(crate) dir: PathBuf,
    pub(crate) is_mounted: bool,
}

/// In the test that was called: runs it as a child, and tells `None` when that has succeeded. In
/// the child: the disk.
pub(crate) fn child_disk(test: &str, mib: u32) -> Option<SmallDisk> {
    if let Some(dir) = std::env::var_os(CHILD_DISK) {
        let is_mounted = std::env::var(CHILD_KIND).is_ok_and(|kind| kind == "mounted");
        let dir = PathBuf::from(dir);
        return Some(SmallDisk { dir, is_mounted });
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("this program");
    let arguments = ["--exact", test, "--nocapture", "--test-threads=1"];
    // As root, or as whoever may be root in a world of its own.
    let ways = ["--mount", "--mount --map-root-user"].map(|way| way.split(' ').collect::<Vec<_>>());
    let mounts = |way: &&Vec<&str>| {
        let mut tried = Command::new("unshare");
        tried
            .args(*way)
            .args(["sh", "-c", MOUNT, "1m"])
            .arg(folder.path())
            .arg("true");
        tried.output().is_ok_and(|tried| tried.status.success())
    };
    let mut command = match ways.iter().find(mounts) {
        Some(way) => {
            let mut command = Command::new("unshare");
            let size = format!("{mib}m");
            command
                .args(way)
                .args(["sh", "-c", MOUNT, &size])
                .env(CHILD_KIND, "mounted");
            command
        }
        None => {
            let mut command = Command::new("sh");
            command.args(["-c", LIMIT, "sh"]).env(CHILD_KIND, "limited");
            command
        }
    };
    command
        .arg(folder.path())
        .arg(program)
        .args(arguments)
        .env(CHILD_DISK, folder.path());
    let ended = command.output().expect("the child runs");
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        ended.status.success() && told(&ended.stdout).contains("1 passed"),
        "the child failed\n{}\n{}",
        told(&ended.stdout),
        told(&ended.stderr)
    );
    None
}

impl SmallDisk {
    /// From now on nothing can be written.
    pub(crate) fn fill(&self) {
        if !self.is_mounted {
            return limit("0:unlimited");
        }
        let mut filler = File::create(self.filler()).expect("created");
        for size in [1 << 20, 4096, 1] {
            let chunk = vec![7; size];
            while filler.write_all(&chunk).is_ok() {}
        }
    }

    /// There is room again.
    pub(crate) fn free(&self) {
        match self.is_mounted {
            true => fs::remove_file(self.filler()).expect("removed"),
            false => limit("unlimited:unlimited"),
        }
    }

    fn filler(&self) -> PathBuf {
        Path::new(&self.dir).join("filler")
    }
}

fn limit(bytes: &str) {
    let mut command = Command::new("prlimit");
    let id = std::process::id().to_string();
    command.args(["--pid", &id, &format!("--fsize={bytes}")]);
    assert!(
        command.status().expect("runs").success(),
        "the limit is set"
    );
}
