//! Ways to damage a file, and folders to do it in.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Numbers that a seed decides.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// What happens to a file. Places are shares of its length, in 65536ths.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// One bit is another one.
    Flip { at: u64, bit: u8 },
    /// The end is gone.
    Truncate { at: u64 },
    /// A sector reads as zeros.
    Zero { at: u64 },
    /// The file is gone.
    Remove,
    /// The file is there, without content.
    Empty,
}

impl Damage {
    /// Each kind, those with a place `count` times.
    pub(crate) fn all(random: &mut Random, count: u64) -> Vec<Self> {
        let mut all = vec![Self::Remove, Self::Empty];
        for _ in 0..count {
            let at = random.next() % 65536;
            let bit = (random.next() % 8) as u8;
            all.push(Self::Flip { at, bit });
            all.push(Self::Truncate { at });
            all.push(Self::Zero { at });
        }
        all
    }

    pub(crate) fn apply(self, path: &Path) {
        if let Self::Remove = self {
            return fs::remove_file(path).expect("removed");
        }
        let mut bytes = fs::read(path).expect("read");
        let len = bytes.len() as u64;
        let place = |at: u64| (at * len / 65536) as usize;
        match self {
            Self::Flip { at, bit } => bytes[place(at)] ^= 1 << bit,
            Self::Truncate { at } => bytes.truncate(place(at)),
            Self::Zero { at } => {
                let from = place(at);
                let to = (from + 512).min(bytes.len());
                bytes[from..to].fill(0);
            }
            Self::Empty => bytes.clear(),
            Self::Remove => unreachable!("done above"),
        }
        fs::write(path, bytes).expect("written");
    }
}

/// The files below a folder, in order.
pub(crate) fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("reads directory") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => files.extend(files_of(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}
