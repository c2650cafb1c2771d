//! Opening a folder: the database, and what it says about topics, partitions and groups.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode,
    Options, ReadOptions,
};

use super::{
    EmbeddedConfig,
    group::Group,
    journal,
    layout::{self, Identity, StoredTopic},
    log::Log,
    partition::{Partition, Topic},
};
use crate::{Error, Result};

/// Blocks of at least this size go to files of their own, so that merging keys does not copy
/// records.
const LARGE_BLOCK_BYTES: u64 = 8 << 10;

/// Index blocks and small record blocks in memory. Large ones are left to the page cache.
const CACHE_BYTES: usize = 8 << 20;

/// Opens the database and reads everything but records. Also tells the next topic's id.
pub(super) fn open(dir: &Path, config: EmbeddedConfig) -> Result<(Log, u32)> {
    create_dir(dir)?;
    let db = open_db(dir, &config)?;
    let identity = identity(&db)?;
    let topics = topics(&db)?;
    let groups = groups(&db, &config)?;
    let log = Log::new(dir, db, config, identity.cluster_id, topics, groups);
    for topic in log.topics() {
        for partition in &topic.partitions {
            restore(&log, partition)?;
        }
    }
    Ok((log, identity.next_topic_id))
}

/// Opens the database of a log again after a failed write, and brings what is in memory in line
/// with it. Tells the next topic's id. The log is to be used only if this succeeds.
///
/// What was acknowledged is on disk. What failed may be, too, or not.
pub(super) fn reopen(log: &Log) -> Result<u32> {
    log.close_db()?;
    #[cfg(test)]
    if log.disk_is_gone.load(std::sync::atomic::Ordering::SeqCst) {
        return Err(Error::State("the disk is gone"));
    }
    let db = open_db(&log.dir, &log.config)?;
    let identity = identity(&db)?;
    if identity.cluster_id != log.cluster_id {
        return Err(Error::Corrupt("it is another log now".to_owned()));
    }
    let mut stored = topics(&db)?;
    let groups = groups(&db, &log.config)?;
    log.set_db(db);
    for topic in log.topics() {
        // A deletion that failed has marked its partitions, so they begin anew.
        let is_same = |stored: &Arc<Topic>| {
            stored.id == topic.id && !topic.partitions.iter().any(|p| p.is_deleted())
        };
        if stored.get(&topic.name).is_some_and(is_same) {
            stored.remove(&topic.name);
        } else {
            topic
                .partitions
                .iter()
                .for_each(|partition| partition.delete());
            log.remove_topic(&topic.name);
        }
    }
    let found: Vec<Arc<Topic>> = stored.into_values().collect();
    found.iter().for_each(|topic| log.add_topic(topic.clone()));
    for topic in log.topics() {
        for partition in &topic.partitions {
            let acknowledged = partition.end();
            restore(log, partition)?;
            if partition.end() < acknowledged {
                let what = format!(
                    "acknowledged records are gone. partition=`{}`",
                    partition.at
                );
                return Err(Error::Corrupt(what));
            }
        }
    }
    for group in groups.into_values() {
        log.group(&group.id).take_offsets(&group);
    }
    for group in log.groups() {
        found.iter().for_each(|topic| group.deal_again(topic));
    }
    Ok(identity.next_topic_id)
}

/// Reads where a partition begins and ends.
fn restore(log: &Log, partition: &Partition) -> Result<()> {
    let (id, number) = (partition.topic_id, partition.at.partition);
    let db = log.db()?;
    let low = match get(&db, &layout::low_key(id, number))? {
        Some(bytes) => layout::parse_i64("low watermark", &bytes)?,
        None => 0,
    };
    let cleaned = match get(&db, &layout::cleaned_key(id, number))? {
        Some(bytes) => layout::from_json("compaction's position", &bytes)?,
        None => layout::Cleaned::default(),
    };
    // With all records deleted, only the low watermark knows the end.
    let end = partition.stored_end(log)?.max(low);
    partition.restore(low, end, cleaned);
    Ok(())
}

fn open_db(dir: &Path, config: &EmbeddedConfig) -> Result<DB> {
    let opened = DB::open(&options(config), dir);
    let failed = |cause| open_failed(dir, cause);
    match opened {
        Err(cause) if cause.kind() == rocksdb::ErrorKind::Corruption && !config.salvage => {
            let what = || format!("looking for a torn write in `{}`", dir.display());
            match journal::cut_torn_end(dir).map_err(|cause| Error::client(what(), cause))? {
                true => DB::open(&options(config), dir).map_err(failed),
                false => Err(failed(cause)),
            }
        }
        opened => opened.map_err(failed),
    }
}

fn create_dir(dir: &Path) -> Result<()> {
    let fail = |cause| {
        Error::client(
            format!("creating the log's folder `{}`", dir.display()),
            cause,
        )
    };
    fs::create_dir_all(dir).map_err(fail)?;
    // The folder itself must survive a power cut too.
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(fail)?;
    }
    Ok(())
}

fn options(config: &EmbeddedConfig) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_format_version(6);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(LARGE_BLOCK_BYTES);
    options.set_blob_compression_type(DBCompressionType::Lz4);
    options.set_enable_blob_gc(true);
    options.set_write_buffer_size(config.write_buffer_bytes);
    options.set_max_write_buffer_number(2);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_bytes_per_sync(1 << 20);
    options.set_wal_recovery_mode(if config.salvage {
        DBRecoveryMode::PointInTime
    } else {
        DBRecoveryMode::TolerateCorruptedTailRecords
    });
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_keep_log_file_num(4);
    options
}

fn open_failed(dir: &Path, cause: rocksdb::Error) -> Error {
    let dir = dir.display();
    let text = cause.to_string();
    match cause.kind() {
        rocksdb::ErrorKind::Corruption => Error::Corrupt(format!("{text}. folder=`{dir}`")),
        rocksdb::ErrorKind::IOError if text.contains("lock") => Error::client(
            format!("the log in `{dir}` is open in another program"),
            cause,
        ),
        _ => Error::client(format!("opening the log in `{dir}`"), cause),
    }
}

/// Reads who the log is; a new one gets a name for life.
fn identity(db: &DB) -> Result<Identity> {
    if let Some(bytes) = get(db, layout::IDENTITY)? {
        let identity: Identity = layout::from_json("the log's identity", &bytes)?;
        return match identity.format {
            layout::FORMAT => Ok(identity),
            other => Err(Error::Corrupt(format!(
                "log is of another version of this program. format={other}"
            ))),
        };
    }
    let identity = Identity {
        format: layout::FORMAT,
        cluster_id: uuid::Uuid::new_v4().simple().to_string(),
        next_topic_id: 1,
    };
    let mut durably = rocksdb::WriteOptions::default();
    durably.set_sync(true);
    db.put_opt(layout::IDENTITY, layout::to_json(&identity), &durably)
        .map_err(|cause| Error::client("writing the log's identity", cause))?;
    Ok(identity)
}

fn topics(db: &DB) -> Result<HashMap<Arc<str>, Arc<Topic>>> {
    let mut topics = HashMap::new();
    each_entry(db, layout::TOPICS, |key, value| {
        let name = str::from_utf8(&key[1..])
            .map_err(|_| Error::Corrupt("a topic's name is not text".to_owned()))?;
        let stored: StoredTopic = layout::from_json("topic", value)?;
        let name: Arc<str> = name.into();
        let topic = Topic::new(stored.id, name.clone(), stored.partitions, stored.cleanup());
        topics.insert(name, Arc::new(topic));
        Ok(())
    })?;
    Ok(topics)
}

fn groups(db: &DB, config: &EmbeddedConfig) -> Result<HashMap<String, Arc<Group>>> {
    let mut groups: HashMap<String, Arc<Group>> = HashMap::new();
    each_entry(db, layout::OFFSETS, |key, value| {
        let (topic, partition, id) = layout::parse_offset_key(key)
            .ok_or_else(|| Error::Corrupt("key of a committed offset".to_owned()))?;
        let offset = layout::parse_i64("committed offset", value)?;
        let group = groups
            .entry(id.to_owned())
            .or_insert_with(|| Arc::new(Group::new(id, config.clock.clone(), config.join_delay)));
        group.restore_offset(topic, partition, offset);
        Ok(())
    })?;
    Ok(groups)
}

fn each_entry(db: &DB, table: u8, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound([table + 1]);
    let start = IteratorMode::From(&[table], Direction::Forward);
    for entry in db.iterator_opt(start, options) {
        let (key, value) = entry.map_err(|cause| read_failed("reading the log", cause))?;
        each(&key, &value)?;
    }
    Ok(())
}

fn get(db: &DB, key: &[u8]) -> Result<Option<Vec<u8>>> {
    db.get(key)
        .map_err(|cause| read_failed("reading the log", cause))
}

/// Tells damage from trouble.
pub(super) fn read_failed(what: &str, cause: rocksdb::Error) -> Error {
    match cause.kind() {
        rocksdb::ErrorKind::Corruption => Error::Corrupt(format!("{cause}, {what}")),
        _ => Error::client(what, cause),
    }
}
