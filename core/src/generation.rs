//! A generation: one set of counting rules and the tables that were filled under it.

use crate::epoch::EpochBits;
use crate::event::Limits;
use crate::view::Views;
use std::fmt;

/// The number of a generation; tables, tokens and consumer groups carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything that decides how a record is counted. Fixed for the life of a generation: both layers, and every
/// restart, must count by the same rules.
#[derive(Clone, Debug)]
pub struct Rules {
    pub generation: Generation,
    pub epoch_bits: EpochBits,
    pub views: Views,
    pub limits: Limits,
    /// Whether an `event_id` seen before is counted once.
    pub dedup: bool,
}
