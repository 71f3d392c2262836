//! Writing an epoch's history again, for a repair that has been announced. Rows are staged and read back first; only then is
//! anything deleted, so that whoever goes on after a crash can finish without the log.

use crate::difference::compare_raw;
use tidemark_core::cell::Tally;
use tidemark_core::epoch::Epoch;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_core::view::ViewId;
use tidemark_history::block::Block;
use tidemark_history::clickhouse::INSERT_ENDS_WITHIN;
use tidemark_history::ledger::Clock;
use tidemark_history::{Error, History, Wiped};

/// Offsets that are copied back by one statement.
const STAGED_AT_ONCE: u64 = 200_000;

/// An epoch, and the raw rows that it is to have.
pub(crate) struct Rewrite<'a, C> {
    pub(crate) clock: &'a C,
    pub(crate) history: &'a dyn History,
    pub(crate) rules: &'a Rules,
    pub(crate) partition: Partition,
    pub(crate) epoch: Epoch,
    pub(crate) tally: Tally,
    pub(crate) fold: u64,
}

/// Each step is false if the announced time would not do: nothing may be sent that could still be running when it is over.
impl<C: Clock> Rewrite<'_, C> {
    pub(crate) fn range(&self) -> OffsetRange {
        self.rules.epoch_bits.range_of(self.epoch)
    }

    pub(crate) async fn is_staged(&self) -> Result<bool, Error> {
        let staged = self.history.staged(self.partition, self.range()).await?;
        Ok(compare_raw(&staged, self.tally, self.fold).is_none())
    }

    /// Brings the epoch's rows into the staging table, and reads back that they are there; false, too, if they are others than
    /// were counted.
    pub(crate) async fn stage(&self, blocks: &[Block], until_ms: i64) -> Result<bool, Error> {
        if self.is_staged().await? {
            return Ok(true);
        }
        self.history.unstage(self.partition, self.range()).await?;
        for block in blocks {
            for rows in block.inserts(&block.part_keys()) {
                if !self.has_time(until_ms) {
                    return Ok(false);
                }
                self.history.stage(&rows, &self.token(block.range, "stage", until_ms)).await?;
            }
        }
        self.is_staged().await
    }

    /// Deletes the epoch everywhere and inserts it again from the staging table, under tokens of this repair's own: what is in
    /// neither the log nor history could not be counted again.
    pub(crate) async fn put_back(&self, until_ms: i64) -> Result<bool, Error> {
        if !self.wipe(Wiped::Everything, until_ms).await? {
            return Ok(false);
        }
        let (mut at, end) = (self.range().from(), self.range().to());
        while let Some(range) = OffsetRange::new(at, NextOffset::new(at.get() + STAGED_AT_ONCE).min(end)) {
            if !self.has_time(until_ms) {
                return Ok(false);
            }
            self.history.insert_staged(self.partition, range, &self.token(range, "repair", until_ms)).await?;
            at = range.to();
        }
        Ok(true)
    }

    /// Deletes some views' roll-ups, and fills them again from raw rows.
    pub(crate) async fn refill(&self, what: Wiped, views: impl Iterator<Item = ViewId>, until_ms: i64) -> Result<bool, Error> {
        if !self.wipe(what, until_ms).await? {
            return Ok(false);
        }
        for view in views {
            if !self.has_time(until_ms) {
                return Ok(false);
            }
            self.history.fill(view, self.partition, self.epoch, &self.fill_token(view, "refill", until_ms)).await?;
        }
        Ok(true)
    }

    async fn wipe(&self, what: Wiped, until_ms: i64) -> Result<bool, Error> {
        let secs = self.secs_left(until_ms);
        if secs == 0 {
            return Ok(false);
        }
        self.history.wipe(self.partition, self.epoch, what, secs).await?;
        Ok(true)
    }

    /// Of whoever fills this: generations that share a view's roll-ups fill them once.
    pub(crate) fn fill_token(&self, view: ViewId, what: &str, at_ms: i64) -> String {
        let Self { rules, partition, epoch, .. } = self;
        format!("g{}/{}/{partition}/{epoch}/{what}-{at_ms}", rules.keeper(view), rules.views.get(view).name())
    }

    fn token(&self, range: OffsetRange, what: &str, until_ms: i64) -> String {
        format!("g{}/{}/{}-{}/{what}-{until_ms}", self.rules.generation, self.partition, range.from(), range.to())
    }

    /// Enough for an insert.
    fn has_time(&self, until_ms: i64) -> bool {
        u64::from(self.secs_left(until_ms)) >= INSERT_ENDS_WITHIN.as_secs()
    }

    fn secs_left(&self, until_ms: i64) -> u32 {
        u32::try_from((until_ms - self.clock.now_ms()).div_euclid(1000)).unwrap_or_default()
    }
}
