//! `tidemark bench query`: how long answers take, over HTTP, in a warm system that is otherwise at rest.

use super::report::{Figure, Run, quantiles};
use super::system::{Asking, System};
use super::topic::{SPAN_MS, START_MS, generate, where_types};
use super::{Topic, recount};
use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_topic::kafka::Kafka;
use tokio::sync::mpsc;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    topic: Topic,
    /// Requests of each kind, one at a time
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Requests a second, started on time whether or not earlier ones have been answered
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// For how long requests come at that rate, and then as fast as they are answered
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

impl Arguments {
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let own = [("requests of each kind", self.requests.to_string()), ("rate", format!("{} requests/s", self.rate))];
        self.topic.settings().into_iter().chain(own).collect()
    }
}

/// Small, so that nearly all events are in closed epochs, which history answers for.
const EPOCH_BITS: u8 = 13;

const WINDOW_MS: u64 = 300_000;
const HOUR_MS: u64 = 12 * WINDOW_MS;

/// Connections when requests come as fast as they are answered.
const CONNECTIONS: usize = 16;

pub async fn run(arguments: &Arguments) -> Result<Run> {
    let Topic { topic, events, partitions } = &arguments.topic;
    let config = format!(
        "[kafka]\ntopic = \"{topic}\"\npartitions = {partitions}\n[counting]\nepoch_bits = {EPOCH_BITS}\n[batch]\nmax_age_ms = 500\n"
    );
    let system = System::start(&config, &[]).await?;
    let client = system.ready().await?;
    let kafka = Kafka::new(system.runtime()?.kafka, topic);
    generate(&kafka, *events, *partitions).await?;
    eprintln!("waiting until history has been closed");
    client.wait_until_closed(EPOCH_BITS).await?;

    let (hours, requests) = (hours(), usize::try_from(arguments.requests)?);
    let by_type = |from: u64| format!("/v1/query?from={from}&to={}&step=5m&group_by=event_type", from + HOUR_MS);
    let by_product = |from: u64| format!("/v1/query?from={from}&to={}&group_by=event_type,product_id&top=10:count", from + HOUR_MS);
    compare(&client, &kafka, &hours, by_type).await?;
    let asked_again = measure(&client, (0..requests).map(|n| by_type(hours[n % hours.len()]))).await?;
    // No two are the same question, so none is answered from the cache: each names another set of types.
    let all_new = (0..requests).map(|n| format!("{}{}", by_type(hours[n % hours.len()]), where_types(n / hours.len() + 1)));
    let first_asked = measure(&client, all_new).await?;
    let one_product = (0..requests).map(|n| format!("{}&where=product_id:p-{:06}", by_type(hours[n % hours.len()]), n / hours.len()));
    let one_product = measure(&client, one_product).await?;
    let top = measure(&client, (0..requests.min(100)).map(|n| by_product(hours[n % hours.len()]))).await?;

    let last_hour = by_type(hours[hours.len() - 1]);
    let seconds = Duration::from_secs(arguments.seconds.into());
    let at_rate = at_rate(&client, &last_hour, arguments.rate, seconds).await?;
    let before = system.usage()?;
    let answered = flat_out(&client, &last_hour, seconds).await?;
    let cpu_secs = system.usage()?.since(before).cpu_secs;

    let mut figures = vec![Figure::new("events in closed epochs", "", client.closed().await? as f64)];
    figures.extend(quantiles("one hour by type, asked before", &asked_again));
    figures.extend(quantiles("one hour by some types, never asked before", &first_asked));
    figures.extend(quantiles("one hour of one product, never asked before", &one_product));
    figures.extend(quantiles("one hour, top 10 of type and product", &top));
    figures.extend(quantiles("last hour by type at the rate, as clients see it", &at_rate.by_client));
    figures.extend(quantiles("last hour by type at the rate, in the server", &at_rate.by_server));
    figures.push(Figure::new("last hour by type, flat out", "requests/s", answered as f64 / seconds.as_secs_f64()));
    figures.push(Figure::new("last hour by type, flat out, by one core of the server", "requests/s", answered as f64 / cpu_secs));
    figures.push(Figure::new("peak resident memory of the server", "MiB", system.usage()?.peak_mib as f64));
    Ok(Run { figures, result: None })
}

/// The hours that begin at each window of the topic's span.
fn hours() -> Vec<u64> {
    (START_MS..=START_MS + SPAN_MS - HOUR_MS).step_by(usize::try_from(WINDOW_MS).expect("small")).collect()
}

/// Every hour by type against the recount.
async fn compare(client: &Asking, kafka: &Kafka, hours: &[u64], path: impl Fn(u64) -> String) -> Result<()> {
    let recounted = recount::by_type_and_window(kafka).await?;
    for &from in hours {
        let is_within = |line: &&String| {
            let window = line.split(',').nth(1).and_then(|window| window.parse::<u64>().ok());
            window.is_some_and(|window| (from..from + HOUR_MS).contains(&window))
        };
        let counts = client.counts(&path(from)).await?;
        ensure!(counts.iter().eq(recounted.iter().filter(is_within)), "{}: the answer differs from the recount", path(from));
    }
    eprintln!("counts: equal to the recount ({} hours)", hours.len());
    Ok(())
}

pub async fn measure(client: &Asking, paths: impl Iterator<Item = String>) -> Result<Histogram<u64>> {
    let mut micros = Histogram::new(3)?;
    for path in paths {
        let began = Instant::now();
        client.get(&path).await?;
        micros.record(u64::try_from(began.elapsed().as_micros())?)?;
    }
    Ok(micros)
}

/// How long answers took, in microseconds.
struct AtRate {
    /// From the instant at which a request was meant to start, so that a stall counts for all that it held up.
    by_client: Histogram<u64>,
    /// As the server says.
    by_server: Histogram<u64>,
}

/// Starts requests at a fixed rate.
async fn at_rate(client: &Asking, path: &str, rate: u32, during: Duration) -> Result<AtRate> {
    let mut starts = on_time(rate, during);
    let mut asked = Vec::new();
    while let Some(meant) = starts.recv().await {
        let (client, path) = (client.clone(), path.to_owned());
        asked.push(tokio::spawn(async move {
            let answer = client.json(&path).await?;
            let took = meant.elapsed();
            anyhow::Ok((took, answer["took_ms"].as_f64().context("took_ms")?))
        }));
    }
    let mut measured = AtRate { by_client: Histogram::new(3)?, by_server: Histogram::new(3)? };
    for answered in asked {
        let (took, server_ms) = answered.await??;
        measured.by_client.record(u64::try_from(took.as_micros())?)?;
        measured.by_server.saturating_record(micros(server_ms));
    }
    Ok(measured)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a server's milliseconds are few and not negative")]
fn micros(ms: f64) -> u64 {
    (ms * 1000.0).round() as u64
}

/// Instants at a fixed rate, each sent when it has come. By a thread: the runtime's timer is a millisecond coarse.
fn on_time(rate: u32, during: Duration) -> mpsc::UnboundedReceiver<Instant> {
    let (send, starts) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let began = Instant::now();
        for n in 0u32.. {
            let at = Duration::from_secs(1) * n / rate;
            if at >= during {
                return;
            }
            std::thread::sleep((began + at).saturating_duration_since(Instant::now()));
            if send.send(began + at).is_err() {
                return;
            }
        }
    });
    starts
}

/// Asks on several connections, again as soon as there is an answer; returns how many there were.
async fn flat_out(client: &Asking, path: &str, during: Duration) -> Result<u64> {
    let (until, answered) = (Instant::now() + during, Arc::new(AtomicU64::new(0)));
    let asking: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (client, path, answered) = (client.clone(), path.to_owned(), Arc::clone(&answered));
            tokio::spawn(async move {
                while Instant::now() < until {
                    client.get(&path).await?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for connection in asking {
        connection.await??;
    }
    Ok(answered.load(Ordering::Relaxed))
}
