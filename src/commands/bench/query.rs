//! `tidemark bench query`: how long answers take, over HTTP, in a warm system that is otherwise at rest.

use super::Topic;
use super::measured::peak_mib;
use super::recount;
use super::topic::{SPAN_MS, START_MS, TYPES, generate};
use anyhow::{Context as _, Result, bail, ensure};
use axum::body::Body;
use axum::http::Uri;
use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidemark_core::epoch::EpochBits;
use tidemark_embedded::Runtime;
use tidemark_topic::kafka::Kafka;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    topic: Topic,
    /// Requests of each kind
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
}

/// Small, so that nearly all events are in closed epochs, which history answers for.
const EPOCH_BITS: u8 = 13;

const WINDOW_MS: u64 = 300_000;
const HOUR_MS: u64 = 12 * WINDOW_MS;

/// How long starting, counting and closing may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub async fn run(arguments: &Arguments) -> Result<()> {
    let Topic { topic, events, partitions } = &arguments.topic;
    let system = System::start(topic, *partitions)?;
    let client = Asking::new(system.wait_for_address().await?);
    let runtime = Runtime::read(&system.data()).context("the system has gone")?;
    let kafka = Kafka::new(runtime.kafka, topic);
    generate(&kafka, *events, *partitions).await?;
    eprintln!("waiting until history has been closed");
    client.wait_until_closed().await?;

    let (hours, requests) = (hours(), usize::try_from(arguments.requests)?);
    let by_type = |from: u64| format!("/v1/query?from={from}&to={}&step=5m&group_by=event_type", from + HOUR_MS);
    let by_product = |from: u64| format!("/v1/query?from={from}&to={}&group_by=event_type,product_id&top=10:count", from + HOUR_MS);
    compare(&client, &kafka, &hours, by_type).await?;
    let asked_again = measure(&client, (0..requests).map(|n| by_type(hours[n % hours.len()]))).await?;
    // No two are the same question, so none is answered from the cache: each names another set of types.
    let all_new = (0..requests).map(|n| {
        let (from, set) = (hours[n % hours.len()], n / hours.len() + 1);
        let types = TYPES.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
        format!("{}{}", by_type(from), types.map(|(_, name)| format!("&where=event_type:{name}")).collect::<String>())
    });
    let first_asked = measure(&client, all_new).await?;
    let one_product = (0..requests).map(|n| format!("{}&where=product_id:p-{:06}", by_type(hours[n % hours.len()]), n / hours.len()));
    let one_product = measure(&client, one_product).await?;
    let top = measure(&client, (0..requests.min(100)).map(|n| by_product(hours[n % hours.len()]))).await?;

    println!("one request at a time over HTTP, in ms; {events} events, {} of them in closed epochs", client.closed().await?);
    report("one hour by type, asked before", &asked_again);
    report("one hour by some types, never asked before", &first_asked);
    report("one hour of one product by type, never asked before", &one_product);
    report("one hour, top 10 of type and product, asked before", &top);
    println!("peak RSS of the tidemark process: {} MiB", peak_mib(system.child.id())?);
    Ok(())
}

/// The hours that begin at each window of the topic's span.
fn hours() -> Vec<u64> {
    (START_MS..=START_MS + SPAN_MS - HOUR_MS).step_by(usize::try_from(WINDOW_MS).expect("small")).collect()
}

/// Every hour by type against the recount.
async fn compare(client: &Asking, kafka: &Kafka, hours: &[u64], path: impl Fn(u64) -> String) -> Result<()> {
    let kafka = kafka.clone();
    let recounted = tokio::task::spawn_blocking(move || recount::by_type_and_window(&kafka)).await??;
    let mut expected: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for line in &recounted {
        let fields: Vec<&str> = line.split(',').collect();
        let [event_type, window, count] = fields[..] else { bail!("`{line}` is not a line of the recount") };
        expected.insert((window.parse()?, event_type.to_owned()), count.parse()?);
    }
    for &from in hours {
        let answer = client.json(&path(from)).await?;
        let mut rows = BTreeMap::new();
        for row in answer["rows"].as_array().context("rows")? {
            let window: jiff::Timestamp = row["window"].as_str().context("window")?.parse()?;
            let event_type = row["event_type"].as_str().context("event_type")?.to_owned();
            rows.insert((u64::try_from(window.as_millisecond())?, event_type), row["count"].as_u64().context("count")?);
        }
        let within = expected.range((from, String::new())..(from + HOUR_MS, String::new()));
        ensure!(rows == within.map(|(key, count)| (key.clone(), *count)).collect(), "{}: the answer differs from the recount", path(from));
    }
    println!("counts: equal to the recount ({} hours)", hours.len());
    Ok(())
}

async fn measure(client: &Asking, paths: impl Iterator<Item = String>) -> Result<Histogram<u64>> {
    let mut micros = Histogram::new(3)?;
    for path in paths {
        let began = Instant::now();
        client.get(&path).await?;
        micros.record(u64::try_from(began.elapsed().as_micros())?)?;
    }
    Ok(micros)
}

fn report(what: &str, micros: &Histogram<u64>) {
    let [p50, p95, p99, max] = [0.50, 0.95, 0.99, 1.0].map(|q| micros.value_at_quantile(q) as f64 / 1000.0);
    println!("{what}: p50 {p50:.2}, p95 {p95:.2}, p99 {p99:.2}, max {max:.2} ({} requests)", micros.len());
}

/// `tidemark up` as people start it, on a directory of its own.
struct System {
    child: Child,
    dir: tempfile::TempDir,
}

impl System {
    fn start(topic: &str, partitions: u32) -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for the run")?;
        let config = dir.path().join("tidemark.toml");
        let text = format!(
            "[kafka]\ntopic = \"{topic}\"\npartitions = {partitions}\n[counting]\nepoch_bits = {EPOCH_BITS}\n[batch]\nmax_age_ms = 500\n"
        );
        std::fs::write(&config, text).context("writing the configuration")?;
        let log = std::fs::File::create(dir.path().join("up.log")).context("a log for the system")?;
        let mut command = Command::new(std::env::current_exe().context("finding the program's own file")?);
        command.args(["up", "--listen", "127.0.0.1:0", "--config"]).arg(&config).arg("--data").arg(dir.path().join("data"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("starting the system")?;
        Ok(Self { child, dir })
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    async fn wait_for_address(&self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = Runtime::read(&self.data()).and_then(|runtime| runtime.http)
                && let Ok(asking) = Asking::new(address.clone()).get("/readyz").await
                && !asking.is_empty()
            {
                return Ok(address);
            }
            ensure!(
                Path::new(&format!("/proc/{}", self.child.id())).exists() && Instant::now() < deadline,
                "the system did not start: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }
}

impl Drop for System {
    /// Its engines die with it.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client with one connection.
struct Asking {
    url: String,
    http: Client<HttpConnector, Body>,
}

impl Asking {
    fn new(url: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { url, http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    async fn get(&self, path: &str) -> Result<bytes::Bytes> {
        let uri: Uri = format!("{}{path}", self.url).parse()?;
        let response = self.http.get(uri).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    async fn json(&self, path: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    /// Waits until every complete epoch is closed.
    async fn wait_until_closed(&self) -> Result<()> {
        let (bits, deadline) = (EpochBits::new(EPOCH_BITS)?.get(), Instant::now() + PATIENCE);
        loop {
            let status = self.json("/v1/status").await?;
            let is_closed = |partition: &serde_json::Value| {
                let at = |name: &str| partition[name].as_u64();
                at("history_lag") == Some(0)
                    && at("lag") == Some(0)
                    && at("mark").map(|mark| mark >> bits) == at("end").map(|end| end >> bits)
            };
            if status["partitions"].as_array().context("partitions")?.iter().all(is_closed) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "epochs are still open: {status}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Offsets below the mark.
    async fn closed(&self) -> Result<u64> {
        let status = self.json("/v1/status").await?;
        Ok(status["partitions"].as_array().context("partitions")?.iter().filter_map(|partition| partition["mark"].as_u64()).sum())
    }
}
