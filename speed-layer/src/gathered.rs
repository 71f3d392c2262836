//! The speed layer's part of an answer while segments add to it.
//!
//! Open epochs can hold hundreds of thousands of cells for an answer of a few rows, so most of the work is what is done
//! for each of them: groups are numbers until all is added up, and a bucket's cells stand in a row by these numbers.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use tidemark_core::cell::Cell;
use tidemark_core::question::{RowKey, Rows};

/// A group's number in the answer.
pub(crate) type GroupNumber = u32;

/// What has been added up so far.
#[derive(Debug, Default)]
pub struct Gathered {
    numbers: HashMap<Vec<Box<str>>, GroupNumber, FixedState>,
    cells: HashMap<(i64, GroupNumber), Cell, FixedState>,
    /// Of the bucket that is being added to, by group; empty cells between buckets.
    bucket: Vec<Cell>,
    /// The groups that have events in `bucket`.
    touched: Vec<GroupNumber>,
}

impl Gathered {
    /// The number of a group, given by its values; it gets one if it has none.
    pub(crate) fn number(&mut self, values: Vec<Box<str>>) -> GroupNumber {
        let next = GroupNumber::try_from(self.bucket.len()).expect("a group has an event, and open epochs have fewer than 2^32");
        let number = *self.numbers.entry(values).or_insert(next);
        if number == next {
            self.bucket.push(Cell::EMPTY);
        }
        number
    }

    /// Adds to a group's cell in the present bucket.
    #[inline]
    pub(crate) fn add(&mut self, group: GroupNumber, to: impl FnOnce(&mut Cell)) {
        let cell = &mut self.bucket[group as usize];
        if cell.count == 0 {
            self.touched.push(group);
        }
        to(cell);
    }

    /// What has been added since the last call belongs to this bucket.
    pub(crate) fn end_bucket(&mut self, bucket_ms: i64) {
        for group in self.touched.drain(..) {
            let cell = std::mem::take(&mut self.bucket[group as usize]);
            self.cells.entry((bucket_ms, group)).or_default().merge(&cell);
        }
    }

    pub fn into_rows(self) -> Rows {
        let mut values = vec![Vec::new(); self.numbers.len()];
        for (group, number) in self.numbers {
            values[number as usize] = group;
        }
        self.cells
            .into_iter()
            .map(|((bucket_ms, group), cell)| (RowKey { bucket_ms, values: values[group as usize].clone() }, cell))
            .collect()
    }
}
