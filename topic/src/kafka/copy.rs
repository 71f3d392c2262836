//! Copies a range of the topic into another topic of the same cluster, each record once, whatever is killed (⇄; blocks).
//!
//! Records and the positions up to which they have been copied are written in one transaction. A copy that begins again
//! goes on from these positions, and a second process that runs the same copy fences the first. Readers of committed
//! records, as tidemark's, see each record once; others may see some of an aborted transaction.

use super::{ANSWER_DEADLINE, Kafka, is_transient, number};
use crate::{Error, NextOffset, Partition};
use rdkafka::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::cut::Cut;

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

/// Reads the topic. Where a partition ends is looked for, and is no error.
type Source = BaseConsumer<Quiet>;

struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(target: "kafka", "{error}: {reason}");
        }
    }
}

impl ConsumerContext for Quiet {}

/// What is copied, and how.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The topic that is written to. With as many partitions as the source has, a record keeps its partition; else its key
    /// decides.
    pub into: String,
    /// Names the copy: one of a name runs at a time, and goes on where the last one stopped.
    pub name: String,
    /// What was asked for, in words. Noted with the positions, so that something else under the same name is noticed.
    pub range: String,
    pub from: Cut,
    /// The first offsets that are not copied.
    pub to: Cut,
    /// Records carry the time of their copying instead of their own.
    pub timed_now: bool,
}

/// What has been copied, by this call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    pub records: u64,
    pub bytes: u64,
    /// Where it began: above `from` if a former call came so far.
    pub resumed: Cut,
    /// Up to where each partition has been copied, by this call or a former one.
    pub reached: Cut,
}

/// Told how far a copy is, whenever it has been committed.
pub type Progress<'p> = &'p mut dyn FnMut(&Copied);

impl Kafka {
    /// The offsets from which on records are of this instant or later, in milliseconds.
    pub fn offsets_at(&self, partitions: u32, timestamp_ms: i64) -> Result<Cut, Error> {
        let consumer = self.source("tidemark-without-group")?;
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            let mut element = asked.add_partition(&self.topic, number(Partition(partition)));
            element.set_offset(RawOffset::Offset(timestamp_ms)).map_err(|error| self.client_error(&error, "asking for offsets"))?;
        }
        let found = consumer.offsets_for_times(asked, ANSWER_DEADLINE).map_err(|error| self.client_error(&error, "asking for offsets"))?;
        let mut cut = Cut::default();
        for element in found.elements() {
            let partition = Partition(element.partition().unsigned_abs());
            let at = match element.offset() {
                RawOffset::Offset(offset) => NextOffset::new(u64::try_from(offset).unwrap_or_default()),
                // None is as late: the end.
                _ => self.extent(consumer.client(), partition, ANSWER_DEADLINE)?.end,
            };
            cut.set(partition, at);
        }
        Ok(cut)
    }

    /// Copies until all is done, it is time to stop, or an error comes; then it may be called again. `due` says when a record
    /// of this timestamp is to be written.
    pub fn copy(
        &self,
        copy: &Copy,
        mut due: impl FnMut(i64) -> Instant,
        stop: &AtomicBool,
        progress: Progress<'_>,
    ) -> Result<Copied, Error> {
        let target = Self { topic: copy.into.clone(), ..self.clone() };
        let group = format!("tidemark-copy-{}", copy.name);
        let consumer = Arc::new(self.source(&group)?);
        let fixed =
            [("transactional.id", group.as_str()), ("partitioner", "murmur2_random"), ("linger.ms", "2"), ("compression.codec", "lz4")];
        let defaults =
            [("queue.buffering.max.messages", "0"), ("queue.buffering.max.kbytes", "65536"), ("transaction.timeout.ms", "60000")];
        let config = self.config(&defaults, &fixed)?;
        let producer: ThreadedProducer<DefaultProducerContext> =
            config.create().map_err(|error| Error::Refused { reason: format!("making a producer: {error}") })?;
        let failed = |error: KafkaError, doing: &str| self.transaction_error(&error, doing);
        // First of all: from here on no other copy of the name can commit, and what it began is over.
        producer.init_transactions(TRANSACTION_DEADLINE).map_err(|error| failed(error, "beginning to copy"))?;
        let keeps_partition =
            self.partitions(consumer.client(), ANSWER_DEADLINE)?.count == target.partitions(consumer.client(), ANSWER_DEADLINE)?.count;
        let mut session = Session {
            kafka: self,
            copy,
            group: consumer.group_metadata(),
            producer: &producer,
            at: self.begin_at(copy, &consumer)?,
            copied: Copied::default(),
            open: None,
            keeps_partition,
        };
        session.copied.resumed = session.at.clone();
        session.copied.reached = session.at.clone();
        let outcome = session.run(&consumer, &mut due, stop, progress);
        if outcome.is_err() && session.open.is_some() {
            // What could not be committed must not be seen; if this fails too, the next begin ends it.
            let _ = producer.abort_transaction(TRANSACTION_DEADLINE);
        }
        outcome.map(|()| session.copied)
    }

    fn source(&self, group: &str) -> Result<Source, Error> {
        let fixed = [
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("group.id", group),
            ("isolation.level", "read_committed"),
        ];
        let config = self.config(&[("queued.max.messages.kbytes", "16384"), ("fetch.wait.max.ms", "100")], &fixed)?;
        Source::from_config_and_context(&config, Quiet).map_err(|error| Error::Refused { reason: format!("making a consumer: {error}") })
    }

    /// Where each partition goes on: what has been committed under the copy's name, else its `from`.
    fn begin_at(&self, copy: &Copy, consumer: &Source) -> Result<Cut, Error> {
        let mut asked = TopicPartitionList::new();
        for (partition, _) in copy.to.iter() {
            asked.add_partition(&self.topic, number(partition));
        }
        let committed =
            consumer.committed_offsets(asked, ANSWER_DEADLINE).map_err(|error| self.client_error(&error, "asking how far the copy is"))?;
        let mut at = Cut::default();
        for element in committed.elements() {
            let partition = Partition(element.partition().unsigned_abs());
            let RawOffset::Offset(offset) = element.offset() else {
                at.set(partition, copy.from.get(partition));
                continue;
            };
            let (known, ours) = (element.metadata(), &copy.range);
            if known != ours {
                let reason = format!(
                    "a copy named `{}` has copied something else, {known}; now it is {ours}: give this one another name",
                    copy.name
                );
                return Err(Error::Refused { reason });
            }
            at.set(partition, NextOffset::new(u64::try_from(offset).unwrap_or_default()));
        }
        Ok(at)
    }

    /// An error that passes by itself is none.
    fn tolerated(&self, error: &KafkaError) -> Result<(), Error> {
        match error.rdkafka_error_code() {
            Some(code) if is_transient(code) => Ok(()),
            _ => Err(self.client_error(error, "reading the topic")),
        }
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

/// A copy under way.
struct Session<'k> {
    kafka: &'k Kafka,
    copy: &'k Copy,
    group: Option<ConsumerGroupMetadata>,
    producer: &'k ThreadedProducer<DefaultProducerContext>,
    /// What has been handed to the producer.
    at: Cut,
    copied: Copied,
    /// The transaction's beginning and records.
    open: Option<(Instant, usize)>,
    keeps_partition: bool,
}

/// What a partition's queue has.
enum Next<'q> {
    Record(BorrowedMessage<'q>),
    /// Nothing below the end of the range any more.
    Ended,
    NotYet,
}

impl Session<'_> {
    /// Merges the partitions by their records' timestamps.
    fn run(
        &mut self,
        consumer: &Arc<Source>,
        due: &mut impl FnMut(i64) -> Instant,
        stop: &AtomicBool,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let wanted: Vec<(Partition, NextOffset)> = self.copy.to.iter().filter(|&(partition, to)| self.at.get(partition) < to).collect();
        let mut assignment = TopicPartitionList::new();
        for &(partition, _) in &wanted {
            let offset =
                i64::try_from(self.at.get(partition).get()).map_err(|_| Error::Refused { reason: "an offset is too large".into() })?;
            let mut element = assignment.add_partition(&self.kafka.topic, number(partition));
            element.set_offset(RawOffset::Offset(offset)).map_err(|error| self.kafka.client_error(&error, "assigning partitions"))?;
        }
        let split = |&(partition, _): &(Partition, NextOffset)| consumer.split_partition_queue(&self.kafka.topic, number(partition));
        // Before, so that no record gets into the consumer's own queue, and after, because assigning undoes it.
        let _before: Vec<_> = wanted.iter().map(split).collect();
        consumer.assign(&assignment).map_err(|error| self.kafka.client_error(&error, "assigning partitions"))?;
        let queues: Option<Vec<_>> = wanted.iter().map(split).collect();
        let queues = queues.ok_or_else(|| Error::Refused { reason: "a partition has no queue".into() })?;
        let mut heads: BTreeMap<usize, BorrowedMessage<'_>> = BTreeMap::new();
        let mut reading: Vec<usize> = (0..wanted.len()).collect();
        while !reading.is_empty() && !stop.load(Ordering::Relaxed) {
            match consumer.poll(Duration::ZERO) {
                None => {}
                // Of the client, and whatever else has no partition.
                Some(Err(error)) => self.kafka.tolerated(&error)?,
                Some(Ok(message)) => {
                    // It is missing in its own queue: begun again, it comes there.
                    let reason = format!("offset {} of partition {} came astray", message.offset(), message.partition());
                    return Err(Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason });
                }
            }
            self.commit_old(progress)?;
            let mut still = Vec::with_capacity(reading.len());
            for &n in &reading {
                if heads.contains_key(&n) {
                    still.push(n);
                    continue;
                }
                match self.next(&queues[n], wanted[n], POLL)? {
                    Next::Ended => {}
                    Next::NotYet => still.push(n),
                    Next::Record(message) => {
                        heads.insert(n, message);
                        still.push(n);
                    }
                }
            }
            reading = still;
            // Of all that are still read the next record must be known, or it might be earlier.
            while heads.len() == reading.len() && !heads.is_empty() {
                let (&n, message) =
                    heads.iter().min_by_key(|(_, message)| message.timestamp().to_millis().unwrap_or_default()).expect("there is one");
                if !self.wait_until(due(message.timestamp().to_millis().unwrap_or_default()), stop, progress)? {
                    break;
                }
                self.write(message)?;
                self.at.set(wanted[n].0, NextOffset::new(message.offset().unsigned_abs() + 1));
                heads.remove(&n);
                // The next one of the same partition, if it is there.
                match self.next(&queues[n], wanted[n], Duration::ZERO)? {
                    Next::Ended => reading.retain(|&other| other != n),
                    Next::NotYet => {}
                    Next::Record(message) => drop(heads.insert(n, message)),
                }
                self.commit_old(progress)?;
            }
        }
        self.commit(progress)
    }

    /// A partition's next record below its end, if it comes in time.
    fn next<'q>(
        &mut self,
        queue: &'q PartitionQueue<Quiet>,
        (partition, to): (Partition, NextOffset),
        patience: Duration,
    ) -> Result<Next<'q>, Error> {
        match queue.poll(patience) {
            None => return Ok(Next::NotYet),
            Some(Ok(message)) if message.offset().unsigned_abs() < to.get() => return Ok(Next::Record(message)),
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => {
                self.kafka.tolerated(&error)?;
                return Ok(Next::NotYet);
            }
        }
        self.at.set(partition, to);
        Ok(Next::Ended)
    }

    /// Waits; what has been written is committed meanwhile, if that is long enough. False if it is time to stop.
    fn wait_until(&mut self, due: Instant, stop: &AtomicBool, progress: Progress<'_>) -> Result<bool, Error> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            self.commit_old(progress)?;
            std::thread::sleep(left.min(POLL));
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
        }
    }

    fn write(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Error> {
        if self.open.is_none() {
            self.producer.begin_transaction().map_err(|error| self.kafka.transaction_error(&error, "beginning a transaction"))?;
            self.open = Some((Instant::now(), 0));
        }
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.copy.into);
        record.key = message.key();
        record.payload = message.payload();
        record.headers = message.headers().map(rdkafka::message::BorrowedHeaders::detach);
        record.partition = self.keeps_partition.then(|| message.partition());
        record.timestamp = message.timestamp().to_millis().filter(|_| !self.copy.timed_now);
        self.copied.records += 1;
        self.copied.bytes += (message.payload_len() + message.key_len()) as u64;
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

    /// Commits a transaction that is long enough.
    fn commit_old(&mut self, progress: Progress<'_>) -> Result<(), Error> {
        match self.open {
            Some((began, records)) if records >= MOST_RECORDS || began.elapsed() >= LONGEST => self.commit(progress),
            _ => Ok(()),
        }
    }

    /// Makes what has been written visible, together with the positions.
    fn commit(&mut self, progress: Progress<'_>) -> Result<(), Error> {
        let failed = |error: KafkaError| self.kafka.transaction_error(&error, "committing a transaction");
        if self.open.is_none() {
            if self.at == self.copied.reached {
                return Ok(());
            }
            // Nothing but holes: their end is noted all the same.
            self.producer.begin_transaction().map_err(failed)?;
        }
        let mut positions = TopicPartitionList::new();
        for (partition, at) in self.at.iter() {
            let mut element = positions.add_partition(&self.kafka.topic, number(partition));
            let offset = i64::try_from(at.get()).unwrap_or(i64::MAX);
            element.set_offset(RawOffset::Offset(offset)).map_err(failed)?;
            element.set_metadata(&self.copy.range);
        }
        let group = self.group.as_ref().ok_or_else(|| Error::Refused { reason: "the consumer has no group".into() })?;
        self.producer.send_offsets_to_transaction(&positions, group, TRANSACTION_DEADLINE).map_err(failed)?;
        self.producer.commit_transaction(TRANSACTION_DEADLINE).map_err(failed)?;
        self.open = None;
        self.copied.reached = self.at.clone();
        progress(&self.copied);
        Ok(())
    }
}
