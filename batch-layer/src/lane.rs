//! A lane: one partition's way into history, from records to blocks that are ready to be committed. Pure.

use crate::commit::Intent;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tidemark_core::event::Limits;
use tidemark_core::generation::Rules;
use tidemark_core::judge::Judge;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::block::{Block, BlockBuilder};
use tidemark_history::rows::RawRecord;
use tidemark_topic::Record;

/// When a block is full. A block is one insert per table, and the engine takes at most 500,000 rows in one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockLimits {
    pub max_rows: u64,
    pub max_age: Duration,
    /// Encoded rows held in memory for all partitions together; beyond it the largest block is cut ([`fit`]).
    pub max_bytes: usize,
    /// Table partitions (months) that one insert may touch: each is a part on disk, and all stand in the intent.
    pub max_parts: usize,
    /// Blocks, of different partitions, that are on their way into history at the same time.
    pub in_flight: usize,
    /// After so long without an answer of history, partitions are given to others.
    pub give_up_after: Duration,
}

impl Default for BlockLimits {
    fn default() -> Self {
        let (max_age, give_up_after) = (Duration::from_secs(10), Duration::from_secs(60));
        Self { max_rows: 100_000, max_age, max_bytes: 64 << 20, max_parts: 60, in_flight: 2, give_up_after }
    }
}

/// Cuts the largest blocks until the others fit into `max_bytes`.
pub fn fit(lanes: &mut BTreeMap<Partition, Lane>, max_bytes: usize) {
    while lanes.values().map(Lane::bytes).sum::<usize>() > max_bytes {
        let largest = lanes.values_mut().max_by_key(|lane| lane.bytes());
        largest.expect("nothing is larger than nothing").cut(None);
    }
}

/// One partition's state in the batch layer.
#[derive(Debug)]
pub struct Lane {
    judge: Judge,
    /// The first offset not yet judged.
    read: NextOffset,
    builder: BlockBuilder,
    since: Option<Instant>,
    /// What a former owner may have sent: the first block must end exactly where it says.
    intent: Option<Intent>,
    /// Below, blocks may have been sent before, under intents that are lost.
    doubtful_below: NextOffset,
    ready: VecDeque<(Block, Option<Intent>)>,
}

impl Lane {
    /// A lane that goes on at the group's committed position. Records must be taken from [`Lane::begin_at`] on.
    pub fn new(rules: &Rules, partition: Partition, at: NextOffset, intent: Option<Intent>) -> Self {
        Self {
            judge: Judge::new(rules),
            read: Judge::lookback(rules, at),
            builder: BlockBuilder::new(partition, at),
            since: None,
            intent,
            doubtful_below: NextOffset::ZERO,
            ready: VecDeque::new(),
        }
    }

    /// With blocks below this position that may have been sent before, under intents that are lost with the group's position: a
    /// token can be known for which there are no rows.
    #[must_use]
    pub fn doubting_below(self, position: NextOffset) -> Self {
        Self { doubtful_below: position, ..self }
    }

    pub fn doubtful_below(&self) -> NextOffset {
        self.doubtful_below
    }

    /// The first record that is needed next.
    pub fn begin_at(&self) -> NextOffset {
        self.read
    }

    /// Learns of a record below the block that the log no longer has.
    pub fn recall(&mut self, record: &RawRecord, limits: &Limits) {
        if !self.read.includes(record.offset) {
            let examined = self.judge.examined(record.decoded(limits));
            self.judge.judge(record.offset, &examined);
            self.read = record.offset.next();
        }
    }

    /// Takes one record. One that has been taken before changes nothing.
    pub fn take(&mut self, record: &Record<'_>, now: Instant, limits: &BlockLimits) {
        if self.read.includes(record.offset) {
            return;
        }
        let examined = self.judge.examine(record.payload, record.timestamp_ms);
        let verdict = self.judge.judge(record.offset, &examined);
        self.read = record.offset.next();
        if self.builder.from().includes(record.offset) {
            return;
        }
        if self.intent.as_ref().is_some_and(|intent| intent.to.includes(record.offset)) {
            self.builder.push(record.offset, verdict, record.payload, record.timestamp_ms);
            return self.finish_intended(record.offset.next(), false);
        }
        self.finish_intended(record.offset.next(), true);
        self.builder.push(record.offset, verdict, record.payload, record.timestamp_ms);
        self.since.get_or_insert(now);
        if self.builder.rows() >= limits.max_rows || self.builder.parts() >= limits.max_parts {
            self.cut(None);
        }
    }

    /// There is nothing but holes up to `next`.
    pub fn passed(&mut self, next: NextOffset, now: Instant) {
        self.read = self.read.max(next);
        self.finish_intended(next, false);
        if self.intent.is_none() && next > self.builder.to() {
            self.builder.skip_to(next);
            self.since.get_or_insert(now);
        }
    }

    /// Cuts the intended block once all of its offsets have been passed.
    fn finish_intended(&mut self, reached: NextOffset, passed: bool) {
        let Some(intent) = self.intent.take_if(|intent| passed || reached >= intent.to) else { return };
        self.builder.skip_to(intent.to);
        self.cut(Some(intent));
    }

    fn cut(&mut self, intent: Option<Intent>) {
        let empty = BlockBuilder::new(Partition(0), NextOffset::ZERO);
        let (block, next) = std::mem::replace(&mut self.builder, empty).finish();
        self.builder = next;
        self.since = None;
        self.ready.extend(block.map(|block| (block, intent)));
    }

    /// Encoded rows that cutting now would let go. The end of an intended block is not ours to choose.
    pub fn bytes(&self) -> usize {
        if self.intent.is_none() { self.builder.bytes() } else { 0 }
    }

    /// True if a block is ready for another reason than its age.
    pub fn is_full(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next block to commit, with the intent under which it may have been sent before.
    pub fn due(&mut self, now: Instant, limits: &BlockLimits) -> Option<(Block, Option<Intent>)> {
        if self.ready.is_empty() && self.since.is_some_and(|since| now.duration_since(since) >= limits.max_age) {
            self.cut(None);
        }
        self.ready.pop_front()
    }

    /// When [`Lane::due`] will have something without any more records.
    pub fn due_at(&self, limits: &BlockLimits) -> Option<Instant> {
        self.since.map(|since| since + limits.max_age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::generation::Generation;
    use tidemark_core::offset::Offset;
    use tidemark_core::view::Views;

    const LIMITS: BlockLimits = BlockLimits {
        max_rows: 1_000,
        max_age: Duration::from_secs(10),
        max_bytes: 1_000,
        max_parts: 60,
        in_flight: 1,
        give_up_after: Duration::MAX,
    };

    fn lane(partition: u32, intent: Option<Intent>) -> (Partition, Lane) {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid views");
        let epoch_bits = EpochBits::new(18).expect("a valid size");
        let rules = Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true };
        (Partition(partition), Lane::new(&rules, Partition(partition), NextOffset::ZERO, intent))
    }

    fn fill(lane: &mut Lane, records: u64) {
        let payload = br#"{"event_type":"UA","timestamp":"2013-01-01T00:00:00Z"}"#;
        for offset in (0..records).map(Offset::new) {
            lane.take(&Record { offset, timestamp_ms: 1_357_000_000_000, payload: Some(payload) }, Instant::now(), &LIMITS);
        }
    }

    #[test]
    fn when_blocks_do_not_fit_into_memory_the_largest_is_cut() {
        let mut lanes = BTreeMap::from([lane(0, None), lane(1, None), lane(2, None)]);
        for (partition, records) in [(0, 5), (1, 30), (2, 7)] {
            fill(lanes.get_mut(&Partition(partition)).expect("it is there"), records);
        }
        fit(&mut lanes, LIMITS.max_bytes);
        let mut ready = |partition| lanes.get_mut(&Partition(partition)).expect("it is there").due(Instant::now(), &LIMITS);
        assert_eq!(ready(1).expect("it is the largest").0.rows(), 30);
        assert!(ready(0).is_none() && ready(2).is_none());
    }

    #[test]
    fn an_intended_block_ends_where_it_was_meant_to() {
        let intent = Intent { to: NextOffset::new(20), attempt: 0, parts: Default::default() };
        let mut lanes = BTreeMap::from([lane(0, Some(intent.clone()))]);
        fill(lanes.get_mut(&Partition(0)).expect("it is there"), 19);
        fit(&mut lanes, 1);
        let lane = lanes.get_mut(&Partition(0)).expect("it is there");
        assert!(lane.due(Instant::now(), &LIMITS).is_none());
        fill(lane, 20);
        let (block, found) = lane.due(Instant::now(), &LIMITS).expect("it has ended");
        assert_eq!((block.range.to(), found), (intent.to, Some(intent)));
    }
}
