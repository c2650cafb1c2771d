//! What all clients of one open log share.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::{
    EmbeddedConfig, cleanup,
    group::Group,
    open,
    partition::{Partition, Topic, lock},
    producer::ProducerSlot,
    queue::{Edit, Job, Queue},
    signal::Signal,
    writer::Writer,
};
use crate::{Error, Result, TopicPartition};

/// An open log with its threads. Whoever holds this keeps it running; the last one to let go stops
/// it.
pub(super) struct Running {
    pub log: Arc<Log>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(dir: &Path, config: EmbeddedConfig) -> Result<Self> {
        let (log, next_topic_id) = open::open(dir, config)?;
        let log = Arc::new(log);
        let writer = Writer::new(log.clone(), next_topic_id);
        let cleaned = log.clone();
        let mut running = Self {
            log,
            threads: Vec::new(),
        };
        running.spawn("log-writer", move || writer.run())?;
        running.spawn("log-cleanup", move || cleanup::run(&cleaned))?;
        Ok(running)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|cause| Error::client("starting the log's threads", cause))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.log.stop.set();
        self.log.queue.close();
        let this = thread::current().id();
        if self
            .threads
            .iter()
            .any(|thread| thread.thread().id() == this)
        {
            // A callback, on the writer's own thread, held the last client: nobody can wait for
            // that thread.
            return;
        }
        for thread in self.threads.drain(..) {
            // A panic has been reported and has stopped the log already.
            let _ = thread.join();
        }
    }
}

/// An open log.
pub(super) struct Log {
    /// Where the database lies.
    pub dir: PathBuf,
    /// `None` while it is closed after a failure.
    db: RwLock<Option<Arc<DB>>>,
    pub config: EmbeddedConfig,
    pub cluster_id: String,
    pub queue: Queue,
    pub stop: Stop,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
    groups: Mutex<HashMap<String, Arc<Group>>>,
    producers: Mutex<HashMap<String, Arc<ProducerSlot>>>,
    is_broken: AtomicBool,
    /// Why nothing can be written.
    broken: Mutex<Option<Breakdown>>,
    /// How often the database was opened again.
    reopened: AtomicU64,
    pub counts: Counts,
    /// Makes writes fail, and openings.
    #[cfg(test)]
    pub disk_is_gone: AtomicBool,
}

struct Breakdown {
    why: String,
    /// True when opening the database again may help.
    can_be_mended: bool,
}

/// Tells the cleaning thread to end.
#[derive(Default)]
pub(super) struct Stop {
    signal: Signal,
    set: std::sync::atomic::AtomicBool,
}

impl Stop {
    fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.signal.ring();
    }

    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    pub(super) fn wait(&self, at_most: std::time::Duration) {
        self.signal.wait(at_most);
    }
}

/// What the log counts.
#[derive(Default)]
pub(super) struct Counts {
    pub records: AtomicU64,
    pub blocks: AtomicU64,
    pub bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub tail_bytes: AtomicUsize,
}

/// What a log has done since it was opened, and holds in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFigures {
    /// Records written.
    pub records: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Bytes of those blocks, before compression.
    pub bytes: u64,
    /// Synced writes.
    pub syncs: u64,
    /// Bytes of the newest blocks that are in memory now.
    pub tail_bytes: usize,
}

impl Log {
    pub(super) fn new(
        dir: &Path,
        db: DB,
        config: EmbeddedConfig,
        cluster_id: String,
        topics: HashMap<Arc<str>, Arc<Topic>>,
        groups: HashMap<String, Arc<Group>>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            db: RwLock::new(Some(Arc::new(db))),
            queue: Queue::new(config.append_queue_records, config.append_queue_bytes),
            config,
            cluster_id,
            stop: Stop::default(),
            topics: RwLock::new(topics),
            groups: Mutex::new(groups),
            producers: Mutex::default(),
            is_broken: false.into(),
            broken: Mutex::default(),
            reopened: 0.into(),
            counts: Counts::default(),
            #[cfg(test)]
            disk_is_gone: false.into(),
        }
    }

    /// For the log's writer alone: everything else goes through the queue.
    pub(super) fn write(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), String> {
        #[cfg(test)]
        if self.disk_is_gone.load(Ordering::SeqCst) {
            return Err("the disk is gone".to_owned());
        }
        let db = self.db().map_err(|error| error.to_string())?;
        let written = db.write_opt(batch, options);
        written.map_err(|cause| cause.to_string())
    }

    /// The database, for one read or write: who keeps it keeps it open.
    pub(super) fn db(&self) -> Result<Arc<DB>> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        db.clone().ok_or_else(|| self.broken_error())
    }

    /// Closes the database, if nobody reads it just now.
    pub(super) fn close_db(&self) -> Result<()> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        match db.take().map(Arc::try_unwrap) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(used)) => {
                *db = Some(used);
                Err(Error::State("somebody reads the log"))
            }
        }
    }

    pub(super) fn set_db(&self, opened: DB) {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        *db = Some(Arc::new(opened));
    }

    /// How often the database was opened again. What a producer has begun before is gone.
    pub(super) fn term(&self) -> u64 {
        self.reopened.load(Ordering::Acquire)
    }

    /// That nothing has failed that cannot be mended.
    pub(super) fn check(&self) -> Result<()> {
        match self.is_broken() {
            false => Ok(()),
            true => Err(self.broken_error()),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    pub(super) fn can_be_mended(&self) -> bool {
        let broken = lock(&self.broken);
        broken.as_ref().is_some_and(|broken| broken.can_be_mended)
    }

    /// Stops the log: after a failed sync nobody knows what is on disk, before it is opened again.
    pub(super) fn break_down(&self, why: String, can_be_mended: bool) {
        match can_be_mended {
            true => tracing::error!(why, "the log stops until it can write again"),
            false => tracing::error!(why, "the log stops; start the program again"),
        }
        *lock(&self.broken) = Some(Breakdown { why, can_be_mended });
        self.is_broken.store(true, Ordering::Release);
        for topic in self.topics() {
            topic.partitions.iter().for_each(|p| p.ring());
        }
    }

    /// The database was opened again, and what is in memory agrees with it.
    pub(super) fn mended(&self) {
        self.reopened.fetch_add(1, Ordering::AcqRel);
        *lock(&self.broken) = None;
        self.is_broken.store(false, Ordering::Release);
        tracing::info!("the log can write again");
    }

    pub(super) fn broken_error(&self) -> Error {
        let broken = lock(&self.broken);
        let why = broken.as_ref().map_or("", |broken| &broken.why);
        Error::client("the log stopped after a failed write", why.to_owned())
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).cloned()
    }

    pub(super) fn partition(&self, at: &TopicPartition) -> Result<Arc<Partition>> {
        let topic = self.topic(&at.topic);
        let partition = topic.as_ref().and_then(|t| t.partition(at.partition));
        partition
            .cloned()
            .ok_or_else(|| Error::UnknownPartition(at.clone()))
    }

    /// All topics by name.
    pub(super) fn topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut topics: Vec<_> = topics.values().cloned().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    pub(super) fn add_topic(&self, topic: Arc<Topic>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(topic.name.clone(), topic);
    }

    pub(super) fn remove_topic(&self, name: &str) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.remove(name);
    }

    pub(super) fn group(&self, id: &str) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get(id) {
            return group.clone();
        }
        let group = Arc::new(Group::new(
            id,
            self.config.clock.clone(),
            self.config.join_delay,
        ));
        groups.insert(id.to_owned(), group.clone());
        group
    }

    /// The group, if anybody ever joined it or committed for it.
    pub(super) fn known_group(&self, id: &str) -> Option<Arc<Group>> {
        lock(&self.groups).get(id).cloned()
    }

    pub(super) fn groups(&self) -> Vec<Arc<Group>> {
        lock(&self.groups).values().cloned().collect()
    }

    pub(super) fn producer_slot(&self, id: &str) -> Arc<ProducerSlot> {
        let mut producers = lock(&self.producers);
        producers.entry(id.to_owned()).or_default().clone()
    }

    /// Has the writer do an edit and waits for it.
    pub(super) fn edit(&self, edit: Edit) -> Result<()> {
        self.check()?;
        let (done, answer) = crossbeam_channel::bounded(1);
        self.queue.submit(Job::Edit(edit, done))?;
        answer.recv().unwrap_or_else(|_| Err(self.broken_error()))
    }

    pub(super) fn figures(&self) -> LogFigures {
        let counts = &self.counts;
        LogFigures {
            records: counts.records.load(Ordering::Relaxed),
            blocks: counts.blocks.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            syncs: counts.syncs.load(Ordering::Relaxed),
            tail_bytes: counts.tail_bytes.load(Ordering::Relaxed),
        }
    }
}
