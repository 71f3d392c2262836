//! Raw history as the source of a copy (⇄; blocks): what became of the topic's records, for what Kafka no longer has.
//!
//! An event's payload is made anew, and decodes to the same; duplicates and dead letters have been kept as they came.

use super::PublishError;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::event::Limits;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_history::History;
use tidemark_history::rows::{RawKind, RawRecord};
use tidemark_ingest::key_of;
use tidemark_topic::kafka::{Copying, Original, Source};
use tokio::runtime::Handle;

/// Offsets that are read at once, of each partition.
const STEP: u64 = 1 << 13;

/// The records of closed epochs from one cut up to another.
#[derive(Debug)]
pub struct Raw {
    history: Arc<dyn History>,
    runtime: Handle,
    /// That they were of.
    topic: String,
    partitions: u32,
    limits: Limits,
    from: Cut,
    to: Cut,
    /// Only records of these times.
    times: Range<i64>,
}

impl Raw {
    /// `limits` are those of the generation.
    pub fn new(history: Arc<dyn History>, runtime: Handle, topic: &str, limits: Limits, from: Cut, to: Cut, times: Range<i64>) -> Self {
        let partitions = u32::try_from(to.iter().len()).unwrap_or(u32::MAX);
        Self { history, runtime, topic: topic.to_owned(), partitions, limits, from, to, times }
    }

    pub(super) fn ends_at(&self) -> &Cut {
        &self.to
    }

    fn read(&self, partition: Partition, range: OffsetRange) -> Result<VecDeque<RawRecord>, PublishError> {
        let mut rows = self.runtime.block_on(self.history.raw(partition, range))?;
        rows.retain(|row| self.times.contains(&time(row)));
        Ok(rows.into())
    }
}

/// An event's own time; the record's, of what is none.
fn time(record: &RawRecord) -> i64 {
    match &record.kind {
        RawKind::Event(event) => event.timestamp_ms,
        RawKind::Duplicate(kept) | RawKind::DeadLetter(_, kept) => kept.record_timestamp_ms,
    }
}

/// A partition that is read.
struct Lane {
    partition: Partition,
    /// What has been read of it, and is next.
    rows: VecDeque<RawRecord>,
    at: NextOffset,
    to: NextOffset,
}

impl Lane {
    /// Sees to it that the next record is known. False if there is none any more.
    fn fill(&mut self, raw: &Raw, copying: &mut Copying<'_>) -> Result<bool, PublishError> {
        while self.rows.is_empty() {
            copying.passed(self.partition, self.at);
            let next = NextOffset::new(self.at.get().saturating_add(STEP)).min(self.to);
            let Some(range) = OffsetRange::new(self.at, next) else { return Ok(false) };
            self.rows = raw.read(self.partition, range)?;
            self.at = next;
            if !copying.idle()? {
                break;
            }
        }
        Ok(true)
    }
}

impl Source for Raw {
    type Error = PublishError;

    fn noted_under(&self) -> &str {
        &self.topic
    }

    fn begins_at(&self) -> &Cut {
        &self.from
    }

    fn partitions(&self) -> Option<u32> {
        Some(self.partitions)
    }

    fn give(&mut self, at: &Cut, copying: &mut Copying<'_>) -> Result<bool, PublishError> {
        let lane = |(partition, to)| Lane { partition, rows: VecDeque::new(), at: at.get(partition), to };
        let mut lanes: Vec<Lane> = self.to.iter().map(lane).filter(|lane| lane.at < lane.to).collect();
        let mut reading = Vec::with_capacity(lanes.len());
        for mut lane in lanes.drain(..) {
            if lane.fill(self, copying)? {
                reading.push(lane);
            }
        }
        while !reading.is_empty() {
            if !copying.idle()? {
                return Ok(false);
            }
            let first = |lane: &Lane| lane.rows.front().map(time);
            let Some(n) = (0..reading.len()).min_by_key(|&n| first(&reading[n])) else { break };
            let lane = &mut reading[n];
            if let Some(row) = lane.rows.pop_front()
                && !put(lane.partition, row, &self.limits, copying)?
            {
                return Ok(false);
            }
            if !lane.fill(self, copying)? {
                reading.swap_remove(n);
            }
        }
        Ok(true)
    }
}

fn put(partition: Partition, row: RawRecord, limits: &Limits, copying: &mut Copying<'_>) -> Result<bool, PublishError> {
    let (offset, is_no_event) = (row.offset, matches!(row.kind, RawKind::DeadLetter(..)));
    // The record's key has not been kept: it is what ingest gives it.
    let key = row.decoded(limits).ok().and_then(key_of).map(std::borrow::Cow::into_owned);
    let (timestamp_ms, payload) = row.into_record();
    let record = Original {
        key: key.as_deref().map(str::as_bytes),
        payload: Some(&payload),
        partition: Some(partition),
        timestamp_ms: Some(timestamp_ms),
        paced_by_ms: timestamp_ms,
        is_no_event,
        ..Original::before((partition, offset.next()))
    };
    Ok(copying.put(&record)?)
}
