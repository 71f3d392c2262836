//! What serving tells Prometheus.

use crate::answer::Source;
use std::fmt;
use std::time::Duration;
use tidemark_metrics::{Collector, DescriptorEncoder, Family, Histogram, Label, Page, Registry, Unit, latencies};

/// How long answers take, by where they come from.
#[derive(Clone, Debug)]
pub struct Meters(Family<Label, Histogram, fn() -> Histogram>);

impl Default for Meters {
    fn default() -> Self {
        Self(Family::new_with_constructor(latencies))
    }
}

impl Meters {
    pub(crate) fn answered(&self, source: Source, took: Duration) {
        self.0.get_or_create(&[("source", source.name())]).observe(took.as_secs_f64());
    }

    /// Registers all that serving has to say.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Answers to queries: the text of one before (kept), history's part of one before (cache), history, or raw events";
        registry.register_with_unit("tidemark_query_duration", help, Unit::Seconds, self.0.clone());
        registry.register_collector(Box::new(Invariants));
    }
}

#[derive(Debug)]
struct Invariants;

impl Collector for Invariants {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Checks of invariants that have failed: never, or the log says which";
        Page(encoder).counter(("tidemark_broken_invariants", help), tidemark_core::invariant::broken())
    }
}
