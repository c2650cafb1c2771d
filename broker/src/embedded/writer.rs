//! The one thread that writes: it gathers what waits, gives offsets, writes and syncs once, and
//! only then lets anybody see or know of it.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use rocksdb::{WriteBatch, WriteOptions};

use super::{
    block::{Block, BlockBuilder, Draft},
    layout::{self, Cleaned, Identity, StoredTopic},
    log::Log,
    open,
    partition::{Partition, Topic},
    queue::{AppendJob, CommitJob, Edit, Job, OffsetsJob},
};
use crate::{Appended, Error, NewTopic, Result};

/// How often a log that could not write is opened again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// What a block in memory costs beside its bytes.
const BLOCK_OVERHEAD_BYTES: usize = 160;

pub(super) struct Writer {
    log: Arc<Log>,
    next_topic_id: u32,
    /// The blocks in memory, oldest first, with their sizes.
    tail: VecDeque<(Arc<Partition>, usize)>,
    tail_bytes: usize,
    batch: WriteBatch,
    staged: Staged,
    /// When a write, or an opening after it, failed last.
    broke: Instant,
}

/// What happens once the batch is durable.
#[derive(Default)]
struct Staged {
    blocks: Vec<(Arc<Partition>, Block)>,
    /// Appends of this batch that go into one block, by topic id and partition.
    open: HashMap<(u32, i32), OpenAppends>,
    appended: Vec<(i64, Vec<Appended>)>,
    committed: Vec<Committed>,
    edited: Option<(Edited, Sender<Result<()>>)>,
}

struct OpenAppends {
    partition: Arc<Partition>,
    builder: BlockBuilder,
    done: Vec<Appended>,
}

struct Committed {
    offsets: Option<OffsetsJob>,
    ends: Vec<i64>,
    done: Sender<Result<Vec<i64>>>,
}

/// An edit that is in the batch, and what remains to be done in memory.
enum Edited {
    Nothing,
    Created(Vec<Arc<Topic>>),
    Deleted(Vec<Arc<Topic>>),
    Cleaned(Arc<Partition>, Cleaned),
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, next_topic_id: u32) -> Self {
        Self {
            broke: log.config.clock.instant(),
            log,
            next_topic_id,
            tail: VecDeque::new(),
            tail_bytes: 0,
            batch: WriteBatch::default(),
            staged: Staged::default(),
        }
    }

    /// Writes until the log is closed. A panic is a bug, and stops the log instead of leaving
    /// callers waiting.
    pub(super) fn run(mut self) {
        let mut jobs = Vec::new();
        loop {
            let broken = self.log.is_broken();
            if !self
                .log
                .queue
                .take(broken.then_some(REOPEN_EVERY), &mut jobs)
            {
                break;
            }
            if broken {
                jobs.drain(..)
                    .for_each(|job| job.fail(self.log.broken_error()));
                self.mend();
                continue;
            }
            let round = catch_unwind(AssertUnwindSafe(|| self.round(&mut jobs)));
            if round.is_err() {
                let why = "the log's writer panicked".to_owned();
                self.log.break_down(why, false);
                self.staged.fail(&self.log);
            }
        }
    }

    fn round(&mut self, jobs: &mut Vec<Job>) {
        for job in jobs.drain(..) {
            match job {
                Job::Append(job) => self.stage_append(job),
                Job::Commit(job) => self.stage_commit(job),
                Job::Edit(edit, done) => {
                    // An edit looks at what is on disk, so the one before must have arrived there.
                    if self.staged.edited.is_some() {
                        self.finish();
                    }
                    match self.stage_edit(edit) {
                        Ok(edited) => self.staged.edited = Some((edited, done)),
                        Err(error) => drop(done.send(Err(error))),
                    }
                }
            }
        }
        self.finish();
    }

    /// Writes what is staged and answers.
    fn finish(&mut self) {
        let open = std::mem::take(&mut self.staged.open);
        open.into_values().for_each(|appends| self.seal(appends));
        let written = self.log.check().map_err(|error| error.to_string());
        match written.and_then(|()| self.write()) {
            Ok(()) => self.publish(),
            Err(why) => {
                self.log.break_down(why, true);
                self.staged.fail(&self.log);
                self.batch.clear();
                self.broke = self.log.config.clock.instant();
            }
        }
    }

    /// Opens the database again, as a new program would: what is on disk then is what counts. Those
    /// whose writes failed do not know whether they are among it, and have been told so.
    fn mend(&mut self) {
        let since = self.log.config.clock.instant() - self.broke;
        if since < REOPEN_EVERY || !self.log.can_be_mended() {
            return;
        }
        match open::reopen(&self.log) {
            Ok(next_topic_id) => {
                self.next_topic_id = next_topic_id;
                self.tail.clear();
                self.tail_bytes = 0;
                self.log.mended();
            }
            Err(Error::Corrupt(why)) => self.log.break_down(why, false),
            Err(error) => {
                tracing::debug!(%error, "the log cannot be opened again yet");
                self.broke = self.log.config.clock.instant();
            }
        }
    }

    fn stage_append(&mut self, job: AppendJob) {
        if job.to.is_deleted() {
            return (job.done)(Err(job.to.unknown()));
        }
        let key = (job.to.topic_id, job.to.at.partition);
        let open = self.staged.open.entry(key).or_insert_with(|| OpenAppends {
            partition: job.to,
            builder: BlockBuilder::default(),
            done: Vec::new(),
        });
        let record = &job.record;
        let (key_bytes, value) = (record.key.as_deref(), record.value.as_deref());
        open.builder
            .push(0, record.timestamp, key_bytes, value, &record.headers);
        open.done.push(job.done);
        if open.builder.len() >= self.log.config.block_bytes
            && let Some(full) = self.staged.open.remove(&key)
        {
            self.seal(full);
        }
    }

    /// Ends the block of some appends.
    fn seal(&mut self, mut appends: OpenAppends) {
        let draft = appends.builder.take();
        let base = self.stage_block(&appends.partition, draft).base;
        self.staged.appended.push((base, appends.done));
    }

    fn stage_commit(&mut self, mut job: CommitJob) {
        if let Some((gone, _)) = job
            .drafts
            .iter()
            .find(|(partition, _)| partition.is_deleted())
        {
            let _ = job.done.send(Err(gone.unknown()));
            return;
        }
        let mut ends = Vec::with_capacity(job.drafts.len());
        for (partition, draft) in job.drafts {
            // Appends that came first keep their place.
            let key = (partition.topic_id, partition.at.partition);
            if let Some(appends) = self.staged.open.remove(&key) {
                self.seal(appends);
            }
            ends.push(self.stage_block(&partition, draft).last + 1);
        }
        if let Some(job) = &mut job.offsets {
            job.offsets.retain(|(partition, _)| !partition.is_deleted());
            for (partition, offset) in &job.offsets {
                let (topic, number) = (partition.topic_id, partition.at.partition);
                let key = layout::offset_key(topic, number, &job.group.id);
                self.batch.put(key, offset.to_be_bytes());
            }
        }
        self.staged.committed.push(Committed {
            offsets: job.offsets,
            ends,
            done: job.done,
        });
    }

    /// Gives a draft its offsets and puts it into the batch.
    fn stage_block(&mut self, partition: &Arc<Partition>, draft: Draft) -> &Block {
        let base = partition.take_offsets(draft.count);
        let block = draft.at(base);
        self.batch.put(partition.block_key(base), &block.bytes);
        self.staged.blocks.push((partition.clone(), block));
        let (_, block) = self.staged.blocks.last().expect("it was pushed just now");
        block
    }

    fn stage_edit(&mut self, edit: Edit) -> Result<Edited> {
        match edit {
            Edit::CreateTopics(new) => self.stage_create(new),
            Edit::DeleteTopics(names) => Ok(self.stage_delete(&names)),
            Edit::DeleteBefore(partition, offset) => self.stage_low(partition, offset),
            Edit::Replace {
                partition,
                low,
                remove,
                insert,
            } => {
                if partition.is_deleted() || partition.low() != low {
                    return Err(Error::State("records were deleted during compaction"));
                }
                for base in remove {
                    self.batch.delete(partition.block_key(base));
                }
                for block in insert {
                    self.batch
                        .put(partition.block_key(block.base), &block.bytes);
                }
                Ok(Edited::Nothing)
            }
            Edit::Cleaned(partition, cleaned) => {
                if partition.is_deleted() {
                    return Err(partition.unknown());
                }
                let key = layout::cleaned_key(partition.topic_id, partition.at.partition);
                self.batch.put(key, layout::to_json(&cleaned));
                Ok(Edited::Cleaned(partition, cleaned))
            }
        }
    }

    /// Creates all of them, or says why one cannot be.
    fn stage_create(&mut self, new: Vec<NewTopic>) -> Result<Edited> {
        let mut created: Vec<Arc<Topic>> = Vec::new();
        for new in new {
            let twice = created.iter().find(|topic| topic.name == new.name).cloned();
            let Some(topic) = twice.or_else(|| self.log.topic(&new.name)) else {
                let id = self.next_topic_id + created.len() as u32;
                created.push(Arc::new(Topic::new(
                    id,
                    new.name,
                    new.partitions,
                    new.cleanup,
                )));
                continue;
            };
            let has = topic.partitions.len() as u32;
            if has != new.partitions {
                return Err(Error::PartitionCount {
                    topic: new.name.to_string(),
                    has,
                    wanted: new.partitions,
                });
            }
        }
        if created.is_empty() {
            return Ok(Edited::Nothing);
        }
        self.next_topic_id += created.len() as u32;
        let identity = Identity {
            format: layout::FORMAT,
            cluster_id: self.log.cluster_id.clone(),
            next_topic_id: self.next_topic_id,
        };
        self.batch.put(layout::IDENTITY, layout::to_json(&identity));
        for topic in &created {
            let partitions = topic.partitions.len() as u32;
            let stored = StoredTopic::new(topic.id, partitions, topic.cleanup);
            self.batch
                .put(layout::topic_key(&topic.name), layout::to_json(&stored));
        }
        Ok(Edited::Created(created))
    }

    fn stage_delete(&mut self, names: &[String]) -> Edited {
        let topics: Vec<_> = names
            .iter()
            .filter_map(|name| self.log.topic(name))
            .collect();
        for topic in &topics {
            self.batch.delete(layout::topic_key(&topic.name));
            for (from, to) in layout::topic_ranges(topic.id) {
                self.batch.delete_range(from, to);
            }
            // From here on nothing is added; the ranges also cover what this batch has for it
            // already.
            topic
                .partitions
                .iter()
                .for_each(|partition| partition.delete());
        }
        Edited::Deleted(topics)
    }

    fn stage_low(&mut self, partition: Arc<Partition>, offset: i64) -> Result<Edited> {
        if partition.is_deleted() {
            return Err(partition.unknown());
        }
        let low = partition.low();
        if offset <= low {
            return Ok(Edited::Nothing);
        }
        if offset > partition.end() {
            return Err(partition.out_of_range(offset));
        }
        // The block around the offset stays whole; readers skip its beginning.
        let first = partition.stored_base(&self.log, low)?;
        let kept = partition
            .stored_base(&self.log, offset)?
            .unwrap_or(offset)
            .min(offset);
        if let Some(first) = first.filter(|&first| first < kept) {
            self.batch
                .delete_range(partition.block_key(first), partition.block_key(kept));
        }
        let key = layout::low_key(partition.topic_id, partition.at.partition);
        self.batch.put(key, offset.to_be_bytes());
        partition.set_low(offset);
        Ok(Edited::Nothing)
    }

    fn write(&mut self) -> Result<(), String> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut durably = WriteOptions::default();
        durably.set_sync(true);
        let batch = std::mem::take(&mut self.batch);
        self.log.write(batch, &durably)?;
        self.log.counts.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything visible, tells those who wait for it, and wakes the readers.
    fn publish(&mut self) {
        let mut staged = std::mem::take(&mut self.staged);
        for (partition, block) in staged.blocks.drain(..) {
            self.publish_block(partition, block);
        }
        self.evict();
        let counts = &self.log.counts;
        counts.tail_bytes.store(self.tail_bytes, Ordering::Relaxed);
        for committed in staged.committed.drain(..) {
            if let Some(job) = committed.offsets {
                job.group.publish_offsets(&job.offsets);
                drop(job.pass);
            }
            let _ = committed.done.send(Ok(committed.ends));
        }
        if let Some((edited, done)) = staged.edited.take() {
            self.publish_edit(edited);
            let _ = done.send(Ok(()));
        }
        for (base, done) in staged.appended.drain(..) {
            for (offset, done) in (base..).zip(done) {
                call(done, Ok(offset));
            }
        }
    }

    fn publish_block(&mut self, partition: Arc<Partition>, block: Block) {
        let counts = &self.log.counts;
        counts
            .records
            .fetch_add(u64::from(block.count), Ordering::Relaxed);
        counts.blocks.fetch_add(1, Ordering::Relaxed);
        counts
            .bytes
            .fetch_add(block.bytes.len() as u64, Ordering::Relaxed);
        let bytes = block.bytes.len() + BLOCK_OVERHEAD_BYTES;
        partition.publish(block);
        partition.ring();
        self.tail.push_back((partition, bytes));
        self.tail_bytes += bytes;
    }

    fn evict(&mut self) {
        while self.tail_bytes > self.log.config.tail_cache_bytes
            && let Some((partition, bytes)) = self.tail.pop_front()
        {
            partition.evict();
            self.tail_bytes -= bytes;
        }
    }

    fn tell_groups(&self, changed: &[Arc<Topic>]) {
        for group in self.log.groups() {
            changed.iter().for_each(|topic| group.topic_changed(topic));
        }
    }

    fn publish_edit(&self, edited: Edited) {
        match edited {
            Edited::Nothing => {}
            Edited::Created(topics) => {
                topics
                    .iter()
                    .for_each(|topic| self.log.add_topic(topic.clone()));
                self.tell_groups(&topics);
            }
            Edited::Deleted(topics) => {
                topics
                    .iter()
                    .for_each(|topic| self.log.remove_topic(&topic.name));
                self.tell_groups(&topics);
            }
            Edited::Cleaned(partition, cleaned) => partition.set_cleaned(cleaned),
        }
    }
}

impl Staged {
    /// Answers everybody that nothing was done.
    fn fail(&mut self, log: &Log) {
        let staged = std::mem::take(self);
        for committed in staged.committed {
            let _ = committed.done.send(Err(log.broken_error()));
        }
        if let Some((_, done)) = staged.edited {
            let _ = done.send(Err(log.broken_error()));
        }
        let open = staged.open.into_values().map(|open| open.done);
        let waiting = staged
            .appended
            .into_iter()
            .map(|(_, done)| done)
            .chain(open);
        for done in waiting.flatten() {
            call(done, Err(log.broken_error()));
        }
    }
}

/// Calls back; a panic there is the caller's and must not stop the log.
fn call(done: Appended, result: Result<i64>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a callback of an append panicked");
    }
}
