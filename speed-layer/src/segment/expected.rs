//! A view's cells as history should have them, and how far it does.

use super::Segment;
use super::cells::{Key, ViewCells};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use tidemark_core::cell::Cell;
use tidemark_core::question::{RowKey, Rows};
use tidemark_core::view::Dimension;
use tidemark_core::window::{Level, TimeRange};

/// The cells of a view at a level, and what has been met of them. Values stay numbers, as the segment has them.
#[derive(Debug)]
pub struct Expected<'s> {
    segment: &'s Segment,
    dimensions: &'s [Dimension],
    cells: HashMap<(i64, Key), Pair, FixedState>,
    /// Met, but of values that the segment does not have.
    unknown: usize,
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Pair {
    ours: Cell,
    met: Cell,
}

impl<'s> Expected<'s> {
    pub(super) fn new(segment: &'s Segment, view: &'s ViewCells, level: Level) -> Self {
        let mut cells: HashMap<(i64, Key), Pair, FixedState> = HashMap::default();
        for (window, table) in view.within(TimeRange::default()) {
            let bucket_ms = window.at(level).ms();
            for (group, number) in table.iter() {
                cells.entry((bucket_ms, view.key(group))).or_default().ours.merge(&view.cell(number));
            }
        }
        Self { segment, dimensions: &view.dimensions, cells, unknown: 0 }
    }

    /// A cell of history's, or a piece of one.
    pub fn meet(&mut self, bucket_ms: i64, values: &[&str], cell: &Cell) {
        match self.key(values) {
            Some(key) => self.cells.entry((bucket_ms, key)).or_default().met.merge(cell),
            None => self.unknown += 1,
        }
    }

    /// `None` if the segment has met one of the values in no event.
    fn key(&self, values: &[&str]) -> Option<Key> {
        let mut key: Key = [0; Dimension::COUNT];
        for ((number, dimension), value) in key.iter_mut().zip(self.dimensions).zip(values) {
            *number = self.segment.number(*dimension, value)?;
        }
        Some(key)
    }

    /// How many cells are missing in history, more there, or other.
    pub fn differing(&self) -> usize {
        self.unknown + self.cells.values().filter(|pair| pair.ours != pair.met).count()
    }

    /// The segment's own cells, as rows.
    pub fn rows(&self) -> Rows {
        let value = |(&dimension, number): (&Dimension, u32)| self.segment.value(dimension, number).into();
        let row = |(&(bucket_ms, key), pair): (&(i64, Key), &Pair)| {
            (RowKey { bucket_ms, values: self.dimensions.iter().zip(key).map(value).collect() }, pair.ours)
        };
        self.cells.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::cell::fold_of;
    use tidemark_core::epoch::{Epoch, EpochBits};
    use tidemark_core::event::{Event, Properties};
    use tidemark_core::offset::Offset;
    use tidemark_core::view::{ViewId, Views};

    /// Cells of two products, of one event each.
    fn segment() -> Segment {
        let views = Views::declare([("by_product", vec!["event_type", "product_id"])]).expect("valid");
        let mut segment = Segment::new(Epoch(0), EpochBits::new(4).expect("valid"), &views);
        for (offset, product) in [(0, "p"), (1, "q")] {
            let event = Event {
                event_type: "a".into(),
                product_id: Some(product.into()),
                timestamp_ms: 0,
                order_amount: None,
                event_id: None,
                user_id: None,
                properties: Properties::default(),
            };
            segment.count(&[(Offset::new(offset), &event)]);
        }
        segment
    }

    #[test]
    fn every_way_to_differ_is_seen() {
        let segment = segment();
        let one = |offset| Cell::without_amounts(1, fold_of(Offset::new(offset)));
        let differing = |met: &[(i64, [&str; 2], Cell)]| {
            let mut expected = segment.expected(ViewId(0), Level::FiveMinutes);
            met.iter().for_each(|(bucket_ms, values, cell)| expected.meet(*bucket_ms, values, cell));
            expected.differing()
        };
        let (p, q) = ((0, ["a", "p"], one(0)), (0, ["a", "q"], one(1)));
        assert_eq!(differing(&[p, q]), 0);
        assert_eq!(differing(&[q, p]), 0);
        assert_eq!(differing(&[]), 2, "nothing is there");
        assert_eq!(differing(&[p]), 1, "one is missing");
        assert_eq!(differing(&[p, (0, ["a", "q"], one(2))]), 1, "of another event");
        assert_eq!(differing(&[p, (300_000, ["a", "q"], one(1))]), 2, "in another window: one missing, one more");
        assert_eq!(differing(&[p, q, (0, ["a", "r"], one(1))]), 1, "a value that was never met");
        assert_eq!(differing(&[p, q, (0, ["p", "a"], one(1))]), 1, "values of the other dimension");
        assert_eq!(differing(&[p, q, q]), 1, "twice");
        assert_eq!(differing(&[p, q, (0, ["a", "q"], Cell::EMPTY)]), 0, "in pieces");
    }
}
