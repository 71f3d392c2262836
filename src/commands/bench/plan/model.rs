//! The capacity model: what a number of events a day needs, from what an event has been measured to cost. Pure.

use tidemark_core::epoch::EpochBits;

/// What an event costs. Each has been measured, but for those that say otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coefficients {
    pub ingest_cpu: f64,
    pub kafka_write_cpu: f64,
    pub kafka_read_cpu: f64,
    pub speed_cpu: f64,
    pub batch_cpu: f64,
    pub clickhouse_cpu: f64,
    pub partition_rate: f64,
    pub kafka_bytes: f64,
    pub events_bytes: f64,
    pub rollup_bytes: f64,
    pub open_event_bytes: f64,
    pub cells_per_event: f64,
    pub redis_cell_bytes: f64,
}

/// A coefficient: its default, and where that is from.
#[derive(Debug)]
pub struct Known {
    pub name: &'static str,
    pub default: f64,
    pub unit: &'static str,
    pub from: &'static str,
    /// The bench, and the figure of its report, that measures it anew.
    pub measured_by: Option<(&'static str, &'static str)>,
    pub of: fn(&mut Coefficients) -> &mut f64,
}

const CPU: &str = "CPU s per million events";

/// All of them. docs/performance.md has the runs.
#[rustfmt::skip]
pub const KNOWN: [Known; 13] = [
    Known { name: "ingest_cpu", default: 1.33, unit: CPU, from: "bench ingest", measured_by: Some(("ingest", "CPU of ingest")), of: |c| &mut c.ingest_cpu },
    Known { name: "kafka_write_cpu", default: 0.84, unit: CPU, from: "bench ingest --events 5000000; one replica, lz4", measured_by: Some(("ingest", "CPU of Kafka")), of: |c| &mut c.kafka_write_cpu },
    Known { name: "kafka_read_cpu", default: 0.1, unit: CPU, from: "bench floor --events 5000000; one reader", measured_by: Some(("floor", "CPU of Kafka")), of: |c| &mut c.kafka_read_cpu },
    Known { name: "speed_cpu", default: 1.02, unit: CPU, from: "bench speed --events 5000000", measured_by: Some(("speed", "CPU")), of: |c| &mut c.speed_cpu },
    Known { name: "batch_cpu", default: 0.73, unit: CPU, from: "bench batch", measured_by: Some(("batch", "CPU")), of: |c| &mut c.batch_cpu },
    Known { name: "clickhouse_cpu", default: 5.7, unit: CPU, from: "bench batch --events 5000000; one replica, merges included", measured_by: Some(("batch", "CPU of ClickHouse")), of: |c| &mut c.clickhouse_cpu },
    Known { name: "partition_rate", default: 170_000.0, unit: "events/s", from: "half of bench batch: two blocks on their way, one of a partition", measured_by: None, of: |c| &mut c.partition_rate },
    Known { name: "kafka_bytes", default: 65.0, unit: "bytes an event", from: "bench ingest --events 5000000; one replica, lz4", measured_by: Some(("ingest", "bytes on Kafka's disk")), of: |c| &mut c.kafka_bytes },
    Known { name: "events_bytes", default: 21.4, unit: "bytes an event", from: "bench batch; one replica; 8 of them random bits of an id; 28.6 with UUIDs, 12.3 for flights", measured_by: Some(("batch", "events: bytes on disk")), of: |c| &mut c.events_bytes },
    Known { name: "rollup_bytes", default: 23.2, unit: "bytes an event", from: "bench batch --events 5000000; one replica, both views; less where cells have more events", measured_by: Some(("batch", "roll-ups: bytes on disk")), of: |c| &mut c.rollup_bytes },
    Known { name: "open_event_bytes", default: 57.0, unit: "bytes an event", from: "bench speed --events 5000000: peak memory by events in open epochs", measured_by: None, of: |c| &mut c.open_event_bytes },
    Known { name: "cells_per_event", default: 0.73, unit: "cells", from: "bench speed: 192,000 in an epoch of 2^18", measured_by: None, of: |c| &mut c.cells_per_event },
    Known { name: "redis_cell_bytes", default: 150.0, unit: "bytes a cell", from: "an estimate, not measured: open epochs are not in Redis yet", measured_by: None, of: |c| &mut c.redis_cell_bytes },
];

impl Coefficients {
    pub fn known() -> Self {
        let mut coefficients = Self::default();
        KNOWN.iter().for_each(|known| *(known.of)(&mut coefficients) = known.default);
        coefficients
    }
}

/// How the machines are to be used, and what they cost. Prices are assumptions: put in your own.
#[derive(clap::Args, Clone, Debug)]
pub struct Settings {
    /// The busiest minutes, as a multiple of the mean
    #[arg(long, default_value_t = 3.0)]
    pub peak: f64,
    /// How much of its cores a machine may use at the peak, 0 to 1
    #[arg(long, default_value_t = 0.6)]
    pub utilisation: f64,
    /// How full disks may be, 0 to 1
    #[arg(long, default_value_t = 0.8)]
    pub disk_utilisation: f64,
    /// Copies of each record in Kafka
    #[arg(long, default_value_t = 3)]
    pub kafka_replicas: u32,
    /// Copies of each row in ClickHouse
    #[arg(long, default_value_t = 2)]
    pub clickhouse_replicas: u32,
    /// Days that records stay in Kafka
    #[arg(long, default_value_t = 3.0)]
    pub kafka_days: f64,
    /// Days that raw events and roll-ups stay in ClickHouse
    #[arg(long, default_value_t = 365.0)]
    pub history_days: f64,
    /// Minutes that an epoch is to last at the mean rate: epoch_bits follows from it
    #[arg(long, default_value_t = 10.0)]
    pub epoch_minutes: f64,
    /// Epochs of a partition in memory: the one being counted, the one being closed, and the ids of the one before
    #[arg(long, default_value_t = 3)]
    pub open_epochs: u32,
    /// Fewest partitions: there must be one for each process that may be added later
    #[arg(long, default_value_t = 6)]
    pub min_partitions: u32,
    /// Cores that answer queries, ClickHouse's part included: what is asked is not modelled
    #[arg(long, default_value_t = 2)]
    pub serving_cores: u32,
    /// Memory of Kafka and ClickHouse, GiB for each of their cores
    #[arg(long, default_value_t = 4.0)]
    pub server_memory: f64,
    /// $ for a core for an hour (assumed)
    #[arg(long, default_value_t = 0.03)]
    pub core_hour: f64,
    /// $ for a GiB of memory for a month (assumed)
    #[arg(long, default_value_t = 3.0)]
    pub memory_month: f64,
    /// $ for a GiB of disk for a month (assumed)
    #[arg(long, default_value_t = 0.08)]
    pub disk_month: f64,
}

/// What a number of events a day needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub events_per_day: f64,
    pub mean_rate: f64,
    pub peak_rate: f64,
    pub partitions: u32,
    pub epoch_bits: u8,
    pub ingest_cores: u32,
    pub kafka_cores: u32,
    pub speed_cores: u32,
    pub batch_cores: u32,
    pub clickhouse_cores: u32,
    pub serving_cores: u32,
    pub speed_memory_gib: f64,
    pub servers_memory_gib: f64,
    pub redis_memory_gib: f64,
    pub kafka_disk_gib: f64,
    pub clickhouse_disk_gib: f64,
    pub cores_cost: f64,
    pub memory_cost: f64,
    pub disk_cost: f64,
}

const SECS_PER_DAY: f64 = 86_400.0;
const DAYS_PER_MONTH: f64 = 365.25 / 12.0;
const HOURS_PER_MONTH: f64 = DAYS_PER_MONTH * 24.0;
const GIB: f64 = (1u64 << 30) as f64;

/// Both layers read the whole topic.
const READERS: f64 = 2.0;

impl Plan {
    pub fn new(events_per_day: f64, c: &Coefficients, s: &Settings) -> Self {
        let mean_rate = events_per_day / SECS_PER_DAY;
        let peak_rate = mean_rate * s.peak;
        let (kafka_copies, clickhouse_copies) = (f64::from(s.kafka_replicas), f64::from(s.clickhouse_replicas));
        // A copy is on a machine of its own, and so is the second of whatever must be there while the first is restarted.
        let cores = |cpu: f64, fewest: u32| rounded_up(peak_rate * cpu / 1e6 / s.utilisation).max(fewest);
        let ingest_cores = cores(c.ingest_cpu, 2);
        let kafka_cores = cores(c.kafka_write_cpu * kafka_copies + c.kafka_read_cpu * READERS, s.kafka_replicas);
        let (speed_cores, batch_cores) = (cores(c.speed_cpu, 1), cores(c.batch_cpu, 1));
        let clickhouse_cores = cores(c.clickhouse_cpu * clickhouse_copies, s.clickhouse_replicas);

        // A partition belongs to one thread of each layer, and writes one block at a time.
        let for_blocks = rounded_up(peak_rate / (c.partition_rate * s.utilisation));
        let partitions = for_blocks.max(speed_cores).max(batch_cores).max(s.min_partitions);
        let epoch_events = mean_rate / f64::from(partitions) * s.epoch_minutes * 60.0;
        let epoch_bits = (USUAL_EPOCH_BITS..EpochBits::MAX).find(|bits| power_of_two(*bits) >= epoch_events).unwrap_or(EpochBits::MAX);

        let open_events = power_of_two(epoch_bits) * f64::from(partitions) * f64::from(s.open_epochs);
        let speed_memory_gib = open_events * c.open_event_bytes / GIB;
        let sum = |cores: &[u32]| cores.iter().copied().map(f64::from).sum::<f64>();
        let (servers, own) = (sum(&[kafka_cores, clickhouse_cores]), sum(&[ingest_cores, batch_cores, s.serving_cores]));
        let servers_memory_gib = servers * s.server_memory + own * OWN_MEMORY_GIB;
        let disk = |days: f64, bytes: f64, copies: f64| events_per_day * days * bytes * copies / s.disk_utilisation / GIB;
        let kafka_disk_gib = disk(s.kafka_days, c.kafka_bytes, kafka_copies);
        let clickhouse_disk_gib = disk(s.history_days, c.events_bytes + c.rollup_bytes, clickhouse_copies);
        Self {
            events_per_day,
            mean_rate,
            peak_rate,
            partitions,
            epoch_bits,
            ingest_cores,
            kafka_cores,
            speed_cores,
            batch_cores,
            clickhouse_cores,
            serving_cores: s.serving_cores,
            speed_memory_gib,
            servers_memory_gib,
            redis_memory_gib: open_events * c.cells_per_event * c.redis_cell_bytes / GIB,
            kafka_disk_gib,
            clickhouse_disk_gib,
            cores_cost: (servers + own + f64::from(speed_cores)) * HOURS_PER_MONTH * s.core_hour,
            memory_cost: (speed_memory_gib + servers_memory_gib) * s.memory_month,
            disk_cost: (kafka_disk_gib + clickhouse_disk_gib) * s.disk_month,
        }
    }

    pub fn cost(&self) -> f64 {
        self.cores_cost + self.memory_cost + self.disk_cost
    }

    /// A month's cost by a month's events, in $ per million.
    pub fn cost_per_million(&self) -> f64 {
        self.cost() / (self.events_per_day * DAYS_PER_MONTH / 1e6)
    }

    /// The most that a million events may cost at this scale, where that has been said.
    pub fn target_per_million(&self) -> Option<f64> {
        TARGETS.iter().find(|(events_per_day, _)| *events_per_day == self.events_per_day).map(|(_, target)| *target)
    }
}

/// Events a day, and the most $ that a million of them may cost.
pub const TARGETS: [(f64, f64); 3] = [(1e8, 5.0), (1e9, 2.0), (1e10, 0.5)];

/// What `counting.epoch_bits` is by default: the least that is planned.
const USUAL_EPOCH_BITS: u8 = 18;

/// For each core of ingest, batch and serving.
const OWN_MEMORY_GIB: f64 = 0.5;

fn power_of_two(bits: u8) -> f64 {
    f64::from(bits).exp2()
}

/// At least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a conversion of a float stops at the ends of the type")]
fn rounded_up(value: f64) -> u32 {
    value.ceil().max(1.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(words: &[&str]) -> Settings {
        Line::parse_from(std::iter::once(&"plan").chain(words)).settings
    }

    fn planned(events_per_day: f64, words: &[&str]) -> Plan {
        let coefficients = Coefficients {
            ingest_cpu: 2.0,
            kafka_write_cpu: 1.0,
            kafka_read_cpu: 0.5,
            speed_cpu: 1.0,
            batch_cpu: 1.0,
            clickhouse_cpu: 5.0,
            partition_rate: 100_000.0,
            kafka_bytes: 100.0,
            events_bytes: 20.0,
            rollup_bytes: 5.0,
            open_event_bytes: 64.0,
            cells_per_event: 0.5,
            redis_cell_bytes: 128.0,
        };
        Plan::new(events_per_day, &coefficients, &settings(words))
    }

    #[test]
    fn every_coefficient_has_a_name_of_its_own_and_a_place_of_its_own() {
        let mut coefficients = Coefficients::default();
        for (n, known) in KNOWN.iter().enumerate() {
            assert_eq!(*(known.of)(&mut coefficients), 0.0, "{} has the place of another", known.name);
            *(known.of)(&mut coefficients) = 1.0;
            assert!(KNOWN[..n].iter().all(|other| other.name != known.name), "{} is there twice", known.name);
        }
    }

    #[test]
    fn cores_are_what_the_peak_needs_rounded_up() {
        // A million events a second at the peak, half of each core to be used.
        let plan = planned(86_400e6 / 2.0, &["--peak", "2", "--utilisation", "0.5"]);
        assert_eq!((plan.mean_rate, plan.peak_rate), (500_000.0, 1_000_000.0));
        assert_eq!((plan.ingest_cores, plan.speed_cores, plan.batch_cores), (4, 2, 2));
        assert_eq!((plan.kafka_cores, plan.clickhouse_cores), (2 * (3 + 1), 2 * 10));
        assert_eq!(plan.partitions, 20);
        let more = planned(86_401e6 / 2.0, &["--peak", "2", "--utilisation", "0.5"]);
        assert_eq!((more.ingest_cores, more.clickhouse_cores, more.partitions), (5, 21, 21));
        // However few events there are, each part runs, and each copy is somewhere else.
        let few = planned(1.0, &[]);
        assert_eq!((few.ingest_cores, few.kafka_cores, few.speed_cores, few.clickhouse_cores, few.partitions), (2, 3, 1, 2, 6));
    }

    #[test]
    fn disks_grow_with_events_days_and_copies() {
        let gib_a_day = |plan: &Plan| (plan.kafka_disk_gib, plan.clickhouse_disk_gib);
        let words = ["--kafka-days", "1", "--history-days", "1", "--disk-utilisation", "1"];
        let (kafka, clickhouse) = gib_a_day(&planned(1e9, &words));
        assert!((kafka - 3.0 * 100e9 / GIB).abs() < 1e-6 && (clickhouse - 2.0 * 25e9 / GIB).abs() < 1e-6);
        assert_eq!(gib_a_day(&planned(4e9, &words)), (4.0 * kafka, 4.0 * clickhouse));
        let words = ["--kafka-days", "2", "--history-days", "8", "--disk-utilisation", "0.5", "--clickhouse-replicas", "1"];
        assert_eq!(gib_a_day(&planned(1e9, &words)), (4.0 * kafka, 8.0 * clickhouse));
    }

    #[test]
    fn an_epoch_lasts_as_long_as_it_should_and_its_events_are_in_memory() {
        let plan = planned(86_400.0 * 6_000.0, &["--epoch-minutes", "10"]);
        // 1,000 events a second in each of 6 partitions: 600,000 in ten minutes.
        assert_eq!((plan.partitions, plan.epoch_bits), (6, 20));
        let open_events = 6.0 * 3.0 * power_of_two(20);
        assert_eq!(plan.speed_memory_gib, open_events * 64.0 / GIB);
        assert_eq!(plan.redis_memory_gib, open_events * 64.0 / GIB);
        assert_eq!(planned(1e6, &[]).epoch_bits, USUAL_EPOCH_BITS);
        assert_eq!(planned(1e13, &["--epoch-minutes", "600"]).epoch_bits, EpochBits::MAX);
    }

    #[test]
    fn what_a_million_costs_is_the_months_cost_by_the_months_millions() {
        let free = ["--core-hour", "0", "--memory-month", "0", "--disk-month", "1", "--kafka-days", "0", "--disk-utilisation", "1"];
        let plan = planned(1e9, &free);
        assert_eq!(plan.cost(), plan.clickhouse_disk_gib);
        assert!((plan.cost_per_million() * 1e3 * DAYS_PER_MONTH - plan.clickhouse_disk_gib).abs() < 1e-6);
        // Of disks alone, a million costs the same at any scale.
        assert!((planned(1e10, &free).cost_per_million() / plan.cost_per_million() - 1.0).abs() < 1e-9);
        assert_eq!(planned(1e9, &[]).target_per_million(), Some(2.0));
        assert_eq!(planned(2e9, &[]).target_per_million(), None);
    }
}
