//! Dead letters: records that a sink cannot write, kept with their origin and the reason.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use millstream_broker::{Appender, OwnedRecord, TopicPartition};
use millstream_topology::BoxError;

use crate::Message;

/// A record that could not be projected or written.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The sink that gave up on it.
    pub sink: String,
    /// The record.
    pub message: Message,
    /// Why, with all causes.
    pub reason: String,
}

/// Takes dead letters in.
///
/// The sink goes on only when the letter is safe; after a crash or a takeover it may come again,
/// with the same topic, partition and offset. The table `sink_dead_letters` has each exactly once.
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps the letter durably.
    fn put(
        &self,
        letter: DeadLetter,
    ) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + '_>>;
}

/// Appends dead letters to a topic, with these headers:
///
/// `millstream.sink`, `millstream.topic`, `millstream.partition`, `millstream.offset`,
/// `millstream.error`, behind the record's own.
pub struct TopicDeadLetters {
    appender: Arc<dyn Appender>,
    topic: Arc<str>,
    partitions: u32,
}

impl TopicDeadLetters {
    /// Dead letters go to that topic.
    ///
    /// # Panics
    /// When it has no partitions.
    pub fn new(appender: Arc<dyn Appender>, topic: impl Into<Arc<str>>, partitions: u32) -> Self {
        assert!(partitions > 0, "a topic has partitions");
        Self {
            appender,
            topic: topic.into(),
            partitions,
        }
    }

    fn record(&self, letter: DeadLetter) -> OwnedRecord {
        let message = letter.message;
        let mut headers = message.headers;
        let mut header = |name: &str, value: String| headers.push(name, Bytes::from(value));
        header("millstream.sink", letter.sink);
        header("millstream.topic", message.topic.to_string());
        header("millstream.partition", message.partition.to_string());
        header("millstream.offset", message.offset.to_string());
        header("millstream.error", letter.reason);
        let partition = message.partition.unsigned_abs() % self.partitions;
        OwnedRecord {
            to: TopicPartition::new(self.topic.clone(), partition.cast_signed()),
            timestamp: message.timestamp,
            key: message.key,
            value: message.value,
            headers,
        }
    }
}

impl DeadLetters for TopicDeadLetters {
    fn put(
        &self,
        letter: DeadLetter,
    ) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + '_>> {
        let record = self.record(letter);
        Box::pin(async move {
            let (done, appended) = tokio::sync::oneshot::channel();
            let done = Box::new(move |result| drop(done.send(result)));
            self.appender.append(record, done)?;
            appended.await??;
            Ok(())
        })
    }
}

/// An error and its causes, in one line; some libraries' messages hold their cause already.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !line.contains(&message) {
            line.push_str(": ");
            line.push_str(&message);
        }
        source = error.source();
    }
    line
}
