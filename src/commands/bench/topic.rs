//! The topic of a bench: one that exists, or one that is generated in a Kafka started for the run.

use super::measured::Usage;
use super::report::Figure;
use super::{Source, Topic};
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use tidemark_core::cell::fold_of;
use tidemark_core::offset::Offset;
use tidemark_embedded::{DataDir, Embedded, EmbeddedOptions, EngineCommand};
use tidemark_topic::kafka::{Kafka, ProducerOptions};
use tidemark_topic::{Outgoing, Producer as _};

/// Events a call of the producer.
const BATCH: usize = 2_000;

/// The instants of the events: 48 windows from 2025-01-01 on.
pub const START_MS: u64 = 1_735_689_600_000;
pub const SPAN_MS: u64 = 48 * 300_000;

/// Where the bench runs; its own engines stop with it.
pub struct Bench {
    pub kafka: Kafka,
    clickhouse: String,
    embedded: Option<(Embedded, tempfile::TempDir)>,
}

impl Bench {
    /// Starts the engines that are needed, and generates the topic unless it is in a Kafka that exists.
    pub async fn start(source: &Source, engine: bool) -> Result<Self> {
        match &source.kafka {
            Some(kafka) => Self::engines(Some(kafka), &source.topic, engine).await,
            None => Self::generated(&source.topic, engine).await,
        }
    }

    /// Engines of its own, and the topic.
    pub async fn generated(topic: &Topic, engine: bool) -> Result<Self> {
        let bench = Self::engines(None, topic, engine).await?;
        generate(&bench.kafka, topic.events, topic.partitions).await?;
        Ok(bench)
    }

    async fn engines(kafka: Option<&str>, topic: &Topic, engine: bool) -> Result<Self> {
        let topic = &topic.topic;
        if let (Some(bootstrap), false) = (kafka, engine) {
            return Ok(Self { kafka: Kafka::new(bootstrap, topic), clickhouse: String::new(), embedded: None });
        }
        let dir = tempfile::tempdir().context("a directory for the run")?;
        let program = std::env::current_exe().context("finding the program's own file")?;
        let mut options = EmbeddedOptions::new(EngineCommand { program, args: vec![crate::ENGINE.into()] });
        options.other_kafka = kafka.map(str::to_owned);
        if !engine {
            options.other_clickhouse = Some(String::new());
        }
        let embedded = Embedded::start(DataDir::open(dir.path().join("data"))?, options).await?;
        let runtime = embedded.runtime();
        Ok(Self { kafka: Kafka::new(runtime.kafka, topic), clickhouse: runtime.clickhouse, embedded: Some((embedded, dir)) })
    }

    /// A Kafka of its own with an empty topic.
    pub async fn empty(topic: &Topic) -> Result<Self> {
        let bench = Self::engines(None, topic, false).await?;
        bench.kafka.admin()?.ensure_topic(topic.partitions, 1, &[]).await?;
        Ok(bench)
    }

    pub fn clickhouse(&self) -> &str {
        &self.clickhouse
    }

    /// What its own servers have used so far; those that run elsewhere are not looked at.
    pub fn servers(&self) -> Result<Servers> {
        let runtime = self.embedded.as_ref().map(|(embedded, _)| embedded.runtime());
        let used = |pid: Option<u32>| pid.map(|pid| Ok::<_, anyhow::Error>(Usage::of(pid)?.cpu_secs)).transpose();
        let pids = runtime.map(|runtime| (runtime.kafka_pid, runtime.engine_pid)).unwrap_or_default();
        Ok(Servers { kafka: used(pids.0)?, clickhouse: used(pids.1)? })
    }

    /// Bytes of the topic's records on the disk of its own Kafka.
    pub fn topic_bytes(&self) -> Result<Option<u64>> {
        let Some((_, dir)) = &self.embedded else { return Ok(None) };
        let partition_of_ours = |name: &str| name.rsplit_once('-').is_some_and(|(topic, _)| topic == self.kafka.topic);
        let (mut bytes, mut dirs) = (None, vec![dir.path().join("data").join("kafka")]);
        while let Some(dir) = dirs.pop() {
            let ours = dir.file_name().is_some_and(|name| partition_of_ours(&name.to_string_lossy()));
            for entry in std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
                if kind.is_dir() {
                    dirs.push(path);
                } else if ours && path.extension().is_some_and(|extension| extension == "log") {
                    *bytes.get_or_insert(0) += kind.len();
                }
            }
        }
        Ok(bytes)
    }

    pub async fn stop(self) {
        if let Some((embedded, _dir)) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// CPU seconds that a bench's own servers have used; `None` of one that runs elsewhere, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    kafka: Option<f64>,
    clickhouse: Option<f64>,
}

impl Servers {
    pub fn figures_since(self, before: Self, events: u64) -> impl Iterator<Item = Figure> {
        let of =
            move |what: &str, now: Option<f64>, before: Option<f64>| Some(Figure::cpu(format!("CPU of {what}"), now? - before?, events));
        of("Kafka", self.kafka, before.kafka).into_iter().chain(of("ClickHouse", self.clickhouse, before.clickhouse))
    }
}

/// The types, and how many of a thousand events have each.
pub const TYPES: [(&str, u64); 12] = [
    ("view", 400),
    ("click", 180),
    ("search", 150),
    ("cart", 80),
    ("login", 50),
    ("purchase", 30),
    ("scroll", 30),
    ("logout", 20),
    ("share", 20),
    ("rate", 15),
    ("error", 15),
    ("refund", 10),
];

/// A query's filters for a set of types, given by its bits.
pub fn where_types(set: usize) -> String {
    let chosen = TYPES.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
    chosen.map(|(_, (name, _))| format!("&where=event_type:{name}")).collect()
}

/// Events by number, and how fast their instants advance.
#[derive(Clone, Debug)]
pub struct Events {
    pub numbers: Range<u64>,
    /// So many events...
    pub every: u64,
    /// ... advance the instants by so much.
    pub advance_ms: u64,
}

impl Events {
    /// All of the usual span of 48 windows.
    pub fn all(events: u64) -> Self {
        Self { numbers: 0..events, every: events, advance_ms: SPAN_MS }
    }

    /// Key and payload of each, see [`event`].
    fn iter(&self) -> impl Iterator<Item = (String, String)> + use<> {
        let Self { numbers, every, advance_ms } = self.clone();
        numbers.map(move |n| event(n, n * advance_ms / every))
    }
}

/// Creates the topic and writes the events of the usual span.
pub async fn generate(kafka: &Kafka, events: u64, partitions: u32) -> Result<()> {
    eprintln!("generating {events} events");
    kafka.admin()?.ensure_topic(partitions, 1, &[]).await?;
    write(kafka, &Events::all(events), "none", None).await
}

/// Writes events, at most so many a second.
pub async fn write(kafka: &Kafka, events: &Events, compression: &str, rate: Option<u64>) -> Result<()> {
    let producer = kafka.producer(ProducerOptions { compression: compression.into(), ..ProducerOptions::default() })?;
    let (began, mut written, mut all) = (Instant::now(), 0, events.iter());
    loop {
        let batch: Vec<(String, String)> = all.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let records: Vec<Outgoing<'_>> = batch
            .iter()
            .map(|(key, payload)| Outgoing { key: Some(key.as_bytes()), payload: Some(payload.as_bytes()), ..Outgoing::default() })
            .collect();
        for sent in producer.send_batch(&records).await {
            sent?;
        }
        written += batch.len() as u64;
        if let Some(rate) = rate {
            tokio::time::sleep_until((began + Duration::from_millis(written * 1000 / rate)).into()).await;
        }
    }
}

/// The same events as lines of a file.
pub fn write_ndjson(path: &Path, events: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("writing {}", path.display()))?);
    for (_, payload) in Events::all(events).iter() {
        writeln!(file, "{payload}")?;
    }
    Ok(file.flush()?)
}

/// An event of this moment.
pub fn event_now(event_type: &str, n: u64) -> String {
    let now = jiff::Timestamp::now();
    let product = n % 100;
    format!(
        "{{\"event_id\":\"{event_type}-{n}\",\"event_type\":\"{event_type}\",\"timestamp\":\"{now:.3}\",\"product_id\":\"p-{product:06}\"}}"
    )
}

/// Draws that depend on a number alone.
struct Draws(u64);

impl Draws {
    /// A number below `limit`, all equally likely.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = fold_of(Offset::new(self.0.wrapping_add(1)));
        self.0 % limit
    }

    /// A number below `limit`, small ones more likely: a tenth of the numbers is drawn by `0.1 ^ (1 / power)` of all.
    fn small(&mut self, limit: u64, power: u32) -> u64 {
        let drawn = self.below(limit);
        drawn.pow(power) / limit.pow(power - 1)
    }

    /// A type by its share.
    fn event_type(&mut self) -> &'static str {
        let mut drawn = self.below(1_000);
        let of_share = |(_, share): &&(&str, u64)| drawn.checked_sub(*share).map(|rest| drawn = rest).is_none();
        TYPES.iter().find(of_share).expect("the shares are a thousand").0
    }
}

/// Event number `n`: about 180 bytes. Its instant is `advanced_ms` after the first, up to three seconds before that, and
/// for one in a hundred up to two minutes; of 10,000 products and 200,000 users some are far more frequent than
/// others, and so are types; purchases and refunds have amounts. The same numbers make the same event.
fn event(n: u64, advanced_ms: u64) -> (String, String) {
    let mut draws = Draws(n);
    let event_type = draws.event_type();
    let late_ms = draws.below(3_000) + if draws.below(100) == 0 { draws.below(120_000) } else { 0 };
    let at_ms = START_MS + advanced_ms.saturating_sub(late_ms);
    let at = tidemark_core::window::rfc3339(i64::try_from(at_ms).expect("in this century"));
    let (product, user) = (draws.small(10_000, 3), format!("u-{:06}", draws.small(200_000, 2)));
    let id = fold_of(Offset::new(n));
    let amount = match event_type {
        "purchase" | "refund" => format!("{}.{:02}", draws.below(500), draws.below(100)),
        _ => "null".to_owned(),
    };
    let payload = format!(
        "{{\"event_id\":\"{id:016x}-{n:019}\",\"event_type\":\"{event_type}\",\"timestamp\":\"{at}\",\"product_id\":\"p-{product:06}\",\"user_id\":\"{user}\",\"order_amount\":{amount}}}",
    );
    (user, payload)
}
