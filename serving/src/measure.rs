//! Measures: what a row says about its cell, and how rows are ranked by it.

use std::cmp::Ordering;
use std::str::FromStr;
use tidemark_core::amount::Sum;
use tidemark_core::cell::Cell;

/// A number that an answer can carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    Count,
    /// Events that had an amount.
    AmountCount,
    Sum,
    Avg,
    Min,
    Max,
}

/// A measure's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Integer(u64),
    Decimal(String),
    /// No event had an amount.
    Null,
}

impl Measure {
    pub const ALL: [Self; 6] = [Self::Count, Self::AmountCount, Self::Sum, Self::Avg, Self::Min, Self::Max];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::AmountCount => "amount_count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
        }
    }

    pub fn of(self, cell: &Cell) -> Value {
        let decimal = |text: Option<String>| text.map_or(Value::Null, Value::Decimal);
        match self {
            Self::Count => Value::Integer(cell.count),
            Self::AmountCount => Value::Integer(cell.amount_count),
            Self::Sum => decimal((cell.amount_count > 0).then(|| cell.sum.to_string())),
            Self::Avg => decimal(cell.sum.average(cell.amount_count).map(|avg| avg.to_string())),
            Self::Min => decimal(cell.min().map(|min| min.to_string())),
            Self::Max => decimal(cell.max().map(|max| max.to_string())),
        }
    }

    /// By the exact value, cells without one before all others.
    pub fn compare(self, a: &Cell, b: &Cell) -> Ordering {
        let some = |cell: &Cell| cell.amount_count > 0;
        match self {
            Self::Count => a.count.cmp(&b.count),
            Self::AmountCount => a.amount_count.cmp(&b.amount_count),
            Self::Sum => some(a).cmp(&some(b)).then(a.sum.cmp(&b.sum)),
            Self::Avg => some(a).cmp(&some(b)).then_with(|| compare_ratios((a.sum, a.amount_count), (b.sum, b.amount_count))),
            Self::Min => a.min().cmp(&b.min()),
            Self::Max => a.max().cmp(&b.max()),
        }
    }
}

/// Compares two quotients without rounding: whole parts first, then the remainders crosswise, which 128 bits hold.
fn compare_ratios((a, m): (Sum, u64), (b, n): (Sum, u64)) -> Ordering {
    if m == 0 || n == 0 {
        return Ordering::Equal;
    }
    let split = |sum: Sum, n: u64| {
        (sum.ten_thousandths().div_euclid(i128::from(n)), sum.ten_thousandths().rem_euclid(i128::from(n)).unsigned_abs())
    };
    let ((whole_a, rest_a), (whole_b, rest_b)) = (split(a, m), split(b, n));
    whole_a.cmp(&whole_b).then((rest_a * u128::from(n)).cmp(&(rest_b * u128::from(m))))
}

impl FromStr for Measure {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|measure| measure.name() == name).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::amount::Amount;

    fn cell(amounts: &[i64]) -> Cell {
        let mut cell = Cell::EMPTY;
        amounts.iter().for_each(|&a| cell.add(0, Some(Amount::from_ten_thousandths(a))));
        cell
    }

    #[test]
    fn averages_are_compared_without_rounding() {
        let check = |a: &[i64], b: &[i64], order| assert_eq!(Measure::Avg.compare(&cell(a), &cell(b)), order, "{a:?} {b:?}");
        check(&[1, 2], &[1, 1, 2], Ordering::Greater);
        check(&[-1, -2], &[-1, -1, -2], Ordering::Less);
        check(&[1, 1], &[1], Ordering::Equal);
        check(&[], &[-5], Ordering::Less);
    }

    #[test]
    fn a_cell_without_amounts_has_null_measures() {
        let mut cell = Cell::EMPTY;
        cell.add(0, None);
        let values: Vec<Value> = Measure::ALL.iter().map(|m| m.of(&cell)).collect();
        assert_eq!(values, [Value::Integer(1), Value::Integer(0), Value::Null, Value::Null, Value::Null, Value::Null]);
    }
}
