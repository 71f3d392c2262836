//! From a query string to a plan: which question to ask of both layers, and how to write the answer. Pure.
//!
//! Everything that a caller can get wrong is found here, before anything is asked, and said in a sentence that names
//! the parameter and what to write instead.

use crate::measure::Measure;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;
use tidemark_core::cut::Cut;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::question::Question;
use tidemark_core::view::{Dimension, ViewId};
use tidemark_core::window::{Buckets, Step, TimeRange, WINDOW_MS, rfc3339};

/// The longest that a query waits for a position (`timeout_ms`).
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a query at a cut: history is as old as a block, 10 seconds by default, and the time it takes to write one.
const DEFAULT_TIMEOUT_AT: Duration = Duration::from_secs(30);

/// More ranks than this are a table, not a top list.
const MAX_TOP: usize = 10_000;

/// Values of all filters together: more would make a statement that no engine likes.
const MAX_FILTER_VALUES: usize = 1_000;

/// The years that history's 32-bit windows can name.
pub(crate) const CALENDAR: (i64, i64) = (0, 4_294_967_100_000);

/// Calendar days that one answer may span: more than a century.
const MAX_CALENDAR_BUCKETS: i64 = 40_000;

pub(crate) const PARAMETERS: &str = "from, to, last, step, group_by, where, measures, tz, top, at, at_least, timeout_ms";

/// A query, understood.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The smallest view that has all dimensions; without one, raw events are asked, at the cut of history.
    pub view: Option<ViewId>,
    pub question: Question,
    pub measures: Vec<Measure>,
    pub top: Option<(usize, Measure)>,
    pub at: Option<At>,
    pub at_least: Option<Cut>,
    pub timeout: Duration,
    /// The question in one canonical text: equal for equal questions.
    pub identity: String,
}

/// The events that are counted, whenever it is asked: those below a cut. `1/0:1234,3:99`, or with history's revision `1.2/0:1234,3:99`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// By whose rules; without one by those that answer then, which may be others some day.
    pub generation: Option<Generation>,
    /// What history's revision was, of the answer that the link is from.
    pub revision: u64,
    pub cut: Cut,
}

impl FromStr for At {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (generation, cut) = text.split_once('/').map_or((None, text), |(generation, cut)| (Some(generation), cut));
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok().map(Generation)).flatten();
        let named = generation.map(|text| {
            let (generation, revision) = text.split_once('.').unwrap_or((text, "0"));
            number(generation).zip(number(revision)).map(|(generation, Generation(revision))| (generation, u64::from(revision))).ok_or(())
        });
        match (named.transpose(), cut.parse::<Cut>()) {
            (Ok(named), Ok(cut)) if !cut.is_empty() => {
                let (generation, revision) = named.unzip();
                Ok(Self { generation, revision: revision.unwrap_or_default(), cut })
            }
            _ => wrong(format!(
                "at `{}` must be what an answer's link has: its generation and its cut, such as 1/0:1234,3:99, or the cut alone",
                text.escape_debug()
            )),
        }
    }
}

/// What is wrong with a query.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

pub(crate) fn wrong<T>(what: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError(what.into()))
}

/// The parameters as given, each at most once but for `where`.
#[derive(Default)]
struct Given<'a> {
    once: BTreeMap<&'a str, &'a str>,
    filters: Vec<&'a str>,
}

impl<'a> Given<'a> {
    fn read(parameters: &'a [(String, String)]) -> Result<Self, PlanError> {
        let mut given = Self::default();
        for (name, value) in parameters {
            match name.as_str() {
                "where" => given.filters.push(value),
                "from" | "to" | "step" | "group_by" | "measures" | "tz" | "top" | "at" | "at_least" | "timeout_ms" => {
                    if given.once.insert(name, value).is_some() {
                        return wrong(format!("`{name}` is given twice"));
                    }
                }
                _ => return wrong(format!("there is no parameter `{name}`; there are {PARAMETERS}")),
            }
        }
        Ok(given)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.once.get(name).copied().filter(|value| !value.is_empty())
    }
}

/// A query string with an absolute range: `last=3h` is from where the window of `now_ms` ends back three hours. Equal queries
/// of equal ranges have equal texts.
pub fn absolute(query: &str, now_ms: i64) -> Result<Cow<'_, str>, PlanError> {
    // Most have no such range, and are not taken apart for it.
    if !query.contains("last=") {
        return Ok(Cow::Borrowed(query));
    }
    let mut parameters = pairs(query);
    let is_last = |(name, _): &&(String, String)| name == "last";
    if parameters.iter().filter(is_last).count() > 1 {
        return wrong("`last` is given twice");
    }
    parameters.retain(|(name, value)| name != "last" || !value.is_empty());
    let Some(last) = parameters.iter().position(|(name, _)| name == "last") else {
        return Ok(Cow::Owned(written(&parameters)));
    };
    let given = |wanted: &[&str]| parameters.iter().any(|(name, value)| wanted.contains(&&**name) && !value.is_empty());
    if given(&["from", "to"]) {
        return wrong("`last` is a range of its own: leave `from` and `to` out");
    }
    if given(&["at"]) {
        return wrong("`last` is a range that moves, and `at` an answer that stays: give `from` and `to`");
    }
    let end = now_ms - now_ms.rem_euclid(WINDOW_MS) + WINDOW_MS;
    let from = (end - span(&parameters[last].1)?).max(CALENDAR.0);
    parameters[last] = ("from".to_owned(), from.to_string());
    Ok(Cow::Owned(written(&parameters)))
}

/// The generation that a query names with `at`.
pub fn generation_asked(query: &str) -> Result<Option<Generation>, PlanError> {
    // Most name none, and are not taken apart for it.
    if !query.contains("at=") {
        return Ok(None);
    }
    let at = pairs(query).into_iter().find(|(name, value)| name == "at" && !value.is_empty());
    at.map_or(Ok(None), |(_, text)| text.parse().map(|at: At| at.generation))
}

/// The query that has the same answer for ever: this one, of an absolute range, at a cut.
pub fn pinned(query: &str, generation: Generation, revision: u64, cut: &Cut) -> String {
    let mut parameters = pairs(query);
    parameters.retain(|(name, value)| !value.is_empty() && !matches!(&**name, "at" | "at_least" | "timeout_ms"));
    // Nothing in it has to be escaped, and so people can read it.
    let revision = if revision == 0 { String::new() } else { format!(".{revision}") };
    let at = format!("at={generation}{revision}/{cut}");
    if parameters.is_empty() { at } else { format!("{}&{at}", written(&parameters)) }
}

pub(crate) fn written(parameters: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Plans a query string.
pub fn plan_text(rules: &Rules, query: &str) -> Result<Plan, PlanError> {
    plan(rules, &pairs(query))
}

/// A number of minutes, hours or days, in milliseconds: whole windows.
fn span(text: &str) -> Result<i64, PlanError> {
    let unit_ms = |unit: &str| match unit {
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let parts = text.find(|c: char| !c.is_ascii_digit()).map(|at| text.split_at(at));
    let ms = parts.and_then(|(number, unit)| number.parse::<i64>().ok()?.checked_mul(unit_ms(unit)?));
    match ms.filter(|ms| *ms > 0 && ms % WINDOW_MS == 0) {
        Some(ms) => Ok(ms),
        None => wrong(format!("last `{}` must be whole 5-minute windows, such as 15m, 3h or 7d", text.escape_debug())),
    }
}

/// Plans a query given as decoded query-string pairs.
pub fn plan(rules: &Rules, parameters: &[(String, String)]) -> Result<Plan, PlanError> {
    let given = Given::read(parameters)?;
    let step = step(given.get("step"))?;
    let range = range(given.get("from"), given.get("to"))?;
    let buckets = buckets(step, given.get("tz"), range)?;
    let group_by = list(given.get("group_by")).map(|name| dimension(rules, name)).collect::<Result<Vec<_>, _>>()?;
    if let Some(twice) = group_by.iter().enumerate().find(|(n, d)| group_by[..*n].contains(d)) {
        return wrong(format!("group_by names `{}` twice", twice.1));
    }
    let filters = filters(rules, &given.filters)?;
    let wanted: Vec<Dimension> = group_by.iter().chain(filters.keys()).copied().collect();
    let view = rules.views.smallest_with(&wanted);
    let mut measures = list(given.get("measures")).map(measure).collect::<Result<Vec<_>, _>>()?;
    if measures.is_empty() {
        measures.push(Measure::Count);
    }
    let top = given.get("top").map(top).transpose()?;
    let at: Option<At> = given.get("at").map(str::parse).transpose()?;
    if at.is_some() && given.get("at_least").is_some() {
        return wrong("`at` says which events are counted: leave `at_least` out");
    }
    let timeout = timeout(given.get("timeout_ms"), if at.is_some() { DEFAULT_TIMEOUT_AT } else { DEFAULT_TIMEOUT })?;
    let only_counts = measures.iter().chain(top.iter().map(|(_, by)| by)).all(|measure| *measure == Measure::Count);
    let identity =
        format!("{step}|{}|{}|{}|{filters:?}|{only_counts}", given.get("tz").unwrap_or("UTC"), range_text(range), names(&group_by));
    Ok(Plan {
        view,
        question: Question { range, buckets, group_by, filters, only_counts },
        measures,
        top,
        at,
        at_least: given
            .get("at_least")
            .map(|text| text.parse().map_err(|e: tidemark_core::cut::CutParseError| PlanError(format!("at_least: {e}"))))
            .transpose()?,
        timeout,
        identity,
    })
}

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn step(text: Option<&str>) -> Result<Step, PlanError> {
    let known: Vec<&str> = Step::NAMES.iter().map(|(name, _)| *name).collect();
    text.map_or(Ok(Step::Total), |text| {
        Step::from_str(text).or_else(|()| wrong(format!("step `{text}` is unknown; choose from {}", known.join(", "))))
    })
}

fn range(from: Option<&str>, to: Option<&str>) -> Result<TimeRange, PlanError> {
    let range =
        TimeRange { from_ms: from.map(|text| edge("from", text)).transpose()?, to_ms: to.map(|text| edge("to", text)).transpose()? };
    if let (Some(from), Some(to)) = (range.from_ms, range.to_ms)
        && from >= to
    {
        return wrong(format!("from ({}) must be before to ({})", rfc3339(from), rfc3339(to)));
    }
    Ok(range)
}

/// An instant that must lie on a window's edge.
pub(crate) fn edge(name: &str, text: &str) -> Result<i64, PlanError> {
    let ms = match text.parse::<i64>() {
        Ok(ms) => ms,
        Err(_) => match text.parse::<jiff::Timestamp>() {
            Ok(at) => at.as_millisecond(),
            Err(_) => {
                return wrong(format!(
                    "{name} `{text}` is neither RFC 3339 of the years 1970 to 2106, such as 2013-01-01T10:15:00Z (a + in it is written %2B), nor epoch milliseconds"
                ));
            }
        },
    };
    if ms < CALENDAR.0 || ms > CALENDAR.1 {
        return wrong(format!("{name} is outside {} to {}", rfc3339(CALENDAR.0), rfc3339(CALENDAR.1)));
    }
    let below = ms - ms.rem_euclid(WINDOW_MS);
    if below != ms {
        return wrong(format!(
            "{name} is not on the edge of a 5-minute window; the nearest are {} and {}",
            rfc3339(below),
            rfc3339(below + WINDOW_MS)
        ));
    }
    Ok(ms)
}

fn range_text(range: TimeRange) -> String {
    let side = |ms: Option<i64>| ms.map(|ms| ms.to_string()).unwrap_or_default();
    format!("{}..{}", side(range.from_ms), side(range.to_ms))
}

fn buckets(step: Step, zone: Option<&str>, range: TimeRange) -> Result<Buckets, PlanError> {
    let buckets = Buckets::new(step, zone).map_err(|error| PlanError(format!("tz: {error}; write a name such as America/New_York")))?;
    if let (true, Some(from), Some(to)) = (buckets.is_calendar(), range.from_ms, range.to_ms) {
        let day_ms = 24 * 60 * 60 * 1000;
        if (to - from) / day_ms > MAX_CALENDAR_BUCKETS {
            return wrong(format!("the range spans more than {MAX_CALENDAR_BUCKETS} days; ask for less, or without tz"));
        }
        buckets.starts(from, to).map_err(|error| PlanError(format!("tz: {error}; ask for UTC days, or for hours")))?;
    }
    Ok(buckets)
}

fn dimension(rules: &Rules, name: &str) -> Result<Dimension, PlanError> {
    name.parse().map_err(|()| {
        let known = names(&Dimension::ALL);
        PlanError(format!("there is no dimension `{}`; there are {known}, and {}", name.escape_debug(), declared(rules)))
    })
}

fn declared(rules: &Rules) -> String {
    let views: Vec<String> = rules.views.iter().map(|view| format!("{} ({})", view.name(), names(view.dimensions()))).collect();
    format!("the declared views are {}", views.join(", "))
}

fn names(dimensions: &[Dimension]) -> String {
    dimensions.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ")
}

fn filters(rules: &Rules, given: &[&str]) -> Result<BTreeMap<Dimension, Vec<String>>, PlanError> {
    if given.len() > MAX_FILTER_VALUES {
        return wrong(format!("more than {MAX_FILTER_VALUES} where parameters; ask in several queries"));
    }
    let mut filters: BTreeMap<Dimension, Vec<String>> = BTreeMap::new();
    for text in given {
        let Some((name, value)) = text.split_once(':') else {
            return wrong(format!("where `{}` must be dimension:value, such as event_type:UA", text.escape_debug()));
        };
        filters.entry(dimension(rules, name)?).or_default().push(value.to_owned());
    }
    for values in filters.values_mut() {
        values.sort();
        values.dedup();
    }
    Ok(filters)
}

fn measure(name: &str) -> Result<Measure, PlanError> {
    name.parse()
        .or_else(|()| wrong(format!("measure `{}` is unknown; choose from count, amount_count, sum, avg, min, max", name.escape_debug())))
}

fn top(text: &str) -> Result<(usize, Measure), PlanError> {
    let (n, name) = text.split_once(':').unwrap_or((text, "count"));
    match n.parse::<usize>() {
        Ok(n) if (1..=MAX_TOP).contains(&n) => Ok((n, measure(name)?)),
        _ => wrong(format!("top `{}` must be N:measure with N from 1 to {MAX_TOP}, such as 10:count", text.escape_debug())),
    }
}

fn timeout(text: Option<&str>, default: Duration) -> Result<Duration, PlanError> {
    let Some(text) = text else { return Ok(default) };
    match text.parse::<u64>().map(Duration::from_millis) {
        Ok(timeout) if timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => wrong(format!("timeout_ms must be a number of milliseconds up to {}", MAX_TIMEOUT.as_millis())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::generation::Generation;
    use tidemark_core::view::Views;

    pub(crate) fn rules() -> Rules {
        let views = Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("valid");
        Rules {
            generation: Generation(1),
            widens: None,
            epoch_bits: EpochBits::new(18).expect("valid"),
            views,
            limits: Limits::default(),
            dedup: true,
        }
    }

    pub(crate) fn planned(query: &str) -> Result<Plan, PlanError> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        plan(&rules(), &pairs)
    }

    #[test]
    fn a_bad_query_is_told_what_to_write_instead() {
        let check = |query: &str, says: &str| {
            let error = planned(query).expect_err(query).to_string();
            assert!(error.contains(says), "{query}: {error}");
        };
        check(
            "group_by=nonsense",
            "no dimension `nonsense`; there are event_type, product_id, user_id, and the declared views are by_type (event_type)",
        );
        check("group_by=event_type,event_type", "twice");
        check("from=2013-01-01T00:01:00Z", "nearest are 2013-01-01T00:00:00.000Z and 2013-01-01T00:05:00.000Z");
        check("from=2014-01-01T00:00:00Z&to=2013-01-01T00:00:00Z", "must be before");
        check("from=0&to=0", "must be before");
        check("from=9999999999999999", "outside 1970");
        check("from=yesterday", "neither RFC 3339");
        check("tz=Mars/Phobos&step=1d", "not an IANA time zone");
        check("step=7m", "choose from 5m, 15m");
        check("measures=median", "`median` is unknown");
        check("top=0:count", "N from 1");
        check("where=UA", "dimension:value");
        check("at_least=1", "partition:next-offset");
        check("timeout_ms=x", "milliseconds");
        check("colour=red", "no parameter `colour`");
        check("step=1h&step=1d", "given twice");
        for at in ["0", "1/", "/0:1", "x/0:1", "-1/0:1", "1/0", "1/0:1;1:2"] {
            check(&format!("at={at}"), "such as 1/0:1234,3:99");
        }
        check("at=0:1&at_least=0:1", "leave `at_least` out");
    }

    #[test]
    fn a_range_that_moves_becomes_one_that_does_not() {
        let check = |query: &str, now_ms, expected: Result<&str, &str>| match (absolute(query, now_ms), expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{query}"),
            (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{query}: {error}"),
            (found, expected) => panic!("{query}: {found:?}, expected {expected:?}"),
        };
        check("last=10m&step=5m", 7_200_001, Ok("from=6900000&step=5m"));
        check("step=5m", 0, Ok("step=5m"));
        check("last=&step=5m", 0, Ok("step=5m"));
        check("last=1h&last=1h", 0, Err("`last` is given twice"));
        check("last=&last=1h", 0, Err("`last` is given twice"));
        check("last=1h&from=0", 0, Err("a range of its own"));
        check("last=1h&at=0:1", 0, Err("`at` an answer that stays"));
        check("last=7m", 0, Err("whole 5-minute windows"));
    }

    #[test]
    fn a_query_that_is_pinned_is_the_same_question_at_a_cut() {
        let cut: Cut = "0:12,3:7".parse().expect("a cut");
        let check = |query: &str, expected: &str| {
            let text = pinned(query, Generation(2), 0, &cut);
            assert_eq!(text, expected);
            let plan = planned(&text).expect("valid");
            assert_eq!(plan.at, Some(At { generation: Some(Generation(2)), revision: 0, cut: cut.clone() }));
            assert_eq!((generation_asked(&text), pinned(&text, Generation(2), 0, &cut)), (Ok(Some(Generation(2))), text.clone()));
            let question = |plan: Plan| Plan { at: None, at_least: None, timeout: DEFAULT_TIMEOUT, ..plan };
            assert_eq!(question(planned(query).expect("valid")), question(plan), "{query}");
        };
        check("", "at=2/0:12,3:7");
        check("at_least=0:1&step=", "at=2/0:12,3:7");
        check("step=&at=0:5&timeout_ms=5", "at=2/0:12,3:7");
        check("where=event_type:a%26b%3E+c&step=1h", "where=event_type%3Aa%26b%3E+c&step=1h&at=2/0:12,3:7");
    }

    #[test]
    fn the_smallest_view_is_chosen_and_raw_events_where_there_is_none() {
        let view = |query| planned(query).expect("valid").view;
        assert_eq!(view("group_by=event_type"), Some(ViewId(0)));
        assert_eq!(view("where=product_id:x"), Some(ViewId(1)));
        assert_eq!(view("group_by=user_id&where=event_type:x"), None);
    }

    #[test]
    fn equal_questions_have_one_identity() {
        let identity = |query| planned(query).expect("valid").identity;
        assert_eq!(
            identity("where=event_type:b&where=event_type:a&measures=sum"),
            identity("where=event_type:a&where=event_type:b&measures=count&top=3:avg")
        );
        assert_ne!(identity("measures=count"), identity("measures=sum"));
        assert_ne!(identity("step=1h"), identity("step=1d"));
        assert_ne!(identity("where=event_type:a"), identity("where=product_id:a"));
    }
}
