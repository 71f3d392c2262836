//! What the speed layer tells Prometheus.

use crate::run::{PartitionStatus, Speed};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cell::Tally;
use tidemark_core::offset::Partition;
use tidemark_metrics::{Collector, Counter, DescriptorEncoder, Family, Histogram, Label, Page, Registry, Unit, latencies};
use tidemark_topic::now_ms;

/// What the layer counts as it works.
#[derive(Debug)]
pub struct Meters {
    records: Family<Label, Counter>,
    events: Counter,
    duplicates: Counter,
    dead_letters: Counter,
    pub(crate) rebalances: Counter,
    /// Epochs that have been closed, and that have been written again before.
    pub closed: Counter,
    pub repaired: Counter,
    /// Closed epochs that have been audited, were found damaged, and have been written again.
    pub audited: Counter,
    pub found_damaged: Counter,
    pub repaired_closed: Counter,
    pub(crate) closing: Histogram,
    tick: Histogram,
    failed_ticks: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        let records: Family<Label, Counter> = Family::default();
        let of = |outcome| records.get_or_create_owned(&[("outcome", outcome)]);
        let (events, duplicates, dead_letters) = (of("event"), of("duplicate"), of("dead_letter"));
        let (rebalances, closed, repaired, failed_ticks) = Default::default();
        let (audited, found_damaged, repaired_closed) = Default::default();
        let (closing, tick) = (latencies(), latencies());
        Self {
            records,
            events,
            duplicates,
            dead_letters,
            rebalances,
            closed,
            repaired,
            audited,
            found_damaged,
            repaired_closed,
            closing,
            tick,
            failed_ticks,
        }
    }
}

impl Meters {
    /// Records counted since the start: events, duplicates and dead letters.
    pub fn counted_records(&self) -> u64 {
        self.events.get() + self.duplicates.get() + self.dead_letters.get()
    }

    /// A partition's tally has grown.
    pub(crate) fn counted(&self, before: Tally, now: Tally) {
        self.events.inc_by(now.events - before.events);
        self.duplicates.inc_by(now.duplicates - before.duplicates);
        self.dead_letters.inc_by(now.dead_letters - before.dead_letters);
    }

    /// The snapshots of all partitions have been written, or not of all.
    pub(crate) fn ticked(&self, took: Duration, failed: bool) {
        self.tick.observe(took.as_secs_f64());
        self.failed_ticks.inc_by(u64::from(failed));
    }
}

/// Registers all that the layer has to say.
pub fn register(speed: &Arc<Speed>, registry: &mut Registry) {
    let Meters { records, rebalances, closed, repaired, audited, found_damaged, repaired_closed, closing, tick, failed_ticks, .. } =
        &speed.meters;
    registry.register("tidemark_speed_records", "Records counted, by what they were", records.clone());
    registry.register("tidemark_speed_rebalances", "Times that partitions came or went", rebalances.clone());
    registry.register("tidemark_epochs_closed", "Epochs on which history and the speed layer agreed", closed.clone());
    registry.register("tidemark_epochs_repaired", "Epochs that differed in history, and were written again", repaired.clone());
    registry.register("tidemark_epochs_audited", "Closed epochs that were compared again with what was agreed on", audited.clone());
    registry.register("tidemark_epochs_found_damaged", "Times that a closed epoch differed from what was agreed on", found_damaged.clone());
    registry.register("tidemark_closed_epochs_repaired", "Closed epochs that were written again", repaired_closed.clone());
    let help = "From comparing an epoch with history to its place in the ledger";
    registry.register_with_unit("tidemark_epoch_close_duration", help, Unit::Seconds, closing.clone());
    let help = "From the changes of all partitions to their snapshots in Redis";
    registry.register_with_unit("tidemark_snapshot_tick_duration", help, Unit::Seconds, tick.clone());
    registry.register("tidemark_snapshot_ticks_failed", "Ticks after which a snapshot was not written", failed_ticks.clone());
    registry.register_collector(Box::new(Standing(Arc::clone(speed))));
}

/// Where the partitions stand, looked up when it is asked for.
#[derive(Debug)]
struct Standing(Arc<Speed>);

impl Collector for Standing {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, status, bits) = (Page(encoder), self.0.status(), self.0.rules().epoch_bits);
        let each = |of: &dyn Fn(&PartitionStatus) -> u64| -> Vec<(u32, u64)> {
            status.iter().map(|(&Partition(partition), at)| (partition, of(at))).collect()
        };
        let mut gauges = |name_and_help, of: &dyn Fn(&PartitionStatus) -> u64| page.gauges(name_and_help, "partition", each(of));
        gauges(("tidemark_log_end", "The log's end as of the last fetch: the next offset"), &|at| at.end.get())?;
        gauges(("tidemark_speed_position", "S: all offsets below have been counted"), &|at| at.waterline.position.get())?;
        gauges(("tidemark_mark", "M: history answers for the offsets below"), &|at| at.waterline.mark.position(bits).get())?;
        gauges(("tidemark_speed_lag_records", "Records in the log that have not been counted"), &PartitionStatus::lag)?;
        gauges(("tidemark_partition_ready", "1 once the partition can answer"), &|at| u64::from(at.taught))?;
        gauges(("tidemark_open_epochs", "Epochs in memory: those not closed"), &|at| at.open_epochs as u64)?;
        gauges(("tidemark_cells", "Cells of the epochs in memory"), &|at| at.cells as u64)?;
        let now = now_ms();
        let age = |at: &PartitionStatus| at.lag_ms(now).unwrap_or_default() as f64 / 1000.0;
        let ages: Vec<(u32, f64)> = status.iter().map(|(&Partition(partition), at)| (partition, age(at))).collect();
        let help = "Age of the oldest record that has not been counted, at most; 0 if there is none";
        page.gauges(("tidemark_speed_lag_seconds", help), "partition", ages)?;
        let (paused, trouble) = (self.0.control.is_paused(), self.0.control.current_trouble());
        page.gauge(("tidemark_speed_paused", "1 while an operator has paused the speed layer"), u64::from(paused))?;
        page.gauge(("tidemark_speed_troubled", "1 while something holds it up: /v1/status says what"), u64::from(trouble.is_some()))?;
        let help = "How long Kafka makes its clients wait for an answer, because of a quota";
        page.gauge(("tidemark_speed_throttled_seconds", help), self.0.control.throttled().as_secs_f64())
    }
}
