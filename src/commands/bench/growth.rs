//! `tidemark bench growth`: the same questions to history before and after it has grown, and while events come in.

use super::query::measure;
use super::report::{Figure, Run, quantiles};
use super::system::{Asking, System};
use super::topic::{Events, START_MS, TYPES, where_types, write};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::ops::Range;
use std::time::Instant;
use tidemark_topic::kafka::Kafka;

#[derive(clap::Args)]
pub struct Arguments {
    /// Events of the first 30 days; 10000000 is for growing to 100 million
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// How many times 30 days history grows to
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=100))]
    times: u64,
    /// Partitions of the topic
    #[arg(long, default_value_t = 10)]
    partitions: u32,
    /// Requests of each kind
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    requests: u32,
    /// Events a second that come in while questions are asked
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
}

impl Arguments {
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("events in 30 days", self.events.to_string()),
            ("grown to", format!("{} times", self.times)),
            ("partitions", self.partitions.to_string()),
            ("requests of each kind", self.requests.to_string()),
            ("ingested meanwhile", format!("{} events/s", self.rate)),
        ]
    }
}

const EPOCH_BITS: u8 = 16;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const DAYS: u64 = 30;
/// How long events come in while questions are asked, in seconds.
const MEANWHILE: u64 = 20;
/// So many events are written at once, and the next when history is at most that far behind: what history has not taken
/// yet is in the speed layer's memory.
const PORTION: u64 = 1_000_000;
/// As ingest does, so that a disk holds the log of 100 million.
const COMPRESSION: &str = "lz4";

pub async fn run(arguments: &Arguments) -> Result<Run> {
    let config = format!("[kafka]\npartitions = {}\n[counting]\nepoch_bits = {EPOCH_BITS}\n", arguments.partitions);
    let system = System::start(&config, &[]).await?;
    let client = system.ready().await?;
    let kafka = Kafka::new(system.runtime()?.kafka, "events");
    let part = |numbers| Events { numbers, every: arguments.events, advance_ms: DAYS * DAY_MS };
    let grown = arguments.events * arguments.times;

    let write_until_closed = async |numbers: Range<u64>| {
        let behind = PORTION / u64::from(arguments.partitions);
        for from in numbers.clone().step_by(usize::try_from(PORTION)?) {
            eprintln!("writing events, {from} of {}", numbers.end);
            write(&kafka, &part(from..numbers.end.min(from + PORTION)), COMPRESSION, None).await?;
            client.wait_until_behind_at_most(behind).await?;
        }
        client.wait_until_closed(EPOCH_BITS).await
    };
    write_until_closed(0..arguments.events).await?;
    let before = Asked::measure(&client, arguments.requests, 0).await?;
    let began = Instant::now();
    write_until_closed(arguments.events..grown).await?;
    let grown_at = (grown - arguments.events) as f64 / began.elapsed().as_secs_f64();
    let after = Asked::measure(&client, arguments.requests, 1).await?;
    eprintln!("asking while {} events/s come in", arguments.rate);
    let more = part(grown..grown + arguments.rate * MEANWHILE);
    let (writer, rate) = (kafka.clone(), arguments.rate);
    let writing = tokio::spawn(async move { write(&writer, &more, COMPRESSION, Some(rate)).await });
    let meanwhile = Asked::measure(&client, arguments.requests, 2).await?;
    writing.await??;

    let mut figures = vec![
        Figure::new("events in closed epochs", "", client.closed().await? as f64),
        Figure::new("growing, from written to in closed epochs", "events/s", grown_at),
    ];
    for (what, of) in KINDS {
        figures.extend(quantiles(&format!("{what}, 30 days of history"), of(&before)));
        figures.extend(quantiles(&format!("{what}, grown"), of(&after)));
        figures.extend(quantiles(&format!("{what}, grown, events coming in"), of(&meanwhile)));
        let ratio = of(&after).value_at_quantile(0.5) as f64 / of(&before).value_at_quantile(0.5) as f64;
        figures.push(Figure::new(format!("{what}: p50 grown to before"), "times", ratio));
    }
    figures.push(Figure::new("peak resident memory of the server", "MiB", system.usage()?.peak_mib as f64));
    Ok(Run { figures, result: None })
}

type Kind = fn(&Asked) -> &Histogram<u64>;
const KINDS: [(&str, Kind); 2] =
    [("30 days by day and type", |asked| &asked.by_day), ("a day by hour, top 10 products", |asked| &asked.by_hour)];

/// How long answers took that no cache could give.
struct Asked {
    by_day: Histogram<u64>,
    by_hour: Histogram<u64>,
}

impl Asked {
    /// Each request names another set of types; the rounds have sets of their own.
    async fn measure(client: &Asking, requests: u32, round: usize) -> Result<Self> {
        // No set is all or nothing, nor asked for in another round.
        let set = |n: usize| where_types(1 + (n * 3 + round) % ((1 << TYPES.len()) - 2));
        let requests = usize::try_from(requests)?;
        let by_day = (0..requests).map(|n| {
            let to = START_MS + DAYS * DAY_MS;
            format!("/v1/query?from={START_MS}&to={to}&step=1d&group_by=event_type{}", set(n))
        });
        let by_hour = (0..requests).map(|n| {
            let from = START_MS + DAY_MS * (n as u64 % DAYS);
            let to = from + DAY_MS;
            format!("/v1/query?from={from}&to={to}&step=1h&group_by=product_id&top=10:count{}", set(n))
        });
        Ok(Self { by_day: measure(client, by_day).await?, by_hour: measure(client, by_hour).await? })
    }
}
