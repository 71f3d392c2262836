//! What serving tells Prometheus.

use crate::admission::Admitted;
use crate::answer::Source;
use crate::engine::Engine;
use crate::live::Live;
use std::fmt;
use std::sync::Arc;
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
}

/// Registers all that serving has to say.
pub fn register(engine: &Arc<Engine>, registry: &mut Registry) {
    let help = "Answers to queries: the text of one before (kept), history's part of one before (cache), history, raw events, or history at a cut that was asked for (pinned)";
    registry.register_with_unit("tidemark_query_duration", help, Unit::Seconds, engine.meters.0.clone());
    registry.register_collector(Box::new(Standing(engine.live.clone())));
    registry.register_collector(Box::new(Admitted(Arc::clone(&engine.admission))));
}

#[derive(Debug)]
struct Standing(Live);

impl Collector for Standing {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let help = "1 while the open epochs cannot be read, or not all: then history alone answers, or nothing does";
        page.gauge(("tidemark_live_troubled", help), u64::from(self.0.trouble().is_some()))?;
        let help = "Checks of invariants that have failed: never, or the log says which";
        page.counter(("tidemark_broken_invariants", help), tidemark_core::invariant::broken())
    }
}
