//! What the safe wrapper does not offer, and the only unsafe code of this crate: records in batches from a queue of
//! their own, a callback when a queue is no longer empty, a commit with a deadline, the group's generation, a topic's id, and a setting
//! of the C library's allocator; in `writing` the same for records that are written.
//!
//! Why a queue of its own: the wrapper enables librdkafka's event interface, under which a batch call on the *consumer*
//! queue would answer a rebalance by itself with an empty assignment. So every partition's queue is forwarded to one data
//! queue, read in batches; rebalances, errors and logs stay on the consumer queue, which the wrapper polls.

#![expect(unsafe_code, reason = "librdkafka's batch, queue and group calls have no safe wrapper; each use says why it is sound")]

mod describing;
mod writing;

pub(super) use describing::describe_topic;
pub(super) use writing::{Report, Reports, Undelivered, Writing};

use crate::waker::Parking;
use crate::{Offset, Partition, Record};
use rdkafka::bindings as ffi;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};
use std::time::Duration;

/// Records handed over by one poll at most: large enough to make the cost of a call vanish, small enough that the owner
/// gets to its timers within milliseconds.
pub(super) const BATCH_RECORDS: usize = 4096;

/// The header that says whose work a record is, as W3C Trace Context has it.
const TRACEPARENT: &CStr = c"traceparent";

/// Keeps freed memory in the process. A fetched batch comes in one buffer of megabytes, and tables of counts grow and go
/// with their epoch; by its defaults the C library gives such memory back to the kernel, and every page of the next is
/// cleared and mapped anew. That cost an eighth of the speed layer's time, and a third of what a second thread brings,
/// since one thread waits while the other's pages are mapped. For the whole process, once.
pub(super) fn keep_freed_memory() {
    static ONCE: Once = Once::new();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    ONCE.call_once(|| {
        // SAFETY: plain settings of the allocator, which takes its own lock.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 16 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
            // What a thread's heap can be at most: it is mapped as a whole, and stays when nothing is left in it.
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    });
}

/// A queue of librdkafka, with one reference held.
struct Queue(NonNull<ffi::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are thread-safe (they carry their own lock); the reference is not tied to a thread.
unsafe impl Send for Queue {}
// SAFETY: as above; every call made through `&Queue` takes the queue's lock.
unsafe impl Sync for Queue {}

impl Queue {
    fn as_ptr(&self) -> *mut ffi::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    fn new<C: ClientContext>(client: &Client<C>) -> Self {
        // SAFETY: the client is alive; rd_kafka_queue_new aborts rather than return null.
        let queue = unsafe { ffi::rd_kafka_queue_new(client.native_ptr()) };
        Self(NonNull::new(queue).expect("librdkafka aborts when it cannot allocate"))
    }

    /// Waits for an event; `None` if there is none in time.
    fn poll(&self, patience: Duration) -> Option<Event> {
        let patience_ms = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive.
        NonNull::new(unsafe { ffi::rd_kafka_queue_poll(self.as_ptr(), patience_ms) }).map(Event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that this value holds.
        unsafe { ffi::rd_kafka_queue_destroy(self.as_ptr()) }
    }
}

/// Something that librdkafka tells.
struct Event(NonNull<ffi::rd_kafka_event_t>);

impl Event {
    fn as_ptr(&self) -> *mut ffi::rd_kafka_event_t {
        self.0.as_ptr()
    }

    /// The text of an error of the client as a whole, or of a line for its log.
    fn complaint(&self) -> Option<String> {
        let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is alive; the texts, if there are any, belong to it, and the places outlive the calls.
        unsafe {
            let text = match ffi::rd_kafka_event_type(self.as_ptr()) {
                ffi::RD_KAFKA_EVENT_ERROR => ffi::rd_kafka_event_error_string(self.as_ptr()),
                ffi::RD_KAFKA_EVENT_LOG => {
                    ffi::rd_kafka_event_log(self.as_ptr(), &raw mut facility, &raw mut line, &raw mut level);
                    line
                }
                _ => ptr::null(),
            };
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    fn error(&self) -> ffi::rd_kafka_resp_err_t {
        // SAFETY: the event is alive.
        unsafe { ffi::rd_kafka_event_error(self.as_ptr()) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this value's alone, and nothing borrowed from it is left.
        unsafe { ffi::rd_kafka_event_destroy(self.as_ptr()) }
    }
}

/// What a batch call brings.
pub(super) enum Fetched<'a> {
    /// Records of one partition, at least one.
    Records { partition: Partition, records: &'a [Record<'a>], traced: &'a [(Offset, &'a str)] },
    /// Something went wrong with one partition; `reason` is librdkafka's text.
    Failed { partition: Partition, code: RDKafkaErrorCode, reason: String },
}

/// The queue to which the partitions' own queues are forwarded. Must not outlive its client.
pub(super) struct DataQueue {
    queue: Queue,
    /// Slots for the batch call, empty (stale) between calls.
    slots: Vec<*mut ffi::rd_kafka_message_t>,
    /// Headers are looked at.
    traced: bool,
    /// Keeps alive what the queue's callback points to.
    _parking: Arc<Parking>,
}

// SAFETY: `slots` holds no live message between two calls of `take`, which needs `&mut self`.
unsafe impl Send for DataQueue {}

impl DataQueue {
    /// A new queue that signals `parking` when it is no longer empty.
    pub(super) fn new<C: ClientContext>(client: &Client<C>, parking: Arc<Parking>, traced: bool) -> Self {
        let queue = Queue::new(client);
        // SAFETY: the callback's argument is the address inside the Arc that this value keeps until `drop` has
        // disabled the callback.
        unsafe {
            ffi::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(not_empty), Arc::as_ptr(&parking).cast_mut().cast::<c_void>());
        }
        Self { queue, slots: vec![ptr::null_mut(); BATCH_RECORDS], traced, _parking: parking }
    }

    /// Sends what is fetched for a partition to this queue, from now on and in order. To be called before the partition
    /// is assigned, which makes librdkafka keep it away from the consumer queue for good, and again after, because
    /// stopping a former assignment clears the forwarding (the records then wait, in order, in the partition's queue).
    pub(super) fn forward<C: ClientContext>(&self, client: &Client<C>, topic: &CStr, partition: Partition) {
        let partition = c_int::try_from(partition.0).expect("Kafka numbers partitions with an i32");
        // SAFETY: the client is alive and the topic's name is a C string; the queue returned, if any, is released by `Queue`.
        let source = unsafe { ffi::rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), partition) };
        if let Some(source) = NonNull::new(source).map(Queue) {
            // SAFETY: both queues are alive; librdkafka takes its own reference to the destination.
            unsafe { ffi::rd_kafka_queue_forward(source.as_ptr(), self.queue.as_ptr()) }
        }
    }

    /// Takes what is there, at most a batch, without waiting. True if the batch was full, so that there may be more.
    pub(super) fn take(&mut self, mut visit: impl FnMut(Fetched<'_>)) -> bool {
        // SAFETY: `slots` has room for `slots.len()` pointers; librdkafka fills the first `count` of them with messages
        // that are the caller's to destroy.
        let count = unsafe { ffi::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, self.slots.as_mut_ptr(), self.slots.len()) };
        let count = usize::try_from(count).unwrap_or(0).min(self.slots.len());
        let batch = Batch { messages: &self.slots[..count] };
        let mut run = Run { partition: Partition(0), records: Vec::with_capacity(count), traced: Vec::new() };
        for &message in batch.messages {
            // SAFETY: the batch destroys its messages when it goes, after the run, which was made after it.
            match unsafe { fetched(message) } {
                Ok((partition, record)) => {
                    if partition != run.partition {
                        run.end(&mut visit);
                        run.partition = partition;
                    }
                    // SAFETY: as above.
                    if let Some(traceparent) = self.traced.then(|| unsafe { traceparent_of(message) }).flatten() {
                        run.traced.push((record.offset, traceparent));
                    }
                    run.records.push(record);
                }
                Err(failed) => {
                    run.end(&mut visit);
                    visit(failed);
                }
            }
        }
        run.end(&mut visit);
        count == self.slots.len()
    }
}

impl Drop for DataQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is alive. The call takes the lock under which callbacks run, so that none runs afterwards.
        unsafe { ffi::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut()) }
    }
}

/// Called by librdkafka, on its threads and with the queue's lock held, when the queue is no longer empty.
unsafe extern "C" fn not_empty(_: *mut ffi::rd_kafka_t, parking: *mut c_void) {
    // SAFETY: the address was taken from an Arc that lives until the callback is disabled (see `DataQueue`).
    let parking = unsafe { &*parking.cast::<Parking>() };
    parking.ready();
}

/// The messages of a batch; destroys them when dropped, also when a visitor panics.
struct Batch<'a> {
    messages: &'a [*mut ffi::rd_kafka_message_t],
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for &message in self.messages {
            // SAFETY: the messages are this batch's alone, and this is the one place that destroys them.
            unsafe { ffi::rd_kafka_message_destroy(message) }
        }
    }
}

/// Records of one partition that follow each other in a batch.
struct Run<'a> {
    partition: Partition,
    records: Vec<Record<'a>>,
    /// Those of them that say whose work they are.
    traced: Vec<(Offset, &'a str)>,
}

impl Run<'_> {
    fn end(&mut self, visit: &mut impl FnMut(Fetched<'_>)) {
        if !self.records.is_empty() {
            visit(Fetched::Records { partition: self.partition, records: &self.records, traced: &self.traced });
            self.records.clear();
            self.traced.clear();
        }
    }
}

/// Reads a message in place.
///
/// # Safety
/// `message` must be alive for `'a`.
unsafe fn fetched<'a>(message: *const ffi::rd_kafka_message_t) -> Result<(Partition, Record<'a>), Fetched<'a>> {
    // SAFETY: promised by the caller.
    let held = unsafe { &*message };
    let partition = Partition(held.partition.unsigned_abs());
    let payload = if held.payload.is_null() {
        None
    } else {
        // SAFETY: librdkafka's payload is `len` bytes that live as long as the message.
        Some(unsafe { std::slice::from_raw_parts(held.payload.cast::<u8>(), held.len) })
    };
    if held.err != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        let reason = payload.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        return Err(Fetched::Failed { partition, code: held.err.into(), reason });
    }
    // SAFETY: the message is alive; a null type is allowed.
    let timestamp_ms = unsafe { ffi::rd_kafka_message_timestamp(message, ptr::null_mut()) };
    Ok((partition, Record { offset: Offset::new(held.offset.unsigned_abs()), timestamp_ms, payload }))
}

/// What a message's header says of whose work it is.
///
/// # Safety
/// `message` must be alive for `'a`.
unsafe fn traceparent_of<'a>(message: *const ffi::rd_kafka_message_t) -> Option<&'a str> {
    use ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as DONE;
    let mut headers = ptr::null_mut();
    // SAFETY: promised by the caller; the headers, if there are any, belong to the message and live as long.
    if unsafe { ffi::rd_kafka_message_headers(message, &raw mut headers) } != DONE {
        return None;
    }
    let (mut value, mut size) = (ptr::null(), 0);
    // SAFETY: the headers are alive, the name is a C string, and both places outlive the call.
    if unsafe { ffi::rd_kafka_header_get_last(headers, TRACEPARENT.as_ptr(), &raw mut value, &raw mut size) } != DONE || value.is_null() {
        return None;
    }
    // SAFETY: the call succeeded: the value is `size` bytes of the headers.
    std::str::from_utf8(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), size) }).ok()
}

/// The consumer queue, to see whether it has been emptied: the wrapper's poll does not say.
pub(super) struct ControlQueue(Option<Queue>);

impl ControlQueue {
    pub(super) fn of<C: ClientContext>(client: &Client<C>) -> Self {
        // SAFETY: the client is alive; null (no group) is handled.
        Self(NonNull::new(unsafe { ffi::rd_kafka_queue_get_consumer(client.native_ptr()) }).map(Queue))
    }

    pub(super) fn is_empty(&self) -> bool {
        // SAFETY: the queue is alive.
        self.0.as_ref().is_none_or(|queue| unsafe { ffi::rd_kafka_queue_length(queue.as_ptr()) } == 0)
    }
}

/// A commit that is under way. Dropping it does not take it back.
pub(super) struct Committing(Queue);

impl Committing {
    pub(super) fn begin<C: ClientContext>(client: &Client<C>, positions: &TopicPartitionList) -> Result<Self, RDKafkaErrorCode> {
        let answers = Queue::new(client);
        // SAFETY: client, list and queue are alive; the list is copied. Without a callback the answer is an event.
        let error = unsafe { ffi::rd_kafka_commit_queue(client.native_ptr(), positions.ptr(), answers.as_ptr(), None, ptr::null_mut()) };
        if error == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(Self(answers)) } else { Err(error.into()) }
    }

    /// Waits for the answer; `None` if there is none in time.
    pub(super) fn wait(&self, patience: Duration) -> Option<Result<(), RDKafkaErrorCode>> {
        let error = self.0.poll(patience)?.error();
        Some(if error == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(error.into()) })
    }
}

/// A membership of a group, as the client has it at this moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GroupMember {
    /// Given by the group on joining; another one after a session has ended. Empty while not a member.
    pub(super) id: String,
    /// `None` while joining.
    pub(super) generation: Option<i32>,
}

/// Asks the client's own thread, some microseconds; no round trip to the broker.
pub(super) fn group_member<C: ClientContext>(client: &Client<C>) -> GroupMember {
    // SAFETY: the client is alive; null (no group) is handled; the id is a C string that lives as long as the object,
    // which is destroyed once.
    unsafe {
        let Some(group) = NonNull::new(ffi::rd_kafka_consumer_group_metadata(client.native_ptr())) else {
            return GroupMember { id: String::new(), generation: None };
        };
        let id = CStr::from_ptr(ffi::rd_kafka_consumer_group_metadata_member_id(group.as_ptr())).to_string_lossy().into_owned();
        let generation = ffi::rd_kafka_consumer_group_metadata_generation_id(group.as_ptr());
        ffi::rd_kafka_consumer_group_metadata_destroy(group.as_ptr());
        GroupMember { id, generation: (generation >= 0).then_some(generation) }
    }
}

/// Errors and log lines of an admin client, whose events are not polled otherwise.
pub(super) fn complaints<C: ClientContext>(client: &Client<C>) -> Vec<String> {
    // SAFETY: the client is alive; its main queue is never null.
    let main = NonNull::new(unsafe { ffi::rd_kafka_queue_get_main(client.native_ptr()) }).map(Queue);
    let events = std::iter::from_fn(|| main.as_ref()?.poll(Duration::ZERO));
    events.filter_map(|event| event.complaint()).collect()
}

/// Sets the offset of each element to where the application has read, invisible records (control records, aborted
/// transactions) included; a negative offset where nothing has been read since the partition's start.
pub(super) fn read_positions<C: ClientContext>(client: &Client<C>, partitions: &TopicPartitionList) {
    // SAFETY: client and list are alive. The call only writes offsets and errors of existing elements, and nobody else
    // has access to the list, whose owner hands out no reference to its elements meanwhile.
    unsafe { ffi::rd_kafka_position(client.native_ptr(), partitions.ptr()) };
}

/// The partition's end as the last fetch saw it: no round trip. `None` before the first fetch.
pub(super) fn fetched_end<C: ClientContext>(client: &Client<C>, topic: &CStr, partition: Partition) -> Option<u64> {
    let partition = c_int::try_from(partition.0).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive, the topic's name is a C string, and both numbers outlive the call.
    let error = unsafe { ffi::rd_kafka_get_watermark_offsets(client.native_ptr(), topic.as_ptr(), partition, &raw mut low, &raw mut high) };
    if error == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { u64::try_from(high).ok() } else { None }
}

/// A topic's name as C wants it.
pub(super) fn c_name(topic: &str) -> Option<CString> {
    CString::new(topic).ok()
}
