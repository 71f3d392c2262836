//! `tidemark up`: everything in one process tree, on one data directory.

use super::{Deployed, stop_signal};
use crate::config::Config;
use crate::http::{self, Door, Http};
use crate::parts::{self, Servers, Threads};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_access::{Access, Scope};
use tidemark_batch_layer::Batch;
use tidemark_embedded::{DataDir, Embedded, EmbeddedOptions, EngineCommand};
use tidemark_history::clickhouse::ClickHouse;
use tidemark_ingest::Ingest;
use tidemark_metrics::Registry;
use tidemark_serving::api::Routes;
use tidemark_serving::engine::{Engine, Layers};
use tidemark_serving::live::Live;
use tidemark_speed_layer::Speed;
use tidemark_topic::kafka::{Kafka, ProducerOptions};
use tidemark_topic::{Membership, Share};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    deployed: Deployed,
    /// Data directory [default: tidemark-data]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Feed a sample stream of real flights
    #[arg(long)]
    demo: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("up")?;
    let demo = arguments.demo;
    let mut config = arguments.deployed.load()?;
    config.data = arguments.data.unwrap_or(config.data);
    // Before any engine starts: what is wrong in them is said at once.
    config.rules()?;
    super::runtime()?.block_on(up(config, demo))
}

async fn up(config: Config, demo: bool) -> Result<()> {
    let mut stop = std::pin::pin!(stop_signal());
    let access = Access::new(config.keys()?);
    let (door, url) = http::listen(&config, &access).await?;
    let embedded = tokio::select! {
        started = start_engines(&config) => started?,
        () = &mut stop => return Ok(()),
    };
    let outcome = tokio::select! {
        parts = Parts::start(&config, &embedded) => match parts {
            Ok(parts) => serve(parts, door, &url, &embedded, access, demo, stop).await,
            Err(error) => Err(error),
        },
        () = stop_signal() => Ok(()),
    };
    tracing::info!("stopping the engines");
    embedded.stop().await;
    outcome
}

async fn start_engines(config: &Config) -> Result<Embedded> {
    let dir = DataDir::open(&config.data)?;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let program = std::env::current_exe().context("finding the program's own file")?;
    let mut options = EmbeddedOptions::new(EngineCommand { program, args: vec!["__engine".into()] });
    options.kafka_heap_mib = config.kafka.heap_mib;
    options.kafka_port = (config.kafka.port > 0).then_some(config.kafka.port);
    options.clickhouse_port = (config.clickhouse.port > 0).then_some(config.clickhouse.port);
    options.limits.memory_bytes = config.clickhouse.memory_mib << 20;
    options.other_kafka = given(&config.kafka.bootstrap);
    options.other_clickhouse = given(&config.clickhouse.url);
    tracing::info!(data = %config.data.display(), "starting the engines");
    Ok(Embedded::start(dir, options).await?)
}

/// The process's parts, wired through memory.
struct Parts {
    engine: Arc<Engine<ClickHouse>>,
    speed: Arc<Speed>,
    batch: Batch,
    kafka: Kafka,
    threads: Threads,
}

impl Parts {
    async fn start(config: &Config, embedded: &Embedded) -> Result<Self> {
        let runtime = embedded.runtime();
        let servers = Servers::open(config, &runtime.kafka, &runtime.clickhouse).await?;
        let store = parts::open_snapshots(config, &servers.rules).await?;
        let (batch, mut threads) = (Batch::default(), Threads::default());
        let reached = batch.reached();
        let memberships =
            Share::each(config.speed.threads(servers.partitions)).map(|share| Membership::All { group: None, share }).collect();
        let speed = parts::start_speed(config, &servers, memberships, store, &reached, &mut threads)?;
        // A static member: a restart takes its partitions back at once, and fences a former process that still runs.
        let alone = config.kafka.bootstrap.is_empty();
        parts::start_batch(config, &servers, Some("up".into()), alone, batch.clone(), &mut threads)?;
        let layers = Layers { speed: Some(Arc::clone(&speed)), batch: Some(batch.clone()) };
        let live = Live::Here(Arc::clone(&speed));
        let Servers { rules, kafka, partitions, history } = servers;
        let engine = Arc::new(Engine::new(rules, config.kafka.topic.clone(), partitions, live, reached, history, layers));
        Ok(Self { engine, speed, batch, kafka, threads })
    }

    fn stop(self) {
        self.speed.control.stop();
        self.batch.control.stop();
        self.threads.join();
    }
}

async fn serve(
    mut parts: Parts,
    door: Door,
    url: &str,
    embedded: &Embedded,
    access: Arc<Access>,
    demo: bool,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let producer = parts.kafka.producer(ProducerOptions::default())?;
    let ingest = Arc::new(Ingest::new(producer, parts.engine.rules.limits.clone()));
    let registry = registry(&parts, &ingest);
    let Routes { open, read, admin } = tidemark_serving::api::routes(&parts.engine);
    let routes = open
        .merge(access.guard(Scope::Read, read))
        .merge(access.guard(Scope::Ingest, tidemark_ingest::routes(ingest)))
        .fallback(tidemark_serving::api::not_found);
    let mut server = Http::serve(door, &access, registry, routes, admin);
    embedded.set_http(url)?;
    let ready = tokio::spawn(announce(Arc::clone(&parts.engine), url.to_owned()));
    let demo = demo
        .then(|| parts.kafka.producer(ProducerOptions::default()))
        .transpose()?
        .map(|producer| tokio::spawn(super::demo::stream(producer)));
    let outcome = tokio::select! {
        () = stop => Ok(()),
        error = parts.threads.ended() => Err(error),
        ended = server.ended() => ended,
    };
    tracing::info!("stopping");
    ready.abort();
    demo.inspect(tokio::task::JoinHandle::abort);
    server.close().await;
    tokio::task::spawn_blocking(move || parts.stop()).await.context("stopping the layers")?;
    outcome
}

/// What `/metrics` shows.
fn registry<P>(parts: &Parts, ingest: &Ingest<P>) -> Registry {
    let mut registry = Registry::default();
    ingest.register(&mut registry);
    tidemark_speed_layer::metrics::register(&parts.speed, &mut registry);
    tidemark_batch_layer::metrics::register(&parts.batch, &mut registry);
    tidemark_serving::metrics::register(&parts.engine, &mut registry);
    tidemark_history::clickhouse::metrics::register(&parts.engine.history, &mut registry);
    registry
}

/// Says that it is ready when a query can be answered, and what to try.
async fn announce(engine: Arc<Engine<ClickHouse>>, http: String) {
    let mut changes = engine.live.changes();
    while engine.live.positions().iter().len() < engine.partitions as usize {
        if changes.changed().await.is_err() {
            return;
        }
    }
    tracing::info!("ready: {http}/");
    eprintln!("\n  Tidemark is ready: {http}/\n\n  Try:  curl '{http}/v1/query?step=5m&group_by=event_type&measures=count,sum'\n");
}
