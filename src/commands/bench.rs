//! `tidemark bench`: what the parts and the whole can do, by their production code and with real engines; every run
//! compares its counts with a recount of the same topic.

mod compare;
mod growth;
mod ingest;
mod latency;
mod layers;
mod measured;
mod plan;
mod query;
mod recount;
mod report;
mod restart;
mod system;
mod topic;

use anyhow::Result;
use report::{Report, Run};
use std::num::NonZeroU32;
use std::path::PathBuf;
use tidemark_topic::kafka::ConsumerOptions;
use topic::Bench;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// How often to measure; more than once, medians are shown and between what they lie
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Write the figures of all runs as JSON
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum What {
    /// The speed layer: from the log to counted cells
    #[command(after_help = "Example:\n  tidemark bench speed --events 5000000 --threads 2 --json speed.json")]
    Speed(Counting),
    /// The batch layer: from the log to acknowledged rows with all roll-ups
    #[command(after_help = "Example:\n  tidemark bench batch --json batch.json")]
    Batch(Layer),
    /// Reading alone: records are taken from the client library and thrown away, the floor under every consumer
    #[command(after_help = "Example:\n  tidemark bench floor --as-tidemark")]
    Floor(Reading),
    /// The speed layer beside Kafka Streams, Flink and reading alone
    #[command(after_help = "Example:\n  make bench-compare")]
    Compare(compare::Arguments),
    /// Ingest: from NDJSON over HTTP to events that Kafka has acknowledged
    #[command(after_help = "Example:\n  tidemark bench ingest --events 500000")]
    Ingest(Topic),
    /// Queries of a warm system over HTTP, one at a time and at a fixed rate
    #[command(after_help = "Example:\n  tidemark bench query --json query.json")]
    Query(query::Arguments),
    /// How soon an event is in an answer, while others come in
    #[command(after_help = "Example:\n  tidemark bench latency")]
    Latency(latency::Arguments),
    /// The same questions to history before and after it has grown, and while events come in
    #[command(after_help = "Example:\n  tidemark bench growth")]
    Growth(growth::Arguments),
    /// How soon answers are exact again after kill -9, with all epochs open and full
    #[command(after_help = "Example:\n  tidemark bench restart --runs 3")]
    Restart(Topic),
    #[command(after_help = "Example:\n  tidemark bench plan --events-per-day 1e9")]
    Plan(plan::Arguments),
}

#[derive(clap::Args)]
struct Topic {
    /// The topic
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Events to generate
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Partitions of the generated topic
    #[arg(long, default_value_t = 10)]
    partitions: u32,
}

#[derive(clap::Args)]
struct Source {
    /// An existing Kafka, host:port, that has the topic; without it one is started for the run, and the topic generated
    #[arg(long)]
    kafka: Option<String>,
    #[command(flatten)]
    topic: Topic,
}

#[derive(clap::Args)]
struct Layer {
    #[command(flatten)]
    source: Source,
    /// Count every event, without looking for duplicates
    #[arg(long)]
    no_dedup: bool,
    /// Maintain the view by_type alone
    #[arg(long)]
    one_view: bool,
    /// Write the counts, sorted lines of event_type,window_start_ms,count, for others to compare: there is no recount then
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Reading {
    #[command(flatten)]
    source: Source,
    /// Read as tidemark does, by a short queue and with checksums compared, instead of by librdkafka's own defaults
    #[arg(long)]
    as_tidemark: bool,
}

impl Reading {
    fn options(&self) -> ConsumerOptions {
        let librdkafka = ConsumerOptions { queued_kbytes: 64 * 1024, check_crcs: false, ..ConsumerOptions::default() };
        if self.as_tidemark { ConsumerOptions::default() } else { librdkafka }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let ConsumerOptions { queued_kbytes, check_crcs, .. } = self.options();
        let own = [("queue", format!("{queued_kbytes} KiB")), ("checksums", if check_crcs { "on" } else { "off" }.to_owned())];
        self.source.settings().into_iter().chain(own).collect()
    }
}

#[derive(clap::Args)]
struct Counting {
    #[command(flatten)]
    layer: Layer,
    /// Threads that count; they divide the partitions among themselves
    #[arg(long, default_value = "1")]
    threads: NonZeroU32,
    /// Read the topic into memory before the clock starts: the cores are then for counting alone
    #[arg(long)]
    from_memory: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    super::runtime()?.block_on(bench(arguments))
}

async fn bench(arguments: &Arguments) -> Result<()> {
    let n = arguments.runs;
    let (bench, settings, runs) = match &arguments.what {
        What::Speed(counting) => {
            let bench = Bench::start(&counting.layer.source, false).await?;
            let measure = async |bench: &Bench, run| layers::speed(counting, bench, run).await;
            ("speed", counting.settings(), repeated_on(bench, n, measure).await?)
        }
        What::Batch(layer) => {
            let bench = Bench::start(&layer.source, true).await?;
            ("batch", layers::settings(layer), repeated_on(bench, n, async |bench, run| layers::batch(layer, bench, run).await).await?)
        }
        What::Floor(reading) => {
            let bench = Bench::start(&reading.source, false).await?;
            let measure = async |bench: &Bench, run| layers::floor(reading, bench, run).await;
            ("floor", reading.settings(), repeated_on(bench, n, measure).await?)
        }
        What::Compare(compare) => {
            let bench = Bench::start(&compare.source, false).await?;
            ("compare", compare.source.settings(), repeated_on(bench, n, async |bench, _| compare::run(compare, bench).await).await?)
        }
        What::Ingest(topic) => ("ingest", topic.settings(), repeated(n, async |run| ingest::run(topic, run).await).await?),
        What::Query(query) => ("query", query.settings(), repeated(n, async |_| query::run(query).await).await?),
        What::Latency(latency) => ("latency", latency.settings(), repeated(n, async |_| latency::run(latency).await).await?),
        What::Growth(growth) => ("growth", growth.settings(), repeated(n, async |_| growth::run(growth).await).await?),
        What::Plan(plan) => return plan::run(plan, arguments.json.as_deref()),
        What::Restart(topic) => ("restart", topic.settings(), repeated(n, async |_| restart::run(topic).await).await?),
    };
    let report = Report { bench, settings, runs };
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    report.print();
    Ok(())
}

async fn repeated(times: u32, once: impl AsyncFn(u32) -> Result<Run>) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for run in 1..=times {
        runs.push(once(run).await?);
    }
    Ok(runs)
}

/// All runs on one topic, whose engines are stopped afterwards.
async fn repeated_on(bench: Bench, times: u32, once: impl AsyncFn(&Bench, u32) -> Result<Run>) -> Result<Vec<Run>> {
    let runs = repeated(times, async |run| once(&bench, run).await).await?;
    bench.stop().await;
    Ok(runs)
}

impl Counting {
    fn settings(&self) -> Vec<(&'static str, String)> {
        let from = if self.from_memory { "memory" } else { "Kafka" };
        layers::settings(&self.layer)
            .into_iter()
            .chain([("threads", self.threads.to_string()), ("counted from", from.to_owned())])
            .collect()
    }
}

impl Source {
    fn settings(&self) -> Vec<(&'static str, String)> {
        match &self.kafka {
            Some(kafka) => vec![("kafka", kafka.clone()), ("topic", self.topic.topic.clone())],
            None => self.topic.settings(),
        }
    }
}

impl Topic {
    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("events", self.events.to_string()), ("partitions", self.partitions.to_string())]
    }
}
