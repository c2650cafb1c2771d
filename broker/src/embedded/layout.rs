//! Keys of the database, and the small values beside the blocks.
//!
//! | key | value |
//! |---|---|
//! | `c` | the log's identity, as JSON |
//! | `t` topic name | the topic, as JSON |
//! | `o` topic id, partition, group | committed offset |
//! | `l` topic id, partition | low watermark |
//! | `k` topic id, partition | how far compaction got |
//! | `r` topic id, partition, base offset | a block |
//!
//! Numbers are big-endian, so that blocks lie in the order of their offsets.

use serde::{Deserialize, Serialize};

use crate::{Cleanup, Error, Result};

/// The version of the whole layout.
pub(super) const FORMAT: u32 = 1;

pub(super) const IDENTITY: &[u8] = b"c";
pub(super) const TOPICS: u8 = b't';
pub(super) const OFFSETS: u8 = b'o';
const LOWS: u8 = b'l';
const CLEANED: u8 = b'k';
const BLOCKS: u8 = b'r';

const BLOCK_KEY_BYTES: usize = 17;
const PARTITION_KEY_BYTES: usize = 9;

/// What the log is.
#[derive(Serialize, Deserialize)]
pub(super) struct Identity {
    pub format: u32,
    pub cluster_id: String,
    /// Ids are never used twice, so that nothing of a deleted topic turns up in a new one.
    pub next_topic_id: u32,
}

/// A topic as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredTopic {
    pub id: u32,
    pub partitions: u32,
    pub compact: bool,
    pub delete: bool,
    pub retention_ms: Option<i64>,
}

impl StoredTopic {
    pub(super) fn new(id: u32, partitions: u32, cleanup: Cleanup) -> Self {
        let (compact, delete, retention_ms) = match cleanup {
            Cleanup::Delete { retention_ms } => (false, true, retention_ms),
            Cleanup::Compact => (true, false, None),
            Cleanup::CompactAndDelete { retention_ms } => (true, true, Some(retention_ms)),
        };
        Self {
            id,
            partitions,
            compact,
            delete,
            retention_ms,
        }
    }

    pub(super) fn cleanup(&self) -> Cleanup {
        match (self.compact, self.delete, self.retention_ms) {
            (true, true, Some(retention_ms)) => Cleanup::CompactAndDelete { retention_ms },
            (true, _, _) => Cleanup::Compact,
            (false, _, retention_ms) => Cleanup::Delete { retention_ms },
        }
    }
}

/// How far compaction got: below `offset` each key was there once when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cleaned {
    pub offset: i64,
    /// How many records it left below.
    pub kept: u64,
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    let mut key = vec![TOPICS];
    key.extend_from_slice(name.as_bytes());
    key
}

pub(super) fn offset_key(topic: u32, partition: i32, group: &str) -> Vec<u8> {
    let mut key = partition_key(OFFSETS, topic, partition).to_vec();
    key.extend_from_slice(group.as_bytes());
    key
}

/// The reverse of [`offset_key`]: topic id, partition and group.
pub(super) fn parse_offset_key(key: &[u8]) -> Option<(u32, i32, &str)> {
    let (ids, group) = key.split_at_checked(PARTITION_KEY_BYTES)?;
    let topic = u32::from_be_bytes(ids[1..5].try_into().ok()?);
    let partition = u32::from_be_bytes(ids[5..9].try_into().ok()?);
    Some((topic, partition as i32, str::from_utf8(group).ok()?))
}

pub(super) fn low_key(topic: u32, partition: i32) -> [u8; PARTITION_KEY_BYTES] {
    partition_key(LOWS, topic, partition)
}

pub(super) fn cleaned_key(topic: u32, partition: i32) -> [u8; PARTITION_KEY_BYTES] {
    partition_key(CLEANED, topic, partition)
}

pub(super) fn block_key(topic: u32, partition: i32, base: i64) -> [u8; BLOCK_KEY_BYTES] {
    let mut key = [0; BLOCK_KEY_BYTES];
    key[..PARTITION_KEY_BYTES].copy_from_slice(&partition_key(BLOCKS, topic, partition));
    key[PARTITION_KEY_BYTES..].copy_from_slice(&(base as u64).to_be_bytes());
    key
}

/// The base offset in a block's key.
pub(super) fn base_of(key: &[u8]) -> i64 {
    let base = key[PARTITION_KEY_BYTES..].try_into();
    u64::from_be_bytes(base.expect("a block's key ends with eight bytes")) as i64
}

/// First key of a topic's share of every table, and the first key behind it.
pub(super) fn topic_ranges(topic: u32) -> [([u8; 9], [u8; 9]); 4] {
    [OFFSETS, LOWS, CLEANED, BLOCKS].map(|table| {
        (
            partition_key(table, topic, 0),
            partition_key(table, topic + 1, 0),
        )
    })
}

fn partition_key(table: u8, topic: u32, partition: i32) -> [u8; PARTITION_KEY_BYTES] {
    let mut key = [0; PARTITION_KEY_BYTES];
    key[0] = table;
    key[1..5].copy_from_slice(&topic.to_be_bytes());
    key[5..9].copy_from_slice(&(partition as u32).to_be_bytes());
    key
}

pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs have a JSON form")
}

pub(super) fn from_json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|cause| Error::Corrupt(format!("{what} does not decode: {cause}")))
}

pub(super) fn parse_i64(what: &str, bytes: &[u8]) -> Result<i64> {
    let number = bytes
        .try_into()
        .map_err(|_| Error::Corrupt(format!("{what} is not eight bytes long")))?;
    Ok(i64::from_be_bytes(number))
}
