//! What an expression needs of the counts: for each metric that it names, which series, over which windows.

use super::labels::allowed;
use super::metric::{Metric, edge_before};
use promql_parser::label::Matcher;
use std::collections::BTreeSet;
use tidemark_core::view::Dimension;
use tidemark_core::window::WINDOW_MS;

/// When an expression is evaluated: at an instant, or at instants of equal distance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    pub start_ms: i64,
    pub end_ms: i64,
    pub step_ms: i64,
}

/// The instant that a lookup looks back from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// That which the expression is evaluated at.
    Evaluated,
    /// `@ start()`
    Start,
    /// `@ end()`
    End,
    /// `@ 1357034400`
    At(i64),
}

/// What becomes of the windows that a lookup has found of a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Their cells are merged, which is exact; the value is that of the whole.
    Together,
    /// A number made of the values of single windows.
    Mean,
    Least,
    Most,
    Number,
    Last,
}

/// One metric in an expression.
#[derive(Clone, PartialEq, Debug)]
pub struct Lookup {
    pub metric: &'static Metric,
    pub matchers: Vec<Matcher>,
    /// The labels of its series.
    pub labels: Vec<Dimension>,
    /// Whether the metric's name is a label, too.
    pub is_named: bool,
    /// How many windows it looks back: at least one.
    pub windows: i64,
    pub over: Over,
    pub per_second: bool,
    pub anchor: Anchor,
    pub offset_ms: i64,
}

/// Whole windows: those that begin at `from_ms` or later and end at `to_ms` or before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    pub from_ms: i64,
    pub to_ms: i64,
}

impl Times {
    pub fn instant(at_ms: i64) -> Self {
        Self { start_ms: at_ms, end_ms: at_ms, step_ms: 1 }
    }

    pub fn iter(self) -> impl ExactSizeIterator<Item = i64> {
        let points = usize::try_from((self.end_ms - self.start_ms) / self.step_ms).map_or(0, |steps| steps + 1);
        (0..points).map(move |n| self.start_ms + self.step_ms * i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl Lookup {
    /// The windows of an evaluation.
    pub fn span(&self, at_ms: i64, times: Times) -> Span {
        let to_ms = edge_before(self.looks_from(at_ms, times));
        Span { from_ms: to_ms.saturating_sub(self.windows.saturating_mul(WINDOW_MS)), to_ms }
    }

    /// The instant whose windows are meant.
    pub fn looks_from(&self, at_ms: i64, times: Times) -> i64 {
        let anchor_ms = match self.anchor {
            Anchor::Evaluated => at_ms,
            Anchor::Start => times.start_ms,
            Anchor::End => times.end_ms,
            Anchor::At(ms) => ms,
        };
        // Far from where additions would overflow.
        anchor_ms.saturating_sub(self.offset_ms).clamp(i64::MIN / 4, i64::MAX / 4)
    }

    /// True if all series are merged to one. That one is always there: nothing counted is a count of 0.
    pub fn is_total(&self) -> bool {
        self.labels.is_empty() && !self.is_named
    }

    /// What must be told of each cell: its labels, and what is matched.
    pub fn dimensions(&self) -> BTreeSet<Dimension> {
        let matched = Dimension::ALL.into_iter().filter(|dimension| self.matchers.iter().any(|matcher| matcher.name == dimension.name()));
        self.labels.iter().copied().chain(matched).collect()
    }

    /// The values of a dimension that can match, if that is known.
    pub fn allowed(&self, dimension: Dimension) -> Option<Vec<String>> {
        self.matchers.iter().filter(|matcher| matcher.name == dimension.name()).find_map(allowed)
    }

    /// True if all matchers match a series of these values. A label that there is not is empty.
    pub fn matches<'v>(&self, value: impl Fn(Dimension) -> &'v str) -> bool {
        let of = |matcher: &Matcher| Dimension::ALL.into_iter().find(|d| d.name() == matcher.name).map_or("", &value);
        self.matchers.iter().all(|matcher| matcher.is_match(of(matcher)))
    }
}
