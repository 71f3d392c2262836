//! Raw rows: answers to questions that no view covers, and records that the log no longer has.

use crate::ledger::Entry;
use crate::rows::{Found, RawRecord};
use crate::{Error, History, Marks};
use std::collections::BTreeSet;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, Mark};
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

/// What is counted at a cut: closed epochs by the view, if there is one, and all else from raw events. Of the closed epochs,
/// the groups that `needed` says once it has been shown the others' rows.
async fn rows(
    history: &dyn History,
    view: Option<ViewId>,
    question: &Question,
    needed: impl FnOnce(&Rows) -> Groups,
    marks: &Marks,
    cut: &Cut,
) -> Result<Rows, Error> {
    let Some(view) = view else { return history.answer_raw(question, Epochs::All, marks, cut).await };
    let open = history.answer_raw(question, Epochs::Open, marks, cut).await?;
    let mut rows = history.answer(view, question, &needed(&open), marks).await?;
    merge_rows(&mut rows, open);
    Ok(rows)
}

/// Answers at a cut that was given, the same whenever it is asked: an epoch below the marks that is whole below the cut from
/// the view's roll-ups, and the rest from raw events, those of a closed epoch too that the cut is in the middle of. `None`
/// while history cannot: it has not come so far, or an epoch below the cut is being repaired.
pub async fn answer_at(
    history: &dyn History,
    rules: &Rules,
    view: Option<ViewId>,
    question: &Question,
    needed: impl FnOnce(&Rows) -> Groups,
    reached: &Cut,
    cut: &Cut,
) -> Result<Option<Rows>, Error> {
    let (mut marks, present) = present(history, rules, reached).await?;
    if !present.reaches(cut) {
        return Ok(None);
    }
    marks.iter_mut().for_each(|(&partition, mark)| *mark = (*mark).min(Mark::at(rules.epoch_bits.epoch_at(cut.get(partition)))));
    let rows = rows(history, view, question, needed, &marks, cut).await?;
    // As in `answer`: what has not been announced by now has not touched what was read.
    Ok(sound(history, rules, cut).await?.reaches(cut).then_some(rows))
}

/// Answers from raw events at the cut H, or somewhat below; what a view covers of it from the view's roll-ups, where the
/// epochs are closed.
///
/// Open epochs have not been reconciled yet. Where one is being repaired, its events may be gone for a while, so the cut
/// ends before it; and where a stalled insert has landed twice, which only reconciliation puts right, an offset counts
/// once.
pub async fn answer(
    history: &dyn History,
    rules: &Rules,
    view: Option<ViewId>,
    question: &Question,
    reached: &Cut,
) -> Result<RawAnswer, Error> {
    let (marks, mut cut) = present(history, rules, reached).await?;
    loop {
        let rows = rows(history, view, question, |_| Groups::All, &marks, &cut).await?;
        // A repair deletes after it has been announced: one that is not in the ledger now has not touched what was read.
        let still = sound(history, rules, &cut).await?;
        if still == cut {
            return Ok(RawAnswer { rows, cut, marks });
        }
        cut = still;
    }
}

/// The marks, and the highest cut that can be answered now where H was there.
pub async fn present(history: &dyn History, rules: &Rules, reached: &Cut) -> Result<(Marks, Cut), Error> {
    let marks = history.marks().await?;
    // What is closed is in history, whatever was last heard of H.
    let mut reached = reached.clone();
    marks.iter().for_each(|(&partition, mark)| reached.raise(partition, mark.position(rules.epoch_bits)));
    let cut = sound(history, rules, &reached).await?;
    Ok((marks, cut))
}

/// The cut, below every epoch that is being repaired: there, raw events may be incomplete.
pub async fn sound(history: &dyn History, rules: &Rules, reached: &Cut) -> Result<Cut, Error> {
    let mut cut = reached.clone();
    for (partition, epoch) in history.repairing().await? {
        cut.set(partition, cut.get(partition).min(rules.epoch_bits.start_of(epoch)));
    }
    Ok(cut)
}

/// Hands over what became of the records of `[from, to)`, in order, a part at a time. An epoch that a repair has deleted and not
/// written again yet comes from what the repair has staged; without that it is refused, for what is left of it is not the truth.
/// So is an epoch whose raw rows an audit has found damaged.
pub async fn recall(
    history: &dyn History,
    rules: &Rules,
    partition: Partition,
    from: NextOffset,
    to: NextOffset,
    mut record: impl FnMut(&RawRecord),
) -> Result<(), Error> {
    let bits = rules.epoch_bits;
    let repairing: BTreeSet<Epoch> =
        history.repairing().await?.into_iter().filter(|(of, _)| *of == partition).map(|(_, epoch)| epoch).collect();
    let damage = history.damage().await?;
    let mut at = from;
    while at < to {
        let epoch = bits.epoch_at(at);
        if let Some(unsound) = damage.of(partition, epoch).filter(|of| !of.is_raw_sound()) {
            return Err(unsound.refuse());
        }
        let next = NextOffset::new(at.get().saturating_add(STEP)).min(bits.end_of(epoch)).min(to);
        if let Some(range) = OffsetRange::new(at, next) {
            let is_staged = repairing.contains(&epoch) && is_staged(history, rules, partition, epoch).await?;
            let records = if is_staged { history.staged_raw(partition, range) } else { history.raw(partition, range) };
            records.await?.iter().for_each(&mut record);
        }
        at = next;
    }
    Ok(())
}

/// True of an epoch whose rows are staged and not all back in their tables; an error if they are in neither.
async fn is_staged(history: &dyn History, rules: &Rules, partition: Partition, epoch: Epoch) -> Result<bool, Error> {
    let repairs = history.ledger(partition, epoch).await?.into_iter().filter(|row| matches!(row.entry, Entry::Repair { .. }));
    // That of a deletion which the topic can undo says nothing of rows.
    let Some(announced) = repairs.map(|row| row.tally.span() - row.tally.holes).max() else { return Ok(false) };
    let range = rules.epoch_bits.range_of(epoch);
    let rows = |found: Found| found.values().map(|count| count.rows).sum::<u64>();
    let found = rows(history.found(partition, range).await?);
    if found >= announced {
        return Ok(false);
    }
    if rows(history.staged(partition, range).await?) >= announced {
        return Ok(true);
    }
    Err(Error::Unfinished { partition, epoch, found, announced })
}
