//! Reads partitions outside any group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::{
    config::KafkaConfig,
    context::{Context, Signal},
    create, deadline,
    joint_queue::JointQueue,
    retire,
};
use crate::{Error, Fetched, PartitionIx, Reader, Result, Start, TopicPartition};

const LOOK_EVERY: Duration = Duration::from_millis(100);

const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A reader of one or more partitions at once.
pub(super) struct KafkaReader {
    /// Holds the client; taken only when this is dropped.
    queue: Option<JointQueue<Context>>,
    starts: Vec<Start>,
    signal: Arc<Signal>,
    request_timeout: Duration,
}

impl KafkaReader {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self> {
        let consumer: BaseConsumer<_> = create(&config.reader(), Context::new("reader"))?;
        let signal = Arc::new(Signal::default());
        Ok(Self {
            queue: Some(JointQueue::new(Arc::new(consumer), Arc::clone(&signal))?),
            starts: Vec::new(),
            signal,
            request_timeout: config.request_timeout,
        })
    }

    fn queue(&mut self) -> &mut JointQueue<Context> {
        self.queue
            .as_mut()
            .expect("the queue is taken only when this is dropped")
    }

    /// Serves log lines and errors. Errors of partitions come with their records; the others pass.
    fn serve(&mut self) -> Result<()> {
        let queue = self.queue();
        while queue.events_waiting() > 0 {
            if let Some(Ok(_)) = queue.consumer().poll(Duration::ZERO) {
                return Err(Error::State("a record came through the queue of events"));
            }
        }
        Ok(())
    }
}

impl Reader for KafkaReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        self.starts = partitions.iter().map(|(_, start)| *start).collect();
        self.queue().assign(partitions)
    }

    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<()> {
        let until = deadline(wait);
        let mut woken = false;
        loop {
            self.serve()?;
            let taken = if limit > 0 {
                self.queue().take(limit, into)?
            } else {
                Default::default()
            };
            let left = until.saturating_duration_since(Instant::now());
            // Ends and markers move the position, which the caller may be waiting for. Markers are
            // taken without a word, so whatever woke this up may have been one.
            if taken.records || taken.end || woken || left.is_zero() {
                return Ok(());
            }
            woken = self.signal.wait(left.min(LOOK_EVERY));
        }
    }

    fn position(&mut self, partition: PartitionIx) -> Result<i64> {
        let wait = self.request_timeout;
        let start = self.starts.get(partition.0 as usize).copied();
        let queue = self.queue();
        let (of, position) = queue.position(partition)?;
        if let Some(position) = position {
            return Ok(position);
        }
        // Nothing was read yet from a place that only the brokers know.
        let of = of.clone();
        let ends = queue
            .consumer()
            .fetch_watermarks(&of.topic, of.partition, wait);
        let (low, high) =
            ends.map_err(|e| Error::client(format!("cannot ask for the ends. of=`{of}`"), e))?;
        Ok(if start == Some(Start::Latest) {
            high
        } else {
            low
        })
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        retire("reader", self.queue.take(), CLOSE_WAIT);
    }
}
