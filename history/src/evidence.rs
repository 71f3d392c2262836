//! What a number is made of: where its events stand, epoch by epoch, and the events themselves.

use crate::rows::RawEvent;
use std::collections::BTreeMap;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::Epoch;
use tidemark_core::offset::{Offset, Partition};
use tidemark_core::question::Question;

/// Places in the log, one of each partition at most.
pub type Places = BTreeMap<Partition, Offset>;

/// The events that are meant: those that a question is about, below a cut. How it groups them is of no matter.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'q> {
    pub question: &'q Question,
    pub cut: &'q Cut,
}

/// What of a number stands in one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub partition: Partition,
    pub epoch: Epoch,
    /// Of its events.
    pub first: Offset,
    pub last: Offset,
    pub cell: Cell,
    /// Events behind the places that were asked about.
    pub behind: u64,
}

/// A page of a number's events, in order of partition and offset.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only events behind this place.
    pub after: Option<(Partition, Offset)>,
    pub limit: u32,
}

/// An event and its place.
pub type Placed = (Partition, Offset, RawEvent);

/// Records of a range of offsets that were not counted, for one reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uncounted {
    pub partition: Partition,
    pub reason: String,
    pub records: u64,
}
