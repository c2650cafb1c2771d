//! Who is in a group, by the brokers' word.

use std::{
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
    time::Duration,
};

use rdkafka::{
    bindings::{self as sys, rd_kafka_admin_op_t as op},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};

use super::{NO_ERROR, Queue};

/// How much longer than the brokers the answer may take inside the client.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// The members of a group of either protocol, static ones by what they call themselves; none where
/// there is no such group.
pub(in super::super) fn members<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    group: &str,
    wait: Duration,
) -> Result<Vec<String>, KafkaError> {
    let failed = |code: RDKafkaErrorCode| KafkaError::AdminOp(code);
    let invalid = || failed(RDKafkaErrorCode::InvalidArgument);
    let group = CString::new(group).map_err(|_| invalid())?;
    let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    let rk = client.client().native_ptr();
    // SAFETY: Alive for this call: `client` is borrowed. The queue is given back by its wrapper.
    let queue = NonNull::new(unsafe { sys::rd_kafka_queue_new(rk) });
    let queue = Queue(queue.ok_or_else(invalid)?);
    // SAFETY: Alive; the options are given back below, and the names outlive the call, which copies
    // them.
    unsafe {
        let options =
            sys::rd_kafka_AdminOptions_new(rk, op::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, millis(wait), ptr::null_mut(), 0);
        let mut names = [group.as_ptr()];
        sys::rd_kafka_DescribeConsumerGroups(rk, names.as_mut_ptr(), 1, options, queue.0.as_ptr());
        sys::rd_kafka_AdminOptions_destroy(options);
    }
    // SAFETY: Alive, as above.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.0.as_ptr(), millis(wait + ANSWER_WAIT)) };
    let event = NonNull::new(event).ok_or_else(|| failed(RDKafkaErrorCode::OperationTimedOut))?;
    // SAFETY: Owned: what is read of the event is copied before it is given back below.
    unsafe {
        let found = read(event.as_ptr());
        sys::rd_kafka_event_destroy(event.as_ptr());
        found.map_err(failed)
    }
}

/// # Safety
/// `event` is alive and owned by the caller.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Result<Vec<String>, RDKafkaErrorCode> {
    let ok = |code: RDKafkaRespErr| match code {
        NO_ERROR => Ok(()),
        code => Err(RDKafkaErrorCode::from(code)),
    };
    // SAFETY: the caller's; all that is read belongs to the event.
    unsafe {
        ok(sys::rd_kafka_event_error(event))?;
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if count == 0 {
            return Ok(Vec::new());
        }
        let group = *groups;
        let error = sys::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            match RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)) {
                RDKafkaErrorCode::GroupIdNotFound => return Ok(Vec::new()),
                RDKafkaErrorCode::NoError => {}
                code => return Err(code),
            }
        }
        let count = sys::rd_kafka_ConsumerGroupDescription_member_count(group);
        let member = |at| {
            let member = sys::rd_kafka_ConsumerGroupDescription_member(group, at);
            text(sys::rd_kafka_MemberDescription_group_instance_id(member))
                .filter(|instance| !instance.is_empty())
                .or_else(|| text(sys::rd_kafka_MemberDescription_consumer_id(member)))
                .unwrap_or_default()
        };
        Ok((0..count).map(member).collect())
    }
}

/// # Safety
/// `at` is null or a text that ends with a zero.
unsafe fn text(at: *const c_char) -> Option<String> {
    // SAFETY: the caller's.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}
