//! `tidemark recount`

use super::Place;
use crate::exit::Exit;
use crate::parts;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use tidemark_core::window::TimeRange;
use tidemark_replay::recount;
use tidemark_replay::recount::{Past, Topic};
use tidemark_topic::Membership;
use tidemark_topic::kafka::ConsumerOptions;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark recount
  tidemark recount --from 2026-11-01T00:00:00Z --to 2026-11-02T00:00:00Z --config tidemark.toml --json")]
pub struct Arguments {
    /// Where the range begins, RFC 3339 or milliseconds, on a window's edge [default: with the first event]
    #[arg(long, value_parser = super::instant)]
    from: Option<i64>,
    /// Where it ends, itself not included [default: with the last event]
    #[arg(long, value_parser = super::instant)]
    to: Option<i64>,
    #[command(flatten)]
    place: Place,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("recount")?;
    super::runtime()?.block_on(compare(arguments))
}

async fn compare(arguments: Arguments) -> Result<()> {
    let Arguments { from, to, place } = arguments;
    let (config, api, output) = place.find("recount")?;
    let range = TimeRange { from_ms: from, to_ms: to };
    let rules = tidemark_replay::recount::rules_of(&api).await?;
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let extents = kafka.admin()?.extents().await?;
    // The topic is enough if it still has its first record.
    let history = if extents.values().all(|extent| extent.start.get() == 0) {
        None
    } else if config.clickhouse.url.is_empty() {
        return Err(Exit::Usage.because("the topic no longer has its first records: name with --clickhouse URL the history that has them"));
    } else {
        let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
        let generations = archive.generations().await?;
        // As history has it: it may share the tables of another.
        let known = generations.as_ref().and_then(|generations| generations.get(rules.generation));
        let known = known.context("this history does not know the generation that answers: is it the one of that tidemark?")?;
        let history = archive.history(Arc::clone(&known.rules)).await?;
        let begun = history.begun().await?;
        Some((history, begun))
    };
    let options = ConsumerOptions { queued_kbytes: config.kafka.queued_kbytes, ..ConsumerOptions::default() };
    let consumer = kafka.consumer(Membership::all(), options)?;
    let bar = super::bar("offsets");
    let work = move || {
        let past = history.as_ref().map(|(history, begun)| Past { history, begun: begun.clone() });
        let topic: Topic<'_> = Topic { extents, past };
        let progress = |all, more| {
            bar.set_length(all);
            bar.inc(more);
        };
        let report = recount(&api, &rules, range, consumer, &topic, progress, &tokio::runtime::Handle::current());
        bar.finish_and_clear();
        report
    };
    let report = tokio::task::spawn_blocking(work).await.context("recounting")??;
    output.print(&report)?;
    match report.different() {
        0 => Ok(()),
        different => Err(Exit::Found.because(format!("{different} cells were answered otherwise than the topic has them"))),
    }
}
