//! A layer alone, by its production code, on a topic in a real Kafka.

use super::measured::Usage;
use super::recount;
use super::report::{Figure, Run, memory_of_first};
use super::topic::Bench;
use super::{Counting, Layer, Reading};
use anyhow::{Context as _, Result, bail, ensure};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_batch_layer::{Batch, BlockLimits};
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::Partition;
use tidemark_core::question::{Question, Rows, merge_rows};
use tidemark_core::view::{Dimension, ViewId, Views};
use tidemark_core::window::{Buckets, Level, Step, TimeRange};
use tidemark_history::clickhouse::{ClickHouse, Server};
use tidemark_history::memory::MemoryHistory;
use tidemark_history::schema;
use tidemark_history::{EpochCells, History as _};
use tidemark_speed_layer::Speed;
use tidemark_topic::kafka::{ConsumerOptions, Kafka};
use tidemark_topic::memory::MemoryLog;
use tidemark_topic::{Consumer, Happened, Membership, Record, Share};

pub fn settings(layer: &Layer) -> Vec<(&'static str, String)> {
    let views = if layer.one_view { "by_type" } else { "by_type by_product" };
    layer
        .source
        .settings()
        .into_iter()
        .chain([("views", views.to_owned()), ("dedup", if layer.no_dedup { "off" } else { "on" }.to_owned())])
        .collect()
}

fn rules(layer: &Layer) -> Result<Rules> {
    let all = [("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])];
    let views = Views::declare(all.into_iter().take(if layer.one_view { 1 } else { 2 }))?;
    Ok(Rules {
        generation: Generation(1),
        widens: None,
        epoch_bits: EpochBits::new(18)?,
        views,
        limits: Limits::default(),
        dedup: !layer.no_dedup,
    })
}

async fn ends(kafka: &Kafka) -> Result<Cut> {
    Ok(kafka.admin()?.extents().await?.into_iter().map(|(partition, extent)| (partition, extent.end)).collect())
}

/// From the log to counted cells.
pub async fn speed(arguments: &Counting, bench: &Bench, run: u32) -> Result<Run> {
    let wanted = ends(&bench.kafka).await?;
    let all = |share| Membership::All { group: None, share };
    if !arguments.from_memory {
        let connect = |share| Ok(bench.kafka.consumer(all(share), ConsumerOptions::default())?);
        return counted(arguments, bench, run, &wanted, connect).await;
    }
    // A log for each thread, with its share alone: threads that share a log in memory would wait for its lock.
    let mut logs = Vec::new();
    for share in Share::each(arguments.threads) {
        let log = MemoryLog::new(&bench.kafka.topic, u32::try_from(wanted.iter().len())?);
        let append = |partition, record: &Record<'_>| {
            log.append(partition, record.timestamp_ms, record.payload);
        };
        read(bench.kafka.consumer(all(share), ConsumerOptions::default())?, share, &wanted, append)?;
        logs.push((share, log));
    }
    let connect = |share| {
        let log = logs.iter().find(|(of, _)| *of == share).context("a share's log")?;
        Ok(log.1.consumer(all(share)))
    };
    counted(arguments, bench, run, &wanted, connect).await
}

async fn counted<C: Consumer + Send + 'static>(
    arguments: &Counting,
    bench: &Bench,
    run: u32,
    wanted: &Cut,
    connect: impl Fn(Share) -> Result<C>,
) -> Result<Run> {
    let (layer, n) = (&arguments.layer, events_below(wanted));
    let rules = Arc::new(rules(layer)?);
    let (history, speed) = (Arc::new(MemoryHistory::new(Arc::clone(&rules))), Arc::new(Speed::new(Arc::clone(&rules))));
    let (began, before) = (Instant::now(), Usage::begin()?);
    let mut counting = Vec::new();
    for share in Share::each(arguments.threads) {
        let (consumer, history, speed) = (connect(share)?, Arc::clone(&history), Arc::clone(&speed));
        let handle = tokio::runtime::Handle::current();
        let count = move || tidemark_speed_layer::run::run(consumer, &*history, Batch::default().reached(), &speed, &handle);
        counting.push(std::thread::spawn(count));
    }
    let mut changes = speed.changes();
    changes.changed().await?;
    let first = Instant::now();
    while !speed.positions().reaches(wanted) {
        changes.changed().await?;
    }
    let (took, steady, used) = (began.elapsed().as_secs_f64(), first.elapsed().as_secs_f64(), Usage::now()?.since(before));
    let rows = by_type(&speed, wanted.iter().len())?;
    speed.control.stop();
    for thread in counting {
        thread.join().map_err(|_| anyhow::anyhow!("a counting thread panicked"))??;
    }
    check(layer, bench, rows).await?;
    let steady = n as f64 / steady;
    let figures = figures(run, n, took, &used).chain([Figure::new("from the first records on", "events/s", steady)]);
    Ok(Run { figures: figures.collect(), result: Some(format!("RESULT peer=tidemark n={n} secs={took:.3} steady_rate={steady:.0}")) })
}

/// The log alone: every record is handed over, and nothing is done with it.
pub async fn floor(reading: &Reading, bench: &Bench, run: u32) -> Result<Run> {
    let wanted = ends(&bench.kafka).await?;
    let n = events_below(&wanted);
    let (began, before, servers) = (Instant::now(), Usage::begin()?, bench.servers()?);
    read(bench.kafka.consumer(Membership::all(), reading.options())?, Share::default(), &wanted, |_, _| ())?;
    let (took, used) = (began.elapsed().as_secs_f64(), Usage::now()?.since(before));
    let servers = bench.servers()?.figures_since(servers, n);
    let figures = figures(run, n, took, &used).chain(servers).collect();
    Ok(Run { figures, result: Some(format!("RESULT peer=floor n={n} secs={took:.3}")) })
}

/// Reads a share of the topic, from where each partition begins to `wanted`.
fn read(mut consumer: impl Consumer, share: Share, wanted: &Cut, mut visit: impl FnMut(Partition, &Record<'_>)) -> Result<()> {
    let of_share = share.partitions(u32::try_from(wanted.iter().len())?).map(|partition| (partition, wanted.get(partition)));
    let (wanted, mut reached): (Cut, Cut) = (of_share.collect(), Cut::default());
    while !reached.reaches(&wanted) {
        let mut assigned = Vec::new();
        consumer.poll(Duration::from_millis(500), |happened| match happened {
            Happened::Records { partition, records } => {
                records.iter().for_each(|record| visit(partition, record));
                reached.raise(partition, records[records.len() - 1].offset.next());
            }
            Happened::End { partition, next } => reached.raise(partition, next),
            Happened::Assigned(partitions) => assigned.extend(partitions),
            Happened::Traced { .. } | Happened::Revoked(_) | Happened::Lost(_) => {}
        })?;
        for partition in assigned {
            let start = consumer.extent(partition)?.start;
            consumer.start(partition, start)?;
        }
    }
    Ok(())
}

fn events_below(wanted: &Cut) -> u64 {
    wanted.iter().map(|(_, end)| end.get()).sum()
}

fn figures(run: u32, n: u64, took: f64, used: &Usage) -> impl Iterator<Item = Figure> + use<> {
    let rate = Figure::new("start to end", "events/s", n as f64 / took);
    let cpu = Figure::cpu("CPU", used.cpu_secs, n);
    [rate, cpu].into_iter().chain(memory_of_first(run, "peak resident memory", used.peak_mib))
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

/// From the log to acknowledged rows with all roll-ups. Each run writes a history of its own.
pub async fn batch(layer: &Layer, bench: &Bench, run: u32) -> Result<Run> {
    let (rules, wanted) = (Arc::new(rules(layer)?), ends(&bench.kafka).await?);
    let n = events_below(&wanted);
    let server = Server::at(bench.clickhouse(), format!("bench_{run}"));
    let history = Arc::new(ClickHouse::open(&server, &layer.source.topic.topic, (*rules).clone()).await?);
    let (began, before, servers) = (Instant::now(), Usage::begin()?, bench.servers()?);
    let group = Membership::Group {
        group: format!("bench-{}-{run}", std::process::id()),
        instance: None,
        session_timeout: Duration::from_secs(30),
    };
    let consumer = bench.kafka.consumer(group, ConsumerOptions::default())?;
    let (batch, handle) = (Batch::default(), tokio::runtime::Handle::current());
    let writing = std::thread::spawn({
        let (batch, history) = (batch.clone(), Arc::clone(&history));
        let limits = BlockLimits { max_age: Duration::from_secs(2), ..BlockLimits::default() };
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
    settle(&history).await?;
    // Merges included: they are work that the rows have made.
    let servers = bench.servers()?.figures_since(servers, n);
    let on_disk = on_disk(&history, n).await?;
    check(layer, bench, history_by_type(&history, &wanted).await?).await?;
    let figures = figures(run, n, took, &used).chain(servers).chain(on_disk).chain([Figure::new(
        "assignment to 95 % acknowledged",
        "rows/s",
        steady,
    )]);
    Ok(Run { figures: figures.collect(), result: Some(format!("RESULT peer=tidemark-batch n={n} secs={took:.3} steady_rate={steady:.0}")) })
}

/// Waits until the engine has no more merges that it wants to do by itself.
async fn settle(history: &ClickHouse) -> Result<()> {
    let (began, mut quiet_since, mut last) = (Instant::now(), Instant::now(), None);
    while quiet_since.elapsed() < QUIET {
        ensure!(began.elapsed() < PATIENCE, "the engine still merges after {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = history.merging().await?;
        if now.0 > 0 || last.replace(now) != Some(now) {
            quiet_since = Instant::now();
        }
    }
    Ok(())
}

/// So long without a merge and with the same parts: then merges have come to rest.
const QUIET: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(300);

/// What history takes on disk, by table and, of the raw events, by column.
async fn on_disk(history: &ClickHouse, n: u64) -> Result<Vec<Figure>> {
    let figure = |what: String, bytes: u64| Figure::new(what, "bytes an event", bytes as f64 / n as f64);
    let rules = history.rules();
    let (tables, rollups) = (history.tables_on_disk().await?, schema::rollup_tables(rules, rules.views.ids()).collect::<Vec<_>>());
    let of = |wanted: &dyn Fn(&str) -> bool| tables.iter().filter(|table| wanted(&table.name)).map(|table| table.bytes).sum();
    let mut figures = vec![figure("events: bytes on disk".into(), of(&|name| name == "events"))];
    for column in history.columns_on_disk("events").await? {
        figures.push(figure(format!("events, column {}: bytes on disk", column.name), column.bytes));
    }
    figures.push(figure("roll-ups: bytes on disk".into(), of(&|name| rollups.iter().any(|rollup| rollup == name))));
    Ok(figures)
}

/// All epochs' cells, open ones too: the bench has no speed layer to close them.
async fn history_by_type(history: &ClickHouse, wanted: &Cut) -> Result<Rows> {
    let mut rows = Rows::new();
    let bits = history.rules().epoch_bits;
    for (partition, end) in wanted.iter() {
        for epoch in 0..=bits.epoch_at(end).0 {
            merge_rows(
                &mut rows,
                history.cells(EpochCells { view: ViewId(0), level: Level::FiveMinutes, partition, epoch: Epoch(epoch) }).await?,
            );
        }
    }
    Ok(rows)
}

/// Compares the counts with the recount, or writes them for a caller that compares them, and measures this process.
async fn check(layer: &Layer, bench: &Bench, rows: Rows) -> Result<()> {
    let mut lines: Vec<String> = rows.iter().map(|(key, cell)| format!("{},{},{}", key.values[0], key.bucket_ms, cell.count)).collect();
    lines.sort();
    if let Some(out) = &layer.out {
        return std::fs::write(out, lines.join("\n") + "\n").with_context(|| format!("writing {}", out.display()));
    }
    let recounted = recount::by_type_and_window(&bench.kafka).await?;
    if recounted != lines {
        bail!("the counts differ from the recount: {} lines against {}", lines.len(), recounted.len());
    }
    eprintln!("counts: equal to the recount ({} lines)", lines.len());
    Ok(())
}
