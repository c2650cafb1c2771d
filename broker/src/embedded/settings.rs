//! The bounds of an embedded log.

use std::time::Duration;

use super::Clock;

/// How much an embedded log may hold and how long things may take. The defaults suit a machine with
/// two cores.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Memory for the newest blocks of all partitions together: readers at the tail never touch the
    /// disk.
    pub tail_cache_bytes: usize,
    /// Records of one partition in one commit are split into blocks of about this size.
    pub block_bytes: usize,
    /// Read ahead of one client that is behind the tail, over all its partitions, but a block of
    /// each at least.
    pub read_ahead_bytes: usize,
    /// A transaction with more than this has to be aborted.
    pub transaction_bytes: usize,
    /// A record with more than this is refused.
    pub record_bytes: usize,
    /// Appends beyond so many waiting ones are turned away.
    pub append_queue_records: usize,
    /// Appends beyond so many waiting bytes are turned away.
    pub append_queue_bytes: usize,
    /// Records in the memory of RocksDB before they go to its files. Up to twice as much is in
    /// memory.
    pub write_buffer_bytes: usize,
    /// How long the first member of a group waits for others, so that a program with several
    /// threads begins with one assignment.
    pub join_delay: Duration,
    /// How often retention and compaction look for work.
    pub cleanup_interval: Duration,
    /// Compaction begins when so large a share of the records is new since the last time.
    pub compaction_dirty_ratio: f64,
    /// Fewer new records than this never begin a compaction.
    pub compaction_dirty_records: u64,
    /// The newest blocks of a partition, which compaction never touches.
    pub compaction_spared_blocks: usize,
    /// Memory for the keys of one compaction; with more keys it goes in several turns.
    pub compaction_memory_bytes: usize,
    /// How long compaction keeps a tombstone after it first saw it, so that slow readers see it
    /// too.
    pub tombstone_retention: Duration,
    /// Open a log whose journal is damaged in the middle as it was before the damage, and lose what
    /// came after it, although it was acknowledged. Without this such a log is not opened. A
    /// journal that merely ends in half a write, as after a power cut, is always opened: that write
    /// was not acknowledged.
    pub salvage: bool,
    /// The time.
    pub clock: Clock,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            tail_cache_bytes: 32 << 20,
            block_bytes: 256 << 10,
            read_ahead_bytes: 4 << 20,
            transaction_bytes: 64 << 20,
            record_bytes: 8 << 20,
            append_queue_records: 65_536,
            append_queue_bytes: 16 << 20,
            write_buffer_bytes: 32 << 20,
            join_delay: Duration::from_millis(20),
            cleanup_interval: Duration::from_secs(10),
            compaction_dirty_ratio: 0.5,
            compaction_dirty_records: 10_000,
            compaction_spared_blocks: 8,
            compaction_memory_bytes: 32 << 20,
            tombstone_retention: Duration::from_secs(24 * 3600),
            salvage: false,
            clock: Clock::default(),
        }
    }
}
