//! The description of a topic: the wrapper's metadata has no topic id.

use super::Queue;
use rdkafka::bindings as ffi;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// Time that librdkafka's own timeout has to arrive before the wait here ends.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// A topic, as the brokers describe it.
pub(in crate::kafka) struct TopicDescription {
    /// Base64, 22 characters. Empty if the brokers are older than topic ids (Kafka 2.8).
    pub(in crate::kafka) id: String,
    pub(in crate::kafka) partitions: usize,
}

/// Asks the brokers for a topic's id and number of partitions.
pub(in crate::kafka) fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    timeout: Duration,
) -> Result<TopicDescription, RDKafkaErrorCode> {
    let answers = Queue::new(client);
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let mut names = [topic.as_ptr()];
    // SAFETY: client and queue are alive, and the list has one C string. The call copies names and options, which are
    // destroyed once, here. A null message buffer of size 0 is allowed.
    unsafe {
        let topics = ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = ffi::rd_kafka_AdminOptions_new(client.native_ptr(), ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        ffi::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        ffi::rd_kafka_DescribeTopics(client.native_ptr(), topics, options, answers.as_ptr());
        ffi::rd_kafka_AdminOptions_destroy(options);
        ffi::rd_kafka_TopicCollection_destroy(topics);
    }
    let event = answers.poll(timeout + GRACE_PERIOD).ok_or(RDKafkaErrorCode::OperationTimedOut)?;
    if event.error() != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(event.error().into());
    }
    // SAFETY: the event is alive to the end of this function, and what is read here belongs to it. A null result, an empty
    // list and null members are handled.
    unsafe {
        let result = NonNull::new(ffi::rd_kafka_event_DescribeTopics_result(event.as_ptr()).cast_mut()).ok_or(RDKafkaErrorCode::Fail)?;
        let mut count = 0;
        let topics = ffi::rd_kafka_DescribeTopics_result_topics(result.as_ptr(), &raw mut count);
        if topics.is_null() || count == 0 {
            return Err(RDKafkaErrorCode::UnknownTopic);
        }
        let description = *topics;
        let error = ffi::rd_kafka_error_code(ffi::rd_kafka_TopicDescription_error(description));
        if error != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(error.into());
        }
        let mut partitions = 0;
        ffi::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        Ok(TopicDescription { id: id_of(description), partitions })
    }
}

/// # Safety
/// `description` must be alive.
unsafe fn id_of(description: *const ffi::rd_kafka_TopicDescription_t) -> String {
    // SAFETY: promised by the caller; id and text belong to the description.
    unsafe {
        let id = ffi::rd_kafka_TopicDescription_topic_id(description);
        if id.is_null() || (ffi::rd_kafka_Uuid_most_significant_bits(id), ffi::rd_kafka_Uuid_least_significant_bits(id)) == (0, 0) {
            return String::new();
        }
        let text = ffi::rd_kafka_Uuid_base64str(id);
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}
