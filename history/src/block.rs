//! A block: the rows of one partition's offset range, gathered as records are judged, grouped by the part that lands or
//! misses as a whole. The same records always make the same block, whoever gathers it.

use crate::rows::{Found, Month, PartKey, PartRows, RowBlock, RowCount, Table};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_core::event::Event;
use tidemark_core::judge::Verdict;
use tidemark_core::offset::{NextOffset, Offset, OffsetRange, Partition};

/// Dead letters keep their record whole up to this size, beyond which they could fill the disk.
pub const MAX_DEAD_LETTER_BYTES: usize = 64 * 1024;

/// The reason under which duplicates are kept with the dead letters.
pub const DUPLICATE: &str = "duplicate";

/// Gathers the records of one partition from a position on.
#[derive(Debug)]
pub struct BlockBuilder {
    partition: Partition,
    from: NextOffset,
    to: NextOffset,
    rows: u64,
    parts: BTreeMap<PartKey, PartRows>,
    /// The month of the last event, and the instants that it spans: events mostly come in order of time.
    month: Option<(Month, i64, i64)>,
}

/// A finished block.
#[derive(Clone, Debug)]
pub struct Block {
    pub partition: Partition,
    pub range: OffsetRange,
    parts: BTreeMap<PartKey, (RowCount, Bytes)>,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl BlockBuilder {
    pub fn new(partition: Partition, from: NextOffset) -> Self {
        Self { partition, from, to: from, rows: 0, parts: BTreeMap::new(), month: None }
    }

    /// Where the block ends so far: the next record must not stand before it.
    pub fn to(&self) -> NextOffset {
        self.to
    }

    pub fn from(&self) -> NextOffset {
        self.from
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Table partitions that the block falls into.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    pub fn bytes(&self) -> usize {
        self.parts.values().map(PartRows::bytes).sum()
    }

    pub fn push(&mut self, offset: Offset, verdict: Verdict<'_>, payload: Option<&[u8]>, record_timestamp_ms: i64) {
        self.rows += 1;
        self.to = offset.next();
        match verdict {
            Verdict::Event(event) => self.push_event(offset, event),
            Verdict::Duplicate => self.push_dead_letter(offset, DUPLICATE, payload, record_timestamp_ms),
            Verdict::DeadLetter(reject) => self.push_dead_letter(offset, reject.reason(), payload, record_timestamp_ms),
        }
    }

    fn push_event(&mut self, offset: Offset, event: &Event<'_>) {
        let month = self.month_of(event.timestamp_ms);
        self.parts.entry(PartKey::Events(month)).or_default().push_event(self.partition, offset, event);
    }

    fn push_dead_letter(&mut self, offset: Offset, reason: &str, payload: Option<&[u8]>, record_timestamp_ms: i64) {
        let part = self.parts.entry(PartKey::DeadLetters).or_default();
        part.push_dead_letter(self.partition, offset, record_timestamp_ms, reason, payload.unwrap_or_default(), MAX_DEAD_LETTER_BYTES);
    }

    fn month_of(&mut self, timestamp_ms: i64) -> Month {
        match self.month {
            Some((month, from, to)) if from <= timestamp_ms && timestamp_ms < to => month,
            _ => {
                let day = timestamp_ms - timestamp_ms.rem_euclid(DAY_MS);
                let month = Month::of(timestamp_ms);
                self.month = Some((month, day, day + DAY_MS));
                month
            }
        }
    }

    /// Nothing but holes up to `next`.
    pub fn skip_to(&mut self, next: NextOffset) {
        self.to = self.to.max(next);
    }

    /// The block so far, and a builder that goes on where it ends; `None` if no offset has been passed.
    pub fn finish(self) -> (Option<Block>, Self) {
        let next = Self::new(self.partition, self.to);
        let Some(range) = OffsetRange::new(self.from, self.to) else { return (None, next) };
        let parts = self.parts.into_iter().map(|(key, rows)| (key, rows.freeze())).collect();
        (Some(Block { partition: self.partition, range, parts }), next)
    }
}

impl Block {
    pub fn part_keys(&self) -> BTreeSet<PartKey> {
        self.parts.keys().copied().collect()
    }

    pub fn rows(&self) -> u64 {
        self.parts.values().map(|(count, _)| count.rows).sum()
    }

    /// The inserts that bring `parts` of this block: at most one for each table.
    pub fn inserts(&self, parts: &BTreeSet<PartKey>) -> Vec<RowBlock> {
        let of = |table: Table| {
            let belongs =
                |key: &PartKey| matches!((key, table), (PartKey::Events(_), Table::Events) | (PartKey::DeadLetters, Table::DeadLetters));
            let chosen = self.parts.iter().filter(|(key, _)| parts.contains(key) && belongs(key));
            let pieces: Vec<Bytes> = chosen.map(|(_, (_, bytes))| bytes.clone()).collect();
            (!pieces.is_empty()).then_some(RowBlock { table, pieces })
        };
        [Table::Events, Table::DeadLetters].into_iter().filter_map(of).collect()
    }

    /// The parts of which a read-back found nothing. A part that is there in another number than it should be is left
    /// to reconciliation, which sees the whole epoch: sending it again could only double what is there.
    pub fn missing_from(&self, found: &Found) -> BTreeSet<PartKey> {
        self.parts.keys().filter(|key| !found.contains_key(key)).copied().collect()
    }

    /// True if exactly this block's rows are there.
    pub fn is_whole_in(&self, found: &Found) -> bool {
        self.parts.len() == found.len() && self.parts.iter().all(|(key, (count, _))| found.get(key) == Some(count))
    }
}
