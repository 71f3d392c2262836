//! One question for all that an expression looks up, so that all of an answer is of one cut. Pure.

use super::lookup::{Lookup, Over, Span, Times};
use crate::plan::CALENDAR;
use std::collections::BTreeSet;
use tidemark_core::view::Dimension;
use tidemark_core::window::{Step, WINDOW_MS};

/// Values of filters that are handed on. More are sorted out afterwards, which they are in any case.
const MOST_FILTER_VALUES: usize = 500;

/// A question as `/v1/query` has it, and how its rows are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The parameters of `/v1/query`.
    pub parameters: Vec<(String, String)>,
    /// What its rows are grouped by, in this order.
    pub dimensions: Vec<Dimension>,
    /// Where the bucket begins, if there is but one.
    pub total_from_ms: Option<i64>,
}

/// The question for an expression's lookups; none, if they look back on no window at all.
pub fn of_lookups(lookups: &[Lookup], times: Times) -> Option<Question> {
    let spans: BTreeSet<(i64, i64)> = lookups.iter().flat_map(|lookup| spans(lookup, times)).collect();
    let merges = lookups.iter().all(|lookup| lookup.over == Over::Together);
    question(lookups, &spans, merges)
}

/// The question for what there is in a span.
pub fn of_span(lookups: &[Lookup], span: Span) -> Option<Question> {
    question(lookups, &within_calendar(span).into_iter().collect(), true)
}

fn spans(lookup: &Lookup, times: Times) -> impl Iterator<Item = (i64, i64)> {
    times.iter().filter_map(move |at| within_calendar(lookup.span(at, times)))
}

/// What history can have of a span.
fn within_calendar(span: Span) -> Option<(i64, i64)> {
    let (from, to) = (span.from_ms.max(CALENDAR.0), span.to_ms.min(CALENDAR.1));
    (from < to).then_some((from, to))
}

fn question(lookups: &[Lookup], spans: &BTreeSet<(i64, i64)>, merges: bool) -> Option<Question> {
    let from = spans.iter().map(|span| span.0).min()?;
    let to = spans.iter().map(|span| span.1).max()?;
    let step = step(spans, merges);
    let dimensions: BTreeSet<Dimension> = lookups.iter().flat_map(Lookup::dimensions).collect();
    let names: Vec<&str> = dimensions.iter().map(|dimension| dimension.name()).collect();
    let mut measures: Vec<&str> = lookups.iter().map(|lookup| lookup.metric.measure.name()).collect();
    measures.sort_unstable();
    measures.dedup();
    let mut parameters = vec![
        ("from".to_owned(), from.to_string()),
        ("to".to_owned(), to.to_string()),
        ("step".to_owned(), step.to_string()),
        ("group_by".to_owned(), names.join(",")),
        ("measures".to_owned(), measures.join(",")),
    ];
    parameters.extend(filters(lookups, &dimensions));
    let total_from_ms = (step == Step::Total).then_some(from);
    Some(Question { parameters, dimensions: dimensions.into_iter().collect(), total_from_ms })
}

/// The longest step whose buckets every span is made of.
fn step(spans: &BTreeSet<(i64, i64)>, merges: bool) -> Step {
    if !merges {
        return Step::FiveMinutes;
    }
    if spans.len() == 1 {
        return Step::Total;
    }
    let divides = |windows: i64| spans.iter().all(|(from, to)| from % (windows * WINDOW_MS) == 0 && to % (windows * WINDOW_MS) == 0);
    let steps = [(Step::Day, 288), (Step::Hour, 12), (Step::QuarterHour, 3)];
    steps.into_iter().find(|(_, windows)| divides(*windows)).map_or(Step::FiveMinutes, |(step, _)| step)
}

/// For each dimension that all lookups restrict to a few values, those.
fn filters(lookups: &[Lookup], dimensions: &BTreeSet<Dimension>) -> Vec<(String, String)> {
    let mut filters = Vec::new();
    for dimension in dimensions {
        let allowed: Option<Vec<Vec<String>>> = lookups.iter().map(|lookup| lookup.allowed(*dimension)).collect();
        let values: BTreeSet<String> = allowed.into_iter().flatten().flatten().collect();
        if filters.len() + values.len() <= MOST_FILTER_VALUES {
            filters.extend(values.into_iter().map(|value| ("where".to_owned(), format!("{dimension}:{value}"))));
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prometheus::translate::translate;
    use tidemark_core::view::Views;

    const HOUR_MS: i64 = 3_600_000;

    fn check(query: &str, times: Times, expected: &str) {
        let views = Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("valid");
        let expression = translate(&views, query).expect(query);
        let question = of_lookups(&expression.lookups, times).map(|question| {
            let texts: Vec<String> = question.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            texts.join(" ")
        });
        assert_eq!(question.as_deref().unwrap_or("nothing"), expected, "{query}");
    }

    #[test]
    fn a_query_is_one_question_by_the_longest_step_and_the_labels_that_remain() {
        let noon = Times::instant(12 * HOUR_MS);
        check("1 + 1", noon, "nothing");
        check(
            "sum(increase(tidemark_events_total[1h]))",
            Times::instant(12 * HOUR_MS + 61_000),
            "from=39600000 to=43200000 step=total group_by= measures=count",
        );
        check(
            "sum by (product_id) (rate(tidemark_amount_sum_total{event_type=~\"UA|DL\"}[30m]))",
            noon,
            "from=41400000 to=43200000 step=total group_by=event_type,product_id measures=sum where=event_type:DL where=event_type:UA",
        );
        // Two ranges, one question. A filter that only one of them has is not handed on.
        check(
            "sum(increase(tidemark_events_total{event_type=\"UA\"}[1h])) / sum(increase(tidemark_events_total[2h] offset 1h))",
            noon,
            "from=32400000 to=43200000 step=1h group_by=event_type measures=count",
        );
        check("tidemark_amount_max", noon, "from=42900000 to=43200000 step=total group_by=event_type,product_id measures=max");
        // What lies before 1970 is nothing.
        check("tidemark_events", Times::instant(-1), "nothing");
        check("tidemark_events", Times::instant(299_999), "nothing");
        check("sum(tidemark_events)", Times::instant(300_000), "from=0 to=300000 step=total group_by= measures=count");
    }

    #[test]
    fn points_of_a_range_share_a_question() {
        let day = Times { start_ms: 24 * HOUR_MS, end_ms: 48 * HOUR_MS, step_ms: HOUR_MS };
        let hourly = "sum(increase(tidemark_events_total[1h]))";
        check(hourly, day, "from=82800000 to=172800000 step=1h group_by= measures=count");
        check(hourly, Times { start_ms: day.start_ms + 300_000, ..day }, "from=83100000 to=169500000 step=5m group_by= measures=count");
        check("sum(tidemark_events)", day, "from=86100000 to=172800000 step=5m group_by= measures=count");
        check("sum(increase(tidemark_events_total[1d] @ end()))", day, "from=86400000 to=172800000 step=total group_by= measures=count");
        check(
            "max(max_over_time(tidemark_events[1h]))",
            day,
            "from=82800000 to=172800000 step=5m group_by=event_type,product_id measures=count",
        );
    }
}
