//! `tidemark audit`

use super::output::Output;
use super::{Running, bar};
use crate::exit::Exit;
use crate::input;
use crate::parts;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use tidemark_core::epoch::Epoch;
use tidemark_history::{History, Marks};
use tidemark_speed_layer::audit::{Audited, Auditor, Mode, Outcome, epochs_at_once};
use tidemark_speed_layer::reconcile::Yard;
use tidemark_speed_layer::reread::LogYard;
use tidemark_topic::kafka::ConsumerOptions;
use tidemark_topic::{Membership, now_ms};

#[derive(clap::Args)]
#[command(
    after_help = "Damage is recorded, and from then on no answer comes from it. A running tidemark repairs it, if audit.repair is on. Exit status 3: \
something is damaged.

Examples:
  tidemark audit
  tidemark audit --dry-run --json
  tidemark audit --repair --config tidemark.toml"
)]
pub struct Arguments {
    /// Repair what is damaged: from the topic while it has the records, or from sound raw events
    #[arg(long)]
    repair: bool,
    /// Repair, and where nothing has the lost events any more, let what is left count from now on
    #[arg(long, conflicts_with = "dry_run")]
    accept_loss: bool,
    /// Look, and record nothing
    #[arg(long, conflicts_with = "repair")]
    dry_run: bool,
    /// A ClickHouse that runs elsewhere, its URL: the history
    #[arg(long)]
    clickhouse: Option<String>,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("audit")?;
    super::runtime()?.block_on(audit(arguments))
}

/// What an audit of everything came to.
#[derive(Serialize)]
struct Report {
    generation: u32,
    epochs: u64,
    damaged: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    partition: u32,
    epoch: u64,
    what: String,
    outcome: &'static str,
    detail: Option<String>,
}

impl From<Audited> for Line {
    fn from(Audited { partition, epoch, finding, outcome }: Audited) -> Self {
        let (outcome, detail) = match outcome {
            Outcome::Found => ("found", None),
            Outcome::Repaired(how) => ("repaired", Some(how)),
            Outcome::LossAccepted(what) => ("loss accepted", Some(what)),
            Outcome::Busy { .. } => ("not repaired", Some("another process repairs it now".to_owned())),
            Outcome::Unrepaired(why) => ("not repaired", Some(why)),
        };
        Self { partition: partition.0, epoch: epoch.0, what: finding.what, outcome, detail }
    }
}

impl Report {
    /// Damage that is still there.
    fn left(&self) -> usize {
        self.damaged.iter().filter(|line| matches!(line.outcome, "found" | "not repaired")).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { partition, epoch, what, outcome, detail } in &self.damaged {
            write!(f, "partition {partition}, epoch {epoch}: {what}: {outcome}")?;
            match detail {
                Some(detail) => writeln!(f, " ({detail})")?,
                None => writeln!(f)?,
            }
        }
        let (generation, epochs) = (self.generation, self.epochs);
        match self.damaged.len() {
            0 => write!(f, "{epochs} closed epochs of generation {generation} are what they were when they were closed"),
            damaged => write!(f, "{damaged} of {epochs} closed epochs of generation {generation} were damaged, {} are", self.left()),
        }
    }
}

async fn audit(arguments: Arguments) -> Result<()> {
    let Arguments { repair, accept_loss, dry_run, clickhouse, running, output } = arguments;
    let (mut config, _) = running.find("audit")?;
    config.clickhouse.url = clickhouse.unwrap_or_else(|| std::mem::take(&mut config.clickhouse.url));
    if config.clickhouse.url.is_empty() {
        return Err(Exit::Usage.because(
            "audit reads history: name its ClickHouse with --clickhouse URL, or with --data the directory of a `tidemark up` that runs",
        ));
    }
    let mode = match (accept_loss, repair, dry_run) {
        (true, ..) => Mode::AcceptLoss,
        (_, true, _) => Mode::Repair,
        (_, _, true) => Mode::Look,
        _ => Mode::Record,
    };
    let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
    let generations = archive.generations().await?.context("this history has no generation: nothing has been counted into it")?;
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let mut left = 0;
    for known in generations.standing() {
        let rules = &known.rules;
        let input = archive.input(rules.raw()).await?;
        let admin = kafka.admin()?.expecting(input.as_ref().map(input::identity_of));
        let history = Arc::new(archive.history(Arc::clone(rules)).await?);
        let reader = admin.kafka().clone();
        let yard = LogYard {
            rules: Arc::clone(rules),
            history: Arc::clone(&history) as Arc<dyn History>,
            connect: Arc::new(move || reader.consumer(Membership::all(), ConsumerOptions::default())),
            admin: Some(admin),
        };
        let auditor = Auditor { yard: &yard, history: &*history, rules, mode };
        let (marks, begun): (Marks, Marks) = (history.marks().await?, history.begun().await?);
        let ranges = marks.iter().map(|(partition, mark)| {
            let from = begun.get(partition).map_or(Epoch(0), |begun| begun.oldest_open());
            (*partition, from..mark.oldest_open())
        });
        let ranges: Vec<_> = ranges.collect();
        let epochs = ranges.iter().map(|(_, epochs)| epochs.end.0.saturating_sub(epochs.start.0)).sum();
        let bar = bar("epochs");
        bar.set_length(epochs);
        let mut damaged = Vec::new();
        for (partition, epochs) in ranges {
            let mut at = epochs.start;
            while at < epochs.end {
                let to = Epoch(at.0 + epochs_at_once(rules)).min(epochs.end);
                for audited in auditor.audit(partition, at..to).await? {
                    damaged.push(after_others(&auditor, audited).await?.into());
                }
                bar.inc(to.0 - at.0);
                at = to;
            }
        }
        bar.finish_and_clear();
        let report = Report { generation: rules.generation.0, epochs, damaged };
        output.print(&report)?;
        left += report.left();
    }
    match left {
        0 => Ok(()),
        left => Err(Exit::Found.because(format!("{left} closed epochs are damaged"))),
    }
}

/// The outcome for a damaged epoch, once no other process repairs it.
async fn after_others<Y: Yard>(auditor: &Auditor<'_, Y>, mut audited: Audited) -> Result<Audited> {
    while let Outcome::Busy { until_ms } = audited.outcome {
        let Audited { partition, epoch, .. } = audited;
        tracing::info!(%partition, %epoch, "another process repairs it, for {} s at most", (until_ms - now_ms()).max(0) / 1000);
        auditor.yard.sleep_until(until_ms).await;
        match auditor.audit(partition, epoch..epoch.next()).await?.pop() {
            Some(again) => audited = again,
            None => audited.outcome = Outcome::Repaired("by another process".into()),
        }
    }
    Ok(audited)
}
