//! A transactional producer: gathers a transaction in memory and hands it to the log's writer as
//! one piece.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    block::{BlockBuilder, Draft},
    group::Proof,
    log::{Log, Running},
    partition::{Partition, lock},
    queue::{CommitJob, Job, OffsetsJob},
};
use crate::{Error, GroupMetadata, Outgoing, Producer, ProducerError, TopicIx, TopicPartition};

/// Who holds a transactional id.
#[derive(Default)]
pub(super) struct ProducerSlot {
    /// The number of the latest `init`; only that one may write.
    epoch: AtomicU64,
    committing: Mutex<bool>,
    committed: Condvar,
}

impl ProducerSlot {
    /// Waits for a commit on its way, then fences all producers before.
    fn init(&self) -> u64 {
        let _idle = self
            .committed
            .wait_while(lock(&self.committing), |committing| *committing)
            .unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn holds(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::SeqCst) == epoch
    }

    /// Keeps `init` waiting until the pass is dropped; `None` when fenced.
    fn begin_commit(&self, epoch: u64) -> Option<SlotPass<'_>> {
        let mut committing = lock(&self.committing);
        self.holds(epoch).then(|| {
            *committing = true;
            SlotPass(self)
        })
    }
}

struct SlotPass<'a>(&'a ProducerSlot);

impl Drop for SlotPass<'_> {
    fn drop(&mut self) {
        *lock(&self.0.committing) = false;
        self.0.committed.notify_all();
    }
}

/// A producer of the embedded log.
pub(super) struct EmbeddedProducer {
    running: Arc<Running>,
    transactional_id: String,
    slot: Arc<ProducerSlot>,
    /// 0 before `init`.
    epoch: u64,
    /// That of the log when this was made.
    term: u64,
    open: bool,
    topics: Vec<NamedTopic>,
    numbers: HashMap<Arc<str>, TopicIx>,
    buffers: Vec<Buffer>,
    /// The buffers that this transaction has written to.
    touched: Vec<usize>,
    /// Bytes in finished drafts of this transaction.
    drafted_bytes: usize,
    offsets: Option<Offsets>,
}

struct NamedTopic {
    name: Arc<str>,
    /// Index into the buffers by partition.
    buffers: Vec<Option<usize>>,
}

/// The records of this transaction for one partition.
struct Buffer {
    topic: TopicIx,
    partition: Arc<Partition>,
    builder: BlockBuilder,
    drafts: Vec<Draft>,
    /// Behind the newest record that this producer committed there.
    end: Option<i64>,
}

struct Offsets {
    proof: Proof,
    offsets: Vec<(Arc<Partition>, i64)>,
}

impl EmbeddedProducer {
    pub(super) fn new(running: Arc<Running>, transactional_id: &str) -> Self {
        let slot = running.log.producer_slot(transactional_id);
        let term = running.log.term();
        Self {
            running,
            transactional_id: transactional_id.to_owned(),
            slot,
            epoch: 0,
            term,
            open: false,
            topics: Vec::new(),
            numbers: HashMap::new(),
            buffers: Vec::new(),
            touched: Vec::new(),
            drafted_bytes: 0,
            offsets: None,
        }
    }

    fn log(&self) -> &Log {
        &self.running.log
    }

    /// That this producer may go on, with a transaction open or not.
    fn check(&self, open: bool) -> Result<(), ProducerError> {
        if self.epoch == 0 {
            return Err(fatal(Error::State("the producer was not initialised")));
        }
        if !self.slot.holds(self.epoch) {
            return Err(self.fenced());
        }
        self.log().check().map_err(fatal)?;
        if self.term != self.log().term() {
            return Err(fatal(Error::State(
                "the log was opened again; make a new producer",
            )));
        }
        match (open, self.open) {
            (true, false) => Err(fatal(Error::State("no transaction is open"))),
            (false, true) => Err(fatal(Error::State("a transaction is open already"))),
            (true, true) | (false, false) => Ok(()),
        }
    }

    fn fenced(&self) -> ProducerError {
        ProducerError::Fenced(Error::Fenced(self.transactional_id.clone()).into())
    }

    /// The buffer of a partition; the first record of the transaction there marks it as touched.
    #[inline]
    fn buffer(&mut self, topic: TopicIx, partition: i32) -> Result<usize, ProducerError> {
        let known = self
            .topics
            .get(topic.0 as usize)
            .and_then(|named| named.buffers.get(partition as usize).copied().flatten());
        match known {
            Some(ix) if !self.buffers[ix].partition.is_deleted() => Ok(ix),
            Some(_) | None => self.find_buffer(topic, partition),
        }
    }

    #[cold]
    fn find_buffer(&mut self, topic: TopicIx, partition: i32) -> Result<usize, ProducerError> {
        let Some(named) = self.topics.get_mut(topic.0 as usize) else {
            return Err(fatal(Error::State(
                "the topic was not numbered by this producer",
            )));
        };
        let at = TopicPartition::new(named.name.clone(), partition);
        let at = self.running.log.partition(&at).map_err(abort)?;
        let number = partition as usize;
        if named.buffers.len() <= number {
            named.buffers.resize(number + 1, None);
        }
        // A topic of the same name may have taken the place of a deleted one.
        let ix = named.buffers[number].unwrap_or(self.buffers.len());
        named.buffers[number] = Some(ix);
        let buffer = Buffer {
            topic,
            partition: at,
            builder: BlockBuilder::default(),
            drafts: Vec::new(),
            end: None,
        };
        if ix < self.buffers.len() {
            self.buffers[ix] = buffer;
        } else {
            self.buffers.push(buffer);
        }
        Ok(ix)
    }

    fn forget_transaction(&mut self) {
        for ix in self.touched.drain(..) {
            self.buffers[ix].builder.clear();
            self.buffers[ix].drafts.clear();
        }
        self.drafted_bytes = 0;
        self.offsets = None;
        self.open = false;
    }

    /// Moves the transaction's records out of the buffers; also tells each draft's buffer.
    fn take_drafts(&mut self) -> (Vec<usize>, Vec<(Arc<Partition>, Draft)>) {
        let mut owners = Vec::with_capacity(self.touched.len());
        let mut drafts = Vec::with_capacity(self.touched.len());
        for &ix in &self.touched {
            let buffer = &mut self.buffers[ix];
            if !buffer.builder.is_empty() {
                buffer.drafts.push(buffer.builder.take());
            }
            for draft in buffer.drafts.drain(..) {
                owners.push(ix);
                drafts.push((buffer.partition.clone(), draft));
            }
        }
        (owners, drafts)
    }

    fn take_offsets(&mut self) -> Result<Option<OffsetsJob>, ProducerError> {
        let Some(Offsets { proof, offsets }) = self.offsets.take() else {
            return Ok(None);
        };
        let pass = proof
            .group
            .begin_commit(&proof, &offsets)
            .map_err(|why| ProducerError::Abort(why.into()))?;
        Ok(Some(OffsetsJob {
            group: proof.group.clone(),
            offsets,
            pass,
        }))
    }
}

impl Producer for EmbeddedProducer {
    fn init(&mut self) -> Result<(), ProducerError> {
        self.log().check().map_err(fatal)?;
        self.forget_transaction();
        self.epoch = self.slot.init();
        Ok(())
    }

    fn topic(&mut self, name: &str) -> TopicIx {
        if let Some(ix) = self.numbers.get(name) {
            return *ix;
        }
        let ix = TopicIx(self.topics.len() as u32);
        let name: Arc<str> = name.into();
        self.numbers.insert(name.clone(), ix);
        self.topics.push(NamedTopic {
            name,
            buffers: Vec::new(),
        });
        ix
    }

    fn begin(&mut self) -> Result<(), ProducerError> {
        self.check(false)?;
        self.open = true;
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), ProducerError> {
        self.check(true)?;
        let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let config = &self.running.log.config;
        let (record_max, transaction_max) = (config.record_bytes, config.transaction_bytes);
        let block_bytes = config.block_bytes;
        if bytes > record_max {
            let why = format!("record is too large. bytes={bytes}, max={record_max}");
            return Err(ProducerError::Abort(why.into()));
        }
        let ix = self.buffer(record.topic, record.partition)?;
        let buffer = &mut self.buffers[ix];
        if buffer.builder.is_empty() && buffer.drafts.is_empty() {
            self.touched.push(ix);
        }
        let before = buffer.builder.len();
        buffer.builder.push(
            0,
            record.timestamp,
            record.key,
            record.value,
            record.headers,
        );
        self.drafted_bytes += buffer.builder.len() - before;
        if buffer.builder.len() >= block_bytes {
            buffer.drafts.push(buffer.builder.take());
        }
        if self.drafted_bytes > transaction_max {
            let why = format!("transaction is too large. max={transaction_max}");
            return Err(ProducerError::Abort(why.into()));
        }
        Ok(())
    }

    /// Nothing to wait for: records travel with the commit.
    fn drain(&mut self) -> Result<(), ProducerError> {
        self.check(self.open)
    }

    fn send_offsets(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
    ) -> Result<(), ProducerError> {
        self.check(true)?;
        let Some(proof) = group.get::<Proof>() else {
            return Err(fatal(Error::State("the group metadata is of another log")));
        };
        let offsets: Vec<(Arc<Partition>, i64)> = offsets
            .iter()
            .map(|(at, offset)| Ok((self.log().partition(at).map_err(abort)?, *offset)))
            .collect::<Result<_, ProducerError>>()?;
        let partitions = offsets.iter().map(|(partition, _)| partition);
        proof
            .group
            .check(proof, partitions)
            .map_err(|why| ProducerError::Abort(why.into()))?;
        let proof = proof.clone();
        match &mut self.offsets {
            Some(earlier) => {
                earlier.offsets.extend(offsets);
                earlier.proof = proof;
            }
            None => self.offsets = Some(Offsets { proof, offsets }),
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ProducerError> {
        self.check(true)?;
        let slot = self.slot.clone();
        let Some(_pass) = slot.begin_commit(self.epoch) else {
            return Err(self.fenced());
        };
        let offsets = self.take_offsets()?;
        let (owners, drafts) = self.take_drafts();
        if !drafts.is_empty() || offsets.is_some() {
            let ends = submit(self.log(), drafts, offsets)?;
            for (ix, end) in owners.into_iter().zip(ends) {
                self.buffers[ix].end = Some(end);
            }
        }
        self.forget_transaction();
        Ok(())
    }

    fn abort(&mut self) -> Result<(), ProducerError> {
        if self.epoch != 0 && !self.slot.holds(self.epoch) {
            return Err(self.fenced());
        }
        self.forget_transaction();
        Ok(())
    }

    fn ends(&self, each: &mut dyn FnMut(TopicIx, i32, i64)) {
        for buffer in &self.buffers {
            if let Some(end) = buffer.end {
                each(buffer.topic, buffer.partition.at.partition, end);
            }
        }
    }
}

/// Hands a transaction to the writer and waits until it is durable.
fn submit(
    log: &Log,
    drafts: Vec<(Arc<Partition>, Draft)>,
    offsets: Option<OffsetsJob>,
) -> Result<Vec<i64>, ProducerError> {
    let (done, answer) = crossbeam_channel::bounded(1);
    let job = Job::Commit(CommitJob {
        drafts,
        offsets,
        done,
    });
    log.queue.submit(job).map_err(fatal)?;
    let answer = answer.recv().unwrap_or_else(|_| Err(log.broken_error()));
    answer.map_err(|error| match error {
        Error::UnknownPartition(_) => abort(error),
        other => fatal(other),
    })
}

fn abort(error: Error) -> ProducerError {
    ProducerError::Abort(error.into())
}

fn fatal(error: Error) -> ProducerError {
    ProducerError::Fatal(error.into())
}
