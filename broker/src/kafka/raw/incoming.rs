//! Batches in: the partitions of a consumer, led into one queue.

use std::{
    ffi::{CStr, CString, c_void},
    ptr::{self, NonNull},
    sync::Arc,
};

use millstream_topology::{Header, Headers};
use rdkafka::{
    bindings as sys,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use super::{super::context::Signal, NO_ERROR, Queue};

extern "C" fn raise(_: *mut sys::rd_kafka_t, signal: *mut c_void) {
    // SAFETY: `signal` points into the `Arc<Signal>` held by the `Joint` that registered it, and
    // the callback is taken off, under the queue's lock, before that `Arc` goes.
    unsafe { &*signal.cast::<Signal>() }.raise();
}

/// One queue into which the partitions of a consumer are led, read in batches.
///
/// The queue of the consumer itself must not be read this way: a rebalance met there would be
/// answered by librdkafka with giving all partitions back.
pub(in super::super) struct Joint<C: ConsumerContext + 'static> {
    // Order of fields is order of dropping: queues before the client, the signal last.
    joint: Queue,
    events: Queue,
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    consumer: Arc<BaseConsumer<C>>,
    _signal: Arc<Signal>,
}

// SAFETY: Threads. The buffer's pointers are only alive inside a `Batch`, which borrows this
// mutably.
unsafe impl<C: ConsumerContext + 'static> Send for Joint<C> {}

/// The place where one partition's records arrive; see [`Joint::lead`].
pub(in super::super) struct Source(Queue);

impl<C: ConsumerContext + 'static> Joint<C> {
    /// `signal` is raised when records or events arrive. At most `batch` messages are taken at
    /// once.
    pub(in super::super) fn new(
        consumer: Arc<BaseConsumer<C>>,
        signal: Arc<Signal>,
        batch: usize,
    ) -> Result<Self, KafkaError> {
        let none = || KafkaError::ClientCreation("no queue".to_owned());
        let client = consumer.client().native_ptr();
        // SAFETY: Alive: `consumer` is stored next to the queues.
        let joint = NonNull::new(unsafe { sys::rd_kafka_queue_new(client) }).ok_or_else(none)?;
        let joint = Queue(joint);
        // SAFETY: as above.
        let events = unsafe { sys::rd_kafka_queue_get_consumer(client) };
        let events = Queue(NonNull::new(events).ok_or_else(none)?);
        for queue in [&joint, &events] {
            let opaque = Arc::as_ptr(&signal).cast_mut().cast();
            // SAFETY: `signal` is stored next to the queues and dropped after them.
            unsafe { sys::rd_kafka_queue_cb_event_enable(queue.0.as_ptr(), Some(raise), opaque) };
        }
        Ok(Self {
            joint,
            events,
            buffer: vec![ptr::null_mut(); batch],
            consumer,
            _signal: signal,
        })
    }

    /// The consumer whose partitions these are.
    pub(in super::super) fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        &self.consumer
    }

    /// How many events (rebalances, errors, log lines) wait for the consumer's own poll.
    pub(in super::super) fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// The place where a partition's records arrive, or `None` when there is no such name.
    /// It must be dropped before this is.
    pub(in super::super) fn source(&self, topic: &str, partition: i32) -> Option<Source> {
        let name = CString::new(topic).ok()?;
        let client = self.consumer.client().native_ptr();
        // SAFETY: Alive: the caller drops the source before `self`, which holds the client.
        let queue = unsafe { sys::rd_kafka_queue_get_partition(client, name.as_ptr(), partition) };
        Some(Source(Queue(NonNull::new(queue)?)))
    }

    /// Leads a partition's records here. Must be done before the partition is assigned, because
    /// what arrives between the assignment and the lead would go to the consumer's own queue.
    pub(in super::super) fn lead(&self, source: &Source) {
        // SAFETY: Alive.
        unsafe { sys::rd_kafka_queue_forward(source.0.0.as_ptr(), self.joint.0.as_ptr()) };
    }

    /// Lets a partition's records pile up at their source, up to the fetch buffer's bound.
    pub(in super::super) fn hold(&self, source: &Source) {
        // SAFETY: Alive.
        unsafe { sys::rd_kafka_queue_forward(source.0.0.as_ptr(), ptr::null_mut()) };
    }

    /// Where librdkafka believes this partition's reading to be: behind the last message, or behind
    /// the last marker taken by [`take`](Self::take), which is seen nowhere else.
    pub(in super::super) fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let name = CString::new(topic).ok()?;
        let client = self.consumer.client().native_ptr();
        // SAFETY: Owned: the list is given back here; its entry belongs to it.
        unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(1);
            let entry = sys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), partition);
            let told = sys::rd_kafka_position(client, list) == NO_ERROR && (*entry).err == NO_ERROR;
            let position = (told && (*entry).offset >= 0).then_some((*entry).offset);
            sys::rd_kafka_topic_partition_list_destroy(list);
            position
        }
    }

    /// Takes what has arrived, at most `limit` messages, without waiting.
    pub(in super::super) fn take(&mut self, limit: usize) -> Batch<'_> {
        let limit = limit.min(self.buffer.len());
        let buffer = self.buffer.as_mut_ptr();
        // SAFETY: Alive; `buffer` has room for `limit` pointers. A timeout of 0 returns at once:
        // the call would otherwise wait until the buffer is full.
        let taken =
            unsafe { sys::rd_kafka_consume_batch_queue(self.joint.0.as_ptr(), 0, buffer, limit) };
        let taken = usize::try_from(taken).unwrap_or(0);
        Batch {
            messages: self.buffer.get_mut(..taken).unwrap_or_default(),
        }
    }
}

/// Messages taken from a joint queue, given back when dropped.
pub(in super::super) struct Batch<'a> {
    messages: &'a mut [*mut sys::rd_kafka_message_t],
}

impl Batch<'_> {
    pub(in super::super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(in super::super) fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        // SAFETY: Owned: the pointers are valid until this batch is dropped, which ends the borrow.
        self.messages
            .iter()
            .map(|&message| Message(unsafe { &*message }))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in self.messages.iter() {
            // SAFETY: Owned: each message was handed out once, and no borrow of it is left.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

/// A record, or an error of one partition.
#[derive(Clone, Copy)]
pub(in super::super) struct Message<'a>(&'a sys::rd_kafka_message_t);

impl<'a> Message<'a> {
    /// The error that this message is instead of a record.
    pub(in super::super) fn error(&self) -> Option<RDKafkaErrorCode> {
        (self.0.err != NO_ERROR).then(|| self.0.err.into())
    }

    /// A number that stands for the topic as long as it is assigned.
    pub(in super::super) fn topic_number(&self) -> usize {
        self.0.rkt as usize
    }

    pub(in super::super) fn topic(&self) -> &'a str {
        if self.0.rkt.is_null() {
            return "";
        }
        // SAFETY: Owned: the message holds its topic, whose name lives as long.
        let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.0.rkt)) };
        name.to_str().unwrap_or("")
    }

    pub(in super::super) fn partition(&self) -> i32 {
        self.0.partition
    }

    pub(in super::super) fn offset(&self) -> i64 {
        self.0.offset
    }

    pub(in super::super) fn timestamp(&self) -> i64 {
        // SAFETY: Owned. The kind of timestamp is not wanted.
        unsafe { sys::rd_kafka_message_timestamp(self.0, ptr::null_mut()) }
    }

    pub(in super::super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: Owned: key and length belong together and live as long as the message.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    pub(in super::super) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    pub(in super::super) fn headers(&self) -> Headers {
        let mut headers = ptr::null_mut();
        // SAFETY: Owned: the headers belong to the message.
        if unsafe { sys::rd_kafka_message_headers(self.0, &mut headers) } != NO_ERROR {
            return Headers::default();
        }
        // SAFETY: as above; the name ends with a zero, the value has a length.
        (0..)
            .map_while(|at| unsafe { header(headers, at) })
            .collect()
    }
}

/// Null and empty are different values.
///
/// # Safety
/// `at` is null or the start of `len` bytes that live for `'a`.
unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast(), len) })
}

/// # Safety
/// `headers` belongs to a message that is alive.
unsafe fn header(headers: *const sys::rd_kafka_headers_t, at: usize) -> Option<Header> {
    let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
    // SAFETY: the caller's; the three results are written before they are read.
    let found =
        unsafe { sys::rd_kafka_header_get_all(headers, at, &mut name, &mut value, &mut len) };
    if found != NO_ERROR {
        return None;
    }
    // SAFETY: the caller's; names end with a zero.
    let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, len)) };
    Some(Header {
        name: name.to_string_lossy().into(),
        value: value.map(bytes::Bytes::copy_from_slice),
    })
}

/// The generation in which a consumer is a member of its group; negative before it has joined.
pub(in super::super) fn generation<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> i32 {
    // SAFETY: Alive for the call; the metadata is given back below.
    let metadata = unsafe { sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
    if metadata.is_null() {
        return -1;
    }
    // SAFETY: Owned.
    unsafe {
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// What a consumer is called in its group; `None` while it has no place there.
pub(in super::super) fn member_id<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
) -> Option<String> {
    let client = consumer.client().native_ptr();
    // SAFETY: Alive for the call; the copied text is given back below.
    let id = unsafe { sys::rd_kafka_memberid(client) };
    if id.is_null() {
        return None;
    }
    // SAFETY: Owned: a text that ends with a zero.
    unsafe {
        let name = CStr::from_ptr(id).to_string_lossy().into_owned();
        sys::rd_kafka_mem_free(client, id.cast());
        (!name.is_empty()).then_some(name)
    }
}
