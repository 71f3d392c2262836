//! A question, as its parameters.

use crate::answer::Position;

/// A question. What is not said is as the server has it: everything there is, counted, in one bucket. What is wrong with it,
/// the server says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// From this instant on (RFC 3339, or epoch milliseconds), on the edge of a 5-minute window.
    #[must_use]
    pub fn from(self, instant: impl Into<String>) -> Self {
        self.with("from", instant)
    }

    /// Until this instant, which is not included.
    #[must_use]
    pub fn to(self, instant: impl Into<String>) -> Self {
        self.with("to", instant)
    }

    /// A range that moves: `3h` until now.
    #[must_use]
    pub fn last(self, span: impl Into<String>) -> Self {
        self.with("last", span)
    }

    /// How long a bucket is: `5m`, `15m`, `1h`, `1d`, `1w` or `total`.
    #[must_use]
    pub fn step(self, step: impl Into<String>) -> Self {
        self.with("step", step)
    }

    /// A row for each value of these dimensions: `event_type`, `product_id`, `user_id`.
    #[must_use]
    pub fn group_by(self, dimensions: &[&str]) -> Self {
        self.with("group_by", dimensions.join(","))
    }

    /// Only events with this value; of the same dimension, one or the other.
    #[must_use]
    pub fn filter(self, dimension: &str, value: &str) -> Self {
        self.with("where", format!("{dimension}:{value}"))
    }

    /// What is said of each row: `count`, `amount_count`, `sum`, `avg`, `min`, `max`.
    #[must_use]
    pub fn measures(self, measures: &[&str]) -> Self {
        self.with("measures", measures.join(","))
    }

    /// Whose days and weeks are meant, by its IANA name.
    #[must_use]
    pub fn time_zone(self, name: impl Into<String>) -> Self {
        self.with("tz", name)
    }

    /// Of each bucket the `rows` with most of a measure.
    #[must_use]
    pub fn top(self, rows: u32, measure: &str) -> Self {
        self.with("top", format!("{rows}:{measure}"))
    }

    /// Waits until this has been counted.
    #[must_use]
    pub fn at_least(self, position: &Position) -> Self {
        self.with("at_least", position.to_string())
    }

    pub(crate) fn parameters(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}
