//! History: raw events, dead letters, roll-ups and the ledger in ClickHouse. [`clickhouse`] is the one door to the
//! engine (the only place that names the `clickhouse` crate), [`memory`] its twin for unit tests and the simulator.
//!
//! The tables are generated from the view declarations ([`schema`]) and rows are encoded in [`rows`]; what is written
//! when, and what is believed about it, is decided in the batch and speed layers.

mod answers;
pub mod audit;
pub mod block;
pub mod clickhouse;
pub mod declared;
pub mod evidence;
pub mod generations;
pub mod ledger;
pub mod memory;
pub mod raw;
pub mod rows;
pub mod schema;
mod sql;

use crate::audit::{Change, Damage, EpochSums};
use crate::evidence::{Counted, Origin, Page, Placed, Places, Uncounted};
use crate::ledger::LedgerRow;
use crate::raw::Epochs;
use crate::rows::{Found, RowBlock, RowCount};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use tidemark_core::cell::{Cell, Tally};
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Generation;
use tidemark_core::offset::{Offset, OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, RowKey, Rows};
use tidemark_core::view::ViewId;
use tidemark_core::window::{Level, TimeRange};

/// The mark of each partition, as the ledger has it.
pub type Marks = BTreeMap<Partition, Mark>;

/// What became of the records of closed epochs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tallies {
    /// The first mark, where it was not [`Mark::START`].
    pub begun: Marks,
    pub closed: BTreeMap<Partition, Tally>,
}

/// By the number of a run of offsets: how many of them have a row, and the sum of the rows' hashes.
pub type Contents = BTreeMap<u64, RowCount>;

/// What cells come to: two that are equal stand for the same cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    pub cells: u64,
    pub events: u64,
    /// The sum of hashes of all that the cells say.
    pub hash: u64,
}

/// Which cells are meant: those of a view at a level, of one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochCells {
    pub view: ViewId,
    pub level: Level,
    pub partition: Partition,
    pub epoch: Epoch,
}

/// What of an epoch is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wiped {
    /// Raw rows, dead letters, and all roll-ups.
    Everything,
    /// All roll-ups.
    Rollups,
    /// The roll-ups of the views that have been added since this generation.
    AddedSince(Generation),
}

/// A page of dead letters, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterQuery {
    pub partition: Option<Partition>,
    pub reason: Option<String>,
    /// Only dead letters strictly before this place in the order of the answer.
    pub before: Option<(i64, Partition, Offset)>,
    pub limit: u32,
}

/// A record that was not counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    pub partition: Partition,
    pub offset: Offset,
    pub record_timestamp_ms: i64,
    pub reason: String,
    pub payload: Vec<u8>,
}

/// Rows and bytes that history gives to a question at most. A bucket can come in three pieces, one from each level of roll-ups.
pub const MAX_ANSWER_ROWS: u64 = 3_000_000;
pub const MAX_ANSWER_BYTES: u64 = 512 << 20;

/// What can go wrong at the history engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer, or one that says nothing about the outcome. A write may or may not have happened.
    #[error("clickhouse at {url} did not answer: {reason}")]
    Unavailable { url: String, reason: String },
    /// The engine understood and refused.
    #[error("clickhouse refused ({code}): {reason}")]
    Refused { code: u32, reason: String },
    /// The history was written under other rules than the configuration's.
    #[error("{0}")]
    OtherRules(String),
    /// The answer to a question would be larger than it may be.
    #[error("the answer would have more than {MAX_ANSWER_ROWS} rows or {} MiB, or take more memory than all answers may", MAX_ANSWER_BYTES >> 20)]
    TooLarge,
    /// A question would read more than a server may be asked to read for one (`max_rows_read`).
    #[error("the question would read more than {rows} rows")]
    TooDear { rows: u64 },
    /// There was no memory for the answer to a question (`answer_memory`).
    #[error("too many large answers are under way")]
    Busy,
    /// The rows of an epoch are incomplete, because a repair has deleted them and was not finished.
    #[error(
        "partition {partition}: a repair of epoch {epoch} was not finished, history has {found} of its {announced} rows, and the topic no longer \
         has its records. Restore a backup of history that has them"
    )]
    Unfinished { partition: Partition, epoch: Epoch, found: u64, announced: u64 },
    /// What is asked would come from rows that are no longer those that were agreed on.
    #[error(
        "history is damaged: of epoch {epoch} of partition {partition}, {what}. It answers again when that has been repaired; `tidemark audit` tells more"
    )]
    Damaged { partition: Partition, epoch: Epoch, what: String },
    /// The engine answered something that cannot be right.
    #[error("clickhouse answered nonsense: {0}")]
    Nonsense(String),
}

/// Called with a cell, or a piece of one: the period's start in milliseconds, the values in the view's dimension order, the piece.
pub type VisitCell<'v> = &'v mut (dyn FnMut(i64, &[&str], &Cell) + Send);

/// The history engine, as the layers see it.
///
/// The futures are boxed, so that this crate alone compiles the path of a request. Without the box, each crate that awaits one
/// compiles that path again. A box is cheap next to a request.
#[async_trait]
pub trait History: fmt::Debug + Send + Sync + 'static {
    /// Inserts a block's rows into one table under a deduplication token: the same token again changes nothing.
    /// Any error leaves the outcome unknown.
    async fn insert(&self, block: &RowBlock, token: &str) -> Result<(), Error>;

    /// Reads back what stands in an offset range: rows and folds, for each table and month.
    async fn found(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error>;

    /// Shows an epoch's cells of one view at one level, in no order, each in pieces that add up to it. After an error some may
    /// have been shown.
    async fn visit_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error>;

    /// Shows the same, as an epoch's raw rows have it. Only at the finest level.
    async fn visit_counted_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error>;

    /// The same cells, whole.
    async fn cells(&self, of: EpochCells) -> Result<Rows, Error> {
        let mut rows = Rows::new();
        let mut keep = |bucket_ms, values: &[&str], cell: &Cell| {
            let values = values.iter().map(|value| Box::from(*value)).collect();
            rows.entry(RowKey { bucket_ms, values }).or_default().merge(cell);
        };
        self.visit_cells(of, &mut keep).await?;
        Ok(rows)
    }

    /// Inserts a block's rows into a staging table, which nothing counts; the same token again changes nothing.
    async fn stage(&self, block: &RowBlock, token: &str) -> Result<(), Error>;

    /// [`History::found`] in the staging tables.
    async fn staged(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error>;

    /// [`History::raw`] from the staging tables.
    async fn staged_raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<rows::RawRecord>, Error>;

    /// Copies staged rows of an offset range to where they count; the same token again changes nothing. Any error leaves the
    /// outcome unknown.
    async fn insert_staged(&self, partition: Partition, range: OffsetRange, token: &str) -> Result<(), Error>;

    /// Empties the staging tables of an offset range.
    async fn unstage(&self, partition: Partition, range: OffsetRange) -> Result<(), Error>;

    /// Deletes what there is of an epoch that is above the mark.
    async fn wipe(&self, partition: Partition, epoch: Epoch, what: Wiped, deadline_secs: u32) -> Result<(), Error>;

    /// Fills a view's roll-ups of an epoch from its raw rows; the same token again changes nothing.
    async fn fill(&self, view: ViewId, partition: Partition, epoch: Epoch, token: &str) -> Result<(), Error>;

    /// Answers by a view from the closed epochs, those below `marks`.
    async fn answer(&self, view: ViewId, question: &Question, groups: &Groups, marks: &Marks) -> Result<Rows, Error>;

    /// Answers from raw events below `cut`; [`raw::answer`] says which cuts are exact. A row of an open epoch, one that is
    /// not below `marks`, counts once even if it is there twice.
    async fn answer_raw(&self, question: &Question, epochs: Epochs, marks: &Marks, cut: &Cut) -> Result<Rows, Error>;

    /// Open epochs whose repair has been announced: their raw events may be incomplete until they are closed.
    async fn repairing(&self) -> Result<Vec<(Partition, Epoch)>, Error>;

    /// What the ledger says of the epochs that are closed below `marks` and not below `known`, for each partition, and the mark at
    /// which counting began, of those where that was not the first epoch.
    async fn tallies(&self, known: &Marks, marks: &Marks) -> Result<Tallies, Error>;

    /// Where the ledger puts each partition's mark.
    async fn marks(&self) -> Result<Marks, Error>;

    /// The first epoch of each partition above all that some generation has closed, of those that share these raw events. A
    /// partition without a closed epoch is absent.
    async fn closed_by_any(&self) -> Result<Marks, Error>;

    /// Writes a row of the ledger; after `until_ms`, by the engine's own clock, it is not written, and that is no error.
    async fn record(&self, row: &LedgerRow, until_ms: Option<i64>) -> Result<(), Error>;

    /// The ledger's rows about one epoch, oldest first: those of all generations that share its raw events.
    async fn ledger(&self, partition: Partition, epoch: Epoch) -> Result<Vec<LedgerRow>, Error>;

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error>;

    /// The content of the raw rows of an offset range, by runs of 2^`bits` offsets: how many offsets have a row, and a sum of
    /// hashes of all that the rows say. A row that is there twice counts once; runs without rows are absent.
    async fn contents(&self, partition: Partition, range: OffsetRange, bits: u8) -> Result<Contents, Error>;

    /// What closed epochs hold now, and what they held when they were closed.
    async fn sums(&self, partition: Partition, epochs: Range<Epoch>) -> Result<Vec<EpochSums>, Error>;

    /// The sum of hashes of all that the staged rows of an offset range say: what [`EpochSums::noted`] is of raw rows.
    async fn staged_content(&self, partition: Partition, range: OffsetRange) -> Result<u64, Error>;

    /// Notes what the raw rows of an epoch come to: before it is closed, for once it is closed a statement that comes late may find
    /// anything; if `is_closed`, when the caller has made sure of what is there.
    async fn note_content(&self, partition: Partition, epoch: Epoch, is_closed: bool) -> Result<(), Error>;

    /// It has answered a few seconds ago: a process asks it every second.
    fn is_heard(&self) -> bool;

    /// How often history below the mark has changed, as far as is known here: who answers looks every second.
    fn revision(&self) -> u64;

    /// What audits have found, as of [`audit::HEARD_FOR_MS`] ago at most.
    async fn damage(&self) -> Result<Arc<Damage>, Error>;

    /// The same as of now.
    async fn damage_now(&self) -> Result<Arc<Damage>, Error>;

    /// Records what an audit has found, or what has come of it; after `until_ms`, by the engine's own clock, it is not recorded, and
    /// that is no error.
    async fn record_change(&self, change: &Change, until_ms: Option<i64>) -> Result<(), Error>;

    /// Up to where a partition's closed epochs have been checked in the present round.
    async fn checked(&self, partition: Partition) -> Result<Option<Epoch>, Error>;

    async fn record_checked(&self, partition: Partition, up_to: Epoch) -> Result<(), Error>;

    /// What a view's closed cells of a range of 5-minute windows come to, those below `marks`.
    async fn digest(&self, view: ViewId, range: TimeRange, marks: &Marks) -> Result<Digest, Error>;

    /// What became of the records of an offset range, in order of offset, for what Kafka no longer has.
    async fn raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<rows::RawRecord>, Error>;

    /// Where a number's events stand, epoch by epoch in order, of so many epochs at most, and how many in each stand behind the
    /// place of their partition. From raw rows, so that what [`raw::answer_at`] says of cuts holds here too.
    async fn origins(&self, of: Counted<'_>, behind: &Places, limit: u32) -> Result<Vec<Origin>, Error>;

    /// Of each partition the first event below the cut that is of this time or a later one.
    async fn reached(&self, at_ms: i64, cut: &Cut) -> Result<Places, Error>;

    /// A number's events, a page of them.
    async fn events_of(&self, of: Counted<'_>, page: Page) -> Result<Vec<Placed>, Error>;

    /// The records of these ranges that were not counted, by partition and reason.
    async fn uncounted(&self, ranges: &[(Partition, OffsetRange)]) -> Result<Vec<Uncounted>, Error>;
}
