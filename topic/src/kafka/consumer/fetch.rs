//! Records, ends, and where reading begins: the data queue.

use super::client::Connected;
use super::{KafkaConsumer, index, slot};
use crate::kafka::native::{self, Fetched};
use crate::kafka::{ANSWER_DEADLINE, is_transient, number};
use crate::{Error, Extent, Happened, NextOffset, Partition, Record};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset as RawOffset;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a poll may be held up by the question where a doubtful partition stands.
const DOUBT_PATIENCE: Duration = Duration::from_millis(500);

/// After a silence of this length, records are taken only once the topic has been confirmed to be the expected one. A topic
/// that is deleted and created again is not fetched from in between for [`FETCH_ERROR_BACKOFF_MS`] at least.
const SILENCE: Duration = Duration::from_millis(300);

/// After a fetch that failed, as it does on a topic that was deleted, librdkafka waits so long before the next.
pub(super) const FETCH_ERROR_BACKOFF_MS: &str = "500";

/// A partition that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    /// The first offset not yet handed over.
    pub(super) next: NextOffset,
    /// The log's end when reading began; later ends come with the fetches.
    pub(super) end_at_start: NextOffset,
    /// Where the last `End` was announced.
    ended: Option<NextOffset>,
    /// When records were last taken, or reading began.
    fresh_at: Instant,
}

impl KafkaConsumer {
    /// Hands over what has been fetched, at most a batch, then the ends that have been reached.
    pub(super) fn read(&mut self, deliver: &mut impl FnMut(Happened<'_>)) -> usize {
        let Self { client: Connected { data, .. }, reading, doubtful, kafka, failed, .. } = self;
        let (mut handed, now) = (0, Instant::now());
        let mut broken = Vec::new();
        // What has been fetched when the topic is confirmed was fetched from that topic.
        let mut confirmed = kafka.expected.is_none().then_some(true);
        let full = data.take(|fetched| match fetched {
            // It will be sought to where it stands: what comes until then follows records that have not been taken.
            Fetched::Records { partition, .. } if doubtful.contains(&partition) => {}
            Fetched::Records { partition, records, traced } => {
                if confirmed.is_none() && was_silent(reading, partition, now) {
                    confirmed = Some(match kafka.confirm(DOUBT_PATIENCE) {
                        Ok(()) => true,
                        Err(Error::Unavailable { reason, .. }) => {
                            tracing::debug!(target: "kafka", "the topic cannot be confirmed now: {reason}");
                            false
                        }
                        Err(error) => {
                            *failed = Some(error);
                            false
                        }
                    });
                }
                if confirmed == Some(false) {
                    // To be fetched again, when it can be confirmed.
                    doubtful.insert(partition);
                    return;
                }
                // A fetch that librdkafka repeats begins anew within the run.
                for records in records.chunk_by(|one, next| one.offset < next.offset) {
                    let records = accept(reading, partition, records, now);
                    if let [first, .., last] | [first @ last] = records {
                        for &(offset, traceparent) in traced.iter().filter(|(offset, _)| (first.offset..=last.offset).contains(offset)) {
                            deliver(Happened::Traced { partition, offset, traceparent });
                        }
                        deliver(Happened::Records { partition, records });
                        handed += records.len();
                    }
                }
            }
            Fetched::Failed { partition, code: RDKafkaErrorCode::AutoOffsetReset, .. } => {
                doubtful.insert(partition);
            }
            Fetched::Failed { code, .. } if is_transient(code) => {}
            Fetched::Failed { partition, code, reason } => {
                *failed = Some(kafka.error(code, &format!("reading partition {partition} ({reason})")));
                broken.push(partition);
            }
        });
        // What follows a record that cannot be read must not be taken for the next one.
        for partition in broken {
            self.stop_reading(partition);
            self.idle.insert(partition);
            self.settle();
        }
        if handed > 0 {
            self.client.base.context().journal.reached();
        }
        if full {
            self.parking.ready();
            return handed;
        }
        handed + self.announce_ends(deliver)
    }

    /// Announces each partition that has been read up to the log's end and was not there before.
    pub(super) fn announce_ends(&mut self, deliver: &mut impl FnMut(Happened<'_>)) -> usize {
        if self.reading().next().is_none() {
            return 0;
        }
        let positions = self.list(self.reading().map(|(partition, _)| partition));
        native::read_positions(self.client.base.client(), &positions);
        let mut handed = 0;
        for element in positions.elements() {
            let partition = Partition(element.partition().unsigned_abs());
            // Of a doubtful one, records that were fetched have not been taken.
            if self.doubtful.contains(&partition) {
                continue;
            }
            let Some(Some(reading)) = self.reading.get_mut(index(partition)) else { continue };
            let fetched = native::fetched_end(self.client.base.client(), &self.topic, partition).map(NextOffset::new);
            let end = fetched.unwrap_or(reading.end_at_start).max(reading.end_at_start);
            // Invisible records (transactions' markers, aborted ones) carry the position past the last record.
            let read = match element.offset() {
                RawOffset::Offset(offset) => u64::try_from(offset).map_or(reading.next, NextOffset::new),
                _ => reading.next,
            };
            if read.max(reading.next) == end && reading.ended != Some(end) {
                reading.next = end;
                reading.ended = Some(end);
                deliver(Happened::End { partition, next: end });
                handed += 1;
            }
        }
        handed
    }

    /// Looks into the partitions whose position librdkafka has given up on: out of range, or to be fetched again.
    pub(super) fn resolve_doubts(&mut self) -> Result<(), Error> {
        while let Some(partition) = self.doubtful.first().copied() {
            let Some(next) = slot(&self.reading, partition).map(|reading| reading.next) else {
                self.doubtful.remove(&partition);
                continue;
            };
            let extent = match self.kafka.extent(partition, DOUBT_PATIENCE) {
                Ok(extent) => extent,
                Err(Error::Unavailable { .. }) => return Ok(()), // still doubtful at the next poll
                Err(error) => return Err(error),
            };
            // Whether the topic is the expected one is still to be asked.
            match self.kafka.confirm(DOUBT_PATIENCE) {
                Ok(()) => {}
                Err(Error::Unavailable { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
            self.stop_reading(partition);
            self.idle.insert(partition);
            self.settle();
            if !extent.admits(next) {
                return Err(Error::OutOfRange { partition, wanted: next, extent });
            }
            match self.begin(partition, next, extent) {
                Err(Error::Unavailable { .. }) => {
                    // A revocation is open: again when it is over.
                    self.set_reading(partition, Reading { next, end_at_start: extent.end, ended: None, fresh_at: Instant::now() });
                    self.doubtful.insert(partition);
                    return Ok(());
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    pub(super) fn set_reading(&mut self, partition: Partition, reading: Reading) {
        let at = index(partition);
        if self.reading.len() <= at {
            self.reading.resize_with(at + 1, || None);
        }
        self.reading[at] = Some(reading);
    }

    /// Begins to fetch at a position known to be in the log.
    pub(super) fn begin(&mut self, partition: Partition, at: NextOffset, extent: Extent) -> Result<(), Error> {
        // Nothing is taken from the partition until the new position stands: a record of the old one would pass for one
        // of the new.
        let was_reading = self.stop_reading(partition).is_some();
        if was_reading && self.assigned.contains(&partition) {
            let offset = i64::try_from(at.get()).map_err(|_| Error::Refused { reason: format!("{at} is not an offset of Kafka") })?;
            let sought = self.client.base.seek(&self.kafka.topic, number(partition), RawOffset::Offset(offset), ANSWER_DEADLINE);
            sought.map_err(|error| Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason: error.to_string() })?;
            self.unpause(&BTreeSet::from([partition]));
        } else {
            if self.assigned.contains(&partition) {
                self.idle.insert(partition);
                self.settle();
            }
            if self.assigned.contains(&partition) {
                let reason = "a rebalance is under way; repeat when it is over".to_owned();
                return Err(Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason });
            }
            self.client.data.forward(self.client.base.client(), &self.topic, partition);
            let assignment = self.list_at(partition, at, None)?;
            let refused = |error: KafkaError| Error::Refused { reason: format!("assigning partition {partition}: {error}") };
            self.client.base.incremental_assign(&assignment).map_err(refused)?;
            self.client.data.forward(self.client.base.client(), &self.topic, partition);
            self.assigned.insert(partition);
        }
        self.set_reading(partition, Reading { next: at, end_at_start: extent.end, ended: None, fresh_at: Instant::now() });
        // An empty remainder is an `End` that no fetch will announce.
        self.parking.ready();
        Ok(())
    }
}

/// True of a partition from which nothing has come for so long that the topic may have been replaced.
fn was_silent(reading: &[Option<Reading>], partition: Partition, now: Instant) -> bool {
    slot(reading, partition).is_some_and(|reading| now.saturating_duration_since(reading.fresh_at) > SILENCE)
}

/// Of records in order those that have not been handed over before; none if the partition is not being read. They are
/// taken into account.
fn accept<'r, 'a>(reading: &mut [Option<Reading>], partition: Partition, records: &'r [Record<'a>], now: Instant) -> &'r [Record<'a>] {
    let Some(Some(reading)) = reading.get_mut(index(partition)) else { return &[] };
    reading.fresh_at = now;
    let fresh = &records[records.partition_point(|record| reading.next.includes(record.offset))..];
    if let Some(last) = fresh.last() {
        reading.next = last.offset.next();
    }
    fresh
}
