//! Two generations of one history, beside each other: every cell of the views that both have, and every raw row.
//!
//! Both are read at one cut: below the highest position at which both have closed all epochs from their roll-ups, from
//! there up to the cut from raw events. The engine says what the cells of some days come to, or of one hour of a busy one;
//! only where that differs, and where open epochs have events, are they fetched.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::Mark;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, RowKey, Rows, merge_rows};
use tidemark_core::view::{View, ViewId};
use tidemark_core::window::{BucketError, Buckets, Step, TimeRange, rfc3339};
use tidemark_history::raw::{Epochs, sound};
use tidemark_history::rows::{RawKind, RawRecord};
use tidemark_history::{Contents, Error, History, Marks};

/// Differences of each kind that are listed; all are counted.
const SHOWN: usize = 20;

/// Cells of about so many events are compared at once: days together, or the hours of a busy one each.
const AT_ONCE: u64 = 250_000;

/// Raw rows are compared by runs of 2^this offsets, a query for so many of them.
const RUN_BITS: u8 = 12;
const RUNS_AT_ONCE: u64 = 256;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How often a repair may come between.
const ATTEMPTS: usize = 100;

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub struct Side<'h> {
    pub history: &'h dyn History,
    pub rules: &'h Rules,
}

/// A cell that differs: counted so often by the one that answers, and by the new one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CellDifference {
    pub view: String,
    /// The window's start.
    pub window: String,
    pub values: Vec<String>,
    /// Count and sum; `None` where there is no such cell.
    pub old: Option<(u64, String)>,
    pub new: Option<(u64, String)>,
}

/// A raw row that differs, in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RowDifference {
    pub partition: u32,
    pub offset: u64,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// What came of one view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ViewComparison {
    pub view: String,
    /// Cells, in either.
    pub cells: u64,
    /// Events in them, in the new one.
    pub events: u64,
    pub different: u64,
}

/// What came of it all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Comparison {
    /// At which both were read.
    pub cut: String,
    pub views: Vec<ViewComparison>,
    /// Views that one of them has alone.
    pub only_old: Vec<String>,
    pub only_new: Vec<String>,
    /// Offsets that have raw rows, in the new one.
    pub rows: u64,
    pub different_rows: u64,
    /// The first of them.
    pub cells: Vec<CellDifference>,
    pub raw: Vec<RowDifference>,
}

impl Comparison {
    pub fn is_equal(&self) -> bool {
        self.different_rows == 0 && self.views.iter().all(|view| view.different == 0)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cut, views, only_old, only_new, rows, different_rows, cells, raw } = self;
        writeln!(f, "compared at the cut {cut}:")?;
        for ViewComparison { view, cells, events, different } in views {
            writeln!(f, "  view {view}: {cells} cells of {events} events, {different} different")?;
        }
        writeln!(f, "  raw: {rows} rows, {different_rows} different")?;
        for (which, names) in [("the one that answers", only_old), ("the new one", only_new)] {
            if !names.is_empty() {
                writeln!(f, "  only in {which}: {}", names.join(", "))?;
            }
        }
        let cell =
            |of: &Option<(u64, String)>| of.as_ref().map_or("nothing".to_owned(), |(count, sum)| format!("count {count}, sum {sum}"));
        for CellDifference { view, window, values, old, new } in cells {
            writeln!(f, "  {view} {window} {}: {} was counted, now {}", values.join(" / "), cell(old), cell(new))?;
        }
        let row = |of: &Option<String>| of.clone().unwrap_or_else(|| "no row".to_owned());
        for RowDifference { partition, offset, old, new } in raw {
            writeln!(f, "  raw {partition}:{offset}: {} was there, now {}", row(old), row(new))?;
        }
        Ok(())
    }
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    History(#[from] Error),
    #[error(transparent)]
    Buckets(#[from] BucketError),
    #[error("epochs are repaired again and again: see what the speed layer says")]
    Restless,
}

/// Compares at `cut`, or a little below while an epoch is repaired; both must have history up to there. `progress` is told
/// what is done of how much.
pub async fn compare(old: Side<'_>, new: Side<'_>, cut: &Cut, mut progress: impl FnMut(u64, u64)) -> Result<Comparison, CompareError> {
    let mut cut = cut.clone();
    for _ in 0..ATTEMPTS {
        let still = sound(new.history, new.rules, &sound(old.history, old.rules, &cut).await?).await?;
        // A repair deletes after it has been announced: one that is not in the ledger now has not touched what is read.
        let compared = compare_at(old, new, &still, &mut progress).await?;
        if sound(new.history, new.rules, &sound(old.history, old.rules, &still).await?).await? == still {
            return Ok(compared);
        }
        cut = still;
    }
    Err(CompareError::Restless)
}

/// The marks of both at the highest positions where an epoch of each begins that has all below closed.
async fn common_marks(old: Side<'_>, new: Side<'_>, cut: &Cut) -> Result<(Marks, Marks), Error> {
    let (olds, news) = (old.history.marks().await?, new.history.marks().await?);
    let coarser = if old.rules.epoch_bits.get() > new.rules.epoch_bits.get() { old.rules.epoch_bits } else { new.rules.epoch_bits };
    let mut common = (Marks::new(), Marks::new());
    for (partition, at) in cut.iter() {
        let position =
            |marks: &Marks, rules: &Rules| marks.get(&partition).map_or(NextOffset::ZERO, |mark| mark.position(rules.epoch_bits));
        let both = position(&olds, old.rules).min(position(&news, new.rules)).min(at);
        let both = coarser.start_of(coarser.epoch_at(both));
        common.0.insert(partition, Mark::at(old.rules.epoch_bits.epoch_at(both)));
        common.1.insert(partition, Mark::at(new.rules.epoch_bits.epoch_at(both)));
    }
    Ok(common)
}

async fn compare_at(old: Side<'_>, new: Side<'_>, cut: &Cut, progress: &mut impl FnMut(u64, u64)) -> Result<Comparison, CompareError> {
    let marks = common_marks(old, new, cut).await?;
    let mut comparison = Comparison { cut: cut.to_string(), ..Comparison::default() };
    let alone = |of: &Rules, other: &Rules| -> Vec<String> {
        of.views.iter().filter(|view| other.views.find(view).is_none()).map(|view| view.name().to_owned()).collect()
    };
    (comparison.only_old, comparison.only_new) = (alone(old.rules, new.rules), alone(new.rules, old.rules));
    let pair = |a: ViewId| new.rules.views.find(old.rules.views.get(a)).map(|b| (a, b));
    let shared: Vec<(ViewId, ViewId)> = old.rules.views.ids().filter_map(pair).collect();
    let parts = parts(&days(old, new, &marks, cut).await?);
    let offsets: u64 = cut.iter().map(|(_, at)| at.get()).sum();
    let (mut done, all) = (0, parts.iter().map(|part| part.events).sum::<u64>() * shared.len() as u64 + offsets);
    for &(a, b) in &shared {
        let view = old.rules.views.get(a);
        let mut of = ViewComparison { view: view.name().to_owned(), cells: 0, events: 0, different: 0 };
        for part in &parts {
            let is = new.history.digest(b, part.range, &marks.1).await?;
            if !part.open && old.history.digest(a, part.range, &marks.0).await? == is {
                of.cells += is.cells;
                of.events += is.events;
            } else {
                let question = cells_of(view, part.range)?;
                let was = rows_at(old, a, &question, &marks.0, cut).await?;
                let is = rows_at(new, b, &question, &marks.1, cut).await?;
                differing(view, &was, &is, &mut of, &mut comparison.cells);
            }
            done += part.events;
            progress(done, all);
        }
        comparison.views.push(of);
    }
    for (partition, to) in cut.iter() {
        let mut at = NextOffset::ZERO;
        while let Some(range) = OffsetRange::new(at, to.min(NextOffset::new(at.get() + (RUNS_AT_ONCE << RUN_BITS)))) {
            compare_raw(old, new, partition, range, &mut comparison).await?;
            done += range.span();
            progress(done, all);
            at = range.to();
        }
    }
    Ok(comparison)
}

/// A day's events: about how many, and whether some are of open epochs.
#[derive(Clone, Copy, Default)]
struct Day {
    events: u64,
    open: bool,
}

/// The days that have events, by their start.
async fn days(old: Side<'_>, new: Side<'_>, marks: &(Marks, Marks), cut: &Cut) -> Result<BTreeMap<i64, Day>, CompareError> {
    let question = Question {
        range: TimeRange::default(),
        buckets: Buckets::new(Step::Day, None)?,
        group_by: vec![],
        filters: BTreeMap::new(),
        only_counts: true,
    };
    let (was, mut is) = (days_of(old, &question, &marks.0, cut).await?, days_of(new, &question, &marks.1, cut).await?);
    for (day, of) in was {
        let new = is.entry(day).or_default();
        *new = Day { events: new.events.max(of.events), open: new.open || of.open };
    }
    Ok(is)
}

async fn days_of(of: Side<'_>, question: &Question, marks: &Marks, cut: &Cut) -> Result<BTreeMap<i64, Day>, Error> {
    let mut days: BTreeMap<i64, Day> = BTreeMap::new();
    let closed = match of.rules.views.smallest_with(&[]) {
        Some(view) => of.history.answer(view, question, &Groups::All, marks).await?,
        None => Rows::new(),
    };
    let open = of.history.answer_raw(question, Epochs::Open, marks, cut).await?;
    for (rows, is_open) in [(closed, false), (open, true)] {
        for (key, cell) in rows {
            let day = days.entry(key.bucket_ms).or_default();
            *day = Day { events: day.events + cell.count, open: day.open || is_open };
        }
    }
    Ok(days)
}

/// What is compared at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Part {
    range: TimeRange,
    /// About.
    events: u64,
    /// Some may be of open epochs.
    open: bool,
}

/// Ranges that cover these days, each with about as many events as are compared at once, or fewer.
fn parts(days: &BTreeMap<i64, Day>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let range = |from, to| TimeRange { from_ms: Some(from), to_ms: Some(to) };
    for (&day, &Day { events, open }) in days {
        match parts.last_mut() {
            Some(last) if last.events + events <= AT_ONCE && last.open == open => {
                last.events += events;
                last.range.to_ms = Some(day + DAY_MS);
            }
            _ if events <= AT_ONCE => parts.push(Part { range: range(day, day + DAY_MS), events, open }),
            _ => {
                let hour = |hour| range(day + hour * HOUR_MS, day + (hour + 1) * HOUR_MS);
                parts.extend((0..24).map(|n| Part { range: hour(n), events: events / 24, open }));
            }
        }
    }
    parts
}

fn cells_of(view: &View, range: TimeRange) -> Result<Question, BucketError> {
    Ok(Question {
        range,
        buckets: Buckets::new(Step::FiveMinutes, None)?,
        group_by: view.dimensions().to_vec(),
        filters: BTreeMap::new(),
        only_counts: false,
    })
}

async fn rows_at(of: Side<'_>, view: ViewId, question: &Question, marks: &Marks, cut: &Cut) -> Result<Rows, Error> {
    let mut rows = of.history.answer(view, question, &Groups::All, marks).await?;
    merge_rows(&mut rows, of.history.answer_raw(question, Epochs::Open, marks, cut).await?);
    Ok(rows)
}

/// Cells differ by what they count, and by which events: by their folds.
fn differing(view: &View, was: &Rows, is: &Rows, of: &mut ViewComparison, shown: &mut Vec<CellDifference>) {
    let keys: BTreeSet<&RowKey> = was.keys().chain(is.keys()).collect();
    for &key in &keys {
        let (old, new) = (was.get(key), is.get(key));
        of.cells += 1;
        of.events += new.map_or(0, |cell| cell.count);
        if old == new {
            continue;
        }
        of.different += 1;
        if shown.len() < SHOWN {
            let figures = |cell: Option<&Cell>| cell.map(|cell| (cell.count, cell.sum.to_string()));
            shown.push(CellDifference {
                view: view.name().to_owned(),
                window: rfc3339(key.bucket_ms),
                values: key.values.iter().map(ToString::to_string).collect(),
                old: figures(old),
                new: figures(new),
            });
        }
    }
}

async fn compare_raw(
    old: Side<'_>,
    new: Side<'_>,
    partition: Partition,
    range: OffsetRange,
    comparison: &mut Comparison,
) -> Result<(), Error> {
    let was: Contents = old.history.contents(partition, range, RUN_BITS).await?;
    let is: Contents = new.history.contents(partition, range, RUN_BITS).await?;
    comparison.rows += is.values().map(|run| run.rows).sum::<u64>();
    for &run in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
        if was.get(&run) == is.get(&run) {
            continue;
        }
        let edge = |run: u64| NextOffset::new(run << RUN_BITS);
        let Some(run) = OffsetRange::new(edge(run).max(range.from()), edge(run + 1).min(range.to())) else { continue };
        let rows = |rows: Vec<RawRecord>| rows.into_iter().map(|row| (row.offset, row.kind)).collect::<BTreeMap<_, _>>();
        let (was, is) = (rows(old.history.raw(partition, run).await?), rows(new.history.raw(partition, run).await?));
        for offset in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (was.get(offset), is.get(offset));
            if old == new {
                continue;
            }
            comparison.different_rows += 1;
            if comparison.raw.len() < SHOWN {
                let (old, new) = (old.map(said), new.map(said));
                comparison.raw.push(RowDifference { partition: partition.0, offset: offset.get(), old, new });
            }
        }
    }
    Ok(())
}

/// A row in words.
fn said(kind: &RawKind) -> String {
    match kind {
        RawKind::Event(event) => format!(
            "an event {} of {} with product `{}`, user `{}`, amount {}, id `{}`",
            event.event_type,
            rfc3339(event.timestamp_ms),
            event.product_id,
            event.user_id,
            event.order_amount.map_or_else(|| "-".to_owned(), |amount| amount.to_string()),
            event.event_id,
        ),
        RawKind::Duplicate(_) => "a duplicate".to_owned(),
        RawKind::DeadLetter(reject, _) => format!("a dead letter ({})", reject.reason()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_taken_together_until_they_are_many_and_a_busy_one_by_the_hour() {
        let day = |events| Day { events, open: false };
        let mut days = BTreeMap::from([(0, day(100_000)), (DAY_MS, day(150_000)), (5 * DAY_MS, day(10)), (6 * DAY_MS, day(2_400_000))]);
        days.extend([(7 * DAY_MS, day(1)), (8 * DAY_MS, Day { events: 2, open: true })]);
        let parts = parts(&days);
        let part = |n: usize| (parts[n].range.from_ms.unwrap_or(-1), parts[n].range.to_ms.unwrap_or(-1), parts[n].events);
        assert_eq!((parts.len(), part(0)), (27, (0, 2 * DAY_MS, 250_000)));
        assert_eq!((part(1), part(25)), ((5 * DAY_MS, 6 * DAY_MS, 10), (7 * DAY_MS - HOUR_MS, 8 * DAY_MS, 100_001)));
        assert!(parts[2..26].windows(2).all(|two| two[0].range.to_ms == two[1].range.from_ms && two[0].events == 100_000), "{parts:?}");
        // Days of open epochs stand alone: their cells are fetched.
        assert_eq!(parts.iter().map(|part| part.open).collect::<Vec<_>>()[25..], [false, true]);
    }
}
