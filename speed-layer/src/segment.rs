//! A segment: the cells of every view for one epoch of one partition.
//!
//! Counting an event allocates nothing once its dimension values, its windows and its cells exist: values are interned
//! to numbers in a dictionary of the segment's own (so that it is bounded by the epoch and goes with it), a cell is
//! found by window and numbers.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use std::hash::BuildHasher;
use tidemark_core::cell::{Cell, Tally, fold_of};
use tidemark_core::epoch::Epoch;
use tidemark_core::event::Event;
use tidemark_core::offset::Offset;
use tidemark_core::question::{Question, RowKey, Rows};
use tidemark_core::view::{Dimension, View, ViewId, Views};
use tidemark_core::window::{BucketError, Level, TimeRange, WindowStart};

/// Interned values of a view's dimensions, in its order; unused places are 0.
type Key = [u32; Dimension::COUNT];

/// One window's cells. In sparse data most windows hold one or two, and the smallest hash table has four places: there
/// a list takes a third of the memory.
#[derive(Debug)]
enum Cells {
    Few(Vec<(Key, Cell)>),
    Many(HashMap<Key, Cell, FixedState>),
}

/// Up to so many keys are looked through one by one, which is no slower than hashing.
const FEW: usize = 8;

impl Default for Cells {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    /// The cell of a key, made if there is none.
    #[inline]
    fn cell(&mut self, key: Key) -> &mut Cell {
        if let Self::Few(few) = self
            && few.len() == FEW
            && few.iter().all(|(own, _)| *own != key)
        {
            *self = Self::Many(few.drain(..).collect());
        }
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|(own, _)| *own == key).unwrap_or(few.len());
                if at == few.len() {
                    if few.capacity() == at {
                        few.reserve_exact(at.max(1)); // 1, 2, 4, 8: by itself a list would begin with four places
                    }
                    few.push((key, Cell::EMPTY));
                }
                &mut few[at].1
            }
            Self::Many(many) => many.entry(key).or_default(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&Key, &Cell)> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few), None),
            Self::Many(many) => (None, Some(many)),
        };
        few.into_iter().flatten().map(|(key, cell)| (key, cell)).chain(many.into_iter().flatten())
    }
}

/// One epoch's counts.
#[derive(Debug)]
pub struct Segment {
    epoch: Epoch,
    values: [Dictionary; Dimension::COUNT],
    views: Vec<ViewCells>,
    /// Events, duplicates and dead letters so far; holes are what is left of the span once the epoch is complete.
    tally: Tally,
    fold: u64,
}

/// The values of one dimension, numbered in order of appearance.
#[derive(Debug, Default)]
struct Dictionary {
    used: bool,
    names: Vec<Box<str>>,
    ids: HashTable<u32>,
    hasher: FixedState,
}

impl Dictionary {
    #[inline]
    fn intern(&mut self, name: &str) -> u32 {
        let hash = self.hasher.hash_one(name);
        let names = &self.names;
        match self.ids.find(hash, |&id| &*names[id as usize] == name) {
            Some(&id) => id,
            None => self.add(hash, name),
        }
    }

    #[cold]
    fn add(&mut self, hash: u64, name: &str) -> u32 {
        let id = u32::try_from(self.names.len()).expect("an epoch has at most 2^26 records, so as many values");
        self.names.push(name.into());
        let (names, hasher) = (&self.names, &self.hasher);
        self.ids.insert_unique(hash, id, |&id| hasher.hash_one(&*names[id as usize]));
        id
    }

    fn id(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.ids.find(hash, |&id| &*self.names[id as usize] == name).copied()
    }
}

/// One view's cells, by window.
#[derive(Debug)]
struct ViewCells {
    dimensions: Vec<Dimension>,
    windows: HashMap<WindowStart, usize, FixedState>,
    cells: Vec<(WindowStart, Cells)>,
    /// The window of the last event: most events fall into the same one.
    last: Option<(WindowStart, usize)>,
}

impl ViewCells {
    fn new(view: &View) -> Self {
        Self { dimensions: view.dimensions().to_vec(), windows: HashMap::default(), cells: Vec::new(), last: None }
    }

    #[inline]
    fn window(&mut self, window: WindowStart) -> &mut Cells {
        let at = match self.last {
            Some((last, at)) if last == window => at,
            _ => self.find(window),
        };
        &mut self.cells[at].1
    }

    fn find(&mut self, window: WindowStart) -> usize {
        let next = self.cells.len();
        let at = *self.windows.entry(window).or_insert(next);
        if at == next {
            self.cells.push((window, Cells::default()));
        }
        self.last = Some((window, at));
        at
    }

    /// The windows of a range: looked up one by one where that is less work than looking at all of them.
    fn windows_in(&self, range: TimeRange) -> Vec<&(WindowStart, Cells)> {
        if let (Some(from), Some(to)) = (range.from_ms, range.to_ms) {
            let steps = (to - from).max(0) / Level::FiveMinutes.ms();
            if usize::try_from(steps).is_ok_and(|steps| steps < self.cells.len()) {
                let wanted = (0..steps).map(|n| WindowStart::containing(from + n * Level::FiveMinutes.ms()));
                return wanted.filter_map(|window| self.windows.get(&window)).map(|&at| &self.cells[at]).collect();
            }
        }
        self.cells.iter().filter(|(window, _)| range.contains(*window)).collect()
    }
}

impl Segment {
    pub fn new(epoch: Epoch, views: &Views) -> Self {
        let mut values: [Dictionary; Dimension::COUNT] = Default::default();
        for dimension in views.iter().flat_map(View::dimensions) {
            values[dimension.index()].used = true;
        }
        Self { epoch, values, views: views.iter().map(ViewCells::new).collect(), tally: Tally::default(), fold: 0 }
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
        self.views.iter().flat_map(|view| &view.cells).map(|(_, cells)| cells.len()).sum()
    }

    #[inline]
    pub fn count(&mut self, offset: Offset, event: &Event<'_>) {
        let fold = fold_of(offset);
        self.tally.events += 1;
        self.fold = self.fold.wrapping_add(fold);
        let mut ids: Key = [0; Dimension::COUNT];
        for dimension in Dimension::ALL {
            let dictionary = &mut self.values[dimension.index()];
            if dictionary.used {
                ids[dimension.index()] = dictionary.intern(dimension.value(event));
            }
        }
        let window = WindowStart::containing(event.timestamp_ms);
        for view in &mut self.views {
            let mut key: Key = [0; Dimension::COUNT];
            for (place, dimension) in key.iter_mut().zip(&view.dimensions) {
                *place = ids[dimension.index()];
            }
            view.window(window).cell(key).add(fold, event.order_amount);
        }
    }

    pub fn duplicate(&mut self) {
        self.tally.duplicates += 1;
    }

    pub fn dead_letter(&mut self) {
        self.tally.dead_letters += 1;
    }

    /// Adds this segment's part of the answer to `rows`.
    pub fn answer(&self, question: &Question, rows: &mut Rows) -> Result<(), BucketError> {
        let view = &self.views[question.view.0];
        let Some(allowed) = self.filters(view, question) else { return Ok(()) };
        let places: Vec<usize> = question.group_by.iter().filter_map(|d| view.dimensions.iter().position(|own| own == d)).collect();
        let mut groups: HashMap<(i64, Key), Cell, FixedState> = HashMap::default();
        for (window, cells) in view.windows_in(question.range) {
            let bucket = question.buckets.start_of(window.ms())?;
            for (key, cell) in cells.iter() {
                if allowed.iter().all(|(place, ids)| ids.contains(&key[*place])) {
                    let mut group: Key = [0; Dimension::COUNT];
                    for (to, &from) in group.iter_mut().zip(&places) {
                        *to = key[from];
                    }
                    groups.entry((bucket, group)).or_default().merge(cell);
                }
            }
        }
        for ((bucket_ms, group), cell) in groups {
            let names = question.group_by.iter().zip(group).map(|(d, id)| self.values[d.index()].names[id as usize].clone());
            rows.entry(RowKey { bucket_ms, values: names.collect() }).or_default().merge(&cell);
        }
        Ok(())
    }

    /// For each filter, the place in the key and the numbers of its values here; `None` if a filter matches nothing.
    fn filters(&self, view: &ViewCells, question: &Question) -> Option<Vec<(usize, Vec<u32>)>> {
        let numbers = |(dimension, values): (&Dimension, &Vec<String>)| {
            let place = view.dimensions.iter().position(|own| own == dimension)?;
            let ids: Vec<u32> = values.iter().filter_map(|value| self.values[dimension.index()].id(value)).collect();
            (!ids.is_empty()).then_some((place, ids))
        };
        question.filters.iter().map(numbers).collect()
    }

    /// All cells of a view rolled up to a level, as reconciliation compares them with history's.
    pub fn rows(&self, view: ViewId, level: Level) -> Rows {
        let view = &self.views[view.0];
        let mut rows = Rows::new();
        for (window, cells) in &view.cells {
            let bucket_ms = window.at(level).ms();
            for (key, cell) in cells.iter() {
                let names = view.dimensions.iter().zip(key).map(|(d, &id)| self.values[d.index()].names[id as usize].clone());
                rows.entry(RowKey { bucket_ms, values: names.collect() }).or_default().merge(cell);
            }
        }
        rows
    }
}
