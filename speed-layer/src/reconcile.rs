//! Closing an epoch: history's cells are compared with the speed layer's own, one by one. Equal: the ledger says so and
//! the mark advances. Different: the mark stays, the segment keeps answering, and the epoch's history is written again.
//!
//! A repair happens above the mark, where no query reads history, so it need not be atomic. The epoch's rows are staged first,
//! so that they can be finished from there even if the log forgets them meanwhile. A repair is announced in the
//! ledger with a deadline, which its statements carry too; until that is over nobody closes the epoch or repairs it
//! again, so that a stalled former owner's repair cannot fall below the mark.
//!
//! Where generations share raw events, each closes an epoch for itself. What one has closed stands: one that widens it
//! writes no more of such an epoch than the roll-ups of the views that it has more, from the raw events that are agreed on.

pub use crate::difference::Difference;

use crate::difference::compare_raw;
use crate::rewrite::Rewrite;
use crate::segment::Segment;
use std::collections::BTreeSet;
use std::future::Future;
use tidemark_core::cell::{Cell, Tally};
use tidemark_core::epoch::Epoch;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::Partition;
use tidemark_core::view::ViewId;
use tidemark_core::window::Level;
use tidemark_history::block::Block;
use tidemark_history::ledger::{Clock, Entry, EpochState, LedgerRow, announce_repair, look, record_closed};
use tidemark_history::{EpochCells, Error, History, Wiped};

/// How long the statements of a repair may take, and so how long an announced repair keeps the epoch open.
pub const REPAIR_SECS: u32 = 60;

/// What came of trying to close an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Closing {
    /// The ledger has it: the mark may advance.
    Closed,
    /// A repair is under way until then.
    Waiting { until_ms: i64 },
    /// A repair has been made; its deadline must pass before the next look.
    Repaired { difference: Difference, until_ms: i64 },
}

/// Why an epoch could not be closed now.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error(transparent)]
    History(#[from] Error),
    /// The records are no longer in the log, so the epoch cannot be written again.
    #[error("epoch cannot be repaired from the log: {0}")]
    Log(String),
    #[error("the log cannot be confirmed to be the one that was counted: {0}")]
    Unconfirmed(tidemark_topic::Error),
    /// What another generation answers from is not written again.
    #[error("generation {0} has closed it, but it differs from what is counted here: {1}")]
    Closed(Generation, Difference),
}

/// The outside of reconciliation, but for history.
pub trait Yard: Clock {
    /// Refuses a log that is not the one that was counted: a topic that was deleted and created again.
    fn confirm_log(&self) -> impl Future<Output = Result<(), CloseError>> + Send;

    /// Reads a range of the log again and gathers its rows, judged as they were the first time.
    fn reread(&self, partition: Partition, epoch: Epoch) -> impl Future<Output = Result<Vec<Block>, CloseError>> + Send;
}

/// One complete epoch, and what it is compared with.
struct Case<'a, Y> {
    yard: &'a Y,
    history: &'a dyn History,
    rules: &'a Rules,
    partition: Partition,
    segment: &'a Segment,
}

/// Compares one complete epoch and closes it, or repairs it.
pub async fn close(
    yard: &impl Yard,
    history: &dyn History,
    rules: &Rules,
    partition: Partition,
    segment: &Segment,
) -> Result<Closing, CloseError> {
    Case { yard, history, rules, partition, segment }.close().await
}

/// Where history's cells are compared.
#[derive(Clone, Copy)]
enum Source {
    Rollup,
    /// As they add up to cells.
    RawRows,
}

impl<Y: Yard> Case<'_, Y> {
    async fn close(&self) -> Result<Closing, CloseError> {
        let Self { yard, history, rules, partition, segment } = *self;
        let before = self.look().await?;
        if let Some(settled) = self.settled(&before) {
            return Ok(settled);
        }
        let (epoch, span) = (segment.epoch(), rules.epoch_bits.span());
        let mut tally = segment.tally();
        tally.holes = span.saturating_sub(tally.span());
        tidemark_core::check!(I3, tally.span() == span, "partition {partition} epoch {epoch}: {tally:?}");
        let (generation, fold, rewrite) = (rules.generation, segment.fold(), self.rewrite(tally));
        let row = LedgerRow { generation, partition, epoch, entry: Entry::Closed, tally, fold, at_ms: yard.now_ms() };
        let Some(difference) = self.compare(&before).await? else {
            yard.confirm_log().await?;
            history.note_content(partition, epoch, false).await?;
            let looked_ms = yard.now_ms();
            let now = self.look().await?;
            if let Some(settled) = self.settled(&now) {
                return Ok(settled);
            }
            // A repair announced since the first look may have deleted what was compared, even if its time is over by now.
            if now.repairs != before.repairs {
                return Ok(Closing::Waiting { until_ms: looked_ms });
            }
            if !record_closed(history, yard, &row, looked_ms).await? {
                return Ok(Closing::Waiting { until_ms: looked_ms });
            }
            if before.repairs > 0
                && let Err(error) = history.unstage(partition, rewrite.range()).await
            {
                tracing::warn!(%partition, %epoch, "what a repair has staged stays, which costs disk and nothing else: {error}");
            }
            return Ok(Closing::Closed);
        };
        let widest = |state: &EpochState| state.closed_by.last().copied();
        let blocks = match (widest(&before), &difference) {
            // The records may be gone from the log by now.
            (None, _) if before.repairs > 0 && rewrite.is_staged().await? => Vec::new(),
            (None, _) => yard.reread(partition, epoch).await?,
            (Some(_), Difference::Cells { .. }) => Vec::new(),
            (Some(by), _) => return Err(CloseError::Closed(by, difference)),
        };
        let until_ms = yard.now_ms() + i64::from(REPAIR_SECS) * 1000;
        // From here on nobody else begins; who began before may have closed the epoch by now, and closed it stays.
        let now = announce_repair(history, yard, row, until_ms).await?;
        if let Some(settled) = self.settled(&now) {
            return Ok(settled);
        }
        let whole = match widest(&now) {
            None => rewrite.stage(&blocks, until_ms).await? && rewrite.put_back(until_ms).await?,
            by if by != widest(&before) => false, // Closed by another since the comparison: what differed then is looked at again.
            Some(by) => rewrite.refill(Wiped::AddedSince(by), rules.added_since(by), until_ms).await?,
        };
        Ok(if whole { Closing::Repaired { difference, until_ms } } else { Closing::Waiting { until_ms } })
    }

    async fn look(&self) -> Result<EpochState, Error> {
        look(self.history, self.yard, (self.partition, self.segment.epoch()), None).await
    }

    /// What there is to say of an epoch that is not to be touched now. A former owner may be at work too.
    fn settled(&self, state: &EpochState) -> Option<Closing> {
        if state.closed_by.contains(&self.rules.generation) {
            return Some(Closing::Closed);
        }
        state.busy_until_ms.map(|until_ms| Closing::Waiting { until_ms })
    }

    /// The first difference between history and the segment, if there is one: raw rows, then roll-ups, then what raw rows say: as
    /// they are then, they answer permanently. Those that another generation has agreed on are not compared again. An added view's
    /// are filled where they have not been yet.
    async fn compare(&self, before: &EpochState) -> Result<Option<Difference>, Error> {
        let Self { history, rules, partition, segment, .. } = *self;
        let found = history.found(partition, rules.epoch_bits.range_of(segment.epoch())).await?;
        if let Some(difference) = compare_raw(&found, segment.tally(), segment.fold()) {
            return Ok(Some(difference));
        }
        let views: Vec<ViewId> = match before.closed_by.last() {
            None => rules.views.ids().collect(),
            // A wider one has all of these views.
            Some(by) => rules.added_since(*by).collect(),
        };
        let mut filled = BTreeSet::new();
        loop {
            let difference = self.compare_cells(&views).await?;
            let view = match difference {
                Some(Difference::Cells { view, .. }) => view,
                None if before.closed_by.is_empty() => return self.compare_counted_cells(&views).await,
                _ => return Ok(difference),
            };
            if rules.keeper(view) == rules.raw() || !filled.insert(view) {
                return Ok(difference);
            }
            let token = self.rewrite(segment.tally()).fill_token(view, "fill", before.repaired_ms);
            history.fill(view, partition, segment.epoch(), &token).await?;
        }
    }

    async fn compare_cells(&self, views: &[ViewId]) -> Result<Option<Difference>, Error> {
        for &view in views {
            for level in Level::ALL {
                let differing = self.differing(view, level, Source::Rollup).await?;
                if differing > 0 {
                    return Ok(Some(Difference::Cells { view, level, differing }));
                }
            }
        }
        Ok(None)
    }

    async fn compare_counted_cells(&self, views: &[ViewId]) -> Result<Option<Difference>, Error> {
        for &view in views {
            let differing = self.differing(view, Level::FiveMinutes, Source::RawRows).await?;
            if differing > 0 {
                return Ok(Some(Difference::RawCells { view, differing }));
            }
        }
        Ok(None)
    }

    /// How many of the segment's cells are missing, more, or other in history.
    async fn differing(&self, view: ViewId, level: Level, source: Source) -> Result<usize, Error> {
        let Self { history, partition, segment, .. } = *self;
        let mut expected = segment.expected(view, level);
        let of = EpochCells { view, level, partition, epoch: segment.epoch() };
        let mut visit = |bucket_ms, values: &[&str], cell: &Cell| expected.meet(bucket_ms, values, cell);
        match source {
            Source::Rollup => history.visit_cells(of, &mut visit).await?,
            Source::RawRows => history.visit_counted_cells(of, &mut visit).await?,
        }
        Ok(expected.differing())
    }

    fn rewrite(&self, tally: Tally) -> Rewrite<'_, Y> {
        let Self { yard: clock, history, rules, partition, segment } = *self;
        Rewrite { clock, history, rules, partition, epoch: segment.epoch(), tally, fold: segment.fold() }
    }
}
