//! The metrics: what of a window's cell each one says, and what may be done with it.

use crate::measure::Measure;
use tidemark_core::window::WINDOW_MS;

/// One metric. Its sample of a window stands at the window's end; a window that has no value for it has no sample.
#[derive(PartialEq, Eq, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub measure: Measure,
    pub kind: Kind,
    pub help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A window's own value.
    Gauge,
    /// Windows added up from the beginning of time on: only how much it has grown is told.
    Counter,
}

/// In order of their names.
pub static METRICS: [Metric; 9] = [
    gauge("tidemark_amount_avg", Measure::Avg, "Mean of the amounts of a 5-minute window's events, to six decimals"),
    gauge("tidemark_amount_count", Measure::AmountCount, "Events of a 5-minute window that have an amount"),
    counter("tidemark_amount_count_total", Measure::AmountCount, "Events that have an amount: for increase and rate"),
    gauge("tidemark_amount_max", Measure::Max, "Largest amount of a 5-minute window's events"),
    gauge("tidemark_amount_min", Measure::Min, "Smallest amount of a 5-minute window's events"),
    gauge("tidemark_amount_sum", Measure::Sum, "Sum of the amounts of a 5-minute window's events"),
    counter("tidemark_amount_sum_total", Measure::Sum, "Sum of amounts: for increase and rate"),
    gauge("tidemark_events", Measure::Count, "Events of a 5-minute window"),
    counter("tidemark_events_total", Measure::Count, "Events: for increase and rate"),
];

const fn gauge(name: &'static str, measure: Measure, help: &'static str) -> Metric {
    Metric { name, measure, kind: Kind::Gauge, help }
}

const fn counter(name: &'static str, measure: Measure, help: &'static str) -> Metric {
    Metric { name, measure, kind: Kind::Counter, help }
}

impl Metric {
    /// True if the values of two windows, or of two series, add up to that of both.
    pub fn is_additive(&self) -> bool {
        matches!(self.measure, Measure::Count | Measure::AmountCount | Measure::Sum)
    }

    /// The other metric of the same measure: the gauge of a counter, the counter of an additive gauge.
    pub fn other(&self) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.measure == self.measure && metric.kind != self.kind)
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// The end of the last window that is over at an instant.
pub const fn edge_before(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(WINDOW_MS)
}
