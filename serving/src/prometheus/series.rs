//! Rows of an answer put together to the series that a lookup means. Pure.

use super::gather::Question;
use super::labels::Labels;
use super::lookup::{Lookup, Over, Span};
use super::metric::Metric;
use crate::measure::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tidemark_core::cell::Cell;
use tidemark_core::question::RowKey;
use tidemark_core::view::Dimension;
use tidemark_core::window::WINDOW_MS;

/// A series, and what is counted of it.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Arc<Labels>,
    cells: Cells,
}

/// Cells in order of time, and the merged ones of halves, quarters and so on, so that those of a long span are soon merged.
#[derive(Clone, Debug)]
struct Cells {
    starts: Vec<i64>,
    /// A tree of twice as many: behind the first half stand the cells themselves, and each before them is made of two.
    tree: Vec<Cell>,
}

/// The series of a lookup, in order of their labels, from rows in order of time.
pub fn series(lookup: &Lookup, question: &Question, rows: &[(RowKey, Cell)]) -> Vec<Series> {
    let mut known: HashMap<&[Box<str>], Option<usize>> = HashMap::new();
    let mut numbers: BTreeMap<Labels, usize> = BTreeMap::new();
    let mut found: Vec<Vec<(i64, Cell)>> = Vec::new();
    // A total of nothing is a row of its own.
    for (key, cell) in rows.iter().filter(|(_, cell)| cell.count > 0) {
        let number = *known.entry(&*key.values).or_insert_with(|| {
            let value = |dimension: Dimension| {
                let at = question.dimensions.iter().position(|known| *known == dimension);
                at.map_or("", |at| &*key.values[at])
            };
            lookup.matches(value).then(|| {
                let name = lookup.is_named.then_some(lookup.metric.name);
                let labels = Labels::new(name, lookup.labels.iter().map(|dimension| (*dimension, value(*dimension))));
                let next = numbers.len();
                *numbers.entry(labels).or_insert(next)
            })
        });
        let Some(number) = number else { continue };
        if number == found.len() {
            found.push(Vec::new());
        }
        let start = question.total_from_ms.unwrap_or(key.bucket_ms);
        match found[number].last_mut() {
            Some((last, whole)) if *last == start => whole.merge(cell),
            _ => found[number].push((start, *cell)),
        }
    }
    if lookup.is_total() && numbers.is_empty() {
        numbers.insert(Labels::default(), 0);
        found.push(Vec::new());
    }
    numbers.into_iter().map(|(labels, n)| Series { labels: Arc::new(labels), cells: Cells::new(&found[n]) }).collect()
}

impl Series {
    /// What a lookup makes of the windows of a span; nothing, where there is no value in any.
    pub fn value(&self, lookup: &Lookup, span: Span) -> Option<f64> {
        let of = |cell: &Cell| value(lookup.metric, cell);
        let merged = || self.cells.merged(span).or(lookup.is_total().then_some(Cell::EMPTY));
        let values = || self.cells.within(span).1.iter().filter_map(of);
        let count = |number: usize| number as f64;
        let value = match lookup.over {
            Over::Together => of(&merged()?)?,
            Over::Mean => of(&merged()?)? / count(values().count()),
            Over::Least => values().reduce(f64::min)?,
            Over::Most => values().reduce(f64::max)?,
            Over::Number => values().next().map(|_| count(values().count()))?,
            Over::Last => values().next_back()?,
        };
        let secs = count(usize::try_from(lookup.windows).unwrap_or(usize::MAX)) * (WINDOW_MS / 1000) as f64;
        Some(if lookup.per_second { value / secs } else { value })
    }

    /// The samples of a span's windows.
    pub fn samples(&self, metric: &Metric, span: Span) -> Vec<(i64, f64)> {
        let (starts, cells) = self.cells.within(span);
        let sample = |(start, cell): (&i64, &Cell)| Some((start + WINDOW_MS, value(metric, cell)?));
        starts.iter().zip(cells).filter_map(sample).collect()
    }
}

/// The number that `/v1/query` writes, as a float: there is no other in Prometheus.
fn value(metric: &Metric, cell: &Cell) -> Option<f64> {
    match metric.measure.of(cell) {
        Value::Integer(number) => Some(number as f64),
        Value::Decimal(text) => text.parse().ok(),
        Value::Null => None,
    }
}

impl Cells {
    fn new(cells: &[(i64, Cell)]) -> Self {
        let count = cells.len();
        let mut tree = vec![Cell::EMPTY; count];
        tree.extend(cells.iter().map(|(_, cell)| *cell));
        for n in (1..count).rev() {
            let mut both = tree[2 * n];
            both.merge(&tree[2 * n + 1]);
            tree[n] = both;
        }
        Self { starts: cells.iter().map(|(start, _)| *start).collect(), tree }
    }

    /// Where a span's cells begin and end.
    fn places(&self, span: Span) -> (usize, usize) {
        let place = |edge: i64| self.starts.partition_point(|start| *start < edge);
        (place(span.from_ms), place(span.to_ms))
    }

    fn within(&self, span: Span) -> (&[i64], &[Cell]) {
        let (from, to) = self.places(span);
        let count = self.starts.len();
        (&self.starts[from..to], &self.tree[count + from..count + to])
    }

    fn merged(&self, span: Span) -> Option<Cell> {
        let (from, to) = self.places(span);
        let (mut from, mut to) = (from + self.starts.len(), to + self.starts.len());
        let mut merged = (from < to).then_some(Cell::EMPTY)?;
        while from < to {
            if from % 2 == 1 {
                merged.merge(&self.tree[from]);
                from += 1;
            }
            if to % 2 == 1 {
                to -= 1;
                merged.merge(&self.tree[to]);
            }
            (from, to) = (from / 2, to / 2);
        }
        Some(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_core::amount::Amount;

    proptest! {
        #[test]
        fn cells_of_a_span_are_merged_as_one_by_one(amounts in proptest::collection::vec((1i64..4, -50i64..50), 0..40), from in 0i64..90, to in 0i64..90) {
            let mut at = 0i64;
            let cells: Vec<(i64, Cell)> = amounts.iter().map(|(gap, amount)| {
                let mut cell = Cell::EMPTY;
                cell.add(at.unsigned_abs(), Some(Amount::from_ten_thousandths(*amount)));
                at += gap;
                (at, cell)
            }).collect();
            let span = Span { from_ms: from.min(to), to_ms: from.max(to) };
            let one_by_one = cells.iter().filter(|(start, _)| (span.from_ms..span.to_ms).contains(start)).map(|(_, cell)| *cell).reduce(|mut whole, cell| {
                whole.merge(&cell);
                whole
            });
            prop_assert_eq!(Cells::new(&cells).merged(span), one_by_one);
        }
    }
}
