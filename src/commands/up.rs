//! `tidemark up`: everything in one process tree, on one data directory.

use super::{Deployed, stop_signal};
use crate::config::Config;
use crate::crew::{Crew, Part, Writer};
use crate::http::{self, Door, Http};
use crate::parts::{self, Ground, Servers, Threads};
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
use tidemark_serving::push::Listened;
use tidemark_speed_layer::Speed;
use tidemark_topic::kafka::ProducerOptions;
use tidemark_topic::{Membership, Share};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark up --demo
  tidemark up --data /var/lib/tidemark --config tidemark.toml
  tidemark up --kafka kafka:9092 --clickhouse http://clickhouse:8123 --redis redis://redis:6379")]
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
    let access = Access::new(config.keys()?, config.open);
    let (door, url) = http::listen(&config, &access).await?;
    let embedded = tokio::select! {
        started = start_engines(&config) => started?,
        () = &mut stop => return Ok(()),
    };
    let outcome = tokio::select! {
        started = start(&config, &embedded) => match started {
            Ok(crew) => serve(crew, door, &url, &embedded, access, demo, stop).await,
            Err(error) => Err(error),
        },
        () = stop_signal() => Ok(()),
    };
    tracing::info!("stopping the engines");
    embedded.stop().await;
    outcome
}

async fn start(config: &Config, embedded: &Embedded) -> Result<Crew<Everything>> {
    let runtime = embedded.runtime();
    Crew::start(config.clone(), Servers::open(config, &runtime.kafka, &runtime.clickhouse).await?).await
}

async fn start_engines(config: &Config) -> Result<Embedded> {
    let dir = DataDir::open(&config.data)?;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let program = std::env::current_exe().context("finding the program's own file")?;
    let mut options = EmbeddedOptions::new(EngineCommand { program, args: vec![crate::ENGINE.into()] });
    options.kafka_heap_mib = config.kafka.heap_mib;
    options.kafka_port = (config.kafka.port > 0).then_some(config.kafka.port);
    options.clickhouse_port = (config.clickhouse.port > 0).then_some(config.clickhouse.port);
    options.limits.memory_bytes = config.clickhouse.memory_mib << 20;
    options.other_kafka = given(&config.kafka.bootstrap);
    options.other_clickhouse = given(&config.clickhouse.url);
    tracing::info!(data = %config.data.display(), "starting the engines");
    Ok(Embedded::start(dir, options).await?)
}

/// One generation's parts, wired through memory.
struct Everything {
    engine: Arc<Engine>,
    history: Arc<ClickHouse>,
    speed: Arc<Speed>,
    batch: Batch,
}

impl Part for Everything {
    /// A static member: a restart takes its partitions back at once, and fences a former process that still runs.
    fn writer(config: &Config) -> Option<Writer> {
        Some(Writer { instance: Some("up".into()), alone: config.kafka.bootstrap.is_empty() })
    }

    async fn start(config: &Config, ground: &Ground, batch: &Batch, threads: &mut Threads) -> Result<Self> {
        let store = parts::open_snapshots(config, &ground.rules).await?;
        let batch = batch.clone();
        let reached = batch.reached();
        let memberships =
            Share::each(config.speed.threads(ground.partitions.get())).map(|share| Membership::All { group: None, share }).collect();
        let speed = parts::start_speed(config, ground, memberships, store, &reached, threads)?;
        let layers = Layers { speed: Some(Arc::clone(&speed)), batch: Some(batch.clone()) };
        let engine = parts::engine(config, ground, Live::Here(Arc::clone(&speed)), reached, layers);
        Ok(Self { engine, history: Arc::clone(&ground.history), speed, batch })
    }

    fn is_ready(&self) -> bool {
        self.speed.positions().iter().len() >= self.engine.partitions.get() as usize
    }

    fn lag(&self) -> u64 {
        self.speed.lag()
    }

    fn register(&self, registry: &mut Registry) {
        tidemark_speed_layer::metrics::register(&self.speed, registry);
        tidemark_batch_layer::metrics::register(&self.batch, registry);
        tidemark_serving::metrics::register(&self.engine, registry);
        tidemark_history::clickhouse::metrics::register(&self.history, registry);
    }

    fn gently(&self, gentle: bool) {
        self.speed.control.gently(gentle);
    }

    fn stop(&self) {
        self.speed.control.stop();
    }
}

async fn serve(
    mut crew: Crew<Everything>,
    door: Door,
    url: &str,
    embedded: &Embedded,
    access: Arc<Access>,
    demo: bool,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let (engine, kafka) = (Arc::clone(&crew.shown().borrow().live.engine), crew.kafka());
    let ingest = Arc::new(Ingest::new(kafka.producer(ProducerOptions::default())?, engine.rules.limits.clone()));
    let mut registry = Registry::default();
    ingest.register(&mut registry);
    let Routes { open, read, admin, push } = tidemark_serving::api::routes(&http::engines(&crew, |part: &Everything| &part.engine));
    registry.register_collector(Box::new(Listened(Arc::clone(&push))));
    let routes = open
        .merge(access.guard(Scope::Read, read))
        .merge(access.guard(Scope::Ingest, tidemark_ingest::routes(ingest)))
        .fallback(tidemark_serving::api::not_found);
    let mut server = Http::serve(door, &access, registry, http::answering(&crew), routes, admin);
    embedded.set_http(url)?;
    let ready = tokio::spawn(announce(engine, url.to_owned()));
    let demo =
        demo.then(|| kafka.producer(ProducerOptions::default())).transpose()?.map(|producer| tokio::spawn(super::demo::stream(producer)));
    let outcome = tokio::select! {
        () = stop => Ok(()),
        error = crew.follow() => Err(error),
        ended = server.ended() => ended,
    };
    tracing::info!("stopping");
    ready.abort();
    demo.inspect(tokio::task::JoinHandle::abort);
    push.close();
    server.close().await;
    crew.stop().await;
    outcome
}

/// Says that it is ready when a query can be answered, and what to try.
async fn announce(engine: Arc<Engine>, http: String) {
    let mut changes = engine.live.changes();
    while engine.live.positions().iter().len() < engine.partitions.get() as usize {
        if changes.changed().await.is_err() {
            return;
        }
    }
    tracing::info!("ready: {http}/");
    eprintln!("\n  Tidemark is ready: {http}/\n\n  Try:  curl '{http}/v1/query?step=5m&group_by=event_type&measures=count,sum'\n");
}
