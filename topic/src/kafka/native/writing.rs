//! Records handed over in batches, and reports of what became of them: a report brings all records that a broker has
//! acknowledged at once, while the wrapper calls librdkafka, allocates, and calls back for each record.

use super::super::number;
use super::{Event, Queue, TRACEPARENT, c_name};
use crate::{Outgoing, Partition};
use rdkafka::bindings as ffi;
use rdkafka::bindings::{
    rd_kafka_vu_s__bindgen_ty_1 as Value, rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 as Bytes,
    rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 as Named,
};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// Records handed over by one call at most: enough to make the cost of a call and of the topic's lock vanish, few enough
/// that what describes them stays in the processor's cache.
const CALL_RECORDS: usize = 256;

/// `RD_KAFKA_PARTITION_UA`, which the bindings leave out: the partitioner decides.
const ANY_PARTITION: i32 = -1;

/// A client that writes to one topic: records go in batches, and so do the reports of what became of them.
///
/// A record is known by a *ticket*, a number that the caller chooses. librdkafka keeps it in the place of the usual pointer,
/// so that nothing is allocated for it, and nothing dangles or leaks whatever becomes of the record.
pub(in crate::kafka) struct Writing<C: ClientContext> {
    // Dropped in this order: both refer to the client.
    events: Queue,
    topic: Topic,
    client: Client<C>,
}

/// The client's handle of a topic. Must not outlive its client.
struct Topic(NonNull<ffi::rd_kafka_topic_t>);

// SAFETY: librdkafka's topics are thread-safe (they carry their own lock); the reference is not tied to a thread.
unsafe impl Send for Topic {}
// SAFETY: as above; every call made through `&Topic` takes the topic's lock.
unsafe impl Sync for Topic {}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that this value holds.
        unsafe { ffi::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}

impl<C: ClientContext> Writing<C> {
    pub(in crate::kafka) fn new(config: &ClientConfig, topic: &str, context: C) -> Result<Self, KafkaError> {
        let native = config.create_native_config()?;
        // SAFETY: the configuration is alive; the call sets a number in it.
        unsafe {
            ffi::rd_kafka_conf_set_events(native.ptr(), ffi::RD_KAFKA_EVENT_DR | ffi::RD_KAFKA_EVENT_ERROR | ffi::RD_KAFKA_EVENT_STATS)
        };
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_PRODUCER, context)?;
        let no_topic = KafkaError::ClientCreation(format!("`{topic}` cannot be a topic"));
        let Some(name) = c_name(topic) else { return Err(no_topic) };
        // SAFETY: the client is alive and the name is a C string; without a configuration of its own the topic has the
        // client's. Null is handled.
        let Some(topic) = NonNull::new(unsafe { ffi::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut()) }) else {
            return Err(no_topic);
        };
        // SAFETY: the client is alive; every client has a main queue, of which a reference is returned.
        let events = unsafe { ffi::rd_kafka_queue_get_main(client.native_ptr()) };
        let events = Queue(NonNull::new(events).expect("every client has a main queue"));
        Ok(Self { events, topic: Topic(topic), client })
    }

    pub(in crate::kafka) fn context(&self) -> &C {
        self.client.context()
    }

    /// Hands over records for one partition, or for that which the client finds by the key, until one has no room.
    /// Returns how many are dealt with: record `n` is reported under the ticket `first + n`, or the client refuses it at
    /// once and `refused` is called with its ticket. The rest is untouched.
    ///
    /// Per call, not per message, the partition is given: of a message that names one which does not exist
    /// (`RD_KAFKA_MSG_F_PARTITION`), librdkafka 2.12 never gives back the memory nor the room in its queue.
    pub(in crate::kafka) fn hand_over(
        &self,
        partition: Option<Partition>,
        records: &[Outgoing<'_>],
        first: usize,
        mut refused: impl FnMut(usize, RDKafkaErrorCode),
    ) -> usize {
        use ffi::rd_kafka_resp_err_t as E;
        if let [record @ Outgoing { traceparent: Some(traceparent), .. }] = records {
            return self.hand_over_traced(partition, record, traceparent, first, refused);
        }
        let partition = partition.map_or(ANY_PARTITION, number);
        let mut messages = Vec::with_capacity(records.len().min(CALL_RECORDS));
        let mut done = 0;
        for part in records.chunks(CALL_RECORDS) {
            messages.clear();
            messages.extend(part.iter().enumerate().map(|(n, record)| message(record, first + done + n)));
            let count = c_int::try_from(messages.len()).expect("as many as fit into one call");
            // SAFETY: the topic's client is alive. The array holds `count` messages, in which librdkafka writes nothing but
            // `err`. It copies keys, and by the flag payloads, before it returns; the records outlive the call.
            unsafe {
                ffi::rd_kafka_produce_batch(self.topic.0.as_ptr(), partition, ffi::RD_KAFKA_MSG_F_COPY, messages.as_mut_ptr(), count);
            }
            for message in &messages {
                match message.err {
                    E::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                    // It is the same for all that follow in this call: a full queue stays full for it.
                    E::RD_KAFKA_RESP_ERR__QUEUE_FULL => return done,
                    error => refused(first + done, error.into()),
                }
                done += 1;
            }
        }
        done
    }

    /// The same for one record with a header, which a batch call cannot give.
    fn hand_over_traced(
        &self,
        partition: Option<Partition>,
        record: &Outgoing<'_>,
        traceparent: &str,
        ticket: usize,
        mut refused: impl FnMut(usize, RDKafkaErrorCode),
    ) -> usize {
        use ffi::rd_kafka_vtype_t as V;
        let header =
            Named { name: TRACEPARENT.as_ptr(), val: traceparent.as_ptr().cast::<c_void>(), size: traceparent.len().cast_signed() };
        let held = message(record, ticket);
        let bytes = |ptr, size| Value { mem: Bytes { ptr, size } };
        let said = [
            (V::RD_KAFKA_VTYPE_RKT, Value { rkt: self.topic.0.as_ptr() }),
            (V::RD_KAFKA_VTYPE_PARTITION, Value { i32_: partition.map_or(ANY_PARTITION, number) }),
            (V::RD_KAFKA_VTYPE_VALUE, bytes(held.payload, held.len)),
            (V::RD_KAFKA_VTYPE_KEY, bytes(held.key, held.key_len)),
            (V::RD_KAFKA_VTYPE_HEADER, Value { header }),
            (V::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: held._private }),
            (V::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: ffi::RD_KAFKA_MSG_F_COPY }),
        ]
        .map(|(vtype, u)| ffi::rd_kafka_vu_t { vtype, u });
        // SAFETY: the client and its topic are alive. Each value has the member that its type tells, and librdkafka copies the
        // key, the header and by the flag the payload before it returns; the record and the header outlive the call.
        let error = unsafe { ffi::rd_kafka_produceva(self.client.native_ptr(), said.as_ptr(), said.len()) };
        let Some(error) = NonNull::new(error) else { return 1 };
        // SAFETY: the error is ours, alive until here, and destroyed once.
        let code = unsafe {
            let code = ffi::rd_kafka_error_code(error.as_ptr());
            ffi::rd_kafka_error_destroy(error.as_ptr());
            RDKafkaErrorCode::from(code)
        };
        if code == RDKafkaErrorCode::QueueFull {
            return 0;
        }
        refused(ticket, code);
        1
    }

    /// Waits until there are reports; `None` if there are none in time, or something else was to be told: that goes to
    /// the context.
    pub(in crate::kafka) fn poll(&self, patience: Duration) -> Option<Reports> {
        let event = self.events.poll(patience)?;
        // SAFETY: the event is alive.
        match unsafe { ffi::rd_kafka_event_type(event.as_ptr()) } {
            ffi::RD_KAFKA_EVENT_DR => return Some(Reports(event)),
            ffi::RD_KAFKA_EVENT_ERROR => {
                // SAFETY: the event is alive, and its text is a C string that lives as long.
                let reason = unsafe { CStr::from_ptr(ffi::rd_kafka_event_error_string(event.as_ptr())) };
                self.context().error(KafkaError::Global(event.error().into()), reason.to_string_lossy().trim());
            }
            ffi::RD_KAFKA_EVENT_STATS => {
                // SAFETY: the event is alive, and its text is a C string that lives as long.
                let statistics = unsafe { CStr::from_ptr(ffi::rd_kafka_event_stats(event.as_ptr())) };
                self.context().stats_raw(statistics.to_bytes());
            }
            ffi::RD_KAFKA_EVENT_LOG => self.log(&event),
            _ => {}
        }
        None
    }

    fn log(&self, event: &Event) {
        let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is alive, and all three places outlive the call.
        let status = unsafe { ffi::rd_kafka_event_log(event.as_ptr(), &raw mut facility, &raw mut text, &raw mut level) };
        if status == 0 {
            // SAFETY: the call succeeded: both are C strings that live as long as the event.
            let (facility, text) = unsafe { (CStr::from_ptr(facility), CStr::from_ptr(text)) };
            self.context().log(log_level(level), facility.to_string_lossy().trim(), text.to_string_lossy().trim());
        }
    }

    /// Has what is under way sent without waiting for company; true if there is nothing under way, and nothing to be
    /// reported.
    pub(in crate::kafka) fn hurry(&self) -> bool {
        // SAFETY: the client is alive.
        let error = unsafe { ffi::rd_kafka_flush(self.client.native_ptr(), 0) };
        error == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Records under way.
    pub(in crate::kafka) fn in_flight(&self) -> usize {
        // SAFETY: the client is alive.
        usize::try_from(unsafe { ffi::rd_kafka_outq_len(self.client.native_ptr()) }).unwrap_or(0)
    }
}

/// A record as librdkafka reads it: it points to the record's bytes. An empty value is one that has an address.
fn message(record: &Outgoing<'_>, ticket: usize) -> ffi::rd_kafka_message_t {
    let bytes =
        |bytes: Option<&[u8]>| bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast::<c_void>(), bytes.len()));
    let ((payload, len), (key, key_len)) = (bytes(record.payload), bytes(record.key));
    ffi::rd_kafka_message_t {
        err: ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: ptr::null_mut(),
        partition: ANY_PARTITION,
        payload,
        len,
        key,
        key_len,
        offset: 0,
        _private: ptr::without_provenance_mut(ticket),
    }
}

/// What became of records, as one answer of a broker tells it.
pub(in crate::kafka) struct Reports(Event);

/// What became of one record.
pub(in crate::kafka) struct Report {
    pub(in crate::kafka) ticket: usize,
    /// Partition and offset, as the broker gives them.
    pub(in crate::kafka) written: Result<(i32, i64), Undelivered>,
}

pub(in crate::kafka) struct Undelivered {
    pub(in crate::kafka) code: RDKafkaErrorCode,
    /// The record is certainly not in the log.
    pub(in crate::kafka) certainly: bool,
}

impl Iterator for Reports {
    type Item = Report;

    fn next(&mut self) -> Option<Report> {
        // SAFETY: the event is alive.
        let message = unsafe { ffi::rd_kafka_event_message_next(self.0.as_ptr()) };
        // SAFETY: null, at the end, gives `None`; any other message lives as long as the event, and only this borrows it.
        let held = unsafe { message.as_ref() }?;
        let written = if held.err == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            Ok((held.partition, held.offset))
        } else {
            // SAFETY: as above.
            let status = unsafe { ffi::rd_kafka_message_status(message) };
            Err(Undelivered { code: held.err.into(), certainly: status == ffi::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED })
        };
        Some(Report { ticket: held._private.addr(), written })
    }
}

/// syslog's levels.
fn log_level(level: c_int) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}
