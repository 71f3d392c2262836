//! The ledger: which epochs are closed, by what count, and which are being repaired.

use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Generation;
use tidemark_core::offset::Partition;

/// What happened to an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Two computations agreed on every cell; history answers for this epoch from now on.
    Closed,
    /// They did not; the epoch's history is being written again. Nobody closes it, nor starts another repair, before
    /// the deadline is over, for the repair's statements may be running until then.
    Repair { deadline_ms: i64 },
    /// History begins in this epoch: when counting began, the topic had nothing below it any more.
    Begun,
}

/// One row. `at_ms` is for people, but for an announced repair's deadline, which counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerRow {
    /// Whose layers say it.
    pub generation: Generation,
    pub partition: Partition,
    pub epoch: Epoch,
    pub entry: Entry,
    pub tally: Tally,
    /// Fold of the epoch's events: what the audit compares later.
    pub fold: u64,
    pub at_ms: i64,
}

impl LedgerRow {
    /// The mark that a row puts; a partition's is the largest of its rows', for epochs close in order.
    pub fn mark(&self) -> Option<Mark> {
        match self.entry {
            Entry::Closed => Some(Mark::at(self.epoch.next())),
            Entry::Begun => Some(Mark::at(self.epoch)),
            Entry::Repair { .. } => None,
        }
    }
}
