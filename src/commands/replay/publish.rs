//! `tidemark replay publish`

use super::generations::live_history;
use crate::commands::output::{Output, print};
use crate::commands::{Running, stop_signal};
use crate::config::Config;
use crate::exit::Exit;
use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_core::cut::Cut;
use tidemark_core::offset::Partition;
use tidemark_history::History as _;
use tidemark_replay::publish::files::Files;
use tidemark_replay::publish::raw::Raw;
use tidemark_replay::publish::{Origin, Progress, Speed};
use tidemark_replay::{Pace, publish};
use tidemark_topic::kafka::{Copy, Kafka, TopicRange};
use tokio::sync::watch;

/// Between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark replay publish --into again --from 2026-11-01T00:00:00Z --to 2026-11-01T06:00:00Z --speed 60x
  tidemark replay publish --into events --from-file week.parquet --shift-to-now --speed 1x
  tidemark replay publish --into restored --raw --json")]
pub struct Arguments {
    /// The topic that is written to; made if there is none, with as many partitions as there were (for files: as `kafka.partitions` says)
    #[arg(long)]
    into: String,
    /// Write the events of these files instead of the topic's: one JSON event a line, plain or packed by gzip or zstd; or Parquet with
    /// an event's fields as columns. Keys and partitions are as `POST /v1/events` chooses them; a line that is no event is written as it is
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["raw", "from", "to"])]
    from_file: Vec<PathBuf>,
    /// Write what raw history has instead of the topic, which may no longer have it: closed epochs, with partition and order
    #[arg(long)]
    raw: bool,
    /// Where the range begins: an instant (RFC 3339 or milliseconds; of Kafka's timestamps, with --raw of the events') or offsets (0:1234,3:99) [default: the first records there are]
    #[arg(long)]
    from: Option<String>,
    /// Where it ends, itself not included [default: the last records there are now]
    #[arg(long)]
    to: Option<String>,
    /// So many times as fast as the records came: 60x is an hour in a minute. Of files and raw history the events' own times count
    #[arg(long, group = "pace")]
    speed: Option<Speed>,
    /// So many records a second
    #[arg(long, group = "pace", value_name = "N")]
    rate: Option<f64>,
    /// As fast as Kafka takes them, as without a pace
    #[arg(long, group = "pace")]
    max: bool,
    /// Records carry the time of their copying instead of their own; those of files always do
    #[arg(long)]
    now: bool,
    /// Move all times by what makes the first event's `timestamp` now: in the payloads, where nothing else changes, and of the records.
    /// What lies between two events stays. When the command goes on later, it goes on with the same
    #[arg(long)]
    shift_to_now: bool,
    /// Names the copy: the same again goes on where the last one stopped, from wherever that was [default: what is copied, from where, into what]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    output: Output,
    /// A ClickHouse that runs elsewhere, its URL: the raw history
    #[arg(long)]
    clickhouse: Option<String>,
    #[command(flatten)]
    running: Running,
}

/// What is copied, and what it is called.
struct Wanted {
    origin: Origin,
    /// In words, for people.
    source: String,
    /// The copy's name, unless another is given.
    name: String,
    range: String,
    /// Of the topic that is written to, if there is none yet.
    partitions: u32,
}

/// One end of a range, as it was asked for.
enum Edge {
    Open,
    Instant(i64),
    Offsets(Cut),
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { into, from_file, raw, from, to, speed, rate, max: _, now, shift_to_now, name, output, clickhouse, running } = arguments;
    let (mut config, _) = running.find("replay publish")?;
    config.clickhouse.url = clickhouse.unwrap_or_else(|| std::mem::take(&mut config.clickhouse.url));
    let pace = match (speed, rate) {
        (Some(Speed(speed)), _) => Pace::Times(speed),
        (None, Some(rate)) if rate.is_finite() && rate > 0.0 => Pace::PerSecond(rate),
        (None, Some(rate)) => return Err(Exit::Usage.because(format!("{rate} is no number of records a second"))),
        (None, None) => Pace::Max,
    };
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    if into == kafka.topic && from_file.is_empty() {
        return Err(Exit::Usage.because(format!("`{into}` would be copied into itself: name another topic with --into")));
    }
    let edges = (from.as_deref(), to.as_deref());
    let limits = config.rules()?.limits;
    let Wanted { mut origin, source, name: default_name, range, partitions } = match (from_file.is_empty(), raw) {
        (false, _) => files(&config, from_file, &into)?,
        (true, false) => topic(&kafka, edges, &into).await?,
        (true, true) => raw_history(&config, &kafka, edges, &into).await?,
    };
    let target = kafka.of_topic(&*into);
    target.admin()?.ensure_topic(partitions, config.kafka.replication, &[]).await?;
    let shift_to_now = shift_to_now.then_some(limits);
    let copy = Copy { name: name.unwrap_or(default_name), range, into, timed_now: now, shift_to_now };
    let stop = Arc::new(AtomicBool::new(false));
    let (say, heard) = watch::channel(Progress::default());
    let work = tokio::task::spawn_blocking({
        let stop = Arc::clone(&stop);
        move || publish(&kafka, &copy, &source, &mut origin, pace, &stop, |progress| _ = say.send_replace(progress))
    });
    let mut work = std::pin::pin!(work);
    let bar = if output.is_json() { ProgressBar::hidden() } else { crate::commands::bar("done") };
    let published = tokio::select! {
        done = &mut work => done,
        ended = tell(heard, &bar, output) => {
            // Nobody reads any more; what is under way ends as if it had been stopped.
            stop.store(true, Ordering::Relaxed);
            work.await.context("copying")??;
            return ended;
        }
        () = stop_signal() => {
            stop.store(true, Ordering::Relaxed);
            work.await
        }
    };
    bar.finish_and_clear();
    output.print(&published.context("copying")??)
}

/// Shows progress: a bar to people, lines to others.
async fn tell(mut heard: watch::Receiver<Progress>, bar: &ProgressBar, output: Output) -> Result<()> {
    let mut lines = tokio::time::interval(LINE_EVERY);
    lines.reset();
    loop {
        tokio::select! {
            changed = heard.changed() => {
                let Progress { done, all, .. } = *heard.borrow_and_update();
                bar.set_length(all);
                bar.set_position(done);
                if changed.is_err() {
                    std::future::pending().await
                }
            }
            _ = lines.tick(), if output.is_json() => {
                let line = serde_json::to_string(&*heard.borrow())?;
                print(line)?;
            }
        }
    }
}

fn files(config: &Config, paths: Vec<PathBuf>, into: &str) -> Result<Wanted> {
    let files = Files::open(paths, into, config.rules()?.limits)?;
    let (name, range) = (format!("{} into {into}", files.name()), format!("{} into {into}", files.contents()));
    Ok(Wanted { source: files.name(), origin: Origin::Files(files), name, range, partitions: config.kafka.partitions })
}

async fn topic(kafka: &Kafka, (from, to): (Option<&str>, Option<&str>), into: &str) -> Result<Wanted> {
    let extents = kafka.admin()?.extents().await?;
    let whole =
        (extents.iter().map(|(&p, at)| (p, at.start)).collect::<Cut>(), extents.iter().map(|(&p, at)| (p, at.end)).collect::<Cut>());
    let edges = (edge(from)?, edge(to)?);
    let (from_cut, to_cut) = tokio::task::spawn_blocking({
        let kafka = kafka.clone();
        move || -> Result<(Cut, Cut)> { Ok((edges.0.of_topic(&kafka, &whole.0)?, edges.1.of_topic(&kafka, &whole.1)?)) }
    })
    .await
    .context("finding the range")??;
    for (&partition, extent) in &extents {
        let (from, to) = (from_cut.get(partition), to_cut.get(partition));
        if from < extent.start || to > extent.end {
            bail!(
                "partition {partition} has the offsets from {} up to {}, but {from} up to {to} are wanted; --raw takes what the topic no longer has \
                 from raw history",
                extent.start,
                extent.end
            );
        }
    }
    let range = format!("from {} into {into}", from.unwrap_or("the first"));
    let (name, source, partitions) = (format!("{} {range}", kafka.topic), format!("`{}`", kafka.topic), u32::try_from(extents.len())?);
    let origin = Origin::Topic(TopicRange { kafka: kafka.clone(), partitions, from: from_cut, to: to_cut });
    Ok(Wanted { origin, source, name, range, partitions })
}

async fn raw_history(config: &Config, kafka: &Kafka, (from, to): (Option<&str>, Option<&str>), into: &str) -> Result<Wanted> {
    let (rules, history) = live_history(config, "replay publish --raw").await?;
    let (partitions, bits) = (kafka.admin()?.partitions().await?, rules.epoch_bits);
    let (begun, marks) = (history.begun().await?, history.marks().await?);
    let position = |marks: &tidemark_history::Marks, partition| marks.get(&partition).map(|mark| mark.position(bits)).unwrap_or_default();
    let all = || (0..partitions).map(Partition);
    let first: Cut = all().map(|partition| (partition, position(&begun, partition))).collect();
    let last: Cut = all().map(|partition| (partition, position(&marks, partition))).collect();
    let ((from_cut, from_ms), (to_cut, to_ms)) = (edge(from)?.of_raw(&first), edge(to)?.of_raw(&last));
    for partition in all() {
        let (first, last, from, to) = (first.get(partition), last.get(partition), from_cut.get(partition), to_cut.get(partition));
        if from < first || to > last {
            bail!("raw history has closed epochs of partition {partition} from {first} up to {last}, but {from} up to {to} are wanted");
        }
    }
    let times = Range { start: from_ms.unwrap_or(i64::MIN), end: to_ms.unwrap_or(i64::MAX) };
    let source = format!("the raw history of `{}`", kafka.topic);
    let until = to_ms.map(|ms| format!(" until {ms}")).unwrap_or_default();
    let range = format!("raw history from {}{until} into {into}", from.unwrap_or("the first"));
    let name = format!("{} {range}", kafka.topic);
    let runtime = tokio::runtime::Handle::current();
    let raw = Raw::new(Arc::new(history), runtime, &kafka.topic, rules.limits.clone(), from_cut, to_cut, times);
    Ok(Wanted { origin: Origin::Raw(raw), source, name, range, partitions })
}

fn edge(text: Option<&str>) -> Result<Edge> {
    let Some(text) = text else { return Ok(Edge::Open) };
    match text.parse() {
        Ok(offsets) => Ok(Edge::Offsets(offsets)),
        Err(_) => Ok(Edge::Instant(crate::commands::instant(text).map_err(|reason| Exit::Usage.because(reason))?)),
    }
}

impl Edge {
    fn of_topic(self, kafka: &Kafka, whole: &Cut) -> Result<Cut> {
        match self {
            Self::Instant(ms) => Ok(kafka.offsets_at(u32::try_from(whole.iter().len())?, ms)?),
            other => Ok(other.of_raw(whole).0),
        }
    }

    /// Offsets, and the instant where one was named.
    fn of_raw(self, whole: &Cut) -> (Cut, Option<i64>) {
        match self {
            Self::Open => (whole.clone(), None),
            Self::Instant(ms) => (whole.clone(), Some(ms)),
            Self::Offsets(offsets) => {
                // A partition that is not named is as it would be without.
                let named = |partition| offsets.iter().any(|(named, _)| named == partition).then(|| offsets.get(partition));
                (whole.iter().map(|(partition, position)| (partition, named(partition).unwrap_or(position))).collect(), None)
            }
        }
    }
}
