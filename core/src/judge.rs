//! What a record is to both layers: an event, a duplicate, or a dead letter.
//!
//! The judgement depends on the records of the partition's last two epochs alone, so both layers decide alike, and a
//! layer that starts at a position rebuilds what it must remember by judging from [`Judge::lookback`] on.

use crate::epoch::{Epoch, EpochBits};
use crate::event::{Event, Limits, Reject, decode, id_hash};
use crate::generation::Rules;
use crate::offset::{NextOffset, Offset};
use crate::prefetch::prefetch;
use std::num::NonZeroU128;

/// The outcome for one record.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict<'e> {
    Event(&'e Event<'e>),
    /// A valid event whose `event_id` some earlier valid record carries, in the same or the previous epoch.
    Duplicate,
    DeadLetter(Reject),
}

/// A record that has been decoded, and is yet to be judged.
#[derive(Clone, PartialEq, Debug)]
pub struct Examined<'a> {
    pub decoded: Result<Event<'a>, Reject>,
    /// The hash of the event's id, where it matters.
    id: Option<NonZeroU128>,
}

/// One partition's judge. Records must be judged in order of offset.
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

    /// Decodes a record, and asks for the memory that judging it will need. A few records may be examined before the
    /// first of them is judged.
    #[inline]
    pub fn examine<'a>(&self, payload: Option<&'a [u8]>, record_timestamp_ms: i64) -> Examined<'a> {
        let mut examined = Examined { decoded: decode(payload, record_timestamp_ms, &self.limits), id: None };
        self.identify(&mut examined);
        examined
    }

    /// The same for a record that is decoded already.
    pub fn examined<'a>(&self, decoded: Result<Event<'a>, Reject>) -> Examined<'a> {
        let mut examined = Examined { decoded, id: None };
        self.identify(&mut examined);
        examined
    }

    #[inline]
    fn identify(&self, examined: &mut Examined<'_>) {
        if let (Some(seen), Ok(Event { event_id: Some(id), .. })) = (&self.seen, &examined.decoded) {
            let id = id_hash(id);
            seen.prefetch(id);
            examined.id = Some(id);
        }
    }

    #[inline]
    pub fn judge<'e>(&mut self, offset: Offset, examined: &'e Examined<'_>) -> Verdict<'e> {
        let event = match &examined.decoded {
            Ok(event) => event,
            Err(reject) => return Verdict::DeadLetter(*reject),
        };
        let first_time = match (&mut self.seen, examined.id) {
            (Some(seen), Some(id)) => seen.first_time(self.bits.epoch_of(offset), id),
            _ => true,
        };
        if first_time { Verdict::Event(event) } else { Verdict::Duplicate }
    }
}

/// The ids of the current epoch and of the one before.
#[derive(Debug, Default)]
struct Seen {
    epoch: Option<Epoch>,
    current: Ids,
    previous: Ids,
}

impl Seen {
    fn first_time(&mut self, epoch: Epoch, id: NonZeroU128) -> bool {
        if self.epoch != Some(epoch) {
            self.turn(epoch);
        }
        // The id is remembered for this epoch even if it is a duplicate: "carried, counted or not".
        self.current.insert(id) && !self.previous.contains(id)
    }

    #[inline]
    fn prefetch(&self, id: NonZeroU128) {
        self.current.prefetch(id);
        self.previous.prefetch(id);
    }

    #[cold]
    fn turn(&mut self, epoch: Epoch) {
        let follows = self.epoch.map(Epoch::next) == Some(epoch);
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.clear();
        if !follows {
            self.previous.clear();
        }
        self.epoch = Some(epoch);
    }
}

/// A set of 128-bit hashes, 16 bytes a place. Clearing keeps the memory: one epoch has about as many ids as the next.
#[derive(Debug, Default)]
struct Ids {
    places: Vec<Option<NonZeroU128>>,
    len: usize,
}

impl Ids {
    const SMALLEST: usize = 64;

    /// True if the id was not there.
    #[inline]
    fn insert(&mut self, id: NonZeroU128) -> bool {
        // At most three of four places are taken: then an absent id is known after two or three cache lines.
        if (self.len + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        let at = self.seek(id);
        let is_new = self.places[at].is_none();
        self.places[at] = Some(id);
        self.len += usize::from(is_new);
        is_new
    }

    #[inline]
    fn contains(&self, id: NonZeroU128) -> bool {
        self.len > 0 && self.places[self.seek(id)].is_some()
    }

    #[inline]
    fn prefetch(&self, id: NonZeroU128) {
        if let Some(place) = self.places.get(self.home(id)) {
            prefetch(place);
        }
    }

    /// Where to begin looking for an id. It is a hash: it needs no other.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "half of the id is wanted, and then a number below that of the places")]
    fn home(&self, id: NonZeroU128) -> usize {
        ((u128::from(id.get() as u64) * self.places.len() as u128) >> 64) as usize
    }

    /// The place of an id, or the free one where it belongs.
    #[inline]
    fn seek(&self, id: NonZeroU128) -> usize {
        let places = self.places.len();
        let mut at = self.home(id);
        while self.places[at].is_some_and(|other| other != id) {
            at += 1;
            if at == places {
                at = 0;
            }
        }
        at
    }

    /// Four thirds of a power of two: an epoch's span of ids fits without a place to spare.
    #[cold]
    fn grow(&mut self) {
        let room = (self.len + 1).next_power_of_two().max(Self::SMALLEST);
        let former = std::mem::replace(&mut self.places, vec![None; room + room.div_ceil(3)]);
        for id in former.into_iter().flatten() {
            let at = self.seek(id);
            self.places[at] = Some(id);
        }
    }

    fn clear(&mut self) {
        self.places.fill(None);
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn ids_are_a_set(ids in proptest::collection::vec(1u128..200, 0..400), high in any::<bool>()) {
            let (mut set, mut expected) = (Ids::default(), HashSet::new());
            for id in ids {
                // In the lower half all of them are spread, in the upper half all of them begin at the same place.
                let id = NonZeroU128::new(if high { id << 64 } else { id * 0x9E37_79B9_7F4A_7C15 }).expect("not 0");
                prop_assert_eq!(set.contains(id), expected.contains(&id));
                prop_assert_eq!(set.insert(id), expected.insert(id));
            }
            set.clear();
            prop_assert!(expected.iter().all(|id| !set.contains(*id)));
        }
    }

    #[test]
    fn an_id_counts_once_in_an_epoch_and_the_next() {
        let rules = |dedup| Rules {
            generation: crate::generation::Generation(1),
            widens: None,
            epoch_bits: EpochBits::new(2).expect("in range"),
            views: crate::view::Views::declare([("by_type", vec!["event_type"])]).expect("a view"),
            limits: Default::default(),
            dedup,
        };
        // Epochs of 4: the id is carried by a duplicate in the second, so the third does not count it either.
        for (dedup, expected) in [(true, "event duplicate duplicate duplicate event"), (false, "event event event event event")] {
            let mut judge = Judge::new(&rules(dedup));
            let payload = br#"{"event_type":"a","timestamp":1700000000000,"event_id":"x"}"#;
            let verdicts: Vec<&str> = [0, 1, 6, 11, 20]
                .map(|offset| match judge.judge(Offset::new(offset), &judge.examine(Some(payload), 1_700_000_000_000)) {
                    Verdict::Event(_) => "event",
                    Verdict::Duplicate => "duplicate",
                    Verdict::DeadLetter(reject) => reject.reason(),
                })
                .into();
            assert_eq!(verdicts.join(" "), expected);
        }
    }
}
