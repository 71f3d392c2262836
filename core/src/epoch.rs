//! Epochs: a partition's offsets cut into runs of 2^k, and the tide mark that separates history from the speed layer.

use crate::offset::{NextOffset, Offset, OffsetRange};
use std::fmt;

/// `k`: an epoch holds 2^k offsets. Fixed for the life of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochBits(u8);

/// `epoch_bits` outside what the system can run with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("epoch_bits is {0}; it must be between {min} and {max}", min = EpochBits::MIN, max = EpochBits::MAX)]
pub struct EpochBitsError(pub u8);

impl EpochBits {
    /// Smaller epochs would spend more on closing than on counting.
    pub const MIN: u8 = 2;
    /// A larger epoch could not be repaired with a bounded number of inserts, and would hold too much memory.
    pub const MAX: u8 = 26;

    pub const fn new(bits: u8) -> Result<Self, EpochBitsError> {
        if bits < Self::MIN || bits > Self::MAX { Err(EpochBitsError(bits)) } else { Ok(Self(bits)) }
    }

    pub const fn get(self) -> u8 {
        self.0
    }

    /// Offsets in an epoch.
    pub const fn span(self) -> u64 {
        1 << self.0
    }

    /// Where a record stands within its epoch: below [`EpochBits::span`].
    #[expect(clippy::cast_possible_truncation, reason = "at most 26 bits are left")]
    pub const fn place_of(self, offset: Offset) -> u32 {
        (offset.get() & (self.span() - 1)) as u32
    }

    /// The epoch in which a record stands.
    pub const fn epoch_of(self, offset: Offset) -> Epoch {
        Epoch(offset.get() >> self.0)
    }

    /// The epoch that a position is in the middle of, or is about to begin.
    pub const fn epoch_at(self, position: NextOffset) -> Epoch {
        Epoch(position.get() >> self.0)
    }

    /// The first position of an epoch.
    pub const fn start_of(self, epoch: Epoch) -> NextOffset {
        NextOffset::new(epoch.0 << self.0)
    }

    /// The position just past an epoch, which is the start of the next.
    pub const fn end_of(self, epoch: Epoch) -> NextOffset {
        self.start_of(epoch.next())
    }

    /// All offsets of an epoch.
    pub fn range_of(self, epoch: Epoch) -> OffsetRange {
        OffsetRange::new(self.start_of(epoch), self.end_of(epoch)).expect("an epoch spans at least 2^MIN offsets")
    }
}

/// The number of an epoch within its partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The epoch before, if there is one: the other half of the duplicates' horizon.
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// M, the tide mark of a partition: the oldest epoch that is not yet closed. History answers below it, the speed
/// layer from it up. Invariant I2: it only grows, one epoch at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mark(Epoch);

impl Mark {
    /// Nothing is closed yet.
    pub const START: Self = Self(Epoch(0));

    pub const fn at(oldest_open: Epoch) -> Self {
        Self(oldest_open)
    }

    pub const fn oldest_open(self) -> Epoch {
        self.0
    }

    pub fn is_closed(self, epoch: Epoch) -> bool {
        epoch < self.0
    }

    /// The mark as a position: a multiple of 2^k.
    pub const fn position(self, bits: EpochBits) -> NextOffset {
        bits.start_of(self.0)
    }

    /// The mark after its oldest open epoch has been closed.
    pub const fn advanced(self) -> Self {
        Self(self.0.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_the_offset_shifted_and_its_edges_belong_to_it_and_the_next() {
        let bits = EpochBits::new(3).expect("3 is in range");
        for (offset, epoch) in [(0, 0), (7, 0), (8, 1), (15, 1), (16, 2)] {
            assert_eq!(bits.epoch_of(Offset::new(offset)), Epoch(epoch));
        }
        let range = bits.range_of(Epoch(1));
        assert_eq!((range.from().get(), range.to().get(), range.span()), (8, 16, 8));
        assert_eq!(Mark::START.advanced().position(bits), NextOffset::new(8));
    }

    #[test]
    fn epoch_bits_out_of_range_are_refused_with_the_range() {
        assert_eq!(EpochBits::new(1), Err(EpochBitsError(1)));
        assert_eq!(EpochBits::new(27).expect_err("too large").to_string(), "epoch_bits is 27; it must be between 2 and 26");
    }
}
