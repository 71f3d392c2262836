//! Cells: what one (window, dimensions) pair of a view holds, and the laws by which cells merge.

use crate::amount::{Amount, Sum};
use crate::offset::Offset;

/// Invariant I6: merging is commutative and associative, and the empty cell is neutral, so that nothing depends on the
/// order in which records, segments or roll-ups are combined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub count: u64,
    /// Events that had an `order_amount`.
    pub amount_count: u64,
    pub sum: Sum,
    /// Smallest and largest amount; sentinels while `amount_count` is 0, see [`Cell::min`].
    min: Amount,
    max: Amount,
    /// Wrapping sum of [`fold_of`] over the events' offsets: two cells with equal counts but different events differ.
    pub fold: u64,
}

impl Cell {
    pub const EMPTY: Self = Self {
        count: 0,
        amount_count: 0,
        sum: Sum::ZERO,
        min: Amount::from_ten_thousandths(i64::MAX),
        max: Amount::from_ten_thousandths(i64::MIN),
        fold: 0,
    };

    /// A cell from its stored parts; `range` is `None` where no event had an amount.
    pub fn from_parts(count: u64, amount_count: u64, sum: Sum, range: Option<(Amount, Amount)>, fold: u64) -> Self {
        let (min, max) = range.unwrap_or((Self::EMPTY.min, Self::EMPTY.max));
        Self { count, amount_count, sum, min, max, fold }
    }

    /// Events without amounts.
    pub fn without_amounts(count: u64, fold: u64) -> Self {
        Self { count, fold, ..Self::EMPTY }
    }

    /// Counts one event.
    #[inline]
    pub fn add(&mut self, fold: u64, amount: Option<Amount>) {
        self.count += 1;
        self.fold = self.fold.wrapping_add(fold);
        if let Some(amount) = amount {
            self.amount_count += 1;
            self.sum += amount;
            self.min = self.min.min(amount);
            self.max = self.max.max(amount);
        }
    }

    #[inline]
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.amount_count += other.amount_count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.fold = self.fold.wrapping_add(other.fold);
    }

    pub fn min(&self) -> Option<Amount> {
        (self.amount_count > 0).then_some(self.min)
    }

    pub fn max(&self) -> Option<Amount> {
        (self.amount_count > 0).then_some(self.max)
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The mix of an offset that folds add up: ClickHouse's `intHash64`, which is MurmurHash3's 64-bit finalizer of
/// `offset XOR 0x4CF2D2BAAE6DA887`, so that both layers compute the same number.
#[inline]
pub const fn fold_of(offset: Offset) -> u64 {
    let mut x = offset.get() ^ 0x4CF2_D2BA_AE6D_A887;
    x ^= x >> 33;
    x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x ^= x >> 33;
    x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^ (x >> 33)
}

/// What became of the offsets of a range. Invariant I3: the four add up to its span.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub events: u64,
    pub duplicates: u64,
    pub dead_letters: u64,
    /// Offsets without a record: transaction markers, compacted or aborted records.
    pub holes: u64,
}

impl Tally {
    pub const fn span(&self) -> u64 {
        self.events + self.duplicates + self.dead_letters + self.holes
    }

    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.dead_letters += other.dead_letters;
        self.holes += other.holes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell() -> impl Strategy<Value = Cell> {
        let amount = proptest::option::of(-1_000_000_000_000_000_000i64..=1_000_000_000_000_000_000);
        proptest::collection::vec((any::<u64>(), amount), 0..6).prop_map(|events| {
            let mut cell = Cell::EMPTY;
            for (offset, amount) in events {
                cell.add(fold_of(Offset::new(offset)), amount.map(Amount::from_ten_thousandths));
            }
            cell
        })
    }

    fn merged(a: &Cell, b: &Cell) -> Cell {
        let mut sum = *a;
        sum.merge(b);
        sum
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_has_a_neutral_cell(a in cell(), b in cell(), c in cell()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &Cell::EMPTY), a);
        }
    }

    #[test]
    fn two_cells_of_as_many_but_other_events_differ_in_fold() {
        let cell = |offsets: &[u64]| {
            let mut cell = Cell::EMPTY;
            offsets.iter().for_each(|&o| cell.add(fold_of(Offset::new(o)), None));
            cell
        };
        assert_ne!(cell(&[1, 4]), cell(&[2, 3]));
        assert_eq!(cell(&[1, 4]), cell(&[4, 1]));
    }

    #[test]
    fn the_fold_is_what_clickhouse_calls_int_hash_64() {
        assert_eq!(fold_of(Offset::new(0)), 4_761_183_170_873_013_810);
        assert_eq!(fold_of(Offset::new(1)), 10_577_349_846_663_553_072);
    }
}
