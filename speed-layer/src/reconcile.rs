//! Closing an epoch: history's cells are compared with the speed layer's own, one by one. Equal: the ledger says so and
//! the mark advances. Different: the mark stays, the segment keeps answering, and the epoch's history is written again.
//!
//! A repair happens above the mark, where no query reads history, so it need not be atomic. It is announced in the
//! ledger with a deadline, which its statements carry too; until that is over nobody closes the epoch or repairs it
//! again, so that a stalled former owner's repair cannot fall below the mark.

use crate::segment::Segment;
use std::future::Future;
use tidemark_core::cell::Tally;
use tidemark_core::generation::Rules;
use tidemark_core::offset::Partition;
use tidemark_core::window::Level;
use tidemark_history::block::Block;
use tidemark_history::clickhouse::INSERT_DEADLINE;
use tidemark_history::ledger::{Entry, LedgerRow};
use tidemark_history::rows::{Found, PartKey, RowCount};
use tidemark_history::{EpochCells, Error, History};

/// How long the statements of a repair may take, and so how long an announced repair keeps the epoch open.
pub const REPAIR_SECS: u32 = 60;

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
        view: String,
        level: Level,
        differing: usize,
    },
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
}

/// The outside of reconciliation, but for history.
pub trait Yard {
    fn now_ms(&self) -> i64;

    /// Reads a range of the log again and gathers its rows, judged as they were the first time.
    fn reread(&self, partition: Partition, segment: &Segment) -> impl Future<Output = Result<Vec<Block>, CloseError>> + Send;
}

/// Compares one complete epoch and closes it, or repairs it.
pub async fn close(
    yard: &impl Yard,
    history: &impl History,
    rules: &Rules,
    partition: Partition,
    segment: &Segment,
) -> Result<Closing, CloseError> {
    let epoch = segment.epoch();
    if let Some(settled) = settled(yard, history, partition, segment, None).await? {
        return Ok(settled);
    }
    let span = rules.epoch_bits.span();
    let mut tally = segment.tally();
    tally.holes = span.saturating_sub(tally.span());
    tidemark_core::check!(I3, tally.span() == span, "partition {partition} epoch {epoch}: {tally:?}");
    let row = LedgerRow { partition, epoch, entry: Entry::Closed, tally, fold: segment.fold(), at_ms: yard.now_ms() };
    let Some(difference) = compare(history, rules, partition, segment).await? else {
        // A repair announced since the first look may be about to delete what has just been compared.
        if let Some(settled) = settled(yard, history, partition, segment, None).await? {
            return Ok(settled);
        }
        history.record(&row).await?;
        return Ok(Closing::Closed);
    };
    let blocks = yard.reread(partition, segment).await?;
    let until_ms = yard.now_ms() + i64::from(REPAIR_SECS) * 1000;
    history.record(&LedgerRow { entry: Entry::Repair { deadline_ms: until_ms }, ..row }).await?;
    // From here on nobody else begins; who began before may have closed the epoch by now, and closed it stays.
    if let Some(settled) = settled(yard, history, partition, segment, Some(until_ms)).await? {
        return Ok(settled);
    }
    let whole = repair(yard, history, rules, partition, segment, &blocks, until_ms).await?;
    Ok(if whole { Closing::Repaired { difference, until_ms } } else { Closing::Waiting { until_ms } })
}

/// What the ledger says against touching the epoch now: it is closed, or somebody repairs it. `own` is the deadline of the
/// repair that this owner has announced itself. A former owner may be at work too, so this is asked before every row.
async fn settled(
    yard: &impl Yard,
    history: &impl History,
    partition: Partition,
    segment: &Segment,
    own: Option<i64>,
) -> Result<Option<Closing>, Error> {
    let entries = history.ledger(partition, segment.epoch()).await?;
    if entries.iter().any(|row| row.entry == Entry::Closed) {
        return Ok(Some(Closing::Closed));
    }
    let deadlines = entries.iter().filter_map(|row| match row.entry {
        Entry::Repair { deadline_ms } => Some(deadline_ms),
        Entry::Closed | Entry::Begun => None,
    });
    let others = deadlines.filter(|until| Some(*until) != own && *until > yard.now_ms());
    Ok(others.max().map(|until_ms| Closing::Waiting { until_ms }))
}

/// The first difference between history and the segment, if there is one: raw rows, then every roll-up.
async fn compare(history: &impl History, rules: &Rules, partition: Partition, segment: &Segment) -> Result<Option<Difference>, Error> {
    let found = history.found(partition, rules.epoch_bits.range_of(segment.epoch())).await?;
    if let Some(difference) = compare_raw(&found, segment.tally(), segment.fold()) {
        return Ok(Some(difference));
    }
    for view in rules.views.ids() {
        for level in Level::ALL {
            let mut expected = segment.expected(view, level);
            let of = EpochCells { view, level, partition, epoch: segment.epoch() };
            history.visit_cells(of, |bucket_ms, values, cell| expected.meet(bucket_ms, values, cell)).await?;
            let differing = expected.differing();
            if differing > 0 {
                return Ok(Some(Difference::Cells { view: rules.views.get(view).name().to_owned(), level, differing }));
            }
        }
    }
    Ok(None)
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

/// Deletes the epoch everywhere and inserts it again, under tokens of this repair's own. False if the announced time
/// would not do: nothing may be sent that could still be running when it is over, for then the epoch may have been
/// closed by a successor.
async fn repair(
    yard: &impl Yard,
    history: &impl History,
    rules: &Rules,
    partition: Partition,
    segment: &Segment,
    blocks: &[Block],
    until_ms: i64,
) -> Result<bool, Error> {
    let secs_left = || u32::try_from((until_ms - yard.now_ms()).div_euclid(1000)).unwrap_or_default();
    if secs_left() == 0 {
        return Ok(false);
    }
    history.wipe(partition, segment.epoch(), secs_left()).await?;
    for block in blocks {
        for rows in block.inserts(&block.part_keys()) {
            if u64::from(secs_left()) < INSERT_DEADLINE.as_secs() {
                return Ok(false);
            }
            let token = format!("g{}/{partition}/{}-{}/repair-{until_ms}", rules.generation, block.range.from(), block.range.to());
            history.insert(&rows, &token).await?;
        }
    }
    Ok(true)
}
