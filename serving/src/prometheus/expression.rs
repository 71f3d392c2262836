//! An expression as it is evaluated: a tree over lookups.

use super::labels::Grouping;
use super::lookup::Lookup;

/// A query, understood.
#[derive(Clone, Debug)]
pub struct Expression {
    pub root: Root,
    /// What the tree's leaves name by number.
    pub lookups: Vec<Lookup>,
    /// Metrics that it names and that there are not.
    pub unknown: Vec<String>,
}

/// What a query as a whole is.
#[derive(Clone, Debug)]
pub enum Root {
    Scalar(Node),
    Vector(Node),
    /// A range selector by itself: the samples of single windows.
    Samples(usize),
    Text(String),
}

#[derive(Clone, Debug)]
pub enum Node {
    Number(f64),
    /// `time()`
    Time,
    /// No series.
    Nothing,
    Lookup(usize),
    /// `vector(scalar)`
    Vector(Box<Self>),
    /// `scalar(vector)`
    Scalar(Box<Self>),
    /// A function of each value.
    Each(fn(f64) -> f64, Box<Self>),
    /// In order of the values.
    Sorted {
        descending: bool,
        of: Box<Self>,
    },
    Aggregate {
        operation: Aggregation,
        /// How many, of the largest or smallest.
        parameter: Option<Box<Self>>,
        grouping: Grouping,
        of: Box<Self>,
    },
    Binary {
        operator: Operator,
        /// A comparison says 1 or 0 instead of choosing.
        is_bool: bool,
        /// Which labels must be equal on both sides; all, if nothing is said.
        matching: Grouping,
        left: Box<Self>,
        right: Box<Self>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregation {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    TopK,
    BottomK,
}

#[derive(Clone, Copy, Debug)]
pub enum Operator {
    Arithmetic(fn(f64, f64) -> f64),
    Comparison(fn(&f64, &f64) -> bool),
    And,
    Or,
    Unless,
}
