//! `tidemark bench`: a layer alone, by its production code, on a topic in a real Kafka; counts are compared with a
//! recount of the same topic in the same run.

mod measured;
mod query;
mod recount;
mod topic;

use anyhow::{Context as _, Result, bail};
use measured::Usage;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tidemark_batch_layer::{Batch, BlockLimits};
use tidemark_core::cut::Cut;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::question::{Question, Rows};
use tidemark_core::view::{Dimension, ViewId, Views};
use tidemark_core::window::{Buckets, Step, TimeRange};
use tidemark_history::clickhouse::{ClickHouse, Server};
use tidemark_history::memory::MemoryHistory;
use tidemark_speed_layer::Speed;
use tidemark_topic::kafka::{ConsumerOptions, Kafka};
use tidemark_topic::{Consumer as _, Membership};
use topic::Bench;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The speed layer on one thread: from the log to counted cells
    Speed(Common),
    /// The batch layer: from the log to acknowledged rows with all roll-ups
    Batch(Common),
    /// Queries of a warm system, over HTTP
    Query(query::Arguments),
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
struct Common {
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
    /// Write the counts, sorted lines of event_type,window_start_ms,count
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let runtime = super::runtime()?;
    match &arguments.what {
        What::Speed(common) => runtime.block_on(speed(common)),
        What::Batch(common) => runtime.block_on(batch(common)),
        What::Query(arguments) => runtime.block_on(query::run(arguments)),
    }
}

fn rules(common: &Common) -> Result<Rules> {
    let all = [("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])];
    let views = Views::declare(all.into_iter().take(if common.one_view { 1 } else { 2 }))?;
    Ok(Rules { generation: Generation(1), epoch_bits: EpochBits::new(18)?, views, limits: Limits::default(), dedup: !common.no_dedup })
}

async fn ends(kafka: &Kafka) -> Result<Cut> {
    Ok(kafka.admin()?.extents().await?.into_iter().map(|(partition, extent)| (partition, extent.end)).collect())
}

async fn speed(common: &Common) -> Result<()> {
    let bench = Bench::start(common.kafka.as_deref(), &common.topic, false).await?;
    let (rules, wanted) = (Arc::new(rules(common)?), ends(&bench.kafka).await?);
    let n: u64 = wanted.iter().map(|(_, end)| end.get()).sum();
    let (history, speed) = (MemoryHistory::new(Arc::clone(&rules)), Arc::new(Speed::new(Arc::clone(&rules))));
    let (began, before) = (Instant::now(), Usage::begin()?);
    let consumer = bench.kafka.consumer(Membership::All { group: None }, ConsumerOptions::default())?;
    let waker = consumer.waker();
    let counting = std::thread::spawn({
        let (speed, handle) = (Arc::clone(&speed), tokio::runtime::Handle::current());
        move || tidemark_speed_layer::run::run(consumer, &history, Batch::default().reached(), &speed, &handle)
    });
    let mut changes = speed.changes();
    changes.changed().await?;
    let first = Instant::now();
    while !speed.positions().reaches(&wanted) {
        changes.changed().await?;
    }
    let (took, steady, used) = (began.elapsed().as_secs_f64(), first.elapsed().as_secs_f64(), Usage::now()?.since(before));
    let rows = by_type(&speed, wanted.iter().len())?;
    speed.control.stop();
    waker.wake();
    counting.join().map_err(|_| anyhow::anyhow!("the counting thread panicked"))??;
    report("tidemark speed", n, took, &used);
    finish(common, &bench, rows).await?;
    bench.stop().await;
    println!("RESULT peer=tidemark n={n} secs={took:.3} steady_rate={:.0}", n as f64 / steady);
    Ok(())
}

fn by_type(speed: &Speed, partitions: usize) -> Result<Rows> {
    let question = Question {
        range: TimeRange::default(),
        buckets: Buckets::new(Step::FiveMinutes, None)?,
        group_by: vec![Dimension::EventType],
        filters: Default::default(),
        only_counts: true,
    };
    Ok(speed.snapshot(ViewId(0), &question, u32::try_from(partitions)?)?.context("a partition is not ready")?.rows)
}

async fn batch(common: &Common) -> Result<()> {
    let bench = Bench::start(common.kafka.as_deref(), &common.topic, true).await?;
    let (rules, wanted) = (Arc::new(rules(common)?), ends(&bench.kafka).await?);
    let n: u64 = wanted.iter().map(|(_, end)| end.get()).sum();
    let server = Server { url: bench.clickhouse().to_owned(), database: "bench".into(), user: None, password: None };
    let history = Arc::new(ClickHouse::open(&server, &common.topic.topic, (*rules).clone()).await?);
    let (began, before) = (Instant::now(), Usage::begin()?);
    let group = Membership::Group {
        group: format!("bench-{}", std::process::id()),
        instance: None,
        session_timeout: std::time::Duration::from_secs(30),
    };
    let consumer = bench.kafka.consumer(group, ConsumerOptions::default())?;
    let (batch, handle) = (Batch::default(), tokio::runtime::Handle::current());
    let writing = std::thread::spawn({
        let (batch, history) = (batch.clone(), Arc::clone(&history));
        let limits = BlockLimits { max_age: std::time::Duration::from_secs(2), ..BlockLimits::default() };
        move || tidemark_batch_layer::run(consumer, history, rules, limits, batch, handle)
    });
    let mut reached = batch.reached();
    // From the partitions' assignment, for joining the group takes the broker three seconds, to the acknowledgement of
    // nearly all rows, for the last blocks of a log that ends are not full and wait for their age.
    let acknowledged = |cut: &Cut| cut.iter().map(|(_, next)| next.get()).sum::<u64>();
    reached.wait_for(|cut| !cut.is_empty()).await?;
    let assigned = Instant::now();
    let nearly = acknowledged(&*reached.wait_for(|cut| acknowledged(cut) * 100 >= n * 95).await?);
    let steady = nearly as f64 / assigned.elapsed().as_secs_f64();
    reached.wait_for(|cut| cut.reaches(&wanted)).await?;
    let (took, used) = (began.elapsed().as_secs_f64(), Usage::now()?.since(before));
    batch.control.stop();
    writing.join().map_err(|_| anyhow::anyhow!("the writing thread panicked"))??;
    report("tidemark batch", n, took, &used);
    println!("tidemark batch: {steady:.0} rows/s from the assignment to the acknowledgement of {nearly} rows");
    let rows = history_by_type(&history, &wanted).await?;
    finish(common, &bench, rows).await?;
    bench.stop().await;
    println!("RESULT peer=tidemark-batch n={n} secs={took:.3} steady_rate={steady:.0}");
    Ok(())
}

/// All epochs' cells, open ones too: the bench has no speed layer to close them.
async fn history_by_type(history: &ClickHouse, wanted: &Cut) -> Result<Rows> {
    use tidemark_history::History as _;
    let mut rows = Rows::new();
    let bits = history.rules().epoch_bits;
    for (partition, end) in wanted.iter() {
        for epoch in 0..=bits.epoch_at(end).0 {
            let cells =
                history.cells(ViewId(0), tidemark_core::window::Level::FiveMinutes, partition, tidemark_core::epoch::Epoch(epoch)).await?;
            tidemark_core::question::merge_rows(&mut rows, cells);
        }
    }
    Ok(rows)
}

fn report(what: &str, n: u64, took: f64, used: &Usage) {
    let millions = n as f64 / 1e6;
    println!(
        "{what}: {n} events in {took:.2} s, {:.0} events/s, {:.3} CPU s per million events, peak RSS {} MiB",
        n as f64 / took,
        used.cpu_secs / millions,
        used.peak_mib
    );
}

/// Writes the counts, and compares them with the recount.
async fn finish(common: &Common, bench: &Bench, rows: Rows) -> Result<()> {
    let mut lines: Vec<String> = rows.iter().map(|(key, cell)| format!("{},{},{}", key.values[0], key.bucket_ms, cell.count)).collect();
    lines.sort();
    if let Some(out) = &common.out {
        std::fs::write(out, lines.join("\n") + "\n").with_context(|| format!("writing {}", out.display()))?;
    }
    let kafka = bench.kafka.clone();
    let recounted = tokio::task::spawn_blocking(move || recount::by_type_and_window(&kafka)).await??;
    if recounted != lines {
        bail!("the counts differ from the recount: {} lines against {}", lines.len(), recounted.len());
    }
    println!("counts: equal to the recount ({} lines)", lines.len());
    Ok(())
}
