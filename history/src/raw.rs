//! Raw rows: answers to questions that no view covers, and records that the log no longer has.

use crate::rows::RawRecord;
use crate::{Error, History, Marks};
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, Rows, merge_rows};
use tidemark_core::view::ViewId;

/// Offsets that are read at once.
const STEP: u64 = 1 << 16;

/// The epochs whose raw events are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Epochs {
    All,
    /// Those not below the marks: roll-ups answer for the others.
    Open,
}

/// An answer from raw events.
#[derive(Clone, PartialEq, Debug)]
pub struct RawAnswer {
    pub rows: Rows,
    /// Every event below has been counted, none above.
    pub cut: Cut,
    /// Below these, the two layers have agreed on what was read.
    pub marks: Marks,
}

/// Answers from raw events at the cut H, or somewhat below; what a view covers of it from the view's roll-ups, where the
/// epochs are closed.
///
/// Open epochs have not been reconciled yet. Where one is being repaired, its events may be gone for a while, so the cut
/// ends before it; and where a stalled insert has landed twice, which only reconciliation puts right, an offset counts
/// once.
pub async fn answer(
    history: &impl History,
    rules: &Rules,
    view: Option<ViewId>,
    question: &Question,
    reached: &Cut,
) -> Result<RawAnswer, Error> {
    let marks = history.marks().await?;
    // What is closed is in history, whatever was last heard of H.
    let mut reached = reached.clone();
    marks.iter().for_each(|(&partition, mark)| reached.raise(partition, mark.position(rules.epoch_bits)));
    let mut cut = sound(history, rules, &reached).await?;
    loop {
        let rows = match view {
            None => history.answer_raw(question, Epochs::All, &marks, &cut).await?,
            Some(view) => {
                let mut rows = history.answer(view, question, &Groups::All, &marks).await?;
                merge_rows(&mut rows, history.answer_raw(question, Epochs::Open, &marks, &cut).await?);
                rows
            }
        };
        // A repair deletes after it has been announced: one that is not in the ledger now has not touched what was read.
        let still = sound(history, rules, &cut).await?;
        if still == cut {
            return Ok(RawAnswer { rows, cut, marks });
        }
        cut = still;
    }
}

/// The cut, below every epoch that is being repaired: there, raw events may be incomplete.
pub async fn sound(history: &impl History, rules: &Rules, reached: &Cut) -> Result<Cut, Error> {
    let mut cut = reached.clone();
    for (partition, epoch) in history.repairing().await? {
        cut.set(partition, cut.get(partition).min(rules.epoch_bits.start_of(epoch)));
    }
    Ok(cut)
}

/// Hands over what became of the records of `[from, to)`, in order, a part at a time.
pub async fn recall(
    history: &impl History,
    partition: Partition,
    from: NextOffset,
    to: NextOffset,
    mut record: impl FnMut(&RawRecord),
) -> Result<(), Error> {
    let mut at = from;
    while at < to {
        let next = NextOffset::new(at.get().saturating_add(STEP)).min(to);
        if let Some(range) = OffsetRange::new(at, next) {
            history.raw(partition, range).await?.iter().for_each(&mut record);
        }
        at = next;
    }
    Ok(())
}
