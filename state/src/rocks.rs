//! `RocksBytes`: a base on disk.
//!
//! A base is written by whole SST files only: sorted, synced, then linked into the database. That
//! costs a fifth of writing through a memtable, needs no write-ahead log, and is atomic. So the
//! database never has anything in memory that a crash could lose.

use std::{
    ffi::CStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use millstream_topology::Error;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, Env, ErrorKind,
    IngestExternalFileOptions, LogLevel, Options, ReadOptions, SstFileWriter, WriteBufferManager,
    compaction_filter::{CompactionFilter, Decision},
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use crate::{
    Fault, Result,
    bytes::{ByteStore, Droppable, Entries, Scan},
};

const MIB: usize = 1 << 20;
/// The least that the block cache gets: index and filter blocks of a few files must fit.
const CACHE_BYTES_MIN: usize = 8 * MIB;
/// Memtables are not written to, so they need hardly any room.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Threads that compact, and threads that would flush memtables, for all databases of the process.
const COMPACTION_THREADS: i32 = 2;
/// Open files of one database.
const OPEN_FILES_MAX: i32 = 256;
const BLOCK_BYTES: usize = 8 << 10;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const FILE_BYTES_TARGET: u64 = 32 * MIB as u64;
const LEVEL_BYTES_BASE: u64 = 128 * MIB as u64;
const INFO_LOG_BYTES_MAX: usize = MIB;
const INFO_LOGS_KEPT: usize = 2;

/// What all databases of a process share: the block cache, and with it the bound of their memory.
#[derive(Clone)]
pub struct RocksShared {
    cache: Cache,
    write_buffers: WriteBufferManager,
    env: Env,
}

impl RocksShared {
    /// Databases with one block cache of so many bytes, 8 MiB at least.
    ///
    /// # Errors
    /// When RocksDB cannot start its threads.
    pub fn new(memory_budget_bytes: usize) -> Result<Self> {
        let cache = Cache::new_lru_cache(memory_budget_bytes.max(CACHE_BYTES_MIN));
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            CACHE_BYTES_MIN,
            false,
            cache.clone(),
        );
        let mut env = Env::new().map_err(fault)?;
        env.set_background_threads(COMPACTION_THREADS);
        env.set_high_priority_background_threads(1);
        Ok(Self {
            cache,
            write_buffers,
            env,
        })
    }

    /// Bytes that the block cache holds now.
    pub fn memory_bytes(&self) -> usize {
        self.cache.get_usage()
    }

    fn options(&self, droppable: SharedRule) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);

        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_env(&self.env);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_paranoid_checks(true);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_background_jobs(COMPACTION_THREADS);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_target_file_size_base(FILE_BYTES_TARGET);
        options.set_max_bytes_for_level_base(LEVEL_BYTES_BASE);
        options.set_skip_stats_update_on_db_open(true);
        options.set_compaction_filter_factory(DropFactory(droppable));
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        options.set_keep_log_file_num(INFO_LOGS_KEPT);
        options.set_stats_dump_period_sec(0);
        options
    }
}

/// A base in a directory of its own.
pub struct RocksBytes {
    db: DB,
    options: Options,
    reads: ReadOptions,
    staging: PathBuf,
    next_file: AtomicU64,
    droppable: SharedRule,
    damage: Damage,
    /// Files in a row that were written, but not linked into the database.
    refused: AtomicU32,
}

/// After an error in the background RocksDB takes nothing more. It gets over a full disk by itself,
/// within seconds, but over nothing else: after so many refusals it is not expected to any more.
const REFUSALS_MAX: u32 = 5;

impl RocksBytes {
    /// Opens or makes the database in `dir`.
    ///
    /// # Errors
    /// [`Fault::Locked`] when it is open already, here or in another process; [`Fault::Corrupt`]
    /// when its files are damaged.
    pub fn open(dir: &Path, shared: &RocksShared) -> Result<Self> {
        let droppable = SharedRule::default();
        let options = shared.options(droppable.clone());
        let (path, staging) = (dir.join("db"), dir.join("ingest"));
        fs::create_dir_all(dir).map_err(io_fault)?;
        check_is_whole(&path)?;
        let db = DB::open(&options, path).map_err(open_fault)?;
        // The database's lock is held now, so what lies here was left by a crash.
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_fault(error)),
            Err(_) | Ok(()) => {}
        }
        fs::create_dir(&staging).map_err(io_fault)?;
        Ok(Self {
            db,
            options,
            reads: ReadOptions::default(),
            staging,
            next_file: AtomicU64::new(0),
            droppable,
            damage: Damage::default(),
            refused: AtomicU32::new(0),
        })
    }

    /// Compacts the whole database; for tests and tools.
    pub fn compact(&self) {
        self.db.compact_range::<&[u8], &[u8]>(None, None);
    }

    fn write_file(&self, path: &Path, entries: &mut Entries<'_>) -> Result<bool> {
        let Some(first) = entries.next() else {
            return Ok(false);
        };
        let mut writer = SstFileWriter::create(&self.options);
        writer.open(path).map_err(|e| self.damage.fault(e))?;
        for (key, value) in std::iter::once(first).chain(entries) {
            match value {
                Some(value) => writer.put(key, value),
                None => writer.delete(key),
            }
            .map_err(|e| self.damage.fault(e))?;
        }
        writer.finish().map_err(|e| self.damage.fault(e))?;
        Ok(true)
    }
}

impl Drop for RocksBytes {
    fn drop(&mut self) {
        // Closing must not wait for a long compaction; it begins anew after the next open.
        self.db.cancel_all_background_work(true);
    }
}

impl ByteStore for RocksBytes {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get_pinned_opt(key, &self.reads);
        let value = value.map_err(|e| self.damage.fault(e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Result<Scan<'_>> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        // The iterator sees the database of this moment, although it reads nothing before it is
        // asked.
        let cursor = self.db.raw_iterator_opt(options);
        Ok(Box::new(RocksScan {
            cursor,
            at: At::Start,
            damage: &self.damage,
        }))
    }

    fn ingest(&self, entries: &mut Entries<'_>) -> Result<()> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        let path = self.staging.join(format!("{number}.sst"));
        let result = self.write_file(&path, entries).and_then(|any| {
            if !any {
                return Ok(());
            }
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let linked = self.db.ingest_external_file_opts(&options, vec![&path]);
            match &linked {
                Ok(()) => self.refused.store(0, Ordering::Relaxed),
                Err(_) => _ = self.refused.fetch_add(1, Ordering::Relaxed),
            }
            linked.map_err(|e| self.damage.fault(e))
        });
        if result.is_err() {
            // Nothing depends on it: the next open clears what is left.
            let _ = fs::remove_file(&path);
        }
        result
    }

    fn set_droppable(&self, droppable: Droppable) {
        *self
            .droppable
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(droppable);
    }

    fn is_stuck(&self) -> bool {
        self.refused.load(Ordering::Relaxed) >= REFUSALS_MAX
    }

    fn damage(&self) -> Option<String> {
        self.damage.0.get().cloned()
    }

    fn approximate_entries(&self) -> u64 {
        self.db
            .property_int_value("rocksdb.estimate-num-keys")
            .ok()
            .flatten()
            .unwrap_or(0)
    }
}

enum At {
    Start,
    Entry,
    End,
}

struct RocksScan<'a> {
    cursor: DBRawIterator<'a>,
    at: At,
    damage: &'a Damage,
}

impl Iterator for RocksScan<'_> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.at {
            At::Start => self.cursor.seek_to_first(),
            At::Entry => self.cursor.next(),
            At::End => return None,
        }
        if let Some((key, value)) = self.cursor.item() {
            self.at = At::Entry;
            return Some(Ok((
                Bytes::copy_from_slice(key),
                Bytes::copy_from_slice(value),
            )));
        }
        self.at = At::End;
        let failure = self.cursor.status().err();
        failure.map(|error| Err(self.damage.fault(error)))
    }
}

/// The rule of [`ByteStore::set_droppable`], as compactions see it.
#[derive(Clone, Default)]
struct SharedRule(Arc<RwLock<Option<Droppable>>>);

struct DropFactory(SharedRule);

/// Name of the filter in RocksDB's log.
const DROP_NAME: &CStr = c"millstream.expired";

impl CompactionFilterFactory for DropFactory {
    type Filter = DropFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> DropFilter {
        DropFilter(
            self.0
                .0
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }

    fn name(&self) -> &CStr {
        DROP_NAME
    }
}

struct DropFilter(Option<Droppable>);

impl CompactionFilter for DropFilter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> Decision {
        match &self.0 {
            Some(droppable) if droppable(key) => Decision::Remove,
            Some(_) | None => Decision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        DROP_NAME
    }
}

/// The first damage that was found.
#[derive(Default)]
struct Damage(OnceLock<String>);

impl Damage {
    /// The fault that an error of an open database means; damage is noted.
    fn fault(&self, error: rocksdb::Error) -> Error {
        let is_missing = error.kind() == ErrorKind::IOError && tells_missing(&error);
        if error.kind() != ErrorKind::Corruption && !is_missing {
            return fault(error);
        }
        self.0.get_or_init(|| error.to_string());
        Fault::corrupt(error)
    }
}

/// RocksDB takes a database without its `CURRENT` file for a new one.
fn check_is_whole(db: &Path) -> Result<()> {
    let entries = match fs::read_dir(db) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_fault(error)),
    };
    let (mut is_current, mut holds_data) = (false, false);
    for entry in entries {
        let name = entry.map_err(io_fault)?.file_name();
        let name = name.to_string_lossy();
        is_current |= name == "CURRENT";
        holds_data |= name.starts_with("MANIFEST-") || name.ends_with(".sst");
    }
    match holds_data && !is_current {
        true => Err(Fault::corrupt("file is missing. file=`CURRENT`")),
        false => Ok(()),
    }
}

/// The fault that an error of an opening means. The folder and the options are ours, so what is
/// missing was lost, and what does not fit is not what was written.
fn open_fault(error: rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::IOError if tells_missing(&error) => Fault::corrupt(error),
        ErrorKind::NotFound
        | ErrorKind::NotSupported
        | ErrorKind::InvalidArgument
        | ErrorKind::Incomplete => Fault::corrupt(error),
        _ => fault(error),
    }
}

fn tells_missing(error: &rocksdb::Error) -> bool {
    let text = error.as_ref();
    text.contains("No such file") || text.contains("Not a directory")
}

fn fault(error: rocksdb::Error) -> Error {
    let text = error.as_ref();
    let is_locked = text.contains("lock hold by") || text.contains("While lock file");
    let is_full = ["No space left", "Disk quota exceeded", "File too large"]
        .iter()
        .any(|full| text.contains(full));
    let kind = error.kind();
    let source = error.into();
    match kind {
        ErrorKind::Corruption => Fault::Corrupt { source },
        ErrorKind::IOError if is_locked => Fault::Locked { source },
        ErrorKind::IOError if is_full => Fault::Full { source },
        _ => Fault::Io { source },
    }
    .into()
}

fn io_fault(error: io::Error) -> Error {
    let kind = error.kind();
    let source = error.into();
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Full { source },
        _ => Fault::Io { source },
    }
    .into()
}
