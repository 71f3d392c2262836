//! The ledger: which epochs are closed, by what count, and which are being repaired.

use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::offset::Partition;

/// What happened to an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Two computations agreed on every cell; history answers for this epoch from now on.
    Closed,
    /// They did not; the epoch's history is being written again. Nobody closes it, nor starts another repair, before
    /// the deadline is over, for the repair's statements may be running until then.
    Repair { deadline_ms: i64 },
}

/// One row. `at_ms` is for people, but for an announced repair's deadline, which counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerRow {
    pub partition: Partition,
    pub epoch: Epoch,
    pub entry: Entry,
    pub tally: Tally,
    /// Fold of the epoch's events: what the audit compares later.
    pub fold: u64,
    pub at_ms: i64,
}

/// The mark that closed epochs put: they close in order, so the last one tells.
pub fn mark_after(last_closed: Option<Epoch>) -> Mark {
    last_closed.map_or(Mark::START, |epoch| Mark::at(epoch.next()))
}
