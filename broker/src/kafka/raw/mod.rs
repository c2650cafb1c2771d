//! The few calls of librdkafka that rdkafka does not wrap: batches in, records out by topic handle,
//! and one event queue read without a thread or an `Arc` per record.
//!
//! All unsafe code of the crate is in this folder. Three rules keep it sound, and every `SAFETY`
//! comment refers to one of them:
//!
//! 1. **Alive**: a pointer made from a client is kept next to an `Arc` of that client and is given
//!    back before the `Arc` is dropped (`Drop` bodies run before fields are dropped).
//! 2. **Owned**: what librdkafka hands out (messages, events, errors, headers) is wrapped at once
//!    in a type that gives it back exactly once, and borrows from it carry its lifetime.
//! 3. **Threads**: librdkafka's objects may be used from any thread; what is not synchronised by it
//!    (the message buffer) is behind `&mut self`.
#![expect(
    unsafe_code,
    reason = "librdkafka's batch calls are not wrapped by rdkafka"
)]

mod group;
mod incoming;
mod outgoing;

use std::{ptr, ptr::NonNull};

use rdkafka::{bindings as sys, types::RDKafkaRespErr};

pub(super) use self::{
    group::members,
    incoming::{Batch, Joint, Message, Source, generation, member_id},
    outgoing::{Delivery, Events, Topic},
};

const NO_ERROR: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;

/// A queue of a client.
struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: Threads.
unsafe impl Send for Queue {}
// SAFETY: Threads.
unsafe impl Sync for Queue {}

impl Queue {
    fn len(&self) -> usize {
        // SAFETY: Alive, by the owner of this queue.
        unsafe { sys::rd_kafka_queue_length(self.0.as_ptr()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: Alive and Owned; the callback, if there is one, is taken off before its argument
        // goes.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.0.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.0.as_ptr());
        }
    }
}
