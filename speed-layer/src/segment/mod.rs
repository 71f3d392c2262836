//! A segment: the cells of every view for one epoch of one partition.
//!
//! Counting an event allocates nothing once its dimension values, its windows and its cells exist: values are interned
//! to numbers in a dictionary of the segment's own (so that it is bounded by the epoch and goes with it), their
//! combination is a group, and a cell is found by window and group.

mod cells;
mod dictionary;
mod expected;
mod slots;
mod touched;

use crate::gathered::{Gathered, GroupNumber};
use arrayvec::ArrayVec;
use cells::{Counted, Key, ViewCells};
use dictionary::Dictionary;
pub use expected::Expected;
use slots::Slots;
use tidemark_core::cell::{Cell, Tally, fold_of};
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::event::Event;
use tidemark_core::offset::Offset;
use tidemark_core::question::Question;
use tidemark_core::view::{Dimension, View, ViewId, Views};
use tidemark_core::window::{BucketError, Level, TimeRange, WindowStart};
use tidemark_snapshot::WindowCells;
use touched::Touched;

/// Events that are counted side by side.
pub(crate) const AT_ONCE: usize = 16;

/// Cells of a window that are gathered at a time, to be written.
const GATHERED_AT_ONCE: usize = 10_000;

/// Which cells have changed: of each view the places of cells.
#[derive(Debug)]
pub struct Changes(Vec<Vec<(u32, u32)>>);

impl Changes {
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One epoch's counts.
#[derive(Debug)]
pub struct Segment {
    epoch: Epoch,
    bits: EpochBits,
    /// By dimension; `None` where no view has it.
    values: [Option<Dictionary>; Dimension::COUNT],
    views: Vec<ViewCells>,
    /// Events, duplicates and dead letters so far; holes are what is left of the span once the epoch is complete.
    tally: Tally,
    fold: u64,
}

impl Segment {
    pub fn new(epoch: Epoch, bits: EpochBits, views: &Views) -> Self {
        let mut values: [Option<Dictionary>; Dimension::COUNT] = Default::default();
        for dimension in views.iter().flat_map(View::dimensions) {
            values[dimension.index()].get_or_insert_default();
        }
        let first = Offset::new(bits.start_of(epoch).get());
        let views = views.iter().map(|view| ViewCells::new(view, first)).collect();
        Self { epoch, bits, values, views, tally: Tally::default(), fold: 0 }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Fold of all events of the segment.
    pub fn fold(&self) -> u64 {
        self.fold
    }

    /// Cells held, over all views.
    pub fn cells(&self) -> usize {
        self.views.iter().map(ViewCells::len).sum()
    }

    /// Counts events of the segment's epoch: all of them one step, then all of them the next, so that memory is on its
    /// way to one event while another is looked at.
    pub fn count(&mut self, events: &[(Offset, &Event<'_>)]) {
        for events in events.chunks(AT_ONCE) {
            let tags: ArrayVec<[u32; Dimension::COUNT], AT_ONCE> = events.iter().map(|(_, event)| self.tags(event)).collect();
            let interned = events.iter().zip(&tags).map(|((offset, event), tags)| self.interned(*offset, event, tags));
            let counted: ArrayVec<Counted, AT_ONCE> = interned.collect();
            self.views.iter_mut().for_each(|view| view.count(&counted));
        }
    }

    /// The tags of an event's values, whose memory is on its way from here on.
    #[inline]
    fn tags(&self, event: &Event<'_>) -> [u32; Dimension::COUNT] {
        let mut tags = [0; Dimension::COUNT];
        for dimension in Dimension::ALL {
            if let Some(dictionary) = &self.values[dimension.index()] {
                tags[dimension.index()] = dictionary.tag(dimension.value(event));
            }
        }
        tags
    }

    #[inline]
    fn interned(&mut self, offset: Offset, event: &Event<'_>, tags: &[u32; Dimension::COUNT]) -> Counted {
        let fold = fold_of(offset);
        self.tally.events += 1;
        self.fold = self.fold.wrapping_add(fold);
        let mut numbers: Key = [0; Dimension::COUNT];
        for dimension in Dimension::ALL {
            if let Some(dictionary) = &mut self.values[dimension.index()] {
                numbers[dimension.index()] = dictionary.intern(tags[dimension.index()], dimension.value(event));
            }
        }
        let window = WindowStart::containing(event.timestamp_ms);
        Counted { window, numbers, place: self.bits.place_of(offset), fold, amount: event.order_amount }
    }

    /// From here on it is noted which cells change.
    pub fn note_changes(&mut self) {
        self.views.iter_mut().for_each(|view| view.touched = Some(Touched::default()));
    }

    /// Which cells have changed since the last call; `None` if too many.
    pub fn take_changes(&mut self) -> Option<Changes> {
        let cells: Vec<_> = self.views.iter_mut().map(|view| view.touched.as_mut().map_or(Some(Vec::new()), Touched::take)).collect();
        cells.into_iter().collect::<Option<_>>().map(Changes)
    }

    /// The cells of these changes as they are now.
    pub fn changed(&self, changes: &Changes, visit: &mut impl FnMut(WindowCells)) {
        for (n, (view, cells)) in self.views.iter().zip(&changes.0).enumerate() {
            view.touched(cells, |window, cells| self.gather(ViewId(n), window, cells.iter().copied(), visit));
        }
    }

    /// All cells.
    pub fn all(&self, visit: &mut impl FnMut(WindowCells)) {
        for (n, view) in self.views.iter().enumerate() {
            for (window, table) in view.within(TimeRange::default()) {
                self.gather(ViewId(n), window, table.iter(), visit);
            }
        }
    }

    /// Cells of a table, given by group and number, as they are to be written.
    fn gather(&self, id: ViewId, window: WindowStart, cells: impl Iterator<Item = (u32, u32)>, visit: &mut impl FnMut(WindowCells)) {
        let view = &self.views[id.0];
        let mut gathered = WindowCells::new(self.epoch, id, window);
        for (group, number) in cells {
            let key = view.key(group);
            let values: ArrayVec<&str, { Dimension::COUNT }> =
                view.dimensions.iter().zip(key).map(|(d, number)| self.value(*d, number)).collect();
            gathered.push(values.into_iter(), &view.cell(number));
            if gathered.len() == GATHERED_AT_ONCE {
                visit(std::mem::replace(&mut gathered, WindowCells::new(self.epoch, id, window)));
            }
        }
        if !gathered.is_empty() {
            visit(gathered);
        }
    }

    /// What became of the records, as somebody has counted before; the cells are put one by one.
    pub fn restored(epoch: Epoch, bits: EpochBits, views: &Views, tally: Tally, fold: u64) -> Self {
        Self { tally, fold, ..Self::new(epoch, bits, views) }
    }

    /// Puts a cell where none is; false if one is there.
    pub fn put(&mut self, view: ViewId, window: WindowStart, values: &[&str], cell: &Cell) -> bool {
        let view = &mut self.views[view.0];
        let mut key: Key = [0; Dimension::COUNT];
        for ((number, dimension), value) in key.iter_mut().zip(&view.dimensions).zip(values) {
            let Some(dictionary) = &mut self.values[dimension.index()] else { return false };
            *number = dictionary.intern(dictionary.tag(value), value);
        }
        view.put(window, key, *cell)
    }

    pub fn duplicate(&mut self) {
        self.tally.duplicates += 1;
    }

    pub fn dead_letter(&mut self) {
        self.tally.dead_letters += 1;
    }

    /// Gives up room for more: the epoch is complete, and may stay open for long.
    pub fn pack(&mut self) {
        self.values.iter_mut().flatten().for_each(Dictionary::pack);
        self.views.iter_mut().for_each(ViewCells::pack);
    }

    fn value(&self, dimension: Dimension, number: u32) -> &str {
        let dictionary = self.values[dimension.index()].as_ref();
        dictionary.expect("a view's dimensions have dictionaries").value(number)
    }

    /// Adds this segment's part of the answer.
    pub fn answer(&self, view: ViewId, question: &Question, gathered: &mut Gathered) -> Result<(), BucketError> {
        let view = &self.views[view.0];
        let Some(filters) = self.filters(view, question) else { return Ok(()) };
        let places: Vec<usize> = question.group_by.iter().filter_map(|d| view.dimensions.iter().position(|own| own == d)).collect();
        let tables = view.within(question.range).into_iter();
        let tables = tables.map(|(window, table)| Ok((question.buckets.start_of(window.ms())?, table)));
        let mut tables = tables.collect::<Result<Vec<(i64, &Slots)>, BucketError>>()?;
        // Bucket by bucket. Windows appear nearly in order of time, and so nothing is moved far.
        tables.sort_by_key(|(bucket_ms, _)| *bucket_ms);
        let mut groups = AnswerGroups::default();
        for bucket in tables.chunk_by(|(one, _), (next, _)| one == next) {
            for (group, number) in bucket.iter().flat_map(|(_, table)| table.iter()) {
                let answers = groups.of(group, || {
                    let key = view.key(group);
                    let is_wanted = filters.iter().all(|(place, numbers)| numbers.contains(&key[*place]));
                    let value = |(&d, &place): (&Dimension, &usize)| self.value(d, key[place]).into();
                    is_wanted.then(|| gathered.number(question.group_by.iter().zip(&places).map(value).collect()))
                });
                match answers {
                    None => {}
                    Some(answers) if question.only_counts => gathered.add(answers, |cell| cell.count += view.count_of(number)),
                    Some(answers) => gathered.add(answers, |cell| cell.merge(&view.cell(number))),
                }
            }
            gathered.end_bucket(bucket[0].0);
        }
        Ok(())
    }

    /// For each filter, the place in the key and the numbers of its values here; `None` if a filter matches nothing.
    fn filters(&self, view: &ViewCells, question: &Question) -> Option<Vec<(usize, Vec<u32>)>> {
        let numbers = |(dimension, values): (&Dimension, &Vec<String>)| {
            let place = view.dimensions.iter().position(|own| own == dimension)?;
            let numbers: Vec<u32> = values.iter().filter_map(|value| self.number(*dimension, value)).collect();
            (!numbers.is_empty()).then_some((place, numbers))
        };
        question.filters.iter().map(numbers).collect()
    }

    /// All cells of a view rolled up to a level, to be compared with history's.
    pub fn expected(&self, view: ViewId, level: Level) -> Expected<'_> {
        Expected::new(self, &self.views[view.0], level)
    }

    fn number(&self, dimension: Dimension, value: &str) -> Option<u32> {
        self.values[dimension.index()].as_ref()?.number(value)
    }
}

/// Which of the answer's groups each group of a view belongs to, found out when it is first met.
#[derive(Default)]
struct AnswerGroups(Vec<Option<Option<GroupNumber>>>);

impl AnswerGroups {
    /// `None` if a filter is against the group.
    #[inline]
    fn of(&mut self, group: u32, find: impl FnOnce() -> Option<GroupNumber>) -> Option<GroupNumber> {
        let at = group as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        *self.0[at].get_or_insert_with(find)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::collections::BTreeMap;
    use tidemark_core::amount::Amount;
    use tidemark_core::event::Properties;
    use tidemark_core::question::{RowKey, Rows};
    use tidemark_core::window::{Buckets, Step};

    /// Few values, so that some cells hold many events, and some one.
    fn events() -> impl Strategy<Value = Vec<(&'static str, &'static str, i64, Option<i64>)>> {
        let event =
            (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["p", "q", "r", ""]), 0i64..4, prop::option::of(-99i64..99));
        prop::collection::vec(event, 0..200)
    }

    proptest! {
        /// What a map from key to cell would hold; packing in the middle changes nothing.
        #[test]
        fn a_segment_holds_the_cells_of_its_events(events in events(), packed_at in 0usize..200) {
            let views = Views::declare([("by_product", vec!["event_type", "product_id"])]).expect("valid");
            let bits = EpochBits::new(18).expect("valid");
            let mut segment = Segment::new(Epoch(1), bits, &views);
            let mut expected: Rows = BTreeMap::new();
            let first = bits.start_of(Epoch(1)).get();
            for (n, &(event_type, product, window, amount)) in events.iter().enumerate() {
                if n == packed_at {
                    segment.pack();
                }
                let (offset, amount) = (Offset::new(first + n as u64), amount.map(Amount::from_ten_thousandths));
                let event = Event {
                    event_type: Cow::Borrowed(event_type),
                    product_id: Some(Cow::Borrowed(product)),
                    timestamp_ms: window * 300_000,
                    order_amount: amount,
                    event_id: None,
                    user_id: None,
                    properties: Properties::default(),
                };
                segment.count(&[(offset, &event)]);
                let key = RowKey { bucket_ms: window * 300_000, values: vec![event_type.into(), product.into()] };
                expected.entry(key).or_default().add(fold_of(offset), amount);
            }
            prop_assert_eq!(segment.cells(), expected.len());
            prop_assert_eq!(&segment.expected(ViewId(0), Level::FiveMinutes).rows(), &expected);
            let question = Question {
                range: TimeRange::default(),
                buckets: Buckets::new(Step::FiveMinutes, None).expect("UTC"),
                group_by: vec![Dimension::EventType, Dimension::ProductId],
                filters: BTreeMap::new(),
                only_counts: true,
            };
            let mut gathered = Gathered::default();
            segment.answer(ViewId(0), &question, &mut gathered).expect("on an edge");
            let counts = |rows: Rows| rows.into_iter().map(|(key, cell)| (key, cell.count)).collect::<Vec<_>>();
            prop_assert_eq!(counts(gathered.into_rows()), counts(expected));
        }
    }
}
