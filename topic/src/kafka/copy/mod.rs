//! Copies records into a topic, each once, whatever is killed (⇄; blocks). Where they come from is a [`Source`]: [`range`] of a
//! topic of the same cluster, or something else that has positions.
//!
//! Records and the positions up to which they have been copied are written in one transaction. A copy that begins again
//! goes on from these positions, and a second process that runs the same copy fences the first. Readers of committed
//! records, as tidemark's, see each record once; others may see some of an aborted transaction.

mod range;

pub use range::TopicRange;

use super::{ANSWER_DEADLINE, Kafka, PARTITIONER, number};
use crate::{Error, NextOffset, Partition, now_ms};
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedHeaders;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::cut::Cut;
use tidemark_core::event::{Limits, stamp_of};

/// A transaction is committed after so many records,
const MOST_RECORDS: usize = 100_000;
/// or so long. Readers of committed records wait for that.
const LONGEST: Duration = Duration::from_millis(500);
/// How long beginning, committing and aborting may take.
const TRANSACTION_DEADLINE: Duration = Duration::from_secs(30);
/// How long it is waited in one call; also how late it is seen that it is time to stop.
const POLL: Duration = Duration::from_millis(50);
/// While the producer's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Reads a topic, or asks for positions. Where a partition ends is looked for, and is no error.
type Reader = BaseConsumer<Quiet>;

struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(target: "kafka", "{error}: {reason}");
        }
    }
}

impl ConsumerContext for Quiet {}

/// What a copy is, whatever it copies.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The topic that is written to.
    pub into: String,
    /// Names the copy: one of a name runs at a time, and goes on where the last one stopped.
    pub name: String,
    /// What was asked for, in words. Noted with the positions, so that something else under the same name is noticed.
    pub range: String,
    /// Records carry the time of their copying instead of their own.
    pub timed_now: bool,
    /// Times move by what makes the first event's `timestamp` now: in each payload that is an event by these limits, and
    /// each record's own, up to now. By how much is noted with the positions, so that it stays the same.
    pub shift_to_now: Option<Limits>,
}

/// Where records come from.
pub trait Source {
    type Error: From<Error>;

    /// The topic under which its positions are noted: each is a partition of it, and an offset.
    fn noted_under(&self) -> &str;

    /// Where each of its parts begins.
    fn begins_at(&self) -> &Cut;

    /// Into how many partitions its records are divided, if they are. Where the topic that is written to has as many, a record
    /// keeps its own; else its key decides.
    fn partitions(&self) -> Option<u32>;

    /// Puts every record from `at` on, in order. True if that was all, false if it was time to stop.
    fn give(&mut self, at: &Cut, copying: &mut Copying<'_>) -> Result<bool, Self::Error>;
}

/// A record as its source has it.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    pub partition: Option<Partition>,
    /// The record's own timestamp; `None` is that of its copying.
    pub timestamp_ms: Option<i64>,
    /// Says when it is due, beside the others.
    pub paced_by_ms: i64,
    /// Its source knows that it is no event.
    pub is_no_event: bool,
    /// The source's position behind it.
    pub next: (Partition, NextOffset),
}

impl Original<'_> {
    /// An empty record, with the source's position behind it.
    pub fn before(next: (Partition, NextOffset)) -> Self {
        let (partition, timestamp_ms) = (None, None);
        Self { key: None, payload: None, headers: Headers(None), partition, timestamp_ms, paced_by_ms: 0, is_no_event: false, next }
    }
}

/// A record's headers, which nobody looks at.
#[derive(Clone, Copy)]
pub struct Headers<'a>(Option<&'a BorrowedHeaders>);

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Headers" } else { "no headers" })
    }
}

/// What has been copied, by this call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    pub records: u64,
    pub bytes: u64,
    /// Those that are no events, as far as that was looked at.
    pub no_events: u64,
    /// Where it began: above where the source begins if a former call came so far.
    pub resumed: Cut,
    /// Up to where each part has been copied, by this call or a former one.
    pub reached: Cut,
    /// By how much times have been moved, by this call and any former one.
    pub shifted_ms: Option<i64>,
    /// All there was has been copied.
    pub complete: bool,
}

/// Told how far a copy is, whenever it has been committed.
pub type Progress<'p> = &'p mut dyn FnMut(&Copied);

/// Says when a record of this time is to be written.
pub type Due<'d> = &'d mut dyn FnMut(i64) -> Instant;

impl Kafka {
    /// Copies until all is done, it is time to stop, or an error comes; then it may be called again.
    pub fn copy<S: Source>(
        &self,
        copy: &Copy,
        source: &mut S,
        due: Due<'_>,
        stop: &AtomicBool,
        progress: Progress<'_>,
    ) -> Result<Copied, S::Error> {
        let group = format!("tidemark-copy-{}", copy.name);
        let noted = Self { topic: source.noted_under().to_owned(), ..self.clone() };
        let reader = Arc::new(noted.reader(&group)?);
        let producer = noted.copier(&group)?;
        // First of all: from here on no other copy of the name can commit, and what it began is over.
        producer.init_transactions(TRANSACTION_DEADLINE).map_err(|error| noted.transaction_error(&error, "beginning to copy"))?;
        let target = Self { topic: copy.into.clone(), ..self.clone() };
        let keeps_partition = source.partitions() == Some(target.partitions(ANSWER_DEADLINE)?.count);
        let (at, shifted_ms) = noted.begin_at(copy, source.begins_at(), &reader)?;
        let copied = Copied { resumed: at.clone(), reached: at.clone(), shifted_ms, ..Copied::default() };
        let group = reader.group_metadata();
        let (shift_ms, open, rewritten) = (shifted_ms, None, Vec::new());
        let mut copying = Copying {
            kafka: &noted,
            copy,
            reader,
            group,
            producer: &producer,
            at: at.clone(),
            copied,
            shift_ms,
            open,
            keeps_partition,
            rewritten,
            due,
            stop,
            progress,
        };
        let mut outcome = source.give(&at, &mut copying);
        if let Ok(complete) = outcome {
            copying.copied.complete = complete;
            outcome = copying.commit().map(|()| complete).map_err(Into::into);
        }
        if outcome.is_err() && copying.open.is_some() {
            // What could not be committed must not be seen; if this fails too, the next begin ends it.
            let _ = producer.abort_transaction(TRANSACTION_DEADLINE);
        }
        outcome.map(|_| copying.copied)
    }

    fn reader(&self, group: &str) -> Result<Reader, Error> {
        let fixed = [
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("group.id", group),
            ("isolation.level", "read_committed"),
        ];
        let config = self.config(&[("queued.max.messages.kbytes", "16384"), ("fetch.wait.max.ms", "100")], &fixed)?;
        Reader::from_config_and_context(&config, Quiet).map_err(|error| Error::Refused { reason: format!("making a consumer: {error}") })
    }

    fn copier(&self, group: &str) -> Result<ThreadedProducer<DefaultProducerContext>, Error> {
        let fixed = [("transactional.id", group), PARTITIONER, ("linger.ms", "2"), ("compression.codec", "lz4")];
        let defaults =
            [("queue.buffering.max.messages", "0"), ("queue.buffering.max.kbytes", "65536"), ("transaction.timeout.ms", "60000")];
        let config = self.config(&defaults, &fixed)?;
        config.create().map_err(|error| Error::Refused { reason: format!("making a producer: {error}") })
    }

    /// Where each part goes on, what has been committed under the copy's name, else where it begins; and by how much times have
    /// been moved so far.
    fn begin_at(&self, copy: &Copy, begins_at: &Cut, reader: &Reader) -> Result<(Cut, Option<i64>), Error> {
        let mut asked = TopicPartitionList::new();
        for (partition, _) in begins_at.iter() {
            asked.add_partition(&self.topic, number(partition));
        }
        let committed =
            reader.committed_offsets(asked, ANSWER_DEADLINE).map_err(|error| self.client_error(&error, "asking how far the copy is"))?;
        let (mut at, mut shifted_ms) = (begins_at.clone(), None);
        for element in committed.elements() {
            let RawOffset::Offset(offset) = element.offset() else { continue };
            shifted_ms = shift_in(copy, element.metadata())?.or(shifted_ms);
            at.set(Partition(element.partition().unsigned_abs()), NextOffset::new(u64::try_from(offset).unwrap_or_default()));
        }
        Ok((at, shifted_ms))
    }

    fn transaction_error(&self, error: &KafkaError, doing: &str) -> Error {
        match error {
            KafkaError::Transaction(cause)
                if matches!(
                    cause.code(),
                    RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch
                ) =>
            {
                Error::Refused { reason: format!("{doing}: another process runs the same copy now") }
            }
            KafkaError::Transaction(cause) if !cause.is_fatal() => {
                Error::Unavailable { broker: self.bootstrap.clone(), reason: format!("{doing}: {cause}") }
            }
            error => self.client_error(error, doing),
        }
    }
}

/// What is noted with a position: what was asked for, and by how much times are moved.
fn note(copy: &Copy, shift_ms: Option<i64>) -> String {
    match (&copy.shift_to_now, shift_ms) {
        (None, _) => copy.range.clone(),
        (Some(_), None) => format!("{}, shifted to now", copy.range),
        (Some(_), Some(ms)) => format!("{}, shifted to now by {ms} ms", copy.range),
    }
}

/// By how much a note says that times have been moved. One that says something else than what is asked for now is refused.
fn shift_in(copy: &Copy, noted: &str) -> Result<Option<i64>, Error> {
    let ours = note(copy, None);
    if noted == ours {
        return Ok(None);
    }
    let by = noted.strip_prefix(&ours).and_then(|rest| rest.strip_prefix(" by ")?.strip_suffix(" ms")?.parse().ok());
    match by {
        Some(ms) if copy.shift_to_now.is_some() => Ok(Some(ms)),
        _ => Err(Error::Refused {
            reason: format!(
                "a copy named `{}` has copied something else, {noted}; now it is {ours}: give this one another name",
                copy.name
            ),
        }),
    }
}

/// A copy under way: takes the records, and decides when what is committed.
pub struct Copying<'c> {
    kafka: &'c Kafka,
    copy: &'c Copy,
    /// Asks for the positions; a topic is read through it too.
    reader: Arc<Reader>,
    group: Option<ConsumerGroupMetadata>,
    producer: &'c ThreadedProducer<DefaultProducerContext>,
    /// What has been handed to the producer.
    at: Cut,
    copied: Copied,
    /// By how much times are moved; `None` before the first event.
    shift_ms: Option<i64>,
    /// The transaction's beginning and records.
    open: Option<(Instant, usize)>,
    keeps_partition: bool,
    /// The payload with another time in it.
    rewritten: Vec<u8>,
    due: Due<'c>,
    stop: &'c AtomicBool,
    progress: Progress<'c>,
}

impl std::fmt::Debug for Copying<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copying").field("copied", &self.copied).finish_non_exhaustive()
    }
}

impl Copying<'_> {
    /// Writes a record when it is due. False if it is time to stop: then it has not been written.
    pub fn put(&mut self, record: &Original<'_>) -> Result<bool, Error> {
        let due = (self.due)(record.paced_by_ms);
        if !self.wait_until(due)? {
            return Ok(false);
        }
        self.begin()?;
        self.write(record)?;
        self.at.set(record.next.0, record.next.1);
        self.commit_old()?;
        Ok(true)
    }

    /// Up to there the source has nothing more.
    pub fn passed(&mut self, part: Partition, next: NextOffset) {
        self.at.set(part, next);
    }

    /// To be called while there is nothing to put. False if it is time to stop.
    pub fn idle(&mut self) -> Result<bool, Error> {
        self.commit_old()?;
        Ok(!self.stop.load(Ordering::Relaxed))
    }

    /// Waits; what has been written is committed meanwhile, if that is long enough.
    fn wait_until(&mut self, due: Instant) -> Result<bool, Error> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            self.commit_old()?;
            std::thread::sleep(left.min(POLL));
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.open.is_none() {
            self.producer.begin_transaction().map_err(|error| self.kafka.transaction_error(&error, "beginning a transaction"))?;
            self.open = Some((Instant::now(), 0));
        }
        Ok(())
    }

    fn write(&mut self, original: &Original<'_>) -> Result<(), Error> {
        let is_event = self.shift(original);
        self.copied.no_events += u64::from(original.is_no_event || is_event == Some(false));
        let payload = if is_event == Some(true) { Some(&*self.rewritten) } else { original.payload };
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.copy.into);
        record.key = original.key;
        record.payload = payload;
        record.headers = original.headers.0.map(BorrowedHeaders::detach);
        record.partition = original.partition.filter(|_| self.keeps_partition).map(number);
        record.timestamp = original.timestamp_ms.filter(|_| !self.copy.timed_now).map(|ms| self.moved(ms));
        self.copied.records += 1;
        self.copied.bytes += (payload.map_or(0, <[u8]>::len) + original.key.map_or(0, <[u8]>::len)) as u64;
        if let Some((_, records)) = &mut self.open {
            *records += 1;
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err((error, _)) => return Err(self.kafka.transaction_error(&error, "writing a record")),
            }
        }
    }

    /// A record's own timestamp, moved as the events' are; but not into the future, which Kafka refuses.
    fn moved(&self, timestamp_ms: i64) -> i64 {
        self.shift_ms.map_or(timestamp_ms, |by_ms| timestamp_ms.saturating_add(by_ms).min(now_ms()))
    }

    /// Makes the payload with another time in it, if that is wanted, and says whether it is an event.
    fn shift(&mut self, original: &Original<'_>) -> Option<bool> {
        let limits = self.copy.shift_to_now.as_ref()?;
        let payload = original.payload.unwrap_or_default();
        let Some(stamp) = stamp_of(payload, original.timestamp_ms.unwrap_or_else(now_ms), limits) else { return Some(false) };
        let by_ms = *self.shift_ms.get_or_insert_with(|| now_ms().saturating_sub(stamp.timestamp_ms));
        stamp.shifted(payload, by_ms, &mut self.rewritten);
        Some(true)
    }

    /// Commits a transaction that is long enough.
    fn commit_old(&mut self) -> Result<(), Error> {
        match self.open {
            Some((began, records)) if records >= MOST_RECORDS || began.elapsed() >= LONGEST => self.commit(),
            _ => Ok(()),
        }
    }

    /// Makes what has been written visible, together with the positions.
    fn commit(&mut self) -> Result<(), Error> {
        if self.open.is_none() {
            if self.at == self.copied.reached {
                return Ok(());
            }
            // Nothing but holes: their end is noted all the same.
            self.begin()?;
        }
        let failed = |error: KafkaError| self.kafka.transaction_error(&error, "committing a transaction");
        let note = note(self.copy, self.shift_ms);
        let mut positions = TopicPartitionList::new();
        for (partition, at) in self.at.iter() {
            let mut element = positions.add_partition(&self.kafka.topic, number(partition));
            let offset = i64::try_from(at.get()).unwrap_or(i64::MAX);
            element.set_offset(RawOffset::Offset(offset)).map_err(failed)?;
            element.set_metadata(&note);
        }
        let group = self.group.as_ref().ok_or_else(|| Error::Refused { reason: "the consumer has no group".into() })?;
        self.producer.send_offsets_to_transaction(&positions, group, TRANSACTION_DEADLINE).map_err(failed)?;
        self.producer.commit_transaction(TRANSACTION_DEADLINE).map_err(failed)?;
        self.open = None;
        self.copied.reached = self.at.clone();
        self.copied.shifted_ms = self.shift_ms;
        (self.progress)(&self.copied);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(range: &str, shifts: bool) -> Copy {
        let shift_to_now = shifts.then(Limits::default);
        Copy { into: "b".into(), name: "n".into(), range: range.into(), timed_now: false, shift_to_now }
    }

    #[test]
    fn a_note_says_what_was_copied_and_by_how_much_times_were_moved() {
        for shift_ms in [None, Some(0), Some(-5), Some(1_700_000_000_123)] {
            let copy = copy("from 7 into b", true);
            assert_eq!(shift_in(&copy, &note(&copy, shift_ms)).expect("the same copy"), shift_ms);
        }
        let plain = copy("from 7 into b", false);
        assert_eq!(shift_in(&plain, &note(&plain, None)).expect("the same copy"), None);
        for (ours, noted) in [
            (copy("from 7 into b", false), note(&copy("from 8 into b", false), None)),
            (copy("from 7 into b", false), note(&copy("from 7 into b", true), Some(3))),
            (copy("from 7 into b", true), note(&copy("from 7 into b", false), None)),
            (copy("from 7 into b", true), note(&copy("from 7 into c", true), Some(3))),
        ] {
            let refused = shift_in(&ours, &noted).expect_err("another copy").to_string();
            assert!(refused.contains("give this one another name"), "{refused}");
        }
    }
}
