//! Single records from outside, durable one by one.

use std::{sync::Mutex, time::Duration};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};

use super::{config::KafkaConfig, context::Context, create, retire, triage};
use crate::{Appended, Appender, Error, OwnedRecord, Result, TopicPartition};

/// How long records that still wait may hold up the end of the program.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// An idempotent producer with a thread that serves its deliveries.
pub(super) struct KafkaAppender {
    producer: Option<ThreadedProducer<AppendContext>>,
}

impl KafkaAppender {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self> {
        let context = AppendContext(Context::new("appender"));
        Ok(Self {
            producer: Some(create(&config.appender(), context)?),
        })
    }
}

/// What a record carries while it is on its way.
struct Waiting {
    to: TopicPartition,
    // librdkafka's side wants it to be `Sync`; the mutex is never contended.
    done: Mutex<Option<Appended>>,
}

impl Waiting {
    fn tell(self, result: Result<i64>) {
        let done = self
            .done
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(done) = done {
            done(result);
        }
    }
}

struct AppendContext(Context);

impl ClientContext for AppendContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, line: &str) {
        self.0.log(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for AppendContext {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        use rdkafka::Message as _;
        let result = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(refused(&waiting.to, error.clone())),
        };
        waiting.tell(result);
    }
}

fn refused(to: &TopicPartition, error: KafkaError) -> Error {
    if triage::is_unknown(error.rdkafka_error_code()) {
        return Error::UnknownPartition(to.clone());
    }
    Error::client(format!("record was not appended. to=`{to}`"), error)
}

impl Appender for KafkaAppender {
    fn append(&self, record: OwnedRecord, done: Appended) -> Result<()> {
        let producer = self
            .producer
            .as_ref()
            .expect("the producer is taken only on drop");
        let waiting = Box::new(Waiting {
            to: record.to.clone(),
            done: Mutex::new(Some(done)),
        });
        let mut outgoing = BaseRecord::with_opaque_to(&record.to.topic, waiting)
            .partition(record.to.partition)
            // Zero means "now" to librdkafka and cannot be sent: the nearest moment is.
            .timestamp(if record.timestamp == 0 {
                1
            } else {
                record.timestamp
            });
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.value.as_deref();
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            outgoing.headers = Some(record.headers.iter().fold(headers, |headers, header| {
                headers.insert(Header {
                    key: &header.name,
                    value: header.value.as_deref(),
                })
            }));
        }
        // The bytes are copied; `done` was not called when the record comes back.
        producer.send::<[u8], [u8]>(outgoing).map_err(|(error, _)| {
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
                Error::Full
            } else {
                refused(&record.to, error)
            }
        })
    }
}

impl Drop for KafkaAppender {
    fn drop(&mut self) {
        use rdkafka::producer::Producer as _;
        let producer = self.producer.take();
        let flushed = producer.map(|producer| {
            // What does not get out in time is told to its waiters as failed by the client's own
            // end.
            let flushed = producer.flush(CLOSE_WAIT / 2);
            (producer, flushed)
        });
        retire("appender", flushed, CLOSE_WAIT / 2);
    }
}
