//! One file a command. Each wires crates together and decides nothing.

pub mod audit;
pub mod batch;
pub mod bench;
mod confirm;
pub mod demo;
pub mod doctor;
pub mod ingest;
pub mod key;
pub mod manual;
mod output;
pub mod plan;
pub mod query;
pub mod recount;
pub mod replay;
pub mod restore;
pub mod send;
pub mod serve;
pub mod speed;
pub mod status;
pub mod up;

use crate::config::Config;
use crate::exit::Exit;
use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use output::Output;
use std::path::PathBuf;
use tidemark_embedded::Runtime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// The configuration, and the topic that is counted.
#[derive(clap::Args)]
pub struct Source {
    /// Settings that differ from the defaults (see tidemark.default.toml)
    #[arg(long)]
    config: Option<PathBuf>,
    /// A Kafka that runs elsewhere: host:port, comma separated
    #[arg(long)]
    kafka: Option<String>,
    /// The topic that is counted [default: events]
    #[arg(long)]
    topic: Option<String>,
}

impl Source {
    /// The configuration, with what the command line says instead.
    fn load(self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        config.kafka.bootstrap = self.kafka.unwrap_or(config.kafka.bootstrap);
        config.kafka.topic = self.topic.unwrap_or(config.kafka.topic);
        Ok(config)
    }
}

/// The configuration of a deployment, or the directory of a `tidemark up` that runs.
#[derive(clap::Args)]
pub struct Running {
    #[command(flatten)]
    source: Source,
    /// The data directory of a `tidemark up`, which says where its Kafka and ClickHouse are [default: tidemark-data]
    #[arg(long)]
    data: Option<PathBuf>,
}

impl Running {
    /// The configuration with the servers' addresses, and what a `tidemark up` there says of itself.
    fn find(self, command: &str) -> Result<(Config, Option<Runtime>)> {
        let mut config = self.source.load()?;
        let found = Runtime::read(&self.data.unwrap_or_else(|| config.data.clone()));
        if let Some(found) = &found {
            for (setting, address) in [(&mut config.kafka.bootstrap, &found.kafka), (&mut config.clickhouse.url, &found.clickhouse)] {
                if setting.is_empty() {
                    setting.clone_from(address);
                }
            }
        }
        if config.kafka.bootstrap.is_empty() {
            return Err(Exit::Usage.because(format!(
                "{command} reads the topic: name its Kafka with --kafka HOST:PORT, or with --data the directory of a `tidemark up` that runs"
            )));
        }
        Ok((config, found))
    }
}

/// RFC 3339, or milliseconds.
fn instant(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(jiff::Timestamp::as_millisecond).map_err(|_| format!("`{text}` is no instant: write 2026-01-31T10:15:00Z, or milliseconds"))
}

/// Shows how far long work is, if there is somebody to see it.
fn bar(unit: &str) -> ProgressBar {
    let bar = if output::is_watched() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template(&format!("{{bar:30}} {{human_pos}} of {{human_len}} {unit}, {{per_sec}}, {{eta}} to go"));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What every process that listens takes.
#[derive(clap::Args)]
pub struct Settings {
    #[command(flatten)]
    source: Source,
    /// Address of the HTTP interface [default: 127.0.0.1:8080]
    #[arg(long)]
    listen: Option<String>,
    /// Let everybody who reaches that address do everything, though it is not loopback and there are no keys
    #[arg(long)]
    open: bool,
}

impl Settings {
    /// The configuration, with what the command line says instead.
    fn load(self) -> Result<Config> {
        let mut config = self.source.load()?;
        config.listen = self.listen.unwrap_or(config.listen);
        config.open |= self.open;
        Ok(config)
    }
}

/// Where the layers keep what they have counted.
#[derive(clap::Args)]
pub struct Stores {
    /// A ClickHouse that runs elsewhere, its URL: history
    #[arg(long)]
    clickhouse: Option<String>,
    /// A Redis, its URL: the speed layer's snapshots
    #[arg(long)]
    redis: Option<String>,
}

impl Stores {
    fn put_into(self, config: &mut Config) {
        config.clickhouse.url = self.clickhouse.unwrap_or_else(|| std::mem::take(&mut config.clickhouse.url));
        if let Some(url) = self.redis {
            config.redis.urls = vec![url];
        }
    }
}

/// How a command reaches a running tidemark.
#[derive(clap::Args)]
pub struct Caller {
    /// The server's address [default: http://127.0.0.1:8080]
    #[arg(long, env = "TIDEMARK_URL")]
    url: Option<String>,
    /// The key that the server wants, if it wants one; better by the environment, which other users cannot see
    #[arg(long, env = "TIDEMARK_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Whom to trust at an https:// address, a file in PEM [default: the system's authorities]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Caller {
    const DEFAULT_URL: &str = "http://127.0.0.1:8080";

    /// A client; `found` is where a server is known to run, unless another one is named.
    fn api(self, found: Option<String>) -> Result<tidemark_client::Client> {
        let url = self.url.or(found).unwrap_or_else(|| Self::DEFAULT_URL.to_owned());
        Ok(tidemark_client::Client::new(&url, self.key.as_deref(), self.ca.as_deref())?)
    }
}

/// A running tidemark whose answers are enough.
#[derive(clap::Args)]
pub struct Reached {
    /// The data directory of a `tidemark up`, which says where it answers [default: tidemark-data]
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    caller: Caller,
}

impl Reached {
    fn api(self) -> Result<tidemark_client::Client> {
        let Self { data, caller } = self;
        let data = match data {
            Some(data) => data,
            None => Config::load(None)?.data,
        };
        caller.api(Runtime::read(&data).and_then(|found| found.http))
    }
}

/// A tidemark that runs, and where its history is.
#[derive(clap::Args)]
pub struct Place {
    #[command(flatten)]
    running: Running,
    /// A ClickHouse that runs elsewhere, its URL: the history
    #[arg(long)]
    clickhouse: Option<String>,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

impl Place {
    /// The configuration with the servers' addresses, a client of the tidemark, and how to print what comes of it.
    fn find(self, command: &str) -> Result<(Config, tidemark_client::Client, Output)> {
        let Self { running, clickhouse, caller, output } = self;
        let (mut config, found) = running.find(command)?;
        config.clickhouse.url = clickhouse.unwrap_or_else(|| std::mem::take(&mut config.clickhouse.url));
        Ok((config, caller.api(found.and_then(|found| found.http))?, output))
    }
}

/// What a process takes that shares servers with others.
#[derive(clap::Args)]
pub struct Deployed {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    stores: Stores,
}

impl Deployed {
    fn load(self) -> Result<Config> {
        let mut config = self.settings.load()?;
        self.stores.put_into(&mut config);
        Ok(config)
    }
}

/// What a layer of its own takes.
#[derive(clap::Args)]
pub struct Member {
    #[command(flatten)]
    deployed: Deployed,
    /// The name that this process keeps when it comes back: the group then leaves it its partitions meanwhile
    #[arg(long)]
    name: Option<String>,
}

impl Member {
    fn load(self) -> Result<Config> {
        let mut config = self.deployed.load()?;
        config.kafka.instance = self.name.unwrap_or(config.kafka.instance);
        Ok(config)
    }
}

/// The runtime that all of a process's tasks share.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// Logs go to standard error, `RUST_LOG` chooses; traces, under the name of the `role`, to where `OTEL_*` say.
fn log(role: &str) -> Result<()> {
    log_at(role, "info,rdkafka=error,librdkafka=error")
}

/// The same, with what is logged unless `RUST_LOG` is there.
fn log_at(role: &str, default: &str) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(output::colours_errors())
        .with_target(false)
        .with_filter(filter);
    let traces = tidemark_traces::start(&format!("tidemark-{role}"))?;
    tracing_subscriber::registry().with(log).with(traces).init();
    Ok(())
}

/// Waits until somebody wants the process to end.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}
