//! A range of a topic as the source of a copy: the partitions merged by their records' timestamps.

use super::{Copying, Headers, Original, POLL, Reader, Source};
use crate::kafka::{ANSWER_DEADLINE, Kafka, is_transient, number};
use crate::{Error, NextOffset, Partition};
use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cut::Cut;

/// No positions are committed under it.
const NO_GROUP: &str = "tidemark-without-group";

/// The records of a topic from one cut up to another.
#[derive(Clone, Debug)]
pub struct TopicRange {
    pub kafka: Kafka,
    pub partitions: u32,
    pub from: Cut,
    /// The first offsets that are not copied.
    pub to: Cut,
}

impl Kafka {
    /// The offsets from which on records are of this instant or later, in milliseconds.
    pub fn offsets_at(&self, partitions: u32, timestamp_ms: i64) -> Result<Cut, Error> {
        let consumer = self.reader(NO_GROUP)?;
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
                _ => self.extent(partition, ANSWER_DEADLINE)?.end,
            };
            cut.set(partition, at);
        }
        Ok(cut)
    }

    /// An error that passes by itself is none.
    fn tolerated(&self, error: &KafkaError) -> Result<(), Error> {
        match error.rdkafka_error_code() {
            Some(code) if is_transient(code) => Ok(()),
            _ => Err(self.client_error(error, "reading the topic")),
        }
    }
}

impl Source for TopicRange {
    type Error = Error;

    fn noted_under(&self) -> &str {
        &self.kafka.topic
    }

    fn begins_at(&self) -> &Cut {
        &self.from
    }

    fn partitions(&self) -> Option<u32> {
        Some(self.partitions)
    }

    fn give(&mut self, at: &Cut, copying: &mut Copying<'_>) -> Result<bool, Error> {
        let kafka = &self.kafka;
        let consumer = Arc::clone(&copying.reader);
        let wanted: Vec<(Partition, NextOffset)> = self.to.iter().filter(|&(partition, to)| at.get(partition) < to).collect();
        let queues = assign(kafka, &consumer, &wanted, at)?;
        let mut merge = Merge { kafka, queues: &queues, wanted: &wanted, heads: BTreeMap::new(), reading: (0..wanted.len()).collect() };
        while !merge.reading.is_empty() {
            kafka.check_for_strays(&consumer)?;
            if !copying.idle()? {
                return Ok(false);
            }
            merge.look(copying)?;
            // Of all that are still read the next record must be known, or it might be earlier.
            while merge.heads.len() == merge.reading.len() && !merge.heads.is_empty() {
                if !merge.put_first(copying)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl Kafka {
    fn check_for_strays(&self, consumer: &Reader) -> Result<(), Error> {
        match consumer.poll(Duration::ZERO) {
            None => Ok(()),
            // Of the client, and whatever else has no partition.
            Some(Err(error)) => self.tolerated(&error),
            Some(Ok(message)) => {
                // It is missing in its own queue: begun again, it comes there.
                let reason = format!("offset {} of partition {} came astray", message.offset(), message.partition());
                Err(Error::Unavailable { broker: self.bootstrap.clone(), reason })
            }
        }
    }
}

/// Begins to read; each partition has a queue of its own.
fn assign(
    kafka: &Kafka,
    consumer: &Arc<Reader>,
    wanted: &[(Partition, NextOffset)],
    at: &Cut,
) -> Result<Vec<PartitionQueue<super::Quiet>>, Error> {
    let mut assignment = TopicPartitionList::new();
    for &(partition, _) in wanted {
        let offset = i64::try_from(at.get(partition).get()).map_err(|_| Error::Refused { reason: "an offset is too large".into() })?;
        let mut element = assignment.add_partition(&kafka.topic, number(partition));
        element.set_offset(RawOffset::Offset(offset)).map_err(|error| kafka.client_error(&error, "assigning partitions"))?;
    }
    let split = |&(partition, _): &(Partition, NextOffset)| consumer.split_partition_queue(&kafka.topic, number(partition));
    // Before, so that no record gets into the consumer's own queue, and after, because assigning undoes it.
    let _before: Vec<_> = wanted.iter().map(split).collect();
    consumer.assign(&assignment).map_err(|error| kafka.client_error(&error, "assigning partitions"))?;
    let queues: Option<Vec<_>> = wanted.iter().map(split).collect();
    queues.ok_or_else(|| Error::Refused { reason: "a partition has no queue".into() })
}

/// The partitions that are read, and the next record of each.
struct Merge<'q> {
    kafka: &'q Kafka,
    queues: &'q [PartitionQueue<super::Quiet>],
    /// For each queue its partition, and where that ends.
    wanted: &'q [(Partition, NextOffset)],
    heads: BTreeMap<usize, BorrowedMessage<'q>>,
    reading: Vec<usize>,
}

/// What a partition's queue has.
enum Next<'q> {
    Record(BorrowedMessage<'q>),
    /// Nothing below the end of the range any more.
    Ended,
    NotYet,
}

impl Merge<'_> {
    /// Looks for the next record of each partition that has none.
    fn look(&mut self, copying: &mut Copying<'_>) -> Result<(), Error> {
        let mut still = Vec::with_capacity(self.reading.len());
        for n in std::mem::take(&mut self.reading) {
            if self.heads.contains_key(&n) || self.head(n, POLL, copying)? {
                still.push(n);
            }
        }
        self.reading = still;
        Ok(())
    }

    /// Puts the earliest record.
    fn put_first(&mut self, copying: &mut Copying<'_>) -> Result<bool, Error> {
        let time = |message: &BorrowedMessage<'_>| message.timestamp().to_millis().unwrap_or_default();
        let (&n, message) = self.heads.iter().min_by_key(|(_, message)| time(message)).expect("there is one");
        let partition = self.wanted[n].0;
        let original = Original {
            key: message.key(),
            payload: message.payload(),
            headers: Headers(message.headers()),
            partition: Some(partition),
            timestamp_ms: message.timestamp().to_millis(),
            paced_by_ms: time(message),
            is_no_event: false,
            next: (partition, NextOffset::new(message.offset().unsigned_abs() + 1)),
        };
        if !copying.put(&original)? {
            return Ok(false);
        }
        self.heads.remove(&n);
        // The next one of the same partition, if it is there.
        if !self.head(n, Duration::ZERO, copying)? {
            self.reading.retain(|&other| other != n);
        }
        Ok(true)
    }

    /// Takes a partition's next record below its end, if it comes in time. False if there is none any more.
    fn head(&mut self, n: usize, patience: Duration, copying: &mut Copying<'_>) -> Result<bool, Error> {
        match self.next(n, patience)? {
            Next::Ended => {
                copying.passed(self.wanted[n].0, self.wanted[n].1);
                return Ok(false);
            }
            Next::NotYet => {}
            Next::Record(message) => drop(self.heads.insert(n, message)),
        }
        Ok(true)
    }
}

impl<'q> Merge<'q> {
    fn next(&self, n: usize, patience: Duration) -> Result<Next<'q>, Error> {
        match self.queues[n].poll(patience) {
            None => Ok(Next::NotYet),
            Some(Ok(message)) if message.offset().unsigned_abs() < self.wanted[n].1.get() => Ok(Next::Record(message)),
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => Ok(Next::Ended),
            Some(Err(error)) => self.kafka.tolerated(&error).map(|()| Next::NotYet),
        }
    }
}
