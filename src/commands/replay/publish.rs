//! `tidemark replay publish`

use crate::commands::Running;
use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemark_core::cut::Cut;
use tidemark_replay::publish::Speed;
use tidemark_replay::{Pace, publish};
use tidemark_topic::kafka::{Copy, Kafka};

#[derive(clap::Args)]
pub struct Arguments {
    /// The topic that is written to; made if there is none, with as many partitions
    #[arg(long)]
    into: String,
    /// Where the range begins: an instant (RFC 3339 or milliseconds, of Kafka's timestamps) or offsets (0:1234,3:99) [default: the topic's first records]
    #[arg(long)]
    from: Option<String>,
    /// Where it ends, itself not included [default: where the topic ends now]
    #[arg(long)]
    to: Option<String>,
    /// So many times as fast as the records came: 60x is an hour in a minute
    #[arg(long, group = "pace")]
    speed: Option<Speed>,
    /// So many records a second
    #[arg(long, group = "pace", value_name = "N")]
    rate: Option<f64>,
    /// As fast as Kafka takes them, as without a pace
    #[arg(long, group = "pace")]
    max: bool,
    /// Records carry the time of their copying instead of their own
    #[arg(long)]
    now: bool,
    /// Names the copy: the same again goes on where the last one stopped, from wherever that was [default: what is copied, from where, into what]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    running: Running,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { into, from, to, speed, rate, max: _, now, name, running } = arguments;
    let (config, _) = running.find("replay publish")?;
    let pace = match (speed, rate) {
        (Some(Speed(speed)), _) => Pace::Times(speed),
        (None, Some(rate)) if rate.is_finite() && rate > 0.0 => Pace::PerSecond(rate),
        (None, Some(rate)) => bail!("{rate} is no number of records a second"),
        (None, None) => Pace::Max,
    };
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    if into == kafka.topic {
        bail!("`{into}` would be copied into itself: name another topic with --into");
    }
    let extents = kafka.admin()?.extents().await?;
    let whole =
        (extents.iter().map(|(&p, at)| (p, at.start)).collect::<Cut>(), extents.iter().map(|(&p, at)| (p, at.end)).collect::<Cut>());
    let (from_cut, to_cut) = tokio::task::spawn_blocking({
        let (kafka, from, to) = (kafka.clone(), from.clone(), to.clone());
        move || -> Result<(Cut, Cut)> { Ok((edge(&kafka, from.as_deref(), &whole.0)?, edge(&kafka, to.as_deref(), &whole.1)?)) }
    })
    .await
    .context("finding the range")??;
    for (&partition, extent) in &extents {
        let (from, to) = (from_cut.get(partition), to_cut.get(partition));
        if from < extent.start || to > extent.end {
            bail!("partition {partition} has the offsets from {} up to {}, but {from} up to {to} are wanted", extent.start, extent.end);
        }
    }
    let target = Kafka { topic: into.clone(), ..kafka.clone() };
    target.admin()?.ensure_topic(u32::try_from(extents.len())?, config.kafka.replication, &[]).await?;
    let range = format!("from {} into {into}", from.as_deref().unwrap_or("the first"));
    let copy =
        Copy { name: name.unwrap_or_else(|| format!("{} {range}", kafka.topic)), range, into, from: from_cut, to: to_cut, timed_now: now };
    let stop = Arc::new(AtomicBool::new(false));
    let bar = crate::commands::bar("records");
    let work = tokio::task::spawn_blocking({
        let stop = Arc::clone(&stop);
        move || {
            let all = |cut: &Cut| copy.to.iter().map(|(partition, to)| to.get() - cut.get(partition).get().min(to.get())).sum::<u64>();
            let done = publish(&kafka, &copy, pace, &stop, |copied| {
                bar.set_length(all(&copied.resumed));
                bar.set_position(all(&copied.resumed) - all(&copied.reached));
            });
            ProgressBar::finish_and_clear(&bar);
            done
        }
    });
    let mut work = std::pin::pin!(work);
    let published = tokio::select! {
        done = &mut work => done,
        () = crate::commands::stop_signal() => {
            stop.store(true, Ordering::Relaxed);
            work.await
        }
    };
    println!("{}", published.context("copying")??);
    Ok(())
}

/// One end of the range.
fn edge(kafka: &Kafka, text: Option<&str>, otherwise: &Cut) -> Result<Cut> {
    let Some(text) = text else { return Ok(otherwise.clone()) };
    if let Ok(offsets) = text.parse::<Cut>() {
        // A partition that is not named is as it would be without.
        let or = |(partition, position)| {
            (partition, if offsets.iter().any(|(named, _)| named == partition) { offsets.get(partition) } else { position })
        };
        return Ok(otherwise.iter().map(or).collect());
    }
    let partitions = u32::try_from(otherwise.iter().len())?;
    Ok(kafka.offsets_at(partitions, crate::commands::instant(text)?)?)
}
