//! A program that loses power: it runs as a child that a library watches (`shim.c`), is killed, and
//! leaves the folder that its disk would have had.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Tells the child what to do where.
pub(crate) const CHILD_DIR: &str = "MILLSTREAM_TEST_POWER_DIR";
/// Tells it in which order.
pub(crate) const CHILD_SEED: &str = "MILLSTREAM_TEST_POWER_SEED";

/// A page: what a disk writes of a file at a time.
const PAGE: usize = 4096;

/// Numbers that a seed decides.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d);
        random.below(2);
        random
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A folder with room for what is written, what is durable and what a crash leaves; in memory where
/// that is possible, as it is synced thousands of times.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.expect("a folder")
}

/// The library, built by the C compiler that building this project needs anyway.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = SHIM.get_or_init(|| {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/tests/power_loss/shim.c");
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("shim.so");
        let built = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status();
        assert!(
            built.expect("a C compiler").success(),
            "the library is built"
        );
        (folder, library)
    });
    library
}

/// Runs a test of this program as a child in `root/live` until it has printed `enough` lines, cuts
/// the power, and puts what is left into `root/live`. Gives the lines.
pub(crate) fn run_and_cut(test: &str, root: &Path, seed: u64, enough: usize) -> Vec<String> {
    run_on_and_cut(Disk::Honest, test, root, seed, enough)
}

/// Whether a disk keeps its promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Honest,
    /// It forgets journals.
    Lying,
}

pub(crate) fn run_on_and_cut(
    disk: Disk,
    test: &str,
    root: &Path,
    seed: u64,
    enough: usize,
) -> Vec<String> {
    let mut random = Random::new(seed);
    let (live, kept) = (root.join("live"), root.join("kept"));
    let inodes = root.join("kept.inodes");
    // What is there at the start was left by the power loss before, and so is durable.
    let _ = fs::remove_dir_all(&kept);
    let _ = fs::remove_dir_all(&inodes);
    fs::create_dir_all(&live).expect("created");
    fs::create_dir_all(&inodes).expect("created");
    keep_all(&live, &kept, &inodes);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, &live)
        .env(CHILD_SEED, seed.to_string())
        .env("LD_PRELOAD", shim())
        .env("POWER_LOSS_LIVE", &live)
        .env("POWER_LOSS_KEPT", &kept)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if random.below(2) == 0 {
        command.env("POWER_LOSS_STRICT", "1");
    }
    if disk == Disk::Lying {
        command.env("POWER_LOSS_LIES", "1");
    }
    let mut child = command.spawn().expect("the child starts");
    let output = child.stdout.take().expect("piped");
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        // A line that was cut off by the kill has no end mark.
        let line = line.expect("text");
        lines.extend(line.strip_suffix('.').map(str::to_owned));
        if lines.len() == enough {
            child.kill().expect("killed");
        }
    }
    let ended = child.wait_with_output().expect("ended");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(
        lines.len() >= enough,
        "the child ended by itself. seed={seed}\n{errors}"
    );
    tear(&live, &kept, &mut random);
    fs::remove_dir_all(&live).expect("removed");
    fs::rename(&kept, &live).expect("renamed");
    lines
}

/// Makes everything durable as it is, under the inode numbers of the live folder.
fn keep_all(live: &Path, kept: &Path, inodes: &Path) {
    use std::os::unix::fs::MetadataExt;
    fs::create_dir_all(kept).expect("created");
    for entry in fs::read_dir(live).expect("reads directory") {
        let path = entry.expect("entry").path();
        let to = kept.join(path.file_name().expect("a name"));
        if path.is_dir() {
            keep_all(&path, &to, inodes);
            continue;
        }
        let inode = fs::metadata(&path).expect("metadata").ino();
        let content = inodes.join(inode.to_string());
        fs::copy(&path, &content).expect("copied");
        fs::hard_link(&content, &to).expect("linked");
    }
}

/// Of what was not synced, a part may have reached the disk all the same: the beginning of what was
/// added to a file, with pages of it that did not, and names of new files.
fn tear(live: &Path, kept: &Path, random: &mut Random) {
    let mut paths: Vec<_> = fs::read_dir(live)
        .expect("reads directory")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.sort();
    for path in paths {
        let to = kept.join(path.file_name().expect("a name"));
        if path.is_dir() {
            if to.is_dir() {
                tear(&path, &to, random);
            }
            continue;
        }
        if random.below(2) == 0 {
            continue;
        }
        let written = fs::read(&path).expect("read");
        let durable = fs::read(&to).unwrap_or_default();
        if !written.starts_with(&durable) || written.len() == durable.len() {
            continue;
        }
        let added = (written.len() - durable.len()) as u64;
        let mut torn = written;
        torn.truncate(durable.len() + random.below(added + 1) as usize);
        for at in (durable.len() / PAGE + 1)..torn.len() / PAGE {
            if random.below(4) == 0 {
                torn[at * PAGE..(at + 1) * PAGE].fill(0);
            }
        }
        // A new file, as the old one may share its content with another name.
        let _ = fs::remove_file(&to);
        fs::write(&to, torn).expect("written");
    }
}
