//! One view's cells in a segment: for each window a table from group to cell.
//!
//! With a fine view most cells hold one event, and few have amounts, so cells are of four kinds. One event is kept as its
//! place in the epoch, four bytes, from which all that a cell says follows; with an amount, as 16 bytes, and so are
//! several events without amounts. Only what is left is a [`Cell`] of 64.

use super::AT_ONCE;
use super::slots::{Place, Slots};
use super::touched::Touched;
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

/// What a number in a table means: its two highest bits say in which pool to look, and without them it is the place of the
/// cell's only event. No pool and no epoch has more than 2^26 of anything.
const IS_SINGLE: u32 = 1 << 30;
const IS_BARE: u32 = 2 << 30;
const IS_CELL: u32 = 3 << 30;
const KIND: u32 = 3 << 30;

#[derive(Debug)]
pub(super) struct ViewCells {
    pub(super) dimensions: Vec<Dimension>,
    groups: Groups,
    windows: HashMap<WindowStart, usize, FixedState>,
    /// By window, from a group's number to the cell.
    tables: Vec<(WindowStart, Slots)>,
    singles: Pool<Single>,
    bare: Pool<Bare>,
    cells: Pool<Cell>,
    /// The window of the last event: most events fall into the same one.
    last: Option<(WindowStart, usize)>,
    /// Which cells have changed, where somebody wants to know.
    pub(super) touched: Option<Touched>,
    /// The epoch's first offset.
    first: Offset,
}

impl ViewCells {
    pub(super) fn new(view: &View, first: Offset) -> Self {
        let dimensions = view.dimensions().to_vec();
        let groups = Groups::new(dimensions.len());
        let (windows, tables, singles, bare, cells) = Default::default();
        Self { dimensions, groups, windows, tables, singles, bare, cells, last: None, touched: None, first }
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
        if let Some(touched) = &mut self.touched {
            touched.note(found.table, found.group);
        }
        let number = match self.tables[found.table].1.place(found.group, |_| true) {
            Place::Taken(number) => number,
            Place::Free(free) => {
                return free.put(match event.amount {
                    None => event.place,
                    Some(amount) => self.singles.keep(Single { place: event.place, amount }) | IS_SINGLE,
                });
            }
        };
        let at = *number & !KIND;
        let mut cell = match *number & KIND {
            IS_CELL => return self.cells.of(at).add(event.fold, event.amount),
            IS_BARE if event.amount.is_none() => return self.bare.of(at).add(event.fold),
            IS_BARE => self.bare.take(at).cell(),
            IS_SINGLE => self.singles.take(at).cell(self.first),
            _ if event.amount.is_none() => {
                let mut bare = Bare::only(self.first, at);
                bare.add(event.fold);
                *number = self.bare.keep(bare) | IS_BARE;
                return;
            }
            _ => Bare::only(self.first, at).cell(),
        };
        cell.add(event.fold, event.amount);
        *number = self.cells.keep(cell) | IS_CELL;
    }

    fn table(&mut self, window: WindowStart) -> usize {
        let next = self.tables.len();
        let at = *self.windows.entry(window).or_insert(next);
        if at == next {
            self.tables.push((window, Slots::default()));
            // Windows appear nearly in order of time, so few events are still to come for the one before the last.
            if let Some(passed) = next.checked_sub(2) {
                self.tables[passed].1.pack();
            }
        }
        self.last = Some((window, at));
        at
    }

    /// Puts a cell where none is; false if one is there.
    pub(super) fn put(&mut self, window: WindowStart, numbers: Key, cell: Cell) -> bool {
        let tag = self.groups.tag(&numbers);
        let (group, table) = (self.groups.number(tag, numbers), self.table(window));
        let Place::Free(free) = self.tables[table].1.place(group, |_| true) else { return false };
        free.put(match cell.amount_count {
            0 => self.bare.keep(Bare { count: cell.count, fold: cell.fold }) | IS_BARE,
            _ => self.cells.keep(cell) | IS_CELL,
        });
        true
    }

    /// Cells that have been touched, table by table: the window, groups and numbers of cells.
    pub(super) fn touched<'t>(&self, mut cells: &'t [(u32, u32)], mut visit: impl FnMut(WindowStart, &[(u32, u32)])) {
        let mut found = Vec::new();
        while let Some(&(table, _)) = cells.first() {
            let (groups, rest): (&'t [_], &'t [_]) = cells.split_at(cells.partition_point(|(of, _)| *of == table));
            let (window, slots) = &self.tables[table as usize];
            if slots.is_packed() {
                found.extend(slots.iter().filter(|(group, _)| groups.binary_search(&(table, *group)).is_ok()));
            } else {
                found.extend(groups.iter().filter_map(|&(_, group)| Some((group, slots.find(group, |_| true)?))));
            }
            visit(*window, &found);
            found.clear();
            cells = rest;
        }
    }

    /// The tables of a range's windows: groups, and numbers of cells. The windows are looked up one by one where that is
    /// less work than looking at all of them.
    pub(super) fn within(&self, range: TimeRange) -> Vec<(WindowStart, &Slots)> {
        let steps = range.from_ms.zip(range.to_ms).map(|(from, to)| (from, (to - from).max(0) / Level::FiveMinutes.ms()));
        match steps {
            Some((from, steps)) if usize::try_from(steps).is_ok_and(|steps| steps < self.tables.len()) => {
                let wanted = (0..steps).map(|n| WindowStart::containing(from + n * Level::FiveMinutes.ms()));
                wanted.filter_map(|window| self.windows.get(&window)).map(|&at| (self.tables[at].0, &self.tables[at].1)).collect()
            }
            _ => self.tables.iter().filter(|(window, _)| range.contains(*window)).map(|(window, table)| (*window, table)).collect(),
        }
    }

    /// The values of a group.
    pub(super) fn key(&self, group: u32) -> Key {
        self.groups.key(group)
    }

    /// A cell's count alone, which is most of what is asked for.
    pub(super) fn count_of(&self, number: u32) -> u64 {
        let at = number & !KIND;
        match number & KIND {
            IS_CELL => self.cells.get(at).count,
            IS_BARE => self.bare.get(at).count,
            _ => 1,
        }
    }

    pub(super) fn cell(&self, number: u32) -> Cell {
        let at = number & !KIND;
        match number & KIND {
            IS_CELL => *self.cells.get(at),
            IS_BARE => self.bare.get(at).cell(),
            IS_SINGLE => self.singles.get(at).cell(self.first),
            _ => Bare::only(self.first, at).cell(),
        }
    }

    /// Gives up room for more.
    pub(super) fn pack(&mut self) {
        self.tables.iter_mut().for_each(|(_, table)| table.pack());
        self.tables.shrink_to_fit();
        self.singles.pack();
        self.bare.pack();
        self.cells.pack();
        self.groups.pack();
    }
}

/// Where an event's cell is.
#[derive(Clone, Copy)]
struct Found {
    group: u32,
    table: usize,
}

/// The only event of a cell, with its amount.
#[derive(Clone, Copy, Debug)]
struct Single {
    place: u32,
    amount: Amount,
}

impl Single {
    fn cell(self, first: Offset) -> Cell {
        let mut cell = Cell::EMPTY;
        cell.add(fold_at(first, self.place), Some(self.amount));
        cell
    }
}

/// Events without amounts.
#[derive(Clone, Copy, Debug)]
struct Bare {
    count: u64,
    fold: u64,
}

impl Bare {
    fn only(first: Offset, place: u32) -> Self {
        Self { count: 1, fold: fold_at(first, place) }
    }

    fn add(&mut self, fold: u64) {
        self.count += 1;
        self.fold = self.fold.wrapping_add(fold);
    }

    fn cell(self) -> Cell {
        Cell::without_amounts(self.count, self.fold)
    }
}

fn fold_at(first: Offset, place: u32) -> u64 {
    fold_of(Offset::new(first.get() + u64::from(place)))
}

fn number_of(len: usize) -> u32 {
    u32::try_from(len).expect("an epoch has at most 2^26 records, so as many of anything")
}

/// Things by number; numbers that have been taken out are given again.
#[derive(Debug)]
struct Pool<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }
}

impl<T: Copy> Pool<T> {
    fn keep(&mut self, item: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.items[number as usize] = item;
            return number;
        }
        self.items.push(item);
        number_of(self.items.len() - 1)
    }

    fn get(&self, number: u32) -> &T {
        &self.items[number as usize]
    }

    fn of(&mut self, number: u32) -> &mut T {
        &mut self.items[number as usize]
    }

    fn take(&mut self, number: u32) -> T {
        self.free.push(number);
        self.items[number as usize]
    }

    fn pack(&mut self) {
        self.items.shrink_to_fit();
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
    /// Empty while packed.
    slots: Slots,
    hasher: FixedState,
}

impl Groups {
    fn new(dimensions: usize) -> Self {
        Self { width: dimensions, keys: Vec::new(), slots: Slots::default(), hasher: FixedState::default() }
    }

    /// The key's tag, whose memory is asked for.
    #[inline]
    fn tag(&self, key: &Key) -> u32 {
        if self.width == 1 {
            return 0;
        }
        let tag = self.tag_of(key);
        self.slots.prefetch(tag);
        tag
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of the hash is what is wanted")]
    fn tag_of(&self, key: &Key) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    #[inline]
    fn number(&mut self, tag: u32, key: Key) -> u32 {
        if self.width == 1 {
            return key[0];
        }
        if self.slots.len() == 0 && !self.keys.is_empty() {
            self.unpack();
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

    /// Of a complete epoch, groups are looked up by number alone.
    fn pack(&mut self) {
        self.keys.shrink_to_fit();
        self.slots = Slots::default();
    }

    #[cold]
    fn unpack(&mut self) {
        for number in 0..number_of(self.keys.len() / self.width) {
            let tag = self.tag_of(&self.key(number));
            if let Place::Free(free) = self.slots.place(tag, |_| false) {
                free.put(number);
            }
        }
    }
}
