//! `tidemark recount`

use super::{Caller, Source};
use crate::parts;
use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use tidemark_core::window::TimeRange;
use tidemark_embedded::Runtime;
use tidemark_history::clickhouse::ClickHouse;
use tidemark_replay::recount;
use tidemark_replay::recount::{Past, Topic, Wanted};
use tidemark_topic::Membership;
use tidemark_topic::kafka::ConsumerOptions;

#[derive(clap::Args)]
pub struct Arguments {
    /// Where the range begins, RFC 3339 or milliseconds, on a window's edge [default: with the first event]
    #[arg(long)]
    from: Option<String>,
    /// Where it ends, itself not included [default: with the last event]
    #[arg(long)]
    to: Option<String>,
    #[command(flatten)]
    source: Source,
    /// A ClickHouse that runs elsewhere, its URL: the history of what the topic no longer has
    #[arg(long)]
    clickhouse: Option<String>,
    /// The data directory of a `tidemark up`, which says where its Kafka and ClickHouse are [default: tidemark-data]
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    caller: Caller,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("recount")?;
    super::runtime()?.block_on(compare(arguments))
}

async fn compare(arguments: Arguments) -> Result<()> {
    let Arguments { from, to, source, clickhouse, data, caller, json } = arguments;
    let mut config = source.load()?;
    config.clickhouse.url = clickhouse.unwrap_or_else(|| std::mem::take(&mut config.clickhouse.url));
    let running = Runtime::read(&data.unwrap_or_else(|| config.data.clone()));
    if let Some(running) = &running {
        for (setting, found) in [(&mut config.kafka.bootstrap, &running.kafka), (&mut config.clickhouse.url, &running.clickhouse)] {
            if setting.is_empty() {
                setting.clone_from(found);
            }
        }
    }
    if config.kafka.bootstrap.is_empty() {
        bail!("recount reads the topic: name its Kafka with --kafka HOST:PORT, or with --data the directory of a `tidemark up` that runs");
    }
    let range = TimeRange { from_ms: from.as_deref().map(instant).transpose()?, to_ms: to.as_deref().map(instant).transpose()? };
    let rules = config.rules()?;
    let api = caller.api(running.and_then(|running| running.http))?;
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let extents = kafka.admin()?.extents().await?;
    // The topic is enough if it still has its first record.
    let history = if extents.values().all(|extent| extent.start.get() == 0) {
        None
    } else if config.clickhouse.url.is_empty() {
        bail!("the topic no longer has its first records: name with --clickhouse URL the history that has them");
    } else {
        let history = parts::open_history(&config, &config.clickhouse.url, &rules).await?;
        let begun = history.begun().await?;
        Some((history, begun))
    };
    let options = ConsumerOptions { queued_kbytes: config.kafka.queued_kbytes, ..ConsumerOptions::default() };
    let consumer = kafka.consumer(Membership::all(), options)?;
    let bar = bar();
    let work = move || {
        let past = history.as_ref().map(|(history, begun)| Past { history, begun: begun.clone() });
        let topic: Topic<'_, ClickHouse> = Topic { extents, past };
        let progress = |all, more| {
            bar.set_length(all);
            bar.inc(more);
        };
        let report = recount(&api, &rules, &Wanted { from, to, range }, consumer, &topic, progress, &tokio::runtime::Handle::current());
        bar.finish_and_clear();
        report
    };
    let report = tokio::task::spawn_blocking(work).await.context("recounting")??;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    if report.different() > 0 {
        bail!("{} cells were answered otherwise than the topic has them", report.different());
    }
    Ok(())
}

fn instant(text: &str) -> Result<i64> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let at: jiff::Timestamp =
        text.parse().with_context(|| format!("`{text}` is no instant: write 2026-01-31T10:15:00Z, or milliseconds"))?;
    Ok(at.as_millisecond())
}

fn bar() -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} offsets, {per_sec}, {eta} to go");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
