//! Random queries over random events, against a model that keeps a sample for every series and window and follows
//! Prometheus's documentation word by word; and what is refused.

use super::evaluate::{Evaluation, Value};
use super::expression::{Expression, Root};
use super::failure::Failure;
use super::gather;
use super::lookup::Times;
use super::series::series;
use super::translate::translate;
use crate::answer::arrange;
use crate::plan::plan;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidemark_core::amount::Amount;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::question::Rows;
use tidemark_core::view::{Dimension, Views};
use tidemark_core::window::{WINDOW_MS, WindowStart};

/// Windows that events lie in, from here on.
const FROM_MS: i64 = 1_356_998_400_000;
const WINDOWS: i64 = 40;

fn rules() -> Rules {
    let views = Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("valid");
    let epoch_bits = EpochBits::new(18).expect("valid");
    Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true }
}

/// An event: its instant after the first window's start, its values, and its amount in quarters, which floats add up exactly.
#[derive(Clone, Debug)]
struct Event {
    at_ms: i64,
    values: [&'static str; 3],
    quarters: Option<i64>,
}

impl Event {
    fn value(&self, label: &str) -> &'static str {
        Dimension::ALL.iter().position(|dimension| dimension.name() == label).map_or("", |at| self.values[at])
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let values =
        (prop::sample::select(vec!["a", "b", "c.d"]), prop::sample::select(vec!["", "x", "y"]), prop::sample::select(vec!["", "u"]));
    let event = (0..WINDOWS * WINDOW_MS, values, prop::option::of(-40i64..40));
    let event = event.prop_map(|(at_ms, (a, b, c), quarters)| Event { at_ms, values: [a, b, c], quarters });
    prop::collection::vec(event, 0..80)
}

#[derive(Clone, Debug)]
struct Selection {
    metric: &'static str,
    /// Label, operator, text.
    matchers: Vec<(&'static str, &'static str, &'static str)>,
    offset_secs: i64,
}

/// A query, as the model knows them.
#[derive(Clone, Debug)]
enum Query {
    Sample(Selection),
    Over(&'static str, Selection, i64),
    Aggregate(&'static str, Option<usize>, bool, Vec<&'static str>, Box<Self>),
    WithNumber(Box<Self>, &'static str, f64),
    Both(Box<Self>, &'static str, Box<Self>),
}

const GAUGES: [&str; 5] = ["tidemark_events", "tidemark_amount_count", "tidemark_amount_sum", "tidemark_amount_min", "tidemark_amount_max"];
const MATCHERS: [(&str, &str, &str); 9] = [
    ("event_type", "=", "a"),
    ("event_type", "!=", "a"),
    ("event_type", "=~", "a|c.d"),
    ("event_type", "=~", "[ab]"),
    ("event_type", "!~", "c\\\\.."),
    ("product_id", "=", ""),
    ("product_id", "=~", "x.*"),
    ("user_id", "=", "u"),
    ("job", "!=", "none"),
];

fn adds_up(metric: &str) -> bool {
    !metric.ends_with("min") && !metric.ends_with("max")
}

fn selection(metrics: &'static [&'static str]) -> impl Strategy<Value = Selection> {
    let matchers = prop::collection::vec(prop::sample::select(&MATCHERS[..]), 0..3);
    let offset = prop_oneof![3 => Just(0), 1 => -2_000i64..2_000];
    (prop::sample::select(metrics), matchers, offset).prop_map(|(metric, matchers, offset_secs)| Selection {
        metric,
        matchers,
        offset_secs,
    })
}

/// Series of a metric, and whether they add up.
fn leaf() -> impl Strategy<Value = (Query, bool)> {
    let gauges = || selection(&GAUGES).prop_map(|selection| (adds_up(selection.metric), selection));
    let functions =
        prop::sample::select(vec!["sum_over_time", "avg_over_time", "min_over_time", "max_over_time", "count_over_time", "last_over_time"]);
    let of_gauge = (gauges(), functions, 1i64..20).prop_map(|((adds_up, selection), function, windows)| {
        let function = if adds_up || !matches!(function, "sum_over_time" | "avg_over_time") { function } else { "max_over_time" };
        (Query::Over(function, selection, windows), adds_up || function == "count_over_time")
    });
    let counters = selection(&["tidemark_events_total", "tidemark_amount_count_total", "tidemark_amount_sum_total"]);
    let of_counter = (counters, prop::sample::select(vec!["increase", "rate"]), 1i64..20);
    prop_oneof![
        gauges().prop_map(|(adds_up, selection)| (Query::Sample(selection), adds_up)),
        of_gauge,
        of_counter.prop_map(|(selection, function, windows)| (Query::Over(function, selection, windows), true)),
    ]
}

fn grouping() -> impl Strategy<Value = (bool, Vec<&'static str>)> {
    (any::<bool>(), prop::sample::subsequence(vec!["event_type", "product_id", "user_id", "job"], 0..3))
}

fn aggregate(grouping: impl Strategy<Value = (bool, Vec<&'static str>)>) -> impl Strategy<Value = Query> {
    let operations = prop::sample::select(vec!["sum", "avg", "min", "max", "count", "group", "topk", "bottomk"]);
    (leaf(), operations, 0usize..4, grouping).prop_map(|((of, adds_up), operation, most, (without, labels))| {
        let operation = if adds_up || !matches!(operation, "sum" | "avg") { operation } else { "max" };
        let most = matches!(operation, "topk" | "bottomk").then_some(most);
        Query::Aggregate(operation, most, without, labels, Box::new(of))
    })
}

fn query() -> impl Strategy<Value = Query> {
    let operators = || prop::sample::select(vec!["+", "-", "*", "/", ">", "<=", "== bool", "!="]);
    let both = grouping().prop_flat_map(move |grouping| {
        let operators = prop::sample::select(vec!["+", "/", ">", "<= bool", "and", "or", "unless"]);
        (aggregate(Just(grouping.clone())), operators, aggregate(Just(grouping)))
    });
    // Of two sides only what has one series for each group.
    let one_each = |query: &Query| !matches!(query, Query::Aggregate(_, Some(_), ..));
    prop_oneof![
        leaf().prop_map(|(query, _)| query),
        aggregate(grouping()),
        (aggregate(grouping()), operators(), -2i8..9).prop_map(|(query, operator, n)| Query::WithNumber(query.into(), operator, n.into())),
        both.prop_filter("one series for each group", move |(a, _, b)| one_each(a) && one_each(b))
            .prop_map(|(a, operator, b)| Query::Both(a.into(), operator, b.into())),
    ]
}

impl Selection {
    fn text(&self, range: &str) -> String {
        let matchers: Vec<String> = self.matchers.iter().map(|(label, operator, text)| format!("{label}{operator}\"{text}\"")).collect();
        let offset = if self.offset_secs == 0 { String::new() } else { format!(" offset {}s", self.offset_secs) };
        format!("{}{{{}}}{range}{offset}", self.metric, matchers.join(","))
    }

    fn matches(&self, event: &Event) -> bool {
        self.matchers.iter().all(|(label, operator, text)| {
            let value = event.value(label);
            let anchored = format!("^(?:{})$", text.replace("\\\\", "\\"));
            let is_like = || regex::Regex::new(&anchored).expect("valid").is_match(value);
            match *operator {
                "=" => value == *text,
                "!=" => value != *text,
                "=~" => is_like(),
                _ => !is_like(),
            }
        })
    }

    /// Samples, by series and window's end, of series by `labels`.
    fn samples(&self, events: &[Event], labels: &[&'static str]) -> BTreeMap<Labels, BTreeMap<i64, f64>> {
        let mut cells: BTreeMap<Labels, BTreeMap<i64, Vec<&Event>>> = BTreeMap::new();
        for event in events.iter().filter(|event| self.matches(event)) {
            let named = labels.iter().map(|label| (*label, event.value(label))).filter(|(_, value)| !value.is_empty());
            let window_end = FROM_MS + event.at_ms.div_euclid(WINDOW_MS) * WINDOW_MS + WINDOW_MS;
            cells.entry(named.collect()).or_default().entry(window_end).or_default().push(event);
        }
        let sample = |events: &Vec<&Event>| {
            let mut amounts = events.iter().filter_map(|event| event.quarters).map(|quarters| quarters as f64 / 4.0);
            match self.metric.trim_end_matches("_total") {
                "tidemark_events" => Some(events.len() as f64),
                "tidemark_amount_count" => Some(amounts.count() as f64),
                "tidemark_amount_sum" => amounts.next().map(|first| first + amounts.sum::<f64>()),
                "tidemark_amount_min" => amounts.reduce(f64::min),
                _ => amounts.reduce(f64::max),
            }
        };
        let of_series =
            |windows: BTreeMap<i64, Vec<&Event>>| windows.iter().filter_map(|(end, events)| Some((*end, sample(events)?))).collect();
        cells.into_iter().map(|(labels, windows)| (labels, of_series(windows))).collect()
    }

    /// Those within `(at - range, at]`, shifted by the offset; series without any are not there.
    fn within(&self, events: &[Event], labels: &[&'static str], at_ms: i64, range_ms: i64) -> BTreeMap<Labels, Vec<f64>> {
        let at_ms = at_ms - self.offset_secs * 1000;
        let within =
            |samples: BTreeMap<i64, f64>| samples.range(at_ms - range_ms + 1..=at_ms).map(|(_, value)| *value).collect::<Vec<f64>>();
        let found = self.samples(events, labels).into_iter().map(|(labels, samples)| (labels, within(samples)));
        found.filter(|(_, values)| !values.is_empty()).collect()
    }

    /// The labels of the widest view, and those that are named.
    fn labels(&self, named: &[&'static str]) -> Vec<&'static str> {
        let is_named = |label: &&str| named.contains(label) || self.matchers.iter().any(|(name, ..)| name == label);
        let has = |label: &&'static str| *label != "user_id" || is_named(label);
        ["event_type", "product_id", "user_id"].into_iter().filter(has).collect()
    }
}

type Labels = BTreeMap<&'static str, &'static str>;
/// Values by labels. A metric's name is one of them.
type Vector = BTreeMap<Labels, f64>;

impl Query {
    fn text(&self) -> String {
        match self {
            Self::Sample(selection) => selection.text(""),
            Self::Over(function, selection, windows) => format!("{function}({})", selection.text(&format!("[{}m]", windows * 5))),
            Self::Aggregate(operation, most, without, labels, of) => {
                let (how, most) = (if *without { "without" } else { "by" }, most.map(|n| format!("{n},")).unwrap_or_default());
                format!("{operation} {how} ({}) ({most}{})", labels.join(","), of.text())
            }
            Self::WithNumber(of, operator, number) => format!("{} {operator} {number}", of.text()),
            Self::Both(a, operator, b) => format!("({}) {operator} ({})", a.text(), b.text()),
        }
    }

    fn value(&self, events: &[Event], at_ms: i64, named: &[&'static str]) -> Vector {
        match self {
            Self::Sample(selection) => {
                let found = selection.within(events, &selection.labels(named), at_ms, WINDOW_MS);
                found.into_iter().map(|(labels, values)| (with_name(labels, selection.metric), values[values.len() - 1])).collect()
            }
            Self::Over(function, selection, windows) => {
                let found = selection.within(events, &selection.labels(named), at_ms, windows * WINDOW_MS);
                let over = |values: Vec<f64>| {
                    let (sum, count) = (values.iter().sum::<f64>(), values.len() as f64);
                    match *function {
                        "rate" => sum / (*windows as f64 * 300.0),
                        "increase" | "sum_over_time" => sum,
                        "avg_over_time" => sum / count,
                        "min_over_time" => values.into_iter().fold(f64::INFINITY, f64::min),
                        "max_over_time" => values.into_iter().fold(f64::NEG_INFINITY, f64::max),
                        "count_over_time" => count,
                        _ => values[values.len() - 1],
                    }
                };
                let label = |labels| if *function == "last_over_time" { with_name(labels, selection.metric) } else { labels };
                found.into_iter().map(|(labels, values)| (label(labels), over(values))).collect()
            }
            Self::Aggregate(operation, most, without, labels, of) => {
                let inner = of.value(events, at_ms, if *without { &[] } else { labels });
                let mut groups: BTreeMap<Labels, Vec<(Labels, f64)>> = BTreeMap::new();
                for (series, value) in inner {
                    let stays =
                        |label: &str| if *without { label != "__name__" && !labels.contains(&label) } else { labels.contains(&label) };
                    let key = series.iter().filter(|(label, _)| stays(label)).map(|(label, value)| (*label, *value)).collect();
                    groups.entry(key).or_default().push((series, value));
                }
                let mut found: Vector = groups.into_iter().flat_map(|(key, members)| of_group(operation, *most, key, members)).collect();
                if found.is_empty() && *operation == "sum" && is_total_of_counts(of, *without, labels) {
                    found.insert(Labels::new(), 0.0);
                }
                found
            }
            Self::WithNumber(of, operator, number) => {
                let applied = of.value(events, at_ms, named).into_iter().filter_map(|(labels, value)| {
                    Some(if chooses(operator) {
                        (labels, apply(operator, value, *number)?)
                    } else {
                        (without_name(labels), apply(operator, value, *number)?)
                    })
                });
                applied.collect()
            }
            Self::Both(a, operator, b) => {
                let (a, b) = (a.value(events, at_ms, named), b.value(events, at_ms, named));
                match *operator {
                    "and" => a.into_iter().filter(|(labels, _)| b.contains_key(labels)).collect(),
                    "unless" => a.into_iter().filter(|(labels, _)| !b.contains_key(labels)).collect(),
                    "or" => b.into_iter().chain(a).collect(),
                    _ => a.into_iter().filter_map(|(labels, a)| Some((labels.clone(), apply(operator, a, *b.get(&labels)?)?))).collect(),
                }
            }
        }
    }
}

/// A sum of counts over everything is there even if nothing is.
fn is_total_of_counts(of: &Query, without: bool, labels: &[&str]) -> bool {
    let (selection, merges) = match of {
        Query::Sample(selection) => (selection, true),
        Query::Over(function, selection, _) => (selection, matches!(*function, "increase" | "rate" | "sum_over_time")),
        _ => return false,
    };
    let stay =
        selection.labels(if without { &[] } else { labels_of(labels) }).into_iter().filter(|label| labels.contains(label) != without);
    merges && !selection.metric.contains("_sum") && adds_up(selection.metric) && stay.count() == 0
}

fn labels_of(labels: &[&str]) -> &'static [&'static str] {
    if labels.contains(&"user_id") { &["user_id"] } else { &[] }
}

fn of_group(operation: &str, most: Option<usize>, key: Labels, mut members: Vec<(Labels, f64)>) -> Vec<(Labels, f64)> {
    let values = || members.iter().map(|(_, value)| *value);
    let value = match operation {
        "sum" => values().sum(),
        "avg" => values().sum::<f64>() / members.len() as f64,
        "min" => values().fold(f64::INFINITY, f64::min),
        "max" => values().fold(f64::NEG_INFINITY, f64::max),
        "count" => members.len() as f64,
        "group" => 1.0,
        _ => {
            // Of equal values those with the smaller labels, which they are in the order of.
            members.sort_by(|(_, a), (_, b)| if operation == "topk" { b.total_cmp(a) } else { a.total_cmp(b) });
            members.truncate(most.unwrap_or_default());
            return members;
        }
    };
    vec![(key, value)]
}

fn chooses(operator: &str) -> bool {
    matches!(operator, ">" | "<=" | "!=")
}

fn apply(operator: &str, a: f64, b: f64) -> Option<f64> {
    let holds = |holds: bool| holds.then_some(a);
    match operator {
        "+" => Some(a + b),
        "-" => Some(a - b),
        "*" => Some(a * b),
        "/" => Some(a / b),
        ">" => holds(a > b),
        "<=" => holds(a <= b),
        "!=" => holds(a != b),
        "== bool" => Some(f64::from(u8::from(a == b))),
        "<= bool" => Some(f64::from(u8::from(a <= b))),
        other => panic!("the model knows no operator {other}"),
    }
}

fn with_name(mut labels: Labels, name: &'static str) -> Labels {
    labels.insert("__name__", name);
    labels
}

fn without_name(mut labels: Labels) -> Labels {
    labels.remove("__name__");
    labels
}

/// What the parts make of a query together, with events counted in memory in the engine's place.
fn answered(events: &[Event], text: &str, times: Times) -> Result<Vec<Vector>, Failure> {
    let rules = rules();
    let expression = translate(&rules.views, text)?;
    let mut found = vec![Vec::new(); expression.lookups.len()];
    if let Some(question) = gather::of_lookups(&expression.lookups, times) {
        let plan = plan(&rules, &question.parameters).map_err(|error| Failure::BadData(error.to_string()))?;
        let mut rows = Rows::new();
        for event in events {
            let window = WindowStart::containing(FROM_MS + event.at_ms);
            if let Some(key) = plan.question.row_of(window, |dimension| event.value(dimension.name())).expect("UTC") {
                rows.entry(key).or_default().add(0, event.quarters.map(|quarters| Amount::from_ten_thousandths(quarters * 2_500)));
            }
        }
        let rows = arrange(&plan, &rows, &Rows::new());
        found = expression.lookups.iter().map(|lookup| series(lookup, &question, &rows)).collect();
    }
    let evaluation = Evaluation::new(&expression, found, times)?;
    times.iter().map(|at| vector(&evaluation, &expression, at)).collect()
}

fn vector(evaluation: &Evaluation<'_>, expression: &Expression, at: i64) -> Result<Vector, Failure> {
    let Root::Vector(node) = &expression.root else { panic!("a vector") };
    let range = evaluation.range(node)?;
    let at = range.into_iter().filter_map(|(labels, points)| {
        let (_, value) = points.into_iter().find(|(when, _)| *when == at)?;
        let known = |name: &str, value: &str| -> (&'static str, &'static str) {
            let known = |all: &[&'static str], text: &str| all.iter().find(|known| **known == text).copied().expect("known");
            (
                known(&["__name__", "event_type", "product_id", "user_id"], name),
                known(&[&GAUGES[..], &["a", "b", "c.d", "x", "y", "u"]].concat(), value),
            )
        };
        Some((labels.iter().map(|(name, value)| known(name, value)).collect(), value))
    });
    Ok(at.collect())
}

fn is_near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_query_has_the_value_that_prometheus_documents(
        events in events(),
        query in query(),
        start_ms in 0..WINDOWS * WINDOW_MS,
        is_on_edge in any::<bool>(),
        step_ms in prop_oneof![Just(WINDOW_MS), Just(12 * WINDOW_MS), 1_000..2 * WINDOW_MS],
        points in 0i64..5,
    ) {
        let start_ms = FROM_MS + if is_on_edge { start_ms / WINDOW_MS * WINDOW_MS } else { start_ms };
        let times = Times { start_ms, end_ms: start_ms + points * step_ms, step_ms };
        let text = query.text();
        let found = answered(&events, &text, times).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        for (at, found) in times.iter().zip(found) {
            let expected = query.value(&events, at, &[]);
            let same = found.len() == expected.len()
                && found.iter().zip(&expected).all(|((a, x), (b, y))| a == b && is_near(*x, *y));
            prop_assert!(same, "{} at {}: {:?} instead of {:?}", text, at - FROM_MS, found, expected);
        }
    }
}

fn check_refused(query: &str, kind: &str, says: &str) {
    let refusal = answered(&[], query, Times::instant(FROM_MS)).expect_err(query);
    assert_eq!(refusal.kind(), kind, "{query}: {refusal}");
    assert!(refusal.to_string().contains(says), "{query}: {refusal}");
}

#[test]
fn what_is_not_answered_says_what_to_write_instead() {
    let check = |query: &str, says: &str| check_refused(query, "execution", says);
    check("tidemark_events_total", "write increase(tidemark_events_total[1h])");
    check("sum_over_time(tidemark_events_total[1h])", "tidemark_events has the values of single windows");
    check("increase(tidemark_events[1h])", "increase(tidemark_events_total[1h])");
    check("rate(tidemark_amount_max[1h])", "has no increase");
    check("rate(tidemark_events_total[7m])", "write [5m] or [10m]");
    check("rate(tidemark_events_total[15s])", "write [5m] (in Grafana");
    check("sum(tidemark_amount_avg)", "cannot be added up");
    check("avg by (event_type) (max_over_time(tidemark_amount_max[1h]))", "cannot be added up");
    check("avg_over_time(tidemark_amount_avg[1h])", "cannot be added up");
    check("histogram_quantile(0.9, tidemark_events)", "histogram_quantile is not answered here; there are increase");
    check("quantile(0.9, tidemark_events)", "there are sum, avg");
    check("max_over_time(tidemark_events[1h:5m])", "for a range of a metric only");
    check("sum_over_time(sum(tidemark_events)[1h:5m])", "for a range of a metric only");
    check("tidemark_events * on (event_type) group_left tidemark_amount_max", "aggregate both sides");
    check("{event_type=\"a\"}", "more than one metric");
    check("round(tidemark_events, 5)", "one argument only");
}

#[test]
fn what_is_no_query_is_bad_data() {
    let check = |query: &str, says: &str| check_refused(query, "bad_data", says);
    check("sum(", "unclosed left parenthesis");
    check("", "no expression found");
    check("tidemark_events{event_type=~\"(\"}", "illegal regex");
    check("tidemark_events{event_type=\"a\" or event_type=\"b\"}", "joined by commas");
    check("rate(tidemark_events_total)", "expected type matrix");
    check("1 > 2", "BOOL modifier");
    check("foo[1e300]", "out of range");
    check("foo offset 1e300", "out of range");
    check(&"1+".repeat(3_000), "without its strings");
    check(&format!("{}1{}", "(".repeat(300), ")".repeat(300)), "nested more than 250 deep");
    // The strings of a query may be long.
    let many = vec!["ab"; 20_000].join("|");
    let long = answered(&[], &format!("tidemark_events{{event_type=~\"{many}\"}}"), Times::instant(FROM_MS));
    assert_eq!(long, Ok(vec![Vector::new()]));
}

#[test]
fn vectors_must_have_distinct_series() {
    let event = |values| Event { at_ms: 0, values, quarters: Some(4) };
    let events = [event(["a", "x", ""]), event(["b", "x", ""])];
    let at = Times::instant(FROM_MS + WINDOW_MS);
    let refused = |query: &str| answered(&events, query, at).expect_err(query).to_string();
    assert!(refused("-(tidemark_events or on (__name__) tidemark_amount_sum)").contains("two series of the same labels"));
    assert!(refused("tidemark_events + on (product_id) tidemark_amount_sum").contains("on the right side"));
    assert!(refused("tidemark_events + on (product_id) sum by (product_id) (tidemark_events)").contains("on the left side"));
    let value = |query: &str| answered(&events, query, at).expect(query)[0].values().copied().collect::<Vec<f64>>();
    assert_eq!(value("tidemark_events + ignoring (__name__) tidemark_amount_sum"), [2.0, 2.0]);
    assert_eq!(value("sum(tidemark_events{event_type=\"none\"}) or vector(7)"), [0.0], "a total of counts is there");
    assert_eq!(value("sum(tidemark_amount_sum{event_type=\"none\"}) or vector(7)"), [7.0]);
    assert_eq!(value("no_such_metric"), [0.0; 0]);
    assert_eq!(value("vector(time())"), [(FROM_MS + WINDOW_MS) as f64 / 1000.0]);
    assert_eq!(value("vector(scalar(tidemark_events{event_type=\"a\"}) / 4)"), [0.25]);
    assert!(value("vector(scalar(tidemark_events))")[0].is_nan());
}

#[test]
fn an_instant_is_in_order_of_what_is_asked_for() {
    let event = |values, quarters| Event { at_ms: 0, values, quarters: Some(quarters) };
    let events = [event(["a", "", ""], 1), event(["b", "", ""], 3), event(["c.d", "", ""], 2)];
    let order = |query: &str| {
        let rules = rules();
        let (expression, times) = (translate(&rules.views, query).expect(query), Times::instant(FROM_MS + WINDOW_MS));
        let question = gather::of_lookups(&expression.lookups, times).expect("windows");
        let mut rows = Rows::new();
        let plan = plan(&rules, &question.parameters).expect("valid");
        for event in &events {
            let key = plan.question.row_of(WindowStart::containing(FROM_MS), |dimension| event.value(dimension.name())).expect("UTC");
            rows.entry(key.expect("wanted")).or_default().add(0, event.quarters.map(Amount::from_ten_thousandths));
        }
        let rows: Vec<_> = rows.into_iter().collect();
        let found = expression.lookups.iter().map(|lookup| series(lookup, &question, &rows)).collect();
        let Root::Vector(node) = &expression.root else { panic!("a vector") };
        match Evaluation::new(&expression, found, times).expect("small").instant(node).expect(query) {
            Value::Vector(samples) => {
                samples.iter().map(|sample| sample.labels.iter().last().expect("a type").1.to_owned()).collect::<Vec<_>>().join(" ")
            }
            Value::Scalar(_) => panic!("a vector"),
        }
    };
    assert_eq!(order("tidemark_amount_sum"), "a b c.d");
    assert_eq!(order("sort(tidemark_amount_sum)"), "a c.d b");
    assert_eq!(order("sort_desc(tidemark_amount_sum)"), "b c.d a");
    assert_eq!(order("topk(2, tidemark_amount_sum)"), "b c.d");
    assert_eq!(order("bottomk(2, tidemark_amount_sum)"), "a c.d");
}

#[test]
fn too_much_is_refused_before_it_is_done() {
    let event = |n: i64| Event { at_ms: n * WINDOW_MS, values: ["a", "x", ""], quarters: None };
    let events: Vec<Event> = (0..WINDOWS).map(event).collect();
    let times = Times { start_ms: FROM_MS, end_ms: FROM_MS + 10_000_000, step_ms: 1_000 };
    let refused = |query: &str| answered(&events, query, times).map(|_| ()).expect_err(query).to_string();
    assert!(refused("max_over_time(tidemark_events[1y])").contains("too many windows"));
    assert!(answered(&events, "sum(increase(tidemark_events_total[1y]))", Times { step_ms: 1_000_000, ..times }).is_ok());
}
