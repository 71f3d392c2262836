//! What one number of an answer is made of: its epochs, and which layer answers for each, the events that came late, the
//! records around them that were not counted, and the events themselves.
//!
//! All of it is read from raw history at one cut, and what it comes to is compared with what the planner answers there: an
//! explanation that does not add up to the number is none.

use crate::answer::Answer;
use crate::engine::{AnswerError, Engine};
use crate::measure::Measure;
use crate::plan::{At, PARAMETERS, Plan, PlanError, edge, pairs, plan, wrong};
use std::collections::BTreeMap;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{Offset, OffsetRange, Partition};
use tidemark_core::question::Question;
use tidemark_core::view::Dimension;
use tidemark_core::watermark::Phase;
use tidemark_core::window::{Buckets, Step, TimeRange};
use tidemark_history::Marks;
use tidemark_history::evidence::{Counted, Origin, Page, Placed, Places, Uncounted};
use tidemark_history::raw::{present, sound};
use tidemark_topic::now_ms;

const DEFAULT_EVENTS: u32 = 100;

/// Events of a page: one may have 64 KiB.
const MOST_EVENTS: u32 = 500;

/// Epochs that one number may come from.
const MOST_EPOCHS: u32 = 10_000;

/// What is not a query's.
pub(crate) const OWN: [&str; 4] = ["window", "group", "limit", "next"];

/// Which number is meant, as a plan of a total, and which of its events are shown.
#[derive(Clone, PartialEq, Debug)]
pub struct Aim {
    pub plan: Plan,
    pub limit: u32,
    /// Only events behind this place.
    pub after: Option<(Partition, Offset)>,
}

/// What a number is made of.
#[derive(Debug)]
pub struct Explanation {
    pub answer: Answer,
    /// The number: its row's cell.
    pub cell: Cell,
    pub marks: Marks,
    /// Of the number's range.
    pub phase: Option<Phase>,
    pub origins: Vec<Origin>,
    /// Of each partition the first event that showed that the range was over, late events included: an event behind it came
    /// late. `None` where the range has no end.
    pub over: Option<Places>,
    pub uncounted: Vec<Uncounted>,
    pub events: Vec<Placed>,
}

/// Takes a query apart whose rows are many, and aims at one: `window` is the row's, `group=dimension:value` its values.
pub fn aim(rules: &Rules, query: &str) -> Result<Aim, PlanError> {
    let (own, asked): (Vec<_>, Vec<_>) = pairs(query).into_iter().partition(|(name, _)| OWN.contains(&name.as_str()));
    if let Some((name, _)) = asked.iter().find(|(name, _)| !PARAMETERS.split(", ").any(|known| known == name)) {
        return wrong(format!("there is no parameter `{}`; there are {PARAMETERS}, {}", name.escape_debug(), OWN.join(", ")));
    }
    let rows = plan(rules, &asked)?;
    if rows.at_least.is_some() {
        return wrong("what is explained is history: give `at`, the cut, in place of `at_least`");
    }
    let (limit, after) = (limit(once(&own, "limit")?)?, once(&own, "next")?.map(place).transpose()?);
    let groups: Vec<&str> = own.iter().filter(|(name, _)| name == "group").map(|(_, value)| value.as_str()).collect();
    let mut question = rows.question;
    question.range = window(&question, once(&own, "window")?)?;
    choose(&mut question, &groups)?;
    question.buckets = Buckets::new(Step::Total, None).map_err(|error| PlanError(error.to_string()))?;
    question.only_counts = false;
    let dimensions: Vec<Dimension> = question.filters.keys().copied().collect();
    let view = rules.views.smallest_with(&dimensions);
    let identity = format!("{:?}|{:?}", question.range, question.filters);
    let plan = Plan { view, question, measures: Measure::ALL.to_vec(), top: None, identity, ..rows };
    Ok(Aim { plan, limit, after })
}

fn once<'p>(parameters: &'p [(String, String)], wanted: &str) -> Result<Option<&'p str>, PlanError> {
    let mut given = parameters.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let first = given.next();
    if given.next().is_some() { wrong(format!("`{wanted}` is given twice")) } else { Ok(first.filter(|value| !value.is_empty())) }
}

/// The part of the range that the window's row is about.
fn window(question: &Question, given: Option<&str>) -> Result<TimeRange, PlanError> {
    let (buckets, range) = (&question.buckets, question.range);
    let given = match (given, buckets.step()) {
        (None, Step::Total) => return Ok(range),
        (Some(_), Step::Total) => return wrong("a total has no `window`: leave it out, or give the step of the row that is meant"),
        (None, _) => return wrong("an answer by windows has many numbers: give the `window` of the row that is meant"),
        (Some(given), _) => edge("window", given)?,
    };
    let outside = |error: tidemark_core::window::BucketError| PlanError(format!("window: {error}"));
    let start = buckets.start_of(given).map_err(outside)?;
    if start != given {
        return wrong(format!(
            "window: no row's window begins then; the one that has it begins at {}",
            tidemark_core::window::rfc3339(start)
        ));
    }
    let end = buckets.start_after(start).map_err(outside)?;
    let (from, to) = (range.from_ms.map_or(start, |from| from.max(start)), range.to_ms.map_or(end, |to| to.min(end)));
    if from >= to { wrong("window: it is not between `from` and `to`") } else { Ok(TimeRange { from_ms: Some(from), to_ms: Some(to) }) }
}

/// Filters by the row's values in place of grouping.
fn choose(question: &mut Question, groups: &[&str]) -> Result<(), PlanError> {
    let mut chosen: BTreeMap<Dimension, String> = BTreeMap::new();
    for text in groups {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let dimension = question.group_by.iter().find(|dimension| dimension.name() == name);
        match dimension {
            Some(&dimension) if text.contains(':') => {
                if chosen.insert(dimension, value.to_owned()).is_some() {
                    return wrong(format!("`group` names {name} twice"));
                }
            }
            _ => return wrong(format!("group `{}` must be dimension:value, of a dimension in `group_by`", text.escape_debug())),
        }
    }
    if let Some(missing) = question.group_by.iter().find(|dimension| !chosen.contains_key(dimension)) {
        return wrong(format!("an answer by {missing} has many numbers: give the row's value, group={missing}:…"));
    }
    for (dimension, value) in chosen {
        let allowed = question.filters.entry(dimension).or_insert_with(|| vec![value.clone()]);
        if !allowed.contains(&value) {
            return wrong(format!("no row has that {dimension}: `where` leaves it out"));
        }
        *allowed = vec![value];
    }
    question.group_by.clear();
    Ok(())
}

fn limit(text: Option<&str>) -> Result<u32, PlanError> {
    match text.map_or(Ok(DEFAULT_EVENTS), str::parse) {
        Ok(limit) if limit <= MOST_EVENTS => Ok(limit),
        _ => wrong(format!("limit must be a number of events up to {MOST_EVENTS}")),
    }
}

fn place(text: &str) -> Result<(Partition, Offset), PlanError> {
    let parts = text.split_once(':').and_then(|(p, offset)| Some((Partition(p.parse().ok()?), Offset::new(offset.parse().ok()?))));
    parts.map_or_else(|| wrong("next must be that of an answer before: partition:offset"), Ok)
}

impl Engine {
    /// Explains a number at the cut that was asked for, else at the latest that history has.
    pub async fn explain(&self, aim: &Aim) -> Result<Explanation, AnswerError> {
        let reached = self.reached.borrow().clone();
        let (marks, latest) = present(&*self.history, &self.rules, &reached).await.map_err(AnswerError::from)?;
        let cut = aim.plan.at.as_ref().map_or(latest, |at| at.cut.clone());
        let at = At { generation: Some(self.rules.generation), revision: self.history.revision(), cut: cut.clone() };
        let answer = self.answer(&Plan { at: Some(at), ..aim.plan.clone() }).await?;
        let _turn = self.admission.raw.enter().await?;
        let cell = answer.rows.first().map_or(Cell::EMPTY, |(_, cell)| *cell);
        let of = Counted { question: &aim.plan.question, cut: &cut };
        let end = of.question.range.to_ms;
        let over = match end {
            Some(end) => Some(self.history.reached(end.saturating_add(self.lateness_ms()), &cut).await.map_err(AnswerError::from)?),
            None => None,
        };
        let behind = over.clone().unwrap_or_default();
        let origins = self.history.origins(of, &behind, MOST_EPOCHS + 1).await.map_err(AnswerError::from)?;
        if origins.len() > MOST_EPOCHS as usize {
            return Err(AnswerError::TooManyEpochs);
        }
        let uncounted = self.history.uncounted(&around(&origins)).await.map_err(AnswerError::from)?;
        let events = match aim.limit {
            0 => Vec::new(),
            limit => self.history.events_of(of, Page { after: aim.after, limit }).await.map_err(AnswerError::from)?,
        };
        // An epoch whose repair has been announced meanwhile may have been read by halves.
        if !sound(&*self.history, &self.rules, &cut).await.map_err(AnswerError::from)?.reaches(&cut) {
            return Err(AnswerError::TimedOut { wanted: cut, reached });
        }
        let mut counted = Cell::EMPTY;
        origins.iter().for_each(|origin| counted.merge(&origin.cell));
        if counted != cell {
            tracing::error!("the number at {cut} is {cell:?}, and its raw events come to {counted:?}: {:?}", of.question);
            return Err(AnswerError::DoesNotAddUp { number: cell.count, events: counted.count });
        }
        let phase = end.map(|end| Phase::of(end, self.watermark_ms(now_ms()), self.lateness));
        Ok(Explanation { answer, cell, marks, phase, origins, over, uncounted, events })
    }

    fn lateness_ms(&self) -> i64 {
        i64::try_from(self.lateness.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Of each partition the offsets from a number's first event to its last.
fn around(origins: &[Origin]) -> Vec<(Partition, OffsetRange)> {
    let mut spans: BTreeMap<Partition, (Offset, Offset)> = BTreeMap::new();
    for Origin { partition, first, last, .. } in origins {
        let span = spans.entry(*partition).or_insert((*first, *last));
        *span = (span.0.min(*first), span.1.max(*last));
    }
    let range = |(partition, (first, last)): (Partition, (Offset, Offset))| {
        Some((partition, OffsetRange::new(tidemark_core::offset::NextOffset::new(first.get()), last.next())?))
    };
    spans.into_iter().filter_map(range).collect()
}

impl Explanation {
    pub fn cut(&self) -> &Cut {
        &self.answer.cut
    }

    /// Whether an event came when its window had been over for longer than late events are expected.
    pub fn is_late(&self, (partition, offset, _): &Placed) -> Option<bool> {
        let over = self.over.as_ref()?;
        Some(over.get(partition).is_some_and(|place| place < offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::rules;

    #[test]
    fn a_row_of_an_answer_is_aimed_at_by_its_window_and_its_values() {
        let check = |query: &str, range: (i64, i64), filters: &str| {
            let question = aim(&rules(), query).expect(query).plan.question;
            assert_eq!((question.range.from_ms, question.range.to_ms), (Some(range.0), Some(range.1)), "{query}");
            assert_eq!((format!("{:?}", question.filters), question.group_by.len()), (filters.to_owned(), 0), "{query}");
        };
        check("from=0&to=600000", (0, 600_000), "{}");
        check("step=5m&window=300000", (300_000, 600_000), "{}");
        // The first and the last window of a range are cut.
        check("step=1h&from=600000&to=3000000&window=0", (600_000, 3_000_000), "{}");
        check("step=1h&window=0&group_by=event_type&group=event_type:a:b", (0, 3_600_000), "{EventType: [\"a:b\"]}");
        check(
            "step=1h&window=0&group_by=event_type&group=event_type:b&where=event_type:a&where=event_type:b",
            (0, 3_600_000),
            "{EventType: [\"b\"]}",
        );
        check("step=1d&tz=America/New_York&window=1970-01-01T05:00:00Z", (18_000_000, 104_400_000), "{}");
    }

    #[test]
    fn what_is_not_one_number_is_told_what_is_missing() {
        let check = |query: &str, says: &str| {
            let error = aim(&rules(), query).expect_err(query).to_string();
            assert!(error.contains(says), "{query}: {error}");
        };
        check("step=5m", "give the `window`");
        check("window=0", "a total has no `window`");
        check("step=1h&window=300000", "begins at 1970-01-01T00:00:00.000Z");
        check("step=1h&window=0&from=3600000", "not between");
        check("group_by=event_type", "group=event_type:");
        check("group=event_type:a", "of a dimension in `group_by`");
        check("group_by=event_type&group=event_type", "dimension:value");
        check("group_by=event_type&group=event_type:a&where=event_type:b", "leaves it out");
        check("group_by=event_type&group=event_type:a&group=event_type:b", "twice");
        check("limit=501", "up to 500");
        check("limit=1&limit=2", "`limit` is given twice");
        check("next=x", "partition:offset");
        check("at_least=0:1", "give `at`");
        check("colour=red", "timeout_ms, window, group, limit, next");
        check("step=7m", "choose from 5m");
    }
}
