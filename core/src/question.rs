//! A question that both layers answer, and the rows that they answer with.

use crate::cell::Cell;
use crate::view::Dimension;
use crate::window::{BucketError, Buckets, TimeRange, WindowStart};
use std::collections::{BTreeMap, BTreeSet};

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

impl Question {
    /// The row that something in a window with these values counts in; `None` if the range or a filter is against it.
    pub fn row_of<'v>(&self, window: WindowStart, value: impl Fn(Dimension) -> &'v str) -> Result<Option<RowKey>, BucketError> {
        let is_wanted = |(&dimension, allowed): (&Dimension, &Vec<String>)| allowed.iter().any(|wanted| wanted == value(dimension));
        if !self.range.contains(window) || !self.filters.iter().all(is_wanted) {
            return Ok(None);
        }
        let values = self.group_by.iter().map(|&dimension| value(dimension).into()).collect();
        Ok(Some(RowKey { bucket_ms: self.buckets.start_of(window.ms())?, values }))
    }
}

/// Groups by bucket start (0 for a total), then the values of `group_by`, bytewise: the order of an answer.
pub type Rows = BTreeMap<RowKey, Cell>;

/// What a row of an answer is grouped by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowKey {
    pub bucket_ms: i64,
    pub values: Vec<Box<str>>,
}

/// Which groups of an answer are needed. An answer may have more.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Groups {
    All,
    /// The `n` with the largest counts over the whole range, of equal ones those with the smaller values; and those named.
    Largest {
        n: usize,
        and: BTreeSet<Vec<Box<str>>>,
    },
}

impl Groups {
    /// What the closed epochs must tell so that the `n` largest groups can be found once `live` rows are added: their own
    /// `n` largest and the groups with live rows. Any other group comes after those `n`, and live rows only add to them.
    /// All, if more than `most_named` groups have live rows.
    pub fn for_the_largest(n: usize, live: &Rows, most_named: usize) -> Self {
        let mut and = BTreeSet::new();
        for key in live.keys() {
            if !and.contains(&key.values) {
                if and.len() == most_named {
                    return Self::All;
                }
                and.insert(key.values.clone());
            }
        }
        Self::Largest { n, and }
    }

    /// Drops the rows of groups that are not needed. As many groups stay as are needed at most: those named first, then
    /// the largest.
    pub fn keep(&self, rows: &mut Rows) {
        let Self::Largest { n, and } = self else { return };
        let mut counts: BTreeMap<&[Box<str>], u64> = BTreeMap::new();
        rows.iter().for_each(|(key, cell)| *counts.entry(&key.values).or_default() += cell.count);
        let mut ranked: Vec<(&[Box<str>], u64)> = counts.into_iter().collect();
        // Stable, so that equal counts stay in the order of their values.
        ranked.sort_by_key(|(values, count)| (!and.contains(*values), std::cmp::Reverse(*count)));
        let kept: BTreeSet<Vec<Box<str>>> = ranked.iter().take(n + and.len()).map(|(values, _)| values.to_vec()).collect();
        rows.retain(|key, _| kept.contains(&key.values));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_groups_are_kept_first_and_have_room_of_their_own() {
        let group = |name: &str| vec![Box::from(name)];
        let counted = [("a", 0, 3), ("a", 1, 3), ("b", 0, 5), ("c", 0, 1), ("d", 0, 5), ("e", 1, 4)];
        let row = |(name, bucket_ms, count)| (RowKey { bucket_ms, values: group(name) }, Cell::without_amounts(count, 0));
        let kept = |n, and: &[&str]| {
            let mut rows: Rows = counted.into_iter().map(row).collect();
            Groups::Largest { n, and: and.iter().map(|name| group(name)).collect() }.keep(&mut rows);
            rows.into_keys().map(|key| format!("{}{}", key.values[0], key.bucket_ms)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kept(1, &[]), "a0 a1");
        assert_eq!(kept(2, &[]), "a0 b0 a1");
        assert_eq!(kept(1, &["c"]), "a0 c0 a1");
        assert_eq!(kept(1, &["c", "not there"]), "a0 b0 c0 a1");
        assert_eq!(kept(9, &["c"]), "a0 b0 c0 d0 a1 e1");
    }
}
