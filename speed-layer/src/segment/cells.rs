//! One view's cells in a segment: for each window a table from group to cell.
//!
//! With a fine view most cells hold one event. Such a cell is kept as the event's place in the epoch, four bytes, from
//! which all that a cell says follows, and the amount if there is one; any other is a [`Cell`] in a list.

use super::AT_ONCE;
use super::slots::{Place, Slots};
use arrayvec::ArrayVec;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::hash::BuildHasher;
use tidemark_core::amount::Amount;
use tidemark_core::cell::{Cell, fold_of};
use tidemark_core::offset::Offset;
use tidemark_core::view::{Dimension, View};
use tidemark_core::window::{Level, TimeRange, WindowStart};

/// The numbers of a view's dimension values, in its order; unused places are 0.
pub(super) type Key = [u32; Dimension::COUNT];

/// An event as cells see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) window: WindowStart,
    /// By dimension.
    pub(super) numbers: Key,
    /// Offset within the epoch: below 2^26.
    pub(super) place: u32,
    pub(super) fold: u64,
    pub(super) amount: Option<Amount>,
}

/// Marks the number of a [`Cell`].
const IS_CELL: u32 = 1 << 31;
/// Marks the number of an event in [`Singles`]. Without a mark, a number is the place of the cell's only event.
const HAS_AMOUNT: u32 = 1 << 30;

#[derive(Debug)]
pub(super) struct ViewCells {
    pub(super) dimensions: Vec<Dimension>,
    groups: Groups,
    windows: HashMap<WindowStart, usize, FixedState>,
    /// By window, from a group's number to the cell.
    tables: Vec<(WindowStart, Slots)>,
    cells: Vec<Cell>,
    singles: Singles,
    /// The window of the last event: most events fall into the same one.
    last: Option<(WindowStart, usize)>,
    /// The epoch's first offset.
    first: Offset,
}

impl ViewCells {
    pub(super) fn new(view: &View, first: Offset) -> Self {
        let dimensions = view.dimensions().to_vec();
        let groups = Groups::new(dimensions.len());
        let (windows, tables, cells, singles) = Default::default();
        Self { dimensions, groups, windows, tables, cells, singles, last: None, first }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|(_, table)| table.len()).sum()
    }

    pub(super) fn count(&mut self, events: &[Counted]) {
        let keys: ArrayVec<(Key, u32), AT_ONCE> = events
            .iter()
            .map(|event| {
                let mut key: Key = [0; Dimension::COUNT];
                for (place, dimension) in key.iter_mut().zip(&self.dimensions) {
                    *place = event.numbers[dimension.index()];
                }
                (key, self.groups.tag(&key))
            })
            .collect();
        let mut found: ArrayVec<Found, AT_ONCE> = ArrayVec::new();
        for ((key, tag), event) in keys.into_iter().zip(events) {
            let group = self.groups.number(tag, key);
            let table = match self.last {
                Some((last, at)) if last == event.window => at,
                _ => self.table(event.window),
            };
            self.tables[table].1.prefetch(group);
            found.push(Found { group, table });
        }
        for (found, event) in found.iter().zip(events) {
            self.add(found, event);
        }
    }

    #[inline]
    fn add(&mut self, found: &Found, event: &Counted) {
        match self.tables[found.table].1.place(found.group, |_| true) {
            Place::Taken(number) if *number & IS_CELL != 0 => {
                self.cells[(*number & !IS_CELL) as usize].add(event.fold, event.amount);
            }
            Place::Taken(number) => {
                let (place, amount) = if *number & HAS_AMOUNT == 0 { (*number, None) } else { self.singles.take(*number) };
                let mut cell = only(self.first, place, amount);
                cell.add(event.fold, event.amount);
                *number = number_of(self.cells.len()) | IS_CELL;
                self.cells.push(cell);
            }
            Place::Free(free) => free.put(match event.amount {
                None => event.place,
                Some(amount) => self.singles.keep(event.place, amount),
            }),
        }
    }

    fn table(&mut self, window: WindowStart) -> usize {
        let next = self.tables.len();
        let at = *self.windows.entry(window).or_insert(next);
        if at == next {
            self.tables.push((window, Slots::default()));
        }
        self.last = Some((window, at));
        at
    }

    /// The cells of a range's windows. The windows are looked up one by one where that is less work than looking at all
    /// of them.
    pub(super) fn within(&self, range: TimeRange) -> impl Iterator<Item = (WindowStart, Key, Cell)> {
        let mut chosen: Vec<&(WindowStart, Slots)> = Vec::new();
        let steps = range.from_ms.zip(range.to_ms).map(|(from, to)| (from, (to - from).max(0) / Level::FiveMinutes.ms()));
        match steps {
            Some((from, steps)) if usize::try_from(steps).is_ok_and(|steps| steps < self.tables.len()) => {
                let wanted = (0..steps).map(|n| WindowStart::containing(from + n * Level::FiveMinutes.ms()));
                chosen.extend(wanted.filter_map(|window| self.windows.get(&window)).map(|&at| &self.tables[at]));
            }
            _ => chosen.extend(self.tables.iter().filter(|(window, _)| range.contains(*window))),
        }
        chosen
            .into_iter()
            .flat_map(|(window, table)| table.iter().map(|(group, number)| (*window, self.groups.key(group), self.cell(number))))
    }

    fn cell(&self, number: u32) -> Cell {
        if number & IS_CELL != 0 {
            return self.cells[(number & !IS_CELL) as usize];
        }
        let (place, amount) = if number & HAS_AMOUNT == 0 { (number, None) } else { self.singles.get(number) };
        only(self.first, place, amount)
    }

    /// Gives up room for more.
    pub(super) fn pack(&mut self) {
        self.tables.iter_mut().for_each(|(_, table)| table.pack());
        self.tables.shrink_to_fit();
        self.cells.shrink_to_fit();
        self.singles.pack();
        self.groups.pack();
    }
}

/// Where an event's cell is.
#[derive(Clone, Copy)]
struct Found {
    group: u32,
    table: usize,
}

/// The cell of one event.
fn only(first: Offset, place: u32, amount: Option<Amount>) -> Cell {
    let mut cell = Cell::EMPTY;
    cell.add(fold_of(Offset::new(first.get() + u64::from(place))), amount);
    cell
}

fn number_of(len: usize) -> u32 {
    u32::try_from(len).expect("an epoch has at most 2^26 records, so as many of anything")
}

/// Events that are the only ones of their cells and have an amount: twelve bytes where a cell has 64.
#[derive(Debug, Default)]
struct Singles {
    places: Vec<u32>,
    amounts: Vec<Amount>,
    /// Numbers of those that have become cells.
    free: Vec<u32>,
}

impl Singles {
    fn keep(&mut self, place: u32, amount: Amount) -> u32 {
        if let Some(number) = self.free.pop() {
            (self.places[number as usize], self.amounts[number as usize]) = (place, amount);
            return number | HAS_AMOUNT;
        }
        self.places.push(place);
        self.amounts.push(amount);
        number_of(self.places.len() - 1) | HAS_AMOUNT
    }

    fn get(&self, number: u32) -> (u32, Option<Amount>) {
        let at = (number & !HAS_AMOUNT) as usize;
        (self.places[at], Some(self.amounts[at]))
    }

    fn take(&mut self, number: u32) -> (u32, Option<Amount>) {
        self.free.push(number & !HAS_AMOUNT);
        self.get(number)
    }

    fn pack(&mut self) {
        self.places.shrink_to_fit();
        self.amounts.shrink_to_fit();
        self.free.shrink_to_fit();
    }
}

/// The combinations of values that occur, numbered in order of appearance.
#[derive(Debug)]
struct Groups {
    /// Dimensions. With one, a value's own number is the group's, and nothing is kept here.
    width: usize,
    /// Of each group as many numbers as there are dimensions.
    keys: Vec<u32>,
    slots: Slots,
    hasher: FixedState,
}

impl Groups {
    fn new(dimensions: usize) -> Self {
        Self { width: dimensions, keys: Vec::new(), slots: Slots::default(), hasher: FixedState::default() }
    }

    /// The key's tag, whose memory is asked for.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "half of the hash is what is wanted")]
    fn tag(&self, key: &Key) -> u32 {
        if self.width == 1 {
            return 0;
        }
        let tag = self.hasher.hash_one(key) as u32;
        self.slots.prefetch(tag);
        tag
    }

    #[inline]
    fn number(&mut self, tag: u32, key: Key) -> u32 {
        if self.width == 1 {
            return key[0];
        }
        let (keys, width) = (&mut self.keys, self.width);
        match self.slots.place(tag, |number| keys[number as usize * width..][..width] == key[..width]) {
            Place::Taken(number) => *number,
            Place::Free(free) => {
                let number = number_of(keys.len() / width);
                keys.extend_from_slice(&key[..width]);
                free.put(number);
                number
            }
        }
    }

    fn key(&self, number: u32) -> Key {
        if self.width == 1 {
            return [number, 0, 0];
        }
        let mut key: Key = [0; Dimension::COUNT];
        key[..self.width].copy_from_slice(&self.keys[number as usize * self.width..][..self.width]);
        key
    }

    fn pack(&mut self) {
        self.keys.shrink_to_fit();
        self.slots.pack();
    }
}
