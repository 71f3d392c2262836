//! Labels of series: dimensions, and the metric's name.

use promql_parser::label::{METRIC_NAME, MatchOp, Matcher};
use std::sync::Arc;
use tidemark_core::view::Dimension;

/// A series' labels in the order of their names. One that is empty is no label, as everywhere in Prometheus.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Labels(Vec<(&'static str, Arc<str>)>);

/// Which labels remain when series are put together, or which are looked at when they are matched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grouping {
    By(Vec<String>),
    Without(Vec<String>),
}

impl Labels {
    pub fn new<'v>(metric: Option<&str>, values: impl IntoIterator<Item = (Dimension, &'v str)>) -> Self {
        let name = metric.map(|name| (METRIC_NAME, Arc::from(name)));
        let values = values.into_iter().filter(|(_, value)| !value.is_empty());
        let mut labels: Vec<_> = name.into_iter().chain(values.map(|(dimension, value)| (dimension.name(), Arc::from(value)))).collect();
        labels.sort_unstable_by_key(|(name, _)| *name);
        Self(labels)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, &**value))
    }

    pub fn has_name(&self) -> bool {
        self.0.iter().any(|(name, _)| *name == METRIC_NAME)
    }

    #[must_use]
    pub fn without_name(&self) -> Self {
        self.grouped(&Grouping::Without(Vec::new()))
    }

    #[must_use]
    pub fn grouped(&self, grouping: &Grouping) -> Self {
        Self(self.0.iter().filter(|(name, _)| grouping.keeps(name)).cloned().collect())
    }
}

impl Grouping {
    pub fn keeps(&self, label: &str) -> bool {
        let among = |names: &[String]| names.iter().any(|name| name == label);
        match self {
            Self::By(names) => among(names),
            Self::Without(names) => label != METRIC_NAME && !among(names),
        }
    }

    /// The dimensions that must be known for it.
    pub fn dimensions(&self) -> Vec<Dimension> {
        match self {
            Self::By(names) => Dimension::ALL.into_iter().filter(|dimension| names.iter().any(|name| name == dimension.name())).collect(),
            Self::Without(_) => Vec::new(),
        }
    }
}

/// The values that a matcher lets through, if these are a few that can be told.
pub fn allowed(matcher: &Matcher) -> Option<Vec<String>> {
    match &matcher.op {
        MatchOp::Equal => Some(vec![matcher.value.clone()]),
        MatchOp::Re(regex) => {
            // Anchors say nothing here: the whole value is meant.
            let parsed = regex_syntax::parse(regex.as_str()).ok()?;
            let found = regex_syntax::hir::literal::Extractor::new().extract(&parsed);
            let exact = found.literals().filter(|literals| literals.iter().all(|literal| literal.is_exact()))?;
            exact.iter().map(|literal| String::from_utf8(literal.as_bytes().to_vec()).ok()).collect()
        }
        MatchOp::NotEqual | MatchOp::NotRe(_) => None,
    }
}
