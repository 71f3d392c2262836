//! What a record is to both layers: an event, a duplicate, or a dead letter.
//!
//! The judgement depends on the records of the partition's last two epochs alone, so both layers decide alike, and a
//! layer that starts at a position rebuilds what it must remember by judging from [`Judge::lookback`] on.

use crate::epoch::{Epoch, EpochBits};
use crate::event::{Event, Limits, Reject, decode, id_hash};
use crate::generation::Rules;
use crate::offset::{NextOffset, Offset};
use std::hash::{BuildHasherDefault, Hasher};

/// The outcome for one record.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict<'a> {
    Event(Event<'a>),
    /// A valid event whose `event_id` some earlier valid record carries, in the same or the previous epoch.
    Duplicate(Event<'a>),
    DeadLetter(Reject),
}

/// One partition's judge. Records must come in order of offset.
#[derive(Debug)]
pub struct Judge {
    bits: EpochBits,
    limits: Limits,
    seen: Option<Seen>,
}

impl Judge {
    pub fn new(rules: &Rules) -> Self {
        Self { bits: rules.epoch_bits, limits: rules.limits.clone(), seen: rules.dedup.then(Seen::default) }
    }

    /// Where to begin reading so that everything from `position` on is judged as if from the beginning: the start of
    /// the epoch before.
    pub fn lookback(rules: &Rules, position: NextOffset) -> NextOffset {
        let epoch = rules.epoch_bits.epoch_at(position);
        match (rules.dedup, epoch.previous()) {
            (false, _) => position,
            (true, None) => NextOffset::ZERO,
            (true, Some(previous)) => rules.epoch_bits.start_of(previous),
        }
    }

    #[inline]
    pub fn judge<'a>(&mut self, offset: Offset, payload: Option<&'a [u8]>, record_timestamp_ms: i64) -> Verdict<'a> {
        let event = match decode(payload, record_timestamp_ms, &self.limits) {
            Ok(event) => event,
            Err(reject) => return Verdict::DeadLetter(reject),
        };
        let first_time = match (&mut self.seen, event.event_id.as_deref()) {
            (Some(seen), Some(id)) => seen.first_time(self.bits.epoch_of(offset), id_hash(id)),
            _ => true,
        };
        if first_time { Verdict::Event(event) } else { Verdict::Duplicate(event) }
    }
}

/// The ids of the current epoch and of the one before.
#[derive(Debug, Default)]
struct Seen {
    epoch: Option<Epoch>,
    current: Ids,
    previous: Ids,
}

type Ids = hashbrown::HashSet<u128, BuildHasherDefault<AlreadyHashed>>;

impl Seen {
    fn first_time(&mut self, epoch: Epoch, id: u128) -> bool {
        if self.epoch != Some(epoch) {
            self.turn(epoch);
        }
        // The id is remembered for this epoch even if it is a duplicate: "carried, counted or not".
        self.current.insert(id) && !self.previous.contains(&id)
    }

    #[cold]
    fn turn(&mut self, epoch: Epoch) {
        let follows = self.epoch.map(Epoch::next) == Some(epoch);
        let current = std::mem::take(&mut self.current);
        self.previous = if follows { current } else { Ids::default() };
        self.current.reserve(self.previous.len());
        self.epoch = Some(epoch);
    }
}

/// Ids are 128-bit hashes: half of one is as good a hash as any.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u128 is hashed here")
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of the hash is what is wanted")]
    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64;
    }
}
