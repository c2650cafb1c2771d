//! `Mark`: what is kept of a record, so that millions of them can be compared.

use std::hash::{DefaultHasher, Hash, Hasher};

use millstream_topology::Headers;

/// A record in 32 bytes: the hashes of its parts, and its time as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) key: u64,
    pub(crate) value: u64,
    pub(crate) timestamp: i64,
    pub(crate) headers: u64,
}

impl Mark {
    pub(crate) fn of(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Self {
        let of_headers = |hasher: &mut DefaultHasher| {
            for header in headers {
                header.name.hash(hasher);
                header.value.as_deref().hash(hasher);
            }
        };
        Self {
            key: hash(|hasher| key.hash(hasher)),
            value: hash(|hasher| value.hash(hasher)),
            timestamp,
            headers: hash(of_headers),
        }
    }

    /// In which parts two records of one key differ.
    pub(crate) fn differences(&self, other: &Self) -> String {
        let parts = [
            ("value", self.value != other.value),
            ("timestamp", self.timestamp != other.timestamp),
            ("headers", self.headers != other.headers),
        ];
        let differing = parts.iter().filter(|(_, differs)| *differs);
        let names: Vec<_> = differing.map(|(name, _)| *name).collect();
        names.join(" and ")
    }
}

fn hash(write: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    write(&mut hasher);
    hasher.finish()
}

/// The input record that an output was made of: a number of a partition, and an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) partition: u32,
    pub(crate) offset: i64,
}

/// A record that must stand in an output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) mark: Mark,
    pub(crate) origin: Origin,
}

/// A record that stands in an output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) mark: Mark,
    pub(crate) offset: i64,
    pub(crate) partition: i32,
}
