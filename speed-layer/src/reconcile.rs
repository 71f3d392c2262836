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

use crate::segment::Segment;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use tidemark_core::cell::Tally;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_core::view::ViewId;
use tidemark_core::window::Level;
use tidemark_history::block::Block;
use tidemark_history::clickhouse::INSERT_DEADLINE;
use tidemark_history::ledger::{Clock, Entry, EpochState, LedgerRow, announce_repair, look, record_closed};
use tidemark_history::rows::{Found, PartKey, RowCount};
use tidemark_history::{EpochCells, Error, History, Wiped};

/// How long the statements of a repair may take, and so how long an announced repair keeps the epoch open.
pub const REPAIR_SECS: u32 = 60;

/// Offsets that are copied back by one statement.
const STAGED_AT_ONCE: u64 = 200_000;

/// Where history and the speed layer first differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Raw rows: (found, expected).
    Events {
        found: RowCount,
        expected: RowCount,
    },
    DeadLetters {
        found: u64,
        expected: u64,
    },
    /// Cells of a roll-up: how many are missing, more, or other.
    Cells {
        view: ViewId,
        level: Level,
        differing: usize,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events { found, expected } if found.rows == expected.rows => {
                write!(f, "history has {} events, and others than were counted", found.rows)
            }
            Self::Events { found, expected } => write!(f, "history has {} events where {} were counted", found.rows, expected.rows),
            Self::DeadLetters { found, expected } => write!(f, "history has {found} dead letters where there were {expected}"),
            Self::Cells { view, level, differing } => {
                write!(f, "{differing} cells of view {}, by {}, are others in history", view.0 + 1, level.suffix())
            }
        }
    }
}

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
    fn reread(&self, partition: Partition, segment: &Segment) -> impl Future<Output = Result<Vec<Block>, CloseError>> + Send;
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
        let (generation, fold) = (rules.generation, segment.fold());
        let row = LedgerRow { generation, partition, epoch, entry: Entry::Closed, tally, fold, at_ms: yard.now_ms() };
        let Some(difference) = self.compare(&before).await? else {
            yard.confirm_log().await?;
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
                && let Err(error) = history.unstage(partition, rules.epoch_bits.range_of(epoch)).await
            {
                tracing::warn!(%partition, %epoch, "what a repair has staged stays, which costs disk and nothing else: {error}");
            }
            return Ok(Closing::Closed);
        };
        let widest = |state: &EpochState| state.closed_by.last().copied();
        let blocks = match (widest(&before), &difference) {
            // The records may be gone from the log by now.
            (None, _) if before.repairs > 0 && self.is_staged().await? => Vec::new(),
            (None, _) => yard.reread(partition, segment).await?,
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
            None => self.repair(&blocks, until_ms).await?,
            by if by != widest(&before) => false, // Closed by another since the comparison: what differed then is looked at again.
            Some(by) => self.refill(by, until_ms).await?,
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

    /// The first difference between history and the segment, if there is one: raw rows, then roll-ups. Those that another
    /// generation has agreed on are not compared again. An added view's are filled where they have not been yet.
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
            let Some(Difference::Cells { view, .. }) = difference else { return Ok(difference) };
            if rules.keeper(view) == rules.raw() || !filled.insert(view) {
                return Ok(difference);
            }
            history.fill(view, partition, segment.epoch(), &self.token(view, "fill", before.repaired_ms)).await?;
        }
    }

    /// Of whoever fills this: generations that share a view's roll-ups fill them once.
    fn token(&self, view: ViewId, what: &str, at_ms: i64) -> String {
        let Self { rules, partition, segment, .. } = self;
        format!("g{}/{}/{partition}/{}/{what}-{at_ms}", rules.keeper(view), rules.views.get(view).name(), segment.epoch())
    }

    async fn compare_cells(&self, views: &[ViewId]) -> Result<Option<Difference>, Error> {
        let Self { history, partition, segment, .. } = *self;
        for &view in views {
            for level in Level::ALL {
                let mut expected = segment.expected(view, level);
                let of = EpochCells { view, level, partition, epoch: segment.epoch() };
                history.visit_cells(of, &mut |bucket_ms, values, cell| expected.meet(bucket_ms, values, cell)).await?;
                let differing = expected.differing();
                if differing > 0 {
                    return Ok(Some(Difference::Cells { view, level, differing }));
                }
            }
        }
        Ok(None)
    }

    /// Deletes the epoch everywhere and inserts it again, under tokens of this repair's own, from a staging table: what is in
    /// neither the log nor history could not be counted again. False if the announced time would not do: nothing may be sent
    /// that could still be running when it is over, for then the epoch may have been closed by a successor.
    async fn repair(&self, blocks: &[Block], until_ms: i64) -> Result<bool, Error> {
        if !self.stage(blocks, until_ms).await? || !self.wiped(Wiped::Everything, until_ms).await? {
            return Ok(false);
        }
        let (mut at, end) = (self.range().from(), self.range().to());
        while let Some(range) = OffsetRange::new(at, NextOffset::new(at.get() + STAGED_AT_ONCE).min(end)) {
            if !self.has_time(until_ms) {
                return Ok(false);
            }
            self.history.insert_staged(self.partition, range, &self.repair_token(range, "repair", until_ms)).await?;
            at = range.to();
        }
        Ok(true)
    }

    /// Brings the epoch's rows into the staging table, and reads back that they are there.
    async fn stage(&self, blocks: &[Block], until_ms: i64) -> Result<bool, Error> {
        if self.is_staged().await? {
            return Ok(true);
        }
        self.history.unstage(self.partition, self.range()).await?;
        for block in blocks {
            for rows in block.inserts(&block.part_keys()) {
                if !self.has_time(until_ms) {
                    return Ok(false);
                }
                self.history.stage(&rows, &self.repair_token(block.range, "stage", until_ms)).await?;
            }
        }
        self.is_staged().await
    }

    async fn is_staged(&self) -> Result<bool, Error> {
        let staged = self.history.staged(self.partition, self.range()).await?;
        Ok(compare_raw(&staged, self.segment.tally(), self.segment.fold()).is_none())
    }

    fn range(&self) -> OffsetRange {
        self.rules.epoch_bits.range_of(self.segment.epoch())
    }

    fn repair_token(&self, range: OffsetRange, what: &str, until_ms: i64) -> String {
        format!("g{}/{}/{}-{}/{what}-{until_ms}", self.rules.generation, self.partition, range.from(), range.to())
    }

    /// The same for the roll-ups of views that have been added since a generation that has closed the epoch.
    async fn refill(&self, by: Generation, until_ms: i64) -> Result<bool, Error> {
        if !self.wiped(Wiped::AddedSince(by), until_ms).await? {
            return Ok(false);
        }
        for view in self.rules.added_since(by) {
            if !self.has_time(until_ms) {
                return Ok(false);
            }
            self.history.fill(view, self.partition, self.segment.epoch(), &self.token(view, "refill", until_ms)).await?;
        }
        Ok(true)
    }

    async fn wiped(&self, what: Wiped, until_ms: i64) -> Result<bool, Error> {
        let secs = self.secs_left(until_ms);
        if secs == 0 {
            return Ok(false);
        }
        self.history.wipe(self.partition, self.segment.epoch(), what, secs).await?;
        Ok(true)
    }

    /// Enough for an insert.
    fn has_time(&self, until_ms: i64) -> bool {
        u64::from(self.secs_left(until_ms)) >= INSERT_DEADLINE.as_secs()
    }

    fn secs_left(&self, until_ms: i64) -> u32 {
        u32::try_from((until_ms - self.yard.now_ms()).div_euclid(1000)).unwrap_or_default()
    }
}

fn compare_raw(found: &Found, tally: Tally, fold: u64) -> Option<Difference> {
    let mut events = RowCount::default();
    found.iter().filter(|(part, _)| matches!(part, PartKey::Events(_))).for_each(|(_, count)| events.merge(*count));
    let expected = RowCount { rows: tally.events, fold };
    if events != expected {
        return Some(Difference::Events { found: events, expected });
    }
    let dead = found.get(&PartKey::DeadLetters).map_or(0, |count| count.rows);
    let expected = tally.duplicates + tally.dead_letters;
    (dead != expected).then_some(Difference::DeadLetters { found: dead, expected })
}
