//! `tidemark bench`: what the parts and the whole can do, by their production code and with real engines; every run
//! compares its counts with a recount of the same topic.

mod compare;
mod growth;
mod ingest;
mod latency;
mod layers;
mod measured;
mod query;
mod recount;
mod report;
mod restart;
mod system;
mod topic;

use anyhow::Result;
use report::{Report, Run};
use std::path::PathBuf;
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
    /// The speed layer on one thread: from the log to counted cells
    Speed(Layer),
    /// The batch layer: from the log to acknowledged rows with all roll-ups
    Batch(Layer),
    /// Reading alone: records are taken from the client library and thrown away, the floor under every consumer
    Floor(Layer),
    /// The speed layer beside Kafka Streams, Flink and reading alone
    Compare(compare::Arguments),
    /// Ingest: from NDJSON over HTTP to events that Kafka has acknowledged
    Ingest(Topic),
    /// Queries of a warm system over HTTP, one at a time and at a fixed rate
    Query(query::Arguments),
    /// How soon an event is in an answer, while others come in
    Latency(latency::Arguments),
    /// The same questions to history before and after it has grown, and while events come in
    Growth(growth::Arguments),
    /// How soon answers are exact again after kill -9, with all epochs open and full
    Restart(Topic),
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
struct Layer {
    /// An existing Kafka, host:port, that has the topic; without it one is started for the run, and the topic generated
    #[arg(long)]
    kafka: Option<String>,
    #[command(flatten)]
    topic: Topic,
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

pub fn run(arguments: &Arguments) -> Result<()> {
    super::runtime()?.block_on(bench(arguments))
}

async fn bench(arguments: &Arguments) -> Result<()> {
    let n = arguments.runs;
    let (bench, settings, runs) = match &arguments.what {
        What::Speed(layer) => {
            let bench = Bench::start(layer.kafka.as_deref(), &layer.topic, false).await?;
            let runs = repeated(n, |run| layers::speed(layer, &bench, run)).await?;
            bench.stop().await;
            ("speed", layers::settings(layer), runs)
        }
        What::Batch(layer) => {
            let bench = Bench::start(layer.kafka.as_deref(), &layer.topic, true).await?;
            let runs = repeated(n, |run| layers::batch(layer, &bench, run)).await?;
            bench.stop().await;
            ("batch", layers::settings(layer), runs)
        }
        What::Floor(layer) => {
            let bench = Bench::start(layer.kafka.as_deref(), &layer.topic, false).await?;
            let runs = repeated(n, |run| layers::floor(&bench, run)).await?;
            bench.stop().await;
            ("floor", layers::settings(layer), runs)
        }
        What::Compare(compare) => {
            let bench = compare.start().await?;
            let runs = repeated(n, |_| compare::run(compare, &bench)).await?;
            bench.stop().await;
            ("compare", compare.settings(), runs)
        }
        What::Ingest(topic) => ("ingest", topic.settings(), repeated(n, |run| ingest::run(topic, run)).await?),
        What::Query(query) => ("query", query.settings(), repeated(n, |_| query::run(query)).await?),
        What::Latency(latency) => ("latency", latency.settings(), repeated(n, |_| latency::run(latency)).await?),
        What::Growth(growth) => ("growth", growth.settings(), repeated(n, |_| growth::run(growth)).await?),
        What::Restart(topic) => ("restart", topic.settings(), repeated(n, |_| restart::run(topic)).await?),
    };
    let report = Report { bench, settings, runs };
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    report.print();
    Ok(())
}

async fn repeated<F: Future<Output = Result<Run>>>(times: u32, once: impl Fn(u32) -> F) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for run in 1..=times {
        runs.push(once(run).await?);
    }
    Ok(runs)
}

fn topic_settings(kafka: Option<&str>, topic: &Topic) -> Vec<(&'static str, String)> {
    match kafka {
        Some(kafka) => vec![("kafka", kafka.to_owned()), ("topic", topic.topic.clone())],
        None => topic.settings(),
    }
}

impl Topic {
    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("events", self.events.to_string()), ("partitions", self.partitions.to_string())]
    }
}
