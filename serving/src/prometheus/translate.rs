//! From PromQL's text to an [`Expression`]. Pure.
//!
//! A selector's series have the dimensions of the widest view, and those that the expression names. Where they are added
//! up at once, which most queries do, only the labels that remain are looked up: cells merge exactly, whichever view they
//! come from, so that the smallest view that has them answers.

use super::expression::{Aggregation, Expression, Node, Operator, Root};
use super::failure::{Failure, bad, refused};
use super::labels::Grouping;
use super::lookup::{Anchor, Lookup, Over};
use super::metric::{Kind, METRICS, Metric};
use crate::measure::Measure;
use promql_parser::label::{METRIC_NAME, Matcher, Matchers};
use promql_parser::parser::token::*;
use promql_parser::parser::value::ValueType;
use promql_parser::parser::{
    AggregateExpr, AtModifier, BinaryExpr, Call, Expr, LabelModifier, MatrixSelector, Offset, VectorMatchCardinality, VectorSelector,
};
use std::time::{Duration, UNIX_EPOCH};
use tidemark_core::view::{Dimension, Views};
use tidemark_core::window::WINDOW_MS;

/// Bytes of a query; and of it without its strings, since reading takes time by the square of how deep it may be nested.
const LONGEST: usize = 100_000;
const LONGEST_UNQUOTED: usize = 4_000;

/// How deep an expression may be nested: evaluating one takes room on the stack.
const DEEPEST: usize = 250;

const FUNCTIONS: &str = "increase, rate, sum_over_time, avg_over_time, min_over_time, max_over_time, count_over_time, last_over_time, \
                         abs, ceil, floor, round, sqrt, sort, sort_desc, scalar, vector and time";

/// A query, of which every metric has its labels.
pub fn translate(views: &Views, text: &str) -> Result<Expression, Failure> {
    let expression = parsed(text)?;
    let mut translation = Translation { views, lookups: Vec::new(), unknown: Vec::new(), depth: 0 };
    let root = translation.root(&expression)?;
    Ok(Expression { root, lookups: translation.lookups, unknown: translation.unknown })
}

/// `match[]` of the requests that ask what there is: a lookup for each metric that is meant, of windows that are said later.
pub fn selected(views: &Views, text: &str) -> Result<Vec<Lookup>, Failure> {
    let Expr::VectorSelector(selector) = parsed(text)? else {
        return bad(format!("match[] `{}` is not a selector, such as tidemark_events{{event_type=\"UA\"}}", text.escape_debug()));
    };
    let matchers = matchers(&selector)?;
    Ok(named_by(&selector).into_iter().map(|metric| bare(views, metric, matchers.clone(), &[])).collect())
}

/// A duration as Prometheus writes it, such as 1h30m.
pub fn duration_secs(text: &str) -> Option<f64> {
    Some(promql_parser::util::parse_duration(text).ok()?.as_secs_f64())
}

fn parsed(text: &str) -> Result<Expr, Failure> {
    if text.len() > LONGEST || unquoted(text) > LONGEST_UNQUOTED {
        return bad(format!("the query has more than {LONGEST} bytes, or {LONGEST_UNQUOTED} without its strings; ask in several"));
    }
    // The parser panics where a duration is a number beyond all measure.
    let parsed = std::panic::catch_unwind(|| promql_parser::parser::parse(text));
    match parsed {
        Ok(Ok(expression)) => Ok(expression),
        Ok(Err(error)) => bad(format!("parse error: {error}")),
        Err(_) => bad("parse error: a duration is out of range"),
    }
}

/// Bytes outside of strings.
fn unquoted(text: &str) -> usize {
    let (mut quote, mut escaped, mut outside) = (None, false, 0);
    for byte in text.bytes() {
        match quote {
            None if matches!(byte, b'"' | b'\'' | b'`') => quote = Some(byte),
            None => outside += 1,
            Some(_) if escaped => escaped = false,
            Some(open) if byte == b'\\' && open != b'`' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
        }
    }
    outside
}

struct Translation<'v> {
    views: &'v Views,
    lookups: Vec<Lookup>,
    unknown: Vec<String>,
    depth: usize,
}

impl Translation<'_> {
    fn root(&mut self, expression: &Expr) -> Result<Root, Failure> {
        Ok(match (expression.value_type(), without_parens(expression)) {
            (ValueType::String, Expr::StringLiteral(text)) => Root::Text(text.val.clone()),
            (ValueType::Matrix, Expr::MatrixSelector(selector)) => {
                let (selector, windows) = ranged(selector)?;
                let Some(n) = self.lookup(selector, windows, Kind::Gauge, &[])? else { return Ok(Root::Vector(Node::Nothing)) };
                // So that windows stay apart.
                self.lookups[n].over = Over::Last;
                Root::Samples(n)
            }
            (ValueType::Scalar, _) => Root::Scalar(self.node(expression, &[])?),
            _ => Root::Vector(self.node(expression, &[])?),
        })
    }

    /// `named`: dimensions that are named around it, which series must have.
    fn node(&mut self, expression: &Expr, named: &[Dimension]) -> Result<Node, Failure> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return bad(format!("the query is nested more than {DEEPEST} deep; ask in several"));
        }
        let node = match expression {
            Expr::NumberLiteral(number) => Node::Number(number.val),
            Expr::Paren(paren) => self.node(&paren.expr, named)?,
            Expr::Unary(unary) => Node::Each(|value: f64| -value, Box::new(self.node(&unary.expr, named)?)),
            Expr::VectorSelector(selector) => self.lookup(selector, 1, Kind::Gauge, named)?.map_or(Node::Nothing, Node::Lookup),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate, named)?,
            Expr::Binary(binary) => self.binary(binary, named)?,
            Expr::Call(call) => self.call(call, named)?,
            Expr::Subquery(_) => return refused("subqueries are not answered here; ask for whole windows, such as [1h]"),
            Expr::MatrixSelector(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {
                return bad(format!("a {} cannot stand there", expression.value_type()));
            }
        };
        self.depth -= 1;
        Ok(node)
    }

    /// Notes what a selector needs; nothing if there is no such metric.
    fn lookup(&mut self, selector: &VectorSelector, windows: i64, kind: Kind, named: &[Dimension]) -> Result<Option<usize>, Failure> {
        let matchers = matchers(selector)?;
        let metric = match named_by(selector)[..] {
            [metric] => metric,
            [] => {
                self.unknown.push(selector.to_string());
                return Ok(None);
            }
            _ => return refused(format!("`{selector}` means more than one metric; name one")),
        };
        fits(metric, kind)?;
        let offset_ms = match &selector.offset {
            None => 0,
            Some(Offset::Pos(offset)) => millis(*offset),
            Some(Offset::Neg(offset)) => -millis(*offset),
        };
        let anchor = selector.at.as_ref().map_or(Anchor::Evaluated, anchor);
        self.lookups.push(Lookup { windows, anchor, offset_ms, ..bare(self.views, metric, matchers, named) });
        Ok(Some(self.lookups.len() - 1))
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr, named: &[Dimension]) -> Result<Node, Failure> {
        let operation = match aggregate.op.id() {
            T_SUM => Aggregation::Sum,
            T_AVG => Aggregation::Avg,
            T_MIN => Aggregation::Min,
            T_MAX => Aggregation::Max,
            T_COUNT => Aggregation::Count,
            T_GROUP => Aggregation::Group,
            T_TOPK => Aggregation::TopK,
            T_BOTTOMK => Aggregation::BottomK,
            _ => {
                return refused(format!(
                    "{} is not answered here; there are sum, avg, min, max, count, group, topk and bottomk",
                    aggregate.op
                ));
            }
        };
        let grouping = grouping(aggregate.modifier.as_ref()).unwrap_or(Grouping::By(Vec::new()));
        let parameter = match &aggregate.param {
            Some(parameter) => Some(Box::new(self.node(parameter, &[])?)),
            None => None,
        };
        let of = self.node(&aggregate.expr, &[named, &grouping.dimensions()].concat())?;
        if let Node::Lookup(n) = of {
            let lookup = &mut self.lookups[n];
            if merges(operation, lookup) {
                lookup.labels = narrowed(&lookup.labels, &grouping);
                lookup.is_named &= grouping.keeps(METRIC_NAME);
                return Ok(of);
            }
            if matches!(operation, Aggregation::Sum | Aggregation::Avg) && lookup.over != Over::Number {
                must_add_up(lookup.metric)?;
            }
        }
        Ok(Node::Aggregate { operation, parameter, grouping, of: Box::new(of) })
    }

    fn binary(&mut self, binary: &BinaryExpr, named: &[Dimension]) -> Result<Node, Failure> {
        let Some(operator) = operator(binary.op.id()) else {
            return refused(format!("the operator {} is not answered here", binary.op));
        };
        let modifier = binary.modifier.as_ref();
        if modifier.is_some_and(|m| matches!(m.card, VectorMatchCardinality::ManyToOne(_) | VectorMatchCardinality::OneToMany(_))) {
            return refused("group_left and group_right are not answered here; aggregate both sides by the same labels");
        }
        if modifier.is_some_and(|m| m.fill_values.lhs.is_some() || m.fill_values.rhs.is_some()) {
            return refused("fill is not answered here; write `or` for series that may be missing");
        }
        let matching = grouping(modifier.and_then(|m| m.matching.as_ref())).unwrap_or(Grouping::Without(Vec::new()));
        let named = [named, &matching.dimensions()].concat();
        let (left, right) = (self.node(&binary.lhs, &named)?, self.node(&binary.rhs, &named)?);
        Ok(Node::Binary { operator, is_bool: binary.return_bool(), matching, left: left.into(), right: right.into() })
    }

    fn call(&mut self, call: &Call, named: &[Dimension]) -> Result<Node, Failure> {
        let name = call.func.name;
        let Some(argument) = call.args.args.first() else {
            return if name == "time" { Ok(Node::Time) } else { unknown_function(name) };
        };
        if let Some((kind, over)) = over_time(name) {
            return self.over_time(name, argument, kind, over, named);
        }
        let each: fn(f64) -> f64 = match name {
            "vector" => return Ok(Node::Vector(Box::new(self.node(argument, named)?))),
            "scalar" => return Ok(Node::Scalar(Box::new(self.node(argument, named)?))),
            "sort" | "sort_desc" => {
                return Ok(Node::Sorted { descending: name == "sort_desc", of: Box::new(self.node(argument, named)?) });
            }
            "abs" => f64::abs,
            "ceil" => f64::ceil,
            "floor" => f64::floor,
            // Halves up, as Prometheus has it.
            "round" => |value: f64| (value + 0.5).floor(),
            "sqrt" => f64::sqrt,
            _ => return unknown_function(name),
        };
        if call.args.len() > 1 {
            return refused(format!("{name} is answered here with one argument only"));
        }
        Ok(Node::Each(each, Box::new(self.node(argument, named)?)))
    }

    fn over_time(&mut self, name: &str, argument: &Expr, kind: Kind, over: Over, named: &[Dimension]) -> Result<Node, Failure> {
        let Expr::MatrixSelector(selector) = without_parens(argument) else {
            return refused(format!("{name} is answered here for a range of a metric only, such as {name}(tidemark_events[1h])"));
        };
        let (selector, windows) = ranged(selector)?;
        let Some(n) = self.lookup(selector, windows, kind, named)? else { return Ok(Node::Nothing) };
        let lookup = &mut self.lookups[n];
        let metric = lookup.metric;
        if matches!(name, "sum_over_time" | "avg_over_time") {
            must_add_up(metric)?;
        }
        lookup.over = match (over, metric.measure) {
            // The least of all is that of the merged cells.
            (Over::Least, Measure::Min) | (Over::Most, Measure::Max) => Over::Together,
            _ => over,
        };
        lookup.is_named = over == Over::Last;
        lookup.per_second = name == "rate";
        Ok(Node::Lookup(n))
    }
}

fn without_parens(expression: &Expr) -> &Expr {
    match expression {
        Expr::Paren(paren) => without_parens(&paren.expr),
        other => other,
    }
}

fn unknown_function<T>(name: &str) -> Result<T, Failure> {
    refused(format!("{name} is not answered here; there are {FUNCTIONS}"))
}

/// Which metrics a function is for, and what it makes of their windows.
fn over_time(function: &str) -> Option<(Kind, Over)> {
    Some(match function {
        "increase" | "rate" => (Kind::Counter, Over::Together),
        "sum_over_time" => (Kind::Gauge, Over::Together),
        "avg_over_time" => (Kind::Gauge, Over::Mean),
        "min_over_time" => (Kind::Gauge, Over::Least),
        "max_over_time" => (Kind::Gauge, Over::Most),
        "count_over_time" => (Kind::Gauge, Over::Number),
        "last_over_time" => (Kind::Gauge, Over::Last),
        _ => return None,
    })
}

/// A counter is for increase and rate, a gauge for everything else.
fn fits(metric: &Metric, kind: Kind) -> Result<(), Failure> {
    let (name, other) = (metric.name, metric.other().map(|metric| metric.name));
    match (metric.kind, kind, other) {
        (Kind::Counter, Kind::Gauge, Some(gauge)) => refused(format!(
            "{name} is a counter: write increase({name}[1h]) or rate({name}[1h]); {gauge} has the values of single windows"
        )),
        (Kind::Gauge, Kind::Counter, Some(counter)) => {
            refused(format!("{name} is a gauge, the value of a single window: write sum_over_time({name}[1h]), or increase({counter}[1h])"))
        }
        (Kind::Gauge, Kind::Counter, None) => {
            refused(format!("{name} is a gauge, and has no increase; see max_over_time and min_over_time"))
        }
        _ => Ok(()),
    }
}

/// What cannot be added up has no sum and no mean, though a number would come out.
fn must_add_up(metric: &Metric) -> Result<(), Failure> {
    if metric.is_additive() {
        return Ok(());
    }
    refused(format!(
        "values of {} cannot be added up; for a mean write increase(tidemark_amount_sum_total[1h]) / increase(tidemark_amount_count_total[1h])",
        metric.name
    ))
}

/// True if what is looked up is the same when cells of several series are merged before the value is taken.
fn merges(operation: Aggregation, lookup: &Lookup) -> bool {
    let fits = match operation {
        Aggregation::Sum => lookup.metric.is_additive(),
        Aggregation::Min => lookup.metric.measure == Measure::Min,
        Aggregation::Max => lookup.metric.measure == Measure::Max,
        _ => false,
    };
    fits && lookup.over == Over::Together
}

fn narrowed(labels: &[Dimension], grouping: &Grouping) -> Vec<Dimension> {
    labels.iter().copied().filter(|dimension| grouping.keeps(dimension.name())).collect()
}

/// The series of a metric by themselves: one window, back from the instant of evaluation.
fn bare(views: &Views, metric: &'static Metric, matchers: Vec<Matcher>, named: &[Dimension]) -> Lookup {
    let widest = views.iter().fold(&[][..], |widest, view| if view.dimensions().len() > widest.len() { view.dimensions() } else { widest });
    let has = |dimension: &Dimension| {
        widest.contains(dimension) || named.contains(dimension) || matchers.iter().any(|matcher| matcher.name == dimension.name())
    };
    let labels = Dimension::ALL.into_iter().filter(has).collect();
    let (is_named, windows, over, per_second) = (true, 1, Over::Together, false);
    Lookup { metric, matchers, labels, is_named, windows, over, per_second, anchor: Anchor::Evaluated, offset_ms: 0 }
}

/// The metrics that a selector means.
fn named_by(selector: &VectorSelector) -> Vec<&'static Metric> {
    let is_meant = |metric: &&Metric| {
        selector.name.as_ref().is_none_or(|name| name == metric.name)
            && selector.matchers.matchers.iter().all(|matcher| matcher.name != METRIC_NAME || matcher.is_match(metric.name))
    };
    METRICS.iter().filter(is_meant).collect()
}

/// What a selector says of labels.
fn matchers(selector: &VectorSelector) -> Result<Vec<Matcher>, Failure> {
    let Matchers { matchers, or_matchers } = &selector.matchers;
    if !or_matchers.is_empty() {
        return bad("matchers are joined by commas; for one label or the other write two selectors with `or` between them");
    }
    Ok(matchers.iter().filter(|matcher| matcher.name != METRIC_NAME).cloned().collect())
}

/// A range selector, and its windows.
fn ranged(selector: &MatrixSelector) -> Result<(&VectorSelector, i64), Failure> {
    let range_ms = millis(selector.range);
    if range_ms == 0 || range_ms % WINDOW_MS != 0 {
        let minutes = |windows: i64| windows * WINDOW_MS / 60_000;
        let below = range_ms / WINDOW_MS;
        let nearest = if below == 0 { "[5m]".to_owned() } else { format!("[{}m] or [{}m]", minutes(below), minutes(below + 1)) };
        return refused(format!(
            "the range [{}s] is not made of whole 5-minute windows; write {nearest} (in Grafana, the data source's scrape interval must be 5m)",
            selector.range.as_secs_f64()
        ));
    }
    Ok((&selector.vs, range_ms / WINDOW_MS))
}

fn anchor(at: &AtModifier) -> Anchor {
    match at {
        AtModifier::Start => Anchor::Start,
        AtModifier::End => Anchor::End,
        AtModifier::At(time) => Anchor::At(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(before) => -millis(before.duration()),
        }),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn grouping(modifier: Option<&LabelModifier>) -> Option<Grouping> {
    Some(match modifier? {
        LabelModifier::Include(names) => Grouping::By(names.labels.clone()),
        LabelModifier::Exclude(names) => Grouping::Without(names.labels.clone()),
    })
}

fn operator(token: TokenId) -> Option<Operator> {
    Some(match token {
        T_ADD => Operator::Arithmetic(|a, b| a + b),
        T_SUB => Operator::Arithmetic(|a, b| a - b),
        T_MUL => Operator::Arithmetic(|a, b| a * b),
        T_DIV => Operator::Arithmetic(|a, b| a / b),
        T_MOD => Operator::Arithmetic(|a, b| a % b),
        T_POW => Operator::Arithmetic(f64::powf),
        T_EQLC => Operator::Comparison(f64::eq),
        T_NEQ => Operator::Comparison(f64::ne),
        T_GTR => Operator::Comparison(f64::gt),
        T_LSS => Operator::Comparison(f64::lt),
        T_GTE => Operator::Comparison(f64::ge),
        T_LTE => Operator::Comparison(f64::le),
        T_LAND => Operator::And,
        T_LOR => Operator::Or,
        T_LUNLESS => Operator::Unless,
        _ => return None,
    })
}
