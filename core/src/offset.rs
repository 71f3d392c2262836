//! Typed positions in the log. A bare integer never stands for a place in a partition.
//!
//! [`Offset`] is where a record stands; [`NextOffset`] is the first offset *not yet* included, the form in which
//! every position of the system is kept (S, H, M, a cut, a group's committed position). The step from one to the
//! other, `+ 1`, is written once, in [`Offset::next`].

use std::fmt;

/// A partition's number within the topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition(pub u32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of one record in its partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Offset(u64);

impl Offset {
    pub const fn new(offset: u64) -> Self {
        Self(offset)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position just past this record.
    pub const fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first offset that is not yet included: everything below it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NextOffset(u64);

impl NextOffset {
    /// The position at which nothing is included.
    pub const ZERO: Self = Self(0);

    pub const fn new(offset: u64) -> Self {
        Self(offset)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The record that this position waits for.
    pub const fn awaited(self) -> Offset {
        Offset(self.0)
    }

    /// True if the record at `offset` is below this position.
    pub const fn includes(self, offset: Offset) -> bool {
        offset.0 < self.0
    }

    /// How many offsets lie between `earlier` and this position; zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of offsets `[from, to)`, never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OffsetRange {
    from: NextOffset,
    to: NextOffset,
}

impl OffsetRange {
    /// The range, or `None` where it would be empty or reversed.
    pub fn new(from: NextOffset, to: NextOffset) -> Option<Self> {
        (from < to).then_some(Self { from, to })
    }

    pub const fn from(self) -> NextOffset {
        self.from
    }

    pub const fn to(self) -> NextOffset {
        self.to
    }

    /// Number of offsets in the range (records, duplicates, dead letters and holes together).
    pub const fn span(self) -> u64 {
        self.to.0 - self.from.0
    }

    pub fn contains(self, offset: Offset) -> bool {
        self.from.0 <= offset.0 && offset.0 < self.to.0
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}
