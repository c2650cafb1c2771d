//! Records out by topic handle, and their deliveries back.

use std::{
    ffi::{CStr, CString, c_void},
    ptr::{self, NonNull},
    sync::Arc,
    time::Duration,
};

use millstream_topology::Headers;
use rdkafka::{
    ClientContext,
    bindings::{self as sys, rd_kafka_vtype_t as vtype},
    client::Client,
    config::RDKafkaLogLevel,
    producer::{BaseProducer, Producer, ProducerContext},
    types::RDKafkaErrorCode,
};

use super::{NO_ERROR, Queue};
use crate::Outgoing;

/// A producer's topic, so that a record needs no name.
pub(in super::super) struct Topic<C: ProducerContext + 'static> {
    topic: NonNull<sys::rd_kafka_topic_t>,
    producer: Arc<BaseProducer<C>>,
}

// SAFETY: Threads.
unsafe impl<C: ProducerContext + 'static> Send for Topic<C> {}

impl<C: ProducerContext + 'static> Topic<C> {
    /// `None` when there cannot be such a topic.
    pub(in super::super) fn new(producer: &Arc<BaseProducer<C>>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        let client = producer.client().native_ptr();
        // SAFETY: Alive: the producer is stored next to the topic.
        let topic = unsafe { sys::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut()) };
        Some(Self {
            topic: NonNull::new(topic)?,
            producer: Arc::clone(producer),
        })
    }

    /// Copies a record into the producer's buffer. `tag` comes back with its [`Delivery`].
    pub(in super::super) fn send(
        &self,
        record: &Outgoing<'_>,
        tag: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        let headers = OutgoingHeaders::new(record.headers)?;
        let entry = |vtype, u| sys::rd_kafka_vu_t { vtype, u };
        let mem = |bytes: Option<&[u8]>| sys::rd_kafka_vu_s__bindgen_ty_1 {
            mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                // An empty slice has an address, so it stays different from null.
                ptr: bytes.map_or(ptr::null_mut(), |b| b.as_ptr().cast_mut().cast()),
                size: bytes.map_or(0, <[u8]>::len),
            },
        };
        // Zero means "now" to librdkafka and cannot be sent: the nearest moment is.
        let timestamp = if record.timestamp == 0 {
            1
        } else {
            record.timestamp
        };
        type Value = sys::rd_kafka_vu_s__bindgen_ty_1;
        let list = [
            entry(
                vtype::RD_KAFKA_VTYPE_RKT,
                Value {
                    rkt: self.topic.as_ptr(),
                },
            ),
            entry(
                vtype::RD_KAFKA_VTYPE_PARTITION,
                Value {
                    i32_: record.partition,
                },
            ),
            entry(
                vtype::RD_KAFKA_VTYPE_MSGFLAGS,
                Value {
                    i: sys::RD_KAFKA_MSG_F_COPY,
                },
            ),
            entry(vtype::RD_KAFKA_VTYPE_KEY, mem(record.key)),
            entry(vtype::RD_KAFKA_VTYPE_VALUE, mem(record.value)),
            entry(vtype::RD_KAFKA_VTYPE_TIMESTAMP, Value { i64_: timestamp }),
            entry(
                vtype::RD_KAFKA_VTYPE_OPAQUE,
                Value {
                    ptr: tag as *mut c_void,
                },
            ),
            entry(vtype::RD_KAFKA_VTYPE_HEADERS, Value { headers: headers.0 }),
        ];
        // Without headers, the last entry is left out.
        let used = list.len() - usize::from(headers.0.is_null());
        let client = self.producer.client().native_ptr();
        // SAFETY: Alive; key and value are copied before the call returns; headers become
        // librdkafka's exactly when it returns no error.
        let error = unsafe { sys::rd_kafka_produceva(client, list.as_ptr(), used) };
        if error.is_null() {
            headers.given_away();
            return Ok(());
        }
        // SAFETY: Owned.
        unsafe {
            let code = sys::rd_kafka_error_code(error);
            sys::rd_kafka_error_destroy(error);
            Err(code.into())
        }
    }
}

impl<C: ProducerContext + 'static> Drop for Topic<C> {
    fn drop(&mut self) {
        // SAFETY: Alive and Owned.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

/// Headers on their way out; null when there are none.
struct OutgoingHeaders(*mut sys::rd_kafka_headers_t);

impl OutgoingHeaders {
    fn new(headers: &Headers) -> Result<Self, RDKafkaErrorCode> {
        if headers.is_empty() {
            return Ok(Self(ptr::null_mut()));
        }
        // SAFETY: Owned by the value made here.
        let list = Self(unsafe { sys::rd_kafka_headers_new(headers.len()) });
        for header in headers {
            let value = header.value.as_deref();
            // SAFETY: name and value are copied during the call; a null value has length 0.
            let error = unsafe {
                sys::rd_kafka_header_add(
                    list.0,
                    header.name.as_ptr().cast(),
                    header.name.len().cast_signed(),
                    value.map_or(ptr::null(), |v| v.as_ptr().cast()),
                    value.map_or(0, |v| v.len().cast_signed()),
                )
            };
            if error != NO_ERROR {
                return Err(error.into());
            }
        }
        Ok(list)
    }

    fn given_away(self) {
        std::mem::forget(self);
    }
}

impl Drop for OutgoingHeaders {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: Owned, and not given away.
            unsafe { sys::rd_kafka_headers_destroy(self.0) };
        }
    }
}

/// What became of a sent record: its tag, and its offset or error.
pub(in super::super) struct Delivery {
    pub(in super::super) tag: usize,
    pub(in super::super) result: Result<i64, RDKafkaErrorCode>,
}

/// A producer's events. rdkafka's own poll wraps every delivery in an `Arc` and waits its whole
/// time; this one returns with the first event.
pub(in super::super) struct Events<C: ProducerContext + 'static> {
    queue: Queue,
    producer: Arc<BaseProducer<C>>,
}

impl<C: ProducerContext + 'static> Events<C> {
    pub(in super::super) fn new(producer: &Arc<BaseProducer<C>>) -> Option<Self> {
        // SAFETY: Alive: the producer is stored next to the queue.
        let queue = unsafe { sys::rd_kafka_queue_get_main(producer.client().native_ptr()) };
        Some(Self {
            queue: Queue(NonNull::new(queue)?),
            producer: Arc::clone(producer),
        })
    }

    /// Waits for one event and handles it. False when there was none.
    pub(in super::super) fn serve(&self, wait: Duration, each: &mut dyn FnMut(Delivery)) -> bool {
        // SAFETY: Alive.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue.0.as_ptr(), timeout_ms(wait)) };
        let Some(event) = NonNull::new(event).map(Event) else {
            return false;
        };
        match event.kind() {
            sys::RD_KAFKA_EVENT_DR => event.deliveries(each),
            sys::RD_KAFKA_EVENT_LOG => event.log(self.producer.client()),
            _ => {}
        }
        true
    }

    /// Sends what is queued without waiting for `linger.ms`.
    ///
    /// A flush tells the broker threads not to linger, and lasts no longer than `at_most`: it
    /// cannot see the end itself, because the deliveries wait for [`serve`](Self::serve).
    pub(in super::super) fn hurry(&self, at_most: Duration) {
        // SAFETY: Alive. A timeout is what is expected here.
        unsafe { sys::rd_kafka_flush(self.producer.client().native_ptr(), timeout_ms(at_most)) };
    }
}

struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    fn kind(&self) -> i32 {
        // SAFETY: Owned.
        unsafe { sys::rd_kafka_event_type(self.0.as_ptr()) }
    }

    fn deliveries(&self, each: &mut dyn FnMut(Delivery)) {
        // SAFETY: Owned: the messages belong to the event; null ends them.
        while let Some(message) =
            unsafe { sys::rd_kafka_event_message_next(self.0.as_ptr()).as_ref() }
        {
            each(Delivery {
                tag: message._private as usize,
                result: if message.err == NO_ERROR {
                    Ok(message.offset)
                } else {
                    Err(message.err.into())
                },
            });
        }
    }

    fn log<C: ClientContext>(&self, client: &Client<C>) {
        let (mut fac, mut line, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: Owned: the texts belong to the event and end with a zero.
        let (fac, line) = unsafe {
            if sys::rd_kafka_event_log(self.0.as_ptr(), &mut fac, &mut line, &mut level) != 0 {
                return;
            }
            (
                CStr::from_ptr(fac).to_string_lossy(),
                CStr::from_ptr(line).to_string_lossy(),
            )
        };
        client
            .context()
            .log(log_level(level), fac.trim(), line.trim());
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: Owned.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

fn log_level(syslog: i32) -> RDKafkaLogLevel {
    match syslog {
        ..=0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}

fn timeout_ms(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}
