//! What is asked of the engine: at most one question for a request.

use super::envelope::{self, Remarks};
use super::evaluate::{Evaluation, Value};
use super::expression::{Expression, Root};
use super::failure::{Failure, bad, refused};
use super::gather::{self, Question};
use super::labels::Labels;
use super::lookup::{Lookup, Span, Times};
use super::metric::{METRICS, edge_before};
use super::series::{Series, series};
use super::translate::{selected, translate};
use crate::engine::{AnswerError, Engine};
use crate::plan::plan;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::question::RowKey;
use tidemark_core::view::Dimension;
use tidemark_core::window::rfc3339;
use tidemark_https::admission::Taken;

/// The most points of a series, as Prometheus has it.
pub const MOST_POINTS: usize = 11_000;

/// Parameters of `/v1/query` that are handed on as they are: what to wait for, and how long.
pub type Waiting = Vec<(String, String)>;

/// An answer: its data as JSON, and what it is exact at, if anything was counted for it.
#[derive(Clone, Debug)]
pub struct Told {
    pub data: String,
    pub remarks: Remarks,
    pub cut: Option<Cut>,
}

/// `limit`: the most series that are answered.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub Option<usize>);

impl Limit {
    fn apply<T>(self, all: &mut Vec<T>, remarks: &mut Remarks) {
        if let Some(most) = self.0.filter(|most| *most < all.len()) {
            all.truncate(most);
            remarks.warnings.push("results truncated due to limit".to_owned());
        }
    }
}

/// `/api/v1/query`
pub async fn instant(engine: &Engine, query: &str, at_ms: i64, limit: Limit, waiting: Waiting) -> Result<Told, Failure> {
    let times = Times::instant(at_ms);
    evaluated(engine, query, times, waiting, move |expression, evaluation, remarks| {
        let node = match &expression.root {
            Root::Text(text) => return Ok(envelope::text(at_ms, text)),
            Root::Samples(lookup) => {
                let mut found = evaluation.samples(*lookup);
                limit.apply(&mut found, remarks);
                return Ok(envelope::matrix(found.iter().map(|(labels, points)| (labels, points))));
            }
            Root::Scalar(node) | Root::Vector(node) => node,
        };
        Ok(match evaluation.instant(node)? {
            Value::Scalar(value) => envelope::scalar(at_ms, value),
            Value::Vector(mut samples) => {
                limit.apply(&mut samples, remarks);
                envelope::vector(at_ms, &samples)
            }
        })
    })
    .await
}

/// `/api/v1/query_range`
pub async fn range(engine: &Engine, query: &str, times: Times, limit: Limit, waiting: Waiting) -> Result<Told, Failure> {
    evaluated(engine, query, times, waiting, move |expression, evaluation, remarks| {
        let (Root::Scalar(node) | Root::Vector(node)) = &expression.root else {
            return bad(
                "a range selector or a string has no value at each point; ask for an instant, or for a function such as sum_over_time",
            );
        };
        let mut found: Vec<_> = evaluation.range(node)?.into_iter().collect();
        limit.apply(&mut found, remarks);
        Ok(envelope::matrix(found.iter().map(|(labels, points)| (labels, points))))
    })
    .await
}

/// Looks up what a query needs, and evaluates it where that holds nobody up.
async fn evaluated(
    engine: &Engine,
    query: &str,
    times: Times,
    waiting: Waiting,
    write: impl FnOnce(&Expression, &Evaluation<'_>, &mut Remarks) -> Result<String, Failure> + Send + 'static,
) -> Result<Told, Failure> {
    let expression = translate(&engine.rules.views, query)?;
    let question = gather::of_lookups(&expression.lookups, times);
    let found = match question {
        Some(question) => Some(ask(engine, question, waiting).await?),
        None => None,
    };
    let work = move || -> Result<Told, Failure> {
        let series = |lookup: &Lookup| found.as_ref().map_or_else(|| nothing(lookup), |found| found.series(lookup));
        let series = expression.lookups.iter().map(series).collect();
        let mut remarks = Remarks { warnings: unknown(&expression.unknown), infos: between(&expression.lookups, times) };
        let data = write(&expression, &Evaluation::new(&expression, series, times)?, &mut remarks)?;
        Ok(Told { data, remarks, cut: found.map(|found| found.cut) })
    };
    engine.admission.long.apart(work).await.map_err(AnswerError::from)?
}

/// The series of a lookup of no window.
fn nothing(lookup: &Lookup) -> Vec<Series> {
    let question = Question { parameters: Vec::new(), dimensions: Vec::new(), total_from_ms: None };
    series(lookup, &question, &[])
}

fn unknown(selectors: &[String]) -> Vec<String> {
    let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
    selectors.iter().map(|selector| format!("there is no metric {selector}; there are {}", names.join(", "))).collect()
}

/// Says where windows end that are meant, if not at the very instants that were asked for.
fn between(lookups: &[Lookup], times: Times) -> Vec<String> {
    let looks = |lookup: &Lookup| times.iter().map(|at| lookup.looks_from(at, times)).collect::<Vec<i64>>();
    let looked: Vec<i64> = lookups.iter().flat_map(looks).collect();
    match looked.iter().max() {
        Some(last) if looked.iter().any(|at| edge_before(*at) != *at) => vec![format!(
            "5-minute windows are counted whole: between two ends of windows, what ended before stands; here the last one ends at {}",
            rfc3339(edge_before(*last).clamp(crate::plan::CALENDAR.0, crate::plan::CALENDAR.1))
        )],
        _ => Vec::new(),
    }
}

/// The answer to a question.
struct Found {
    question: Question,
    rows: Vec<(RowKey, Cell)>,
    cut: Cut,
    #[expect(dead_code, reason = "held, not read")]
    memory: Option<Taken>,
}

impl Found {
    fn series(&self, lookup: &Lookup) -> Vec<Series> {
        series(lookup, &self.question, &self.rows)
    }
}

async fn ask(engine: &Engine, mut question: Question, waiting: Waiting) -> Result<Found, Failure> {
    let began = Instant::now();
    question.parameters.extend(waiting);
    let plan = plan(&engine.rules, &question.parameters).map_err(|error| Failure::BadData(error.to_string()))?;
    let answer = engine.answer(&plan).await?;
    engine.meters.answered(answer.source, began.elapsed());
    Ok(Found { question, rows: answer.rows, cut: answer.cut, memory: answer.memory })
}

/// `/api/v1/series`: those of which there is a sample in a span.
pub async fn there(engine: &Engine, selectors: &[String], span: Span, limit: Limit) -> Result<Told, Failure> {
    if selectors.is_empty() {
        return bad("no match[] parameter provided");
    }
    let lookups = all_selected(engine, selectors)?;
    let (mut found, cut) = found(engine, &lookups, span).await?;
    let mut remarks = Remarks::default();
    limit.apply(&mut found, &mut remarks);
    Ok(Told { data: envelope::series(found.iter().map(|labels| &**labels)), remarks, cut })
}

/// `/api/v1/labels`: the names do not depend on what has been counted.
pub fn labels(engine: &Engine, selectors: &[String], limit: Limit) -> Result<Told, Failure> {
    let lookups = all_selected(engine, selectors)?;
    let mut names: Vec<&str> = Vec::new();
    if !lookups.is_empty() {
        let dimensions: BTreeSet<Dimension> = lookups.iter().flat_map(Lookup::dimensions).collect();
        names.push("__name__");
        names.extend(dimensions.iter().map(|dimension| dimension.name()));
    }
    told(names.into_iter().map(str::to_owned).collect(), None, limit)
}

/// `/api/v1/label/NAME/values`
pub async fn values(engine: &Engine, label: &str, selectors: &[String], span: Span, limit: Limit) -> Result<Told, Failure> {
    if label == "__name__" {
        let names: BTreeSet<&str> = all_selected(engine, selectors)?.iter().map(|lookup| lookup.metric.name).collect();
        return told(names.into_iter().map(str::to_owned).collect(), None, limit);
    }
    let Ok(dimension) = label.parse::<Dimension>() else { return told(Vec::new(), None, limit) };
    // Whatever has a sample of any metric has one of this.
    let events = ["tidemark_events".to_owned()];
    let mut lookups = all_selected(engine, if selectors.is_empty() { &events } else { selectors })?;
    for lookup in &mut lookups {
        (lookup.labels, lookup.is_named) = (vec![dimension], false);
    }
    let (found, cut) = found(engine, &lookups, span).await?;
    let values: BTreeSet<&str> = found.iter().flat_map(|labels| labels.iter()).map(|(_, value)| value).collect();
    told(values.into_iter().map(str::to_owned).collect(), cut, limit)
}

fn told(mut texts: Vec<String>, cut: Option<Cut>, limit: Limit) -> Result<Told, Failure> {
    let mut remarks = Remarks::default();
    limit.apply(&mut texts, &mut remarks);
    Ok(Told { data: serde_json::Value::from(texts).to_string(), remarks, cut })
}

/// What all selectors mean; without any, every metric.
fn all_selected(engine: &Engine, selectors: &[String]) -> Result<Vec<Lookup>, Failure> {
    let views = &engine.rules.views;
    if selectors.is_empty() {
        return selected(views, "{__name__=~\".+\"}");
    }
    let mut lookups = Vec::new();
    for selector in selectors {
        lookups.extend(selected(views, selector)?);
    }
    Ok(lookups)
}

/// The labels of all series of which there is a sample in a span.
async fn found(engine: &Engine, lookups: &[Lookup], span: Span) -> Result<(Vec<Arc<Labels>>, Option<Cut>), Failure> {
    let Some(question) = gather::of_span(lookups, span) else { return Ok((Vec::new(), None)) };
    let found = ask(engine, question, Waiting::new()).await?;
    let mut labels: BTreeSet<Arc<Labels>> = BTreeSet::new();
    for lookup in lookups {
        let has_sample = |series: &Series| series.value(lookup, span).is_some();
        labels.extend(found.series(lookup).into_iter().filter(has_sample).map(|series| series.labels));
    }
    if labels.len() > MOST_SERIES {
        return refused(format!("there are {} series, more than {MOST_SERIES}; select fewer, or a shorter time", labels.len()));
    }
    Ok((labels.into_iter().collect(), Some(found.cut)))
}

/// Series that a list may have.
const MOST_SERIES: usize = 100_000;
