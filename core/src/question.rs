//! A question that both layers answer, and the rows that they answer with.

use crate::cell::Cell;
use crate::view::Dimension;
use crate::window::{Buckets, TimeRange};
use std::collections::BTreeMap;

/// What is asked: which cells or events, and how they are grouped.
#[derive(Clone, PartialEq, Debug)]
pub struct Question {
    pub range: TimeRange,
    pub buckets: Buckets,
    /// Dimensions in the order in which the rows carry them.
    pub group_by: Vec<Dimension>,
    /// For each dimension named, the values of which one must match.
    pub filters: BTreeMap<Dimension, Vec<String>>,
    /// Nothing but counts is needed: the rest of an answer's cells may be left empty.
    pub only_counts: bool,
}

/// Groups by bucket start (0 for a total), then the values of `group_by`, bytewise: the order of an answer.
pub type Rows = BTreeMap<RowKey, Cell>;

/// What a row of an answer is grouped by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowKey {
    pub bucket_ms: i64,
    pub values: Vec<Box<str>>,
}

/// Adds rows to rows, cell by cell.
pub fn merge_rows(into: &mut Rows, from: Rows) {
    if into.is_empty() {
        *into = from;
        return;
    }
    for (key, cell) in from {
        into.entry(key).or_default().merge(&cell);
    }
}
