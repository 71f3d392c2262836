//! The ledger: which epochs are closed, by what count, and which are being repaired; and the order in which that is said.
//!
//! Several processes may close or repair an epoch at the same time, among them a former owner that stalled, and the engine
//! offers no transaction. A repairer announces the repair first, and only then looks whether the epoch is still open. A closer looks
//! first, and the engine refuses the row unless it arrives within [`CLOSE_WITHIN_MS`] of that look. So the repairer waits as long
//! after the announcement before it looks: by then a closer has either written its row, or has seen the announcement.

use crate::{Error, History};
use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, SystemTime};
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Generation;
use tidemark_core::offset::Partition;

/// After a look that found an epoch open, it can be closed for so long.
pub const CLOSE_WITHIN_MS: i64 = 3_000;

/// The ledger takes no row from a process whose clock is further ahead of ClickHouse's: the end of the repair that it announces
/// would be far away for all others, and the ends of theirs would be over for it.
pub const CLOCK_AHEAD_MS: i64 = 5_000;

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

/// What the ledger says of an epoch at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochState {
    /// The generations that have closed it, of those that share its raw events.
    pub closed_by: BTreeSet<Generation>,
    /// How many repairs have been announced, and the deadline of the last; 0 without one.
    pub repairs: u32,
    pub repaired_ms: i64,
    /// Another's repair is not over before then.
    pub busy_until_ms: Option<i64>,
}

/// Time, as far as deadlines need it.
pub trait Clock {
    fn now_ms(&self) -> i64;

    fn sleep_until(&self, at_ms: i64) -> impl Future<Output = ()> + Send;
}

/// The machine's.
#[derive(Clone, Copy, Debug)]
pub struct RealClock;

impl Clock for RealClock {
    fn now_ms(&self) -> i64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }

    async fn sleep_until(&self, at_ms: i64) {
        let left_ms = u64::try_from(at_ms - self.now_ms()).unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(left_ms)).await;
    }
}

/// Looks at an epoch. `own` is the deadline of the repair that the caller has announced itself.
pub async fn look(
    history: &dyn History,
    clock: &impl Clock,
    (partition, epoch): (Partition, Epoch),
    mut own: Option<i64>,
) -> Result<EpochState, Error> {
    let (mut state, now_ms) = (EpochState::default(), clock.now_ms());
    for row in history.ledger(partition, epoch).await? {
        match row.entry {
            Entry::Closed => drop(state.closed_by.insert(row.generation)),
            Entry::Repair { deadline_ms } => {
                state.repairs += 1;
                state.repaired_ms = state.repaired_ms.max(deadline_ms);
                // Of two with the same deadline, one is of another process that announced at the same instant.
                if Some(deadline_ms) == own {
                    own = None;
                } else if deadline_ms > now_ms {
                    state.busy_until_ms = state.busy_until_ms.max(Some(deadline_ms));
                }
            }
            Entry::Begun => {}
        }
    }
    Ok(state)
}

/// Closes an epoch that was looked at when it was `looked_ms`, and found open and not being repaired. False if that took too
/// long: a repair may have been announced since.
pub async fn record_closed(history: &dyn History, clock: &impl Clock, row: &LedgerRow, looked_ms: i64) -> Result<bool, Error> {
    history.record(row, Some(looked_ms + CLOSE_WITHIN_MS)).await?;
    Ok(look(history, clock, (row.partition, row.epoch), None).await?.closed_by.contains(&row.generation))
}

/// Announces a repair of an epoch, waits until every closer has seen the announcement or has written its row, and looks.
pub async fn announce_repair(history: &dyn History, clock: &impl Clock, row: LedgerRow, deadline_ms: i64) -> Result<EpochState, Error> {
    history.record(&LedgerRow { entry: Entry::Repair { deadline_ms }, ..row }, None).await?;
    // From here on the announcement can be seen.
    clock.sleep_until(clock.now_ms() + CLOSE_WITHIN_MS).await;
    look(history, clock, (row.partition, row.epoch), Some(deadline_ms)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryHistory;
    use std::sync::Arc;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::generation::Rules;
    use tidemark_core::view::Views;

    const P: Partition = Partition(0);

    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now_ms(&self) -> i64 {
            self.0
        }

        async fn sleep_until(&self, _: i64) {}
    }

    /// Two that announce in the same millisecond have the same deadline: each must see the other.
    #[tokio::test]
    async fn of_two_repairs_that_are_announced_at_once_neither_goes_on() {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        let epoch_bits = EpochBits::new(2).expect("valid");
        let rules = Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true };
        let (history, epoch, deadline_ms) = (MemoryHistory::new(Arc::new(rules)), Epoch(0), 60_000);
        let (tally, entry) = (Tally::default(), Entry::Repair { deadline_ms });
        let row = LedgerRow { generation: Generation(1), partition: P, epoch, entry, tally, fold: 0, at_ms: 0 };
        let alone = announce_repair(&history, &At(0), row, deadline_ms).await.expect("the twin answers");
        assert_eq!(alone.busy_until_ms, None);
        let second = announce_repair(&history, &At(0), row, deadline_ms).await.expect("the twin answers");
        assert_eq!(second.busy_until_ms, Some(deadline_ms));
        let first = look(&history, &At(0), (P, epoch), Some(deadline_ms)).await.expect("the twin answers");
        assert_eq!(first.busy_until_ms, Some(deadline_ms));
        assert_eq!(look(&history, &At(deadline_ms), (P, epoch), None).await.expect("it answers").busy_until_ms, None, "it is over");
    }
}
