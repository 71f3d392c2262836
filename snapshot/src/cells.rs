//! Cells as fields and values of a Redis hash.

use tidemark_core::amount::{Amount, Sum};
use tidemark_core::cell::Cell;
use tidemark_core::epoch::Epoch;
use tidemark_core::view::ViewId;
use tidemark_core::window::WindowStart;

/// Cells of one view, epoch and window as they stand now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowCells {
    pub epoch: Epoch,
    pub view: ViewId,
    pub window: WindowStart,
    /// Fields and values.
    pub(crate) cells: Vec<(Vec<u8>, Vec<u8>)>,
}

impl WindowCells {
    pub fn new(epoch: Epoch, view: ViewId, window: WindowStart) -> Self {
        Self { epoch, view, window, cells: Vec::new() }
    }

    pub fn push<'v>(&mut self, values: impl ExactSizeIterator<Item = &'v str>, cell: &Cell) {
        self.cells.push((field(values), value(cell)));
    }

    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

/// Dimension values in the view's order: each but the last behind its length in two bytes.
fn field<'v>(values: impl ExactSizeIterator<Item = &'v str>) -> Vec<u8> {
    let (mut field, last) = (Vec::new(), values.len() - 1);
    for (place, value) in values.enumerate() {
        if place < last {
            let length = u16::try_from(value.len()).expect("a dimension's value has at most 256 bytes");
            field.extend_from_slice(&length.to_le_bytes());
        }
        field.extend_from_slice(value.as_bytes());
    }
    field
}

/// The values of a field, if it has as many.
pub(crate) fn values(mut field: &[u8], width: usize) -> Option<Vec<&str>> {
    let mut values = Vec::with_capacity(width);
    for _ in 1..width {
        let (length, rest) = field.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        values.push(std::str::from_utf8(value).ok()?);
        field = rest;
    }
    values.push(std::str::from_utf8(field).ok()?);
    Some(values)
}

/// Count and fold; where an event had an amount, also how many, their sum, and the least and greatest. Little-endian.
fn value(cell: &Cell) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(56);
    bytes.extend_from_slice(&cell.count.to_le_bytes());
    bytes.extend_from_slice(&cell.fold.to_le_bytes());
    if let Some((min, max)) = cell.min().zip(cell.max()) {
        bytes.extend_from_slice(&cell.amount_count.to_le_bytes());
        bytes.extend_from_slice(&cell.sum.ten_thousandths().to_le_bytes());
        bytes.extend_from_slice(&min.ten_thousandths().to_le_bytes());
        bytes.extend_from_slice(&max.ten_thousandths().to_le_bytes());
    }
    bytes
}

pub(crate) fn cell(bytes: &[u8]) -> Option<Cell> {
    let (count, rest) = bytes.split_first_chunk()?;
    let (fold, rest) = rest.split_first_chunk()?;
    let (count, fold) = (u64::from_le_bytes(*count), u64::from_le_bytes(*fold));
    if rest.is_empty() {
        return Some(Cell::without_amounts(count, fold));
    }
    let (amounts, rest) = rest.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let (min, rest) = rest.split_first_chunk()?;
    let max = rest.try_into().ok()?;
    let amount = |bytes| Amount::from_ten_thousandths(i64::from_le_bytes(bytes));
    let sum = Sum::from_ten_thousandths(i128::from_le_bytes(*sum));
    Some(Cell::from_parts(count, u64::from_le_bytes(*amounts), sum, Some((amount(*min), amount(max))), fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_read_as_it_was_written() {
        let mut with_amounts = Cell::EMPTY;
        for amount in [None, Some(-1), Some(i64::MAX), Some(i64::MAX)] {
            with_amounts.add(u64::MAX / 3, amount.map(Amount::from_ten_thousandths));
        }
        for written in [Cell::EMPTY, Cell::without_amounts(u64::MAX, 1), with_amounts] {
            let bytes = value(&written);
            assert_eq!(cell(&bytes), Some(written));
            assert_eq!(cell(&bytes[1..]), None, "torn");
        }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let long = "x".repeat(256);
        for written in [vec![""], vec!["a"], vec!["", ""], vec!["a", "", "b"], vec![&long, "é\0:", &long]] {
            let field = field(written.iter().copied());
            assert_eq!(values(&field, written.len()), Some(written));
        }
        assert_eq!(values(b"\x05\x00ab", 2), None, "torn");
        assert_eq!(values(b"\xff", 1), None, "not UTF-8");
    }
}
