//! Rows of answers as they come from the engine, and what they mean.

use clickhouse::Row;
use serde::Deserialize;
use tidemark_core::amount::{Amount, Sum};
use tidemark_core::cell::Cell;
use tidemark_core::question::{RowKey, Rows};

/// A bucket of a group: `b` is its start in seconds, `v` the group's values, and the rest a cell.
#[derive(Row, Deserialize, Debug)]
pub struct CellRow {
    b: i64,
    v: Vec<String>,
    c: u64,
    ac: u64,
    s: i128,
    lo: Option<i64>,
    hi: Option<i64>,
    f: u64,
}

/// A [`CellRow`] whose values stay where the engine's answer has them: an epoch has hundreds of thousands.
#[derive(Row, Deserialize, Debug)]
pub struct EpochCellRow<'a> {
    b: i64,
    #[serde(borrow)]
    v: Vec<&'a str>,
    c: u64,
    ac: u64,
    s: i128,
    lo: Option<i64>,
    hi: Option<i64>,
    f: u64,
}

impl EpochCellRow<'_> {
    pub fn bucket_ms(&self) -> i64 {
        self.b * 1000
    }

    pub fn values(&self) -> &[&str] {
        &self.v
    }

    pub fn cell(&self) -> Cell {
        cell_of(self.c, self.ac, self.s, self.lo, self.hi, self.f)
    }
}

/// A [`CellRow`] of which nothing but the count was asked.
#[derive(Row, Deserialize, Debug)]
pub struct CountRow {
    b: i64,
    v: Vec<String>,
    c: u64,
}

/// A group, and a count for each of its buckets.
#[derive(Row, Deserialize, Debug)]
pub struct CountsRow {
    v: Vec<String>,
    counts: Vec<u64>,
}

/// A [`CellRow`] without the group's values.
type Bucket = (i64, u64, u64, i128, Option<i64>, Option<i64>, u64);

/// A group, with all of its buckets.
#[derive(Row, Deserialize, Debug)]
pub struct CellsRow {
    v: Vec<String>,
    of_group: Vec<Bucket>,
}

fn key_of(bucket_secs: i64, values: Vec<String>) -> RowKey {
    RowKey { bucket_ms: bucket_secs * 1000, values: values.into_iter().map(String::into_boxed_str).collect() }
}

pub fn cell_of(count: u64, amount_count: u64, sum: i128, min: Option<i64>, max: Option<i64>, fold: u64) -> Cell {
    let amounts = min.zip(max).map(|(min, max)| (Amount::from_ten_thousandths(min), Amount::from_ten_thousandths(max)));
    Cell::from_parts(count, amount_count, Sum::from_ten_thousandths(sum), amounts, fold)
}

impl From<CountRow> for (RowKey, Cell) {
    fn from(row: CountRow) -> Self {
        (key_of(row.b, row.v), Cell::without_amounts(row.c, 0))
    }
}

impl From<CellRow> for (RowKey, Cell) {
    fn from(row: CellRow) -> Self {
        (key_of(row.b, row.v), cell_of(row.c, row.ac, row.s, row.lo, row.hi, row.f))
    }
}

impl CountsRow {
    /// The buckets that have events; the first of all begins at `first_secs`.
    pub fn rows(self, first_secs: i64, width_secs: i64) -> impl Iterator<Item = CountRow> {
        let buckets = (0..).map(move |n| first_secs + n * width_secs).zip(self.counts);
        buckets.filter(|(_, count)| *count > 0).map(move |(b, c)| CountRow { b, v: self.v.clone(), c })
    }
}

impl From<CellsRow> for Vec<CellRow> {
    fn from(CellsRow { v, of_group }: CellsRow) -> Self {
        of_group.into_iter().map(|(b, c, ac, s, lo, hi, f)| CellRow { b, v: v.clone(), c, ac, s, lo, hi, f }).collect()
    }
}

/// The pieces of a range can give rows of the same key.
pub fn rows_of<R: Into<(RowKey, Cell)>>(found: impl IntoIterator<Item = R>) -> Rows {
    let mut rows = Rows::new();
    for (key, cell) in found.into_iter().map(Into::into) {
        rows.entry(key).or_default().merge(&cell);
    }
    rows
}
