//! What the batch layer tells Prometheus.

use crate::run::Batch;
use std::fmt;
use tidemark_metrics::{Collector, Counter, DescriptorEncoder, Histogram, Page, Registry, Unit, latencies, sizes};

/// What the layer counts as it works.
#[derive(Clone, Debug)]
pub struct Meters {
    pub(crate) rows: Histogram,
    pub(crate) writing: Histogram,
    pub(crate) errors: Counter,
    pub(crate) rebalances: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        Self { rows: sizes(), writing: latencies(), errors: Counter::default(), rebalances: Counter::default() }
    }
}

/// Registers all that the layer has to say.
pub fn register(batch: &Batch, registry: &mut Registry) {
    let Meters { rows, writing, errors, rebalances } = &batch.meters;
    registry.register("tidemark_batch_block_rows", "Rows of the blocks written to history", rows.clone());
    let help = "From a block's cut to its commit, attempts and pauses included";
    registry.register_with_unit("tidemark_batch_block_duration", help, Unit::Seconds, writing.clone());
    registry.register("tidemark_batch_errors", "Answers of history that were not an acknowledgement; each is tried again", errors.clone());
    registry.register("tidemark_batch_rebalances", "Times that partitions came or went", rebalances.clone());
    registry.register_collector(Box::new(Standing(batch.clone())));
}

/// How far history is, looked up when it is asked for.
#[derive(Debug)]
struct Standing(Batch);

impl Collector for Standing {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, reached) = (Page(encoder), self.0.reached().borrow().clone());
        let positions = reached.iter().map(|(partition, next)| (partition.0, next.get()));
        page.gauges(("tidemark_history_position", "H: all offsets below are in history"), "partition", positions)?;
        let (paused, trouble) = (self.0.control.is_paused(), self.0.control.current_trouble());
        page.gauge(("tidemark_batch_paused", "1 while an operator has paused the batch layer"), u64::from(paused))?;
        page.gauge(("tidemark_batch_troubled", "1 while something holds it up: /v1/status says what"), u64::from(trouble.is_some()))?;
        let help = "How long Kafka makes its clients wait for an answer, because of a quota";
        page.gauge(("tidemark_batch_throttled_seconds", help), self.0.control.throttled().as_secs_f64())
    }
}
