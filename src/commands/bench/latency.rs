//! `tidemark bench latency`: from the post of an event to an answer that has it (`at_least`), while others come in.

use super::report::{Figure, Run, quantiles};
use super::system::{Asking, System};
use super::topic::event_now;
use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// Events whose way is measured
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    events: u32,
    /// Other events a second meanwhile
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    background: u32,
}

impl Arguments {
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("events", self.events.to_string()), ("background", format!("{} events/s", self.background))]
    }
}

/// Between two measured events.
const PACE: Duration = Duration::from_millis(20);
/// Between two posts of the background's events.
const BACKGROUND_PACE: Duration = Duration::from_millis(10);

pub async fn run(arguments: &Arguments) -> Result<Run> {
    let system = System::start("", &[]).await?;
    let client = system.ready().await?;
    let background = tokio::spawn(others(client.clone(), arguments.background));
    let (mut acknowledged, mut answered) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let mut pace = tokio::time::interval(PACE);
    for n in 1..=u64::from(arguments.events) {
        pace.tick().await;
        let event = event_now("measured", n);
        let began = Instant::now();
        let position = client.post(event).await?["position"].as_str().context("position")?.to_owned();
        acknowledged.record(u64::try_from(began.elapsed().as_micros())?)?;
        let answer = client.json(&format!("/v1/query?where=event_type:measured&at_least={position}")).await?;
        answered.record(u64::try_from(began.elapsed().as_micros())?)?;
        let count = answer["rows"][0]["count"].as_u64();
        ensure!(count == Some(n), "after {n} events the answer says {count:?}");
    }
    ensure!(!background.is_finished(), "the other events have stopped coming");
    background.abort();
    let figures = quantiles("post to acknowledgement by Kafka", &acknowledged).chain(quantiles("post to an answer that has it", &answered));
    let others = client.json("/v1/query?where=event_type:other").await?["rows"][0]["count"].as_u64().unwrap_or_default();
    Ok(Run { figures: figures.chain([Figure::new("other events meanwhile", "", others as f64)]).collect(), result: None })
}

async fn others(client: Asking, rate: u32) -> Result<()> {
    let mut pace = tokio::time::interval(BACKGROUND_PACE);
    let began = Instant::now();
    let mut sent = 0;
    loop {
        pace.tick().await;
        let due = u64::try_from(began.elapsed().as_millis())? * u64::from(rate) / 1000;
        if due > sent {
            client.post((sent..due).map(|n| event_now("other", n) + "\n").collect()).await?;
            sent = due;
        }
    }
}
