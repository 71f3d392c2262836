//! Evaluates an expression over the series that have been found. Pure.

use super::expression::{Aggregation, Expression, Node, Operator};
use super::failure::{Failure, refused};
use super::labels::{Grouping, Labels};
use super::lookup::{Over, Times};
use super::series::Series;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Samples that an evaluation may take in, over all its points.
const MOST_SAMPLES: usize = 2_000_000;

/// Windows that functions may look at one by one.
const MOST_WINDOWS: usize = 50_000_000;

/// One value of a vector.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    pub labels: Arc<Labels>,
    pub value: f64,
}

/// What a node is at an instant.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Scalar(f64),
    Vector(Vec<Sample>),
}

/// Values by time, of one series.
pub type Points = Vec<(i64, f64)>;

/// An expression with what it has looked up.
#[derive(Debug)]
pub struct Evaluation<'e> {
    expression: &'e Expression,
    series: Vec<Vec<Series>>,
    times: Times,
}

impl<'e> Evaluation<'e> {
    /// `series`: those of each lookup. Refuses what would take too long.
    pub fn new(expression: &'e Expression, series: Vec<Vec<Series>>, times: Times) -> Result<Self, Failure> {
        let points = times.iter().len();
        let (mut samples, mut windows) = (0usize, 0usize);
        for (lookup, series) in expression.lookups.iter().zip(&series) {
            samples = samples.saturating_add(points.saturating_mul(series.len()));
            if lookup.over != Over::Together {
                let each = usize::try_from(lookup.windows).unwrap_or(usize::MAX);
                windows = windows.saturating_add(points.saturating_mul(series.len()).saturating_mul(each));
            }
        }
        if samples > MOST_SAMPLES || windows > MOST_WINDOWS {
            return refused(format!(
                "the query would take in {samples} samples, more than {MOST_SAMPLES}, or look at too many windows; \
                 aggregate by fewer labels, or ask for a shorter range or a longer step"
            ));
        }
        Ok(Self { expression, series, times })
    }

    /// A node's value at the instant that is asked for.
    pub fn instant(&self, node: &Node) -> Result<Value, Failure> {
        let value = self.at(node, self.times.start_ms)?;
        if let Value::Vector(samples) = &value {
            distinct(samples)?;
        }
        Ok(value)
    }

    /// A node's values at all instants, by series.
    pub fn range(&self, node: &Node) -> Result<BTreeMap<Arc<Labels>, Points>, Failure> {
        let mut series: BTreeMap<Arc<Labels>, Points> = BTreeMap::new();
        for at in self.times.iter() {
            match self.at(node, at)? {
                Value::Scalar(value) => series.entry(Arc::default()).or_default().push((at, value)),
                Value::Vector(samples) => {
                    distinct(&samples)?;
                    samples.into_iter().for_each(|sample| series.entry(sample.labels).or_default().push((at, sample.value)));
                }
            }
        }
        Ok(series)
    }

    /// The samples of single windows.
    pub fn samples(&self, lookup: usize) -> Vec<(Arc<Labels>, Points)> {
        let (at, looked) = (self.times.start_ms, &self.expression.lookups[lookup]);
        let of = |series: &Series| (Arc::clone(&series.labels), series.samples(looked.metric, looked.span(at, self.times)));
        self.series[lookup].iter().map(of).filter(|(_, points)| !points.is_empty()).collect()
    }

    fn at(&self, node: &Node, at: i64) -> Result<Value, Failure> {
        Ok(match node {
            Node::Number(number) => Value::Scalar(*number),
            Node::Time => Value::Scalar(at as f64 / 1000.0),
            Node::Nothing => Value::Vector(Vec::new()),
            Node::Lookup(n) => Value::Vector(self.lookup(*n, at)),
            Node::Vector(of) => Value::Vector(vec![Sample { labels: Arc::default(), value: self.scalar(of, at)? }]),
            Node::Scalar(of) => {
                let samples = self.vector(of, at)?;
                Value::Scalar(if let [only] = &samples[..] { only.value } else { f64::NAN })
            }
            Node::Each(function, of) => match self.at(of, at)? {
                Value::Scalar(value) => Value::Scalar(function(value)),
                Value::Vector(samples) => Value::Vector(samples.iter().map(|sample| unnamed(sample, function(sample.value))).collect()),
            },
            Node::Sorted { descending, of } => {
                let mut samples = self.vector(of, at)?;
                samples.sort_by(|a, b| rank(*descending, a, b));
                Value::Vector(samples)
            }
            Node::Aggregate { operation, parameter, grouping, of } => {
                let most = parameter.as_ref().map(|parameter| self.scalar(parameter, at)).transpose()?;
                Value::Vector(aggregated(*operation, most, grouping, &self.vector(of, at)?)?)
            }
            Node::Binary { operator, is_bool, matching, left, right } => {
                binary(*operator, *is_bool, matching, self.at(left, at)?, self.at(right, at)?)?
            }
        })
    }

    fn lookup(&self, lookup: usize, at: i64) -> Vec<Sample> {
        let looked = &self.expression.lookups[lookup];
        let span = looked.span(at, self.times);
        let of = |series: &Series| Some(Sample { labels: Arc::clone(&series.labels), value: series.value(looked, span)? });
        self.series[lookup].iter().filter_map(of).collect()
    }

    fn scalar(&self, node: &Node, at: i64) -> Result<f64, Failure> {
        match self.at(node, at)? {
            Value::Scalar(value) => Ok(value),
            Value::Vector(_) => refused("there is a vector where a scalar should be"),
        }
    }

    fn vector(&self, node: &Node, at: i64) -> Result<Vec<Sample>, Failure> {
        match self.at(node, at)? {
            Value::Vector(samples) => Ok(samples),
            Value::Scalar(_) => refused("there is a scalar where a vector should be"),
        }
    }
}

fn unnamed(sample: &Sample, value: f64) -> Sample {
    let labels = if sample.labels.has_name() { Arc::new(sample.labels.without_name()) } else { Arc::clone(&sample.labels) };
    Sample { labels, value }
}

/// Two series that differ in their metric only are one when that is dropped.
fn distinct(samples: &[Sample]) -> Result<(), Failure> {
    let mut seen = HashSet::with_capacity(samples.len());
    if samples.iter().all(|sample| seen.insert(&*sample.labels)) {
        return Ok(());
    }
    refused("the vector has two series of the same labels; put the metrics together by an aggregation")
}

/// By value, what is no number last; equal values in the order of their labels.
fn rank(descending: bool, a: &Sample, b: &Sample) -> Ordering {
    let by_value = if descending { b.value.partial_cmp(&a.value) } else { a.value.partial_cmp(&b.value) };
    by_value.unwrap_or_else(|| a.value.is_nan().cmp(&b.value.is_nan())).then_with(|| a.labels.cmp(&b.labels))
}

fn aggregated(operation: Aggregation, most: Option<f64>, grouping: &Grouping, samples: &[Sample]) -> Result<Vec<Sample>, Failure> {
    let mut groups: BTreeMap<Labels, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        groups.entry(sample.labels.grouped(grouping)).or_default().push(sample);
    }
    if let Aggregation::TopK | Aggregation::BottomK = operation {
        return largest(operation == Aggregation::TopK, most.unwrap_or_default(), groups);
    }
    let value = |members: &[&Sample]| {
        let values = members.iter().map(|sample| sample.value);
        let count = members.len() as f64;
        match operation {
            Aggregation::Sum => values.sum(),
            Aggregation::Avg => values.sum::<f64>() / count,
            Aggregation::Min => values.fold(f64::NAN, f64::min),
            Aggregation::Max => values.fold(f64::NAN, f64::max),
            Aggregation::Count => count,
            Aggregation::Group | Aggregation::TopK | Aggregation::BottomK => 1.0,
        }
    };
    Ok(groups.into_iter().map(|(labels, members)| Sample { labels: Arc::new(labels), value: value(&members) }).collect())
}

/// The first of each group by rank, with all their labels.
fn largest(descending: bool, most: f64, groups: BTreeMap<Labels, Vec<&Sample>>) -> Result<Vec<Sample>, Failure> {
    if most.is_nan() {
        return refused("the number of series to keep is not a number");
    }
    // Beyond all numbers of series, or below one, it does not matter how much.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what does not fit becomes the nearest that does")]
    let most = most as usize;
    let mut kept = Vec::new();
    for (_, mut members) in groups {
        members.sort_by(|a, b| rank(descending, a, b));
        kept.extend(members.into_iter().take(most).cloned());
    }
    Ok(kept)
}

fn binary(operator: Operator, is_bool: bool, matching: &Grouping, left: Value, right: Value) -> Result<Value, Failure> {
    let each = |samples: Vec<Sample>, apply: &dyn Fn(f64) -> Option<f64>| {
        let renames = is_bool || matches!(operator, Operator::Arithmetic(_));
        let applied = samples.into_iter().filter_map(|sample| {
            let value = apply(sample.value)?;
            Some(if renames { unnamed(&sample, value) } else { Sample { value, ..sample } })
        });
        Value::Vector(applied.collect())
    };
    Ok(match (left, right) {
        (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(operator.apply(a, b, true, a).unwrap_or_default()),
        // A comparison chooses among the vector's values, whichever side they are on.
        (Value::Vector(left), Value::Scalar(b)) => each(left, &|a| operator.apply(a, b, is_bool, a)),
        (Value::Scalar(a), Value::Vector(right)) => each(right, &|b| operator.apply(a, b, is_bool, b)),
        (Value::Vector(left), Value::Vector(right)) => Value::Vector(match operator {
            Operator::And | Operator::Or | Operator::Unless => joined(operator, matching, left, right),
            Operator::Arithmetic(_) | Operator::Comparison(_) => matched(operator, is_bool, matching, &left, &right)?,
        }),
    })
}

impl Operator {
    /// The value of two numbers; nothing where a comparison does not choose `chosen`.
    fn apply(self, a: f64, b: f64, is_bool: bool, chosen: f64) -> Option<f64> {
        match self {
            Self::Arithmetic(function) => Some(function(a, b)),
            Self::Comparison(holds) if is_bool => Some(f64::from(u8::from(holds(&a, &b)))),
            Self::Comparison(holds) => holds(&a, &b).then_some(chosen),
            // The parser has refused these for scalars.
            Self::And | Self::Or | Self::Unless => None,
        }
    }
}

/// `and`, `or` and `unless`: series of one side, as the other has their labels or not.
fn joined(operator: Operator, matching: &Grouping, left: Vec<Sample>, right: Vec<Sample>) -> Vec<Sample> {
    let keys = |samples: &[Sample]| samples.iter().map(|sample| sample.labels.grouped(matching)).collect::<HashSet<Labels>>();
    let is_in = |keys: &HashSet<Labels>, sample: &Sample| keys.contains(&sample.labels.grouped(matching));
    match operator {
        Operator::Or => {
            let known = keys(&left);
            left.into_iter().chain(right.into_iter().filter(|sample| !is_in(&known, sample))).collect()
        }
        Operator::Unless => {
            let known = keys(&right);
            left.into_iter().filter(|sample| !is_in(&known, sample)).collect()
        }
        _ => {
            let known = keys(&right);
            left.into_iter().filter(|sample| is_in(&known, sample)).collect()
        }
    }
}

/// Each series of one side with the one of the other that has its labels.
fn matched(operator: Operator, is_bool: bool, matching: &Grouping, left: &[Sample], right: &[Sample]) -> Result<Vec<Sample>, Failure> {
    let twice = |side: &str| {
        let what = format!("two series on the {side} side have the same labels to be matched by; aggregate, or match by more labels");
        Failure::Execution(what)
    };
    let mut partners: HashMap<Labels, &Sample> = HashMap::with_capacity(right.len());
    for sample in right {
        if partners.insert(sample.labels.grouped(matching), sample).is_some() {
            return Err(twice("right"));
        }
    }
    let (mut seen, mut result) = (HashSet::new(), Vec::new());
    for sample in left {
        let key = sample.labels.grouped(matching);
        let Some(partner) = partners.get(&key) else { continue };
        if let Some(value) = operator.apply(sample.value, partner.value, is_bool, sample.value) {
            result.push(Sample { labels: result_labels(operator, is_bool, matching, sample, &key), value });
        }
        if !seen.insert(key) {
            return Err(twice("left"));
        }
    }
    Ok(result)
}

/// What remains of the left side's labels: those matched by. A comparison that chooses keeps the name if all are matched by.
fn result_labels(operator: Operator, is_bool: bool, matching: &Grouping, sample: &Sample, key: &Labels) -> Arc<Labels> {
    match (operator, matching) {
        (Operator::Comparison(_), Grouping::Without(names)) if !is_bool => {
            let kept: Vec<String> = sample.labels.iter().map(|(name, _)| name.to_owned()).filter(|name| !names.contains(name)).collect();
            Arc::new(sample.labels.grouped(&Grouping::By(kept)))
        }
        _ => Arc::new(key.clone()),
    }
}
