//! `tidemark up`: everything in one process tree, on one data directory.

use super::{Settings, stop_signal};
use crate::config::Config;
use crate::http::{self, Http};
use anyhow::{Context as _, Result, anyhow};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::{Access, Scope};
use tidemark_batch_layer::Batch;
use tidemark_core::generation::Rules;
use tidemark_embedded::{DataDir, Embedded, EmbeddedOptions, EngineCommand};
use tidemark_history::clickhouse::{ClickHouse, Server};
use tidemark_ingest::Ingest;
use tidemark_metrics::{Process, Registry};
use tidemark_serving::api::Routes;
use tidemark_serving::engine::Engine;
use tidemark_speed_layer::Speed;
use tidemark_speed_layer::reread::LogYard;
use tidemark_topic::kafka::{ConsumerOptions, Kafka, ProducerOptions};
use tidemark_topic::{Control, Membership, Share};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// Data directory [default: tidemark-data]
    #[arg(long)]
    data: Option<PathBuf>,
    /// A ClickHouse that runs elsewhere, its URL, instead of an embedded one
    #[arg(long)]
    clickhouse: Option<String>,
    /// Feed a sample stream of real flights
    #[arg(long)]
    demo: bool,
}

/// How long an engine may take to answer at the start.
const START_DEADLINE: Duration = Duration::from_secs(60);

pub fn run(arguments: Arguments) -> Result<()> {
    super::log();
    let demo = arguments.demo;
    let mut config = arguments.settings.load()?;
    config.data = arguments.data.unwrap_or(config.data);
    config.clickhouse.url = arguments.clickhouse.unwrap_or(config.clickhouse.url);
    let rules = Arc::new(config.rules()?);
    super::runtime()?.block_on(up(config, rules, demo))
}

async fn up(config: Config, rules: Arc<Rules>, demo: bool) -> Result<()> {
    let mut stop = std::pin::pin!(stop_signal());
    let access = Access::new(config.keys()?);
    let (listener, url) = http::listen(&config, &access).await?;
    let embedded = tokio::select! {
        started = start_engines(&config) => started?,
        () = &mut stop => return Ok(()),
    };
    let outcome = tokio::select! {
        parts = Parts::start(&config, rules, &embedded) => match parts {
            Ok(parts) => serve(parts, listener, &url, &embedded, access, demo, stop).await,
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

/// Before the batch layer joins its group again.
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// The process's parts, wired through memory.
struct Parts {
    engine: Arc<Engine<ClickHouse>>,
    kafka: Kafka,
    /// A layer that ends by itself says why; every one is a reason to stop.
    ended: mpsc::Receiver<anyhow::Error>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Parts {
    async fn start(config: &Config, rules: Arc<Rules>, embedded: &Embedded) -> Result<Self> {
        let runtime = embedded.runtime();
        let kafka = config.kafka.connect(&runtime.kafka);
        let partitions = config.kafka.ensure_topic(&kafka).await?;
        let history = Arc::new(open_history(config, &runtime.clickhouse, &rules).await?);

        let speed = Arc::new(Speed::new(Arc::clone(&rules)).bounded(config.speed.max_open_events));
        let batch = Batch::default();
        let engine = Engine::new(
            Arc::clone(&rules),
            config.kafka.topic.clone(),
            partitions,
            Arc::clone(&speed),
            batch.clone(),
            Arc::clone(&history),
        );
        let (say, ended) = mpsc::channel(2);
        let options = ConsumerOptions { queued_kbytes: config.kafka.queued_kbytes, ..ConsumerOptions::default() };
        let handle = tokio::runtime::Handle::current();

        let mut threads = Vec::new();
        for share in Share::each(config.speed.threads(partitions)) {
            let consumer = kafka.consumer(Membership::All { group: None, share }, options.clone())?;
            let (speed, history, reached, handle) = (Arc::clone(&speed), Arc::clone(&history), batch.reached(), handle.clone());
            let count =
                move || tidemark_speed_layer::run::run(consumer, &*history, reached, &speed, &handle).context("the speed layer ended");
            threads.push(thread("speed", say.clone(), count)?);
        }
        threads.push(thread("batch", say, {
            let (batch, history, rules, limits) = (batch.clone(), Arc::clone(&history), Arc::clone(&rules), config.block_limits()?);
            let (kafka, membership, options) = (batch_kafka(&kafka), batch_membership(config, &rules), options.clone());
            let (alone, control) = (config.kafka.bootstrap.is_empty(), batch.control.clone());
            let run = move || -> Result<(), tidemark_batch_layer::run::Error> {
                let consumer = kafka.consumer(membership.clone(), options.clone())?;
                tidemark_batch_layer::run(consumer, Arc::clone(&history), Arc::clone(&rules), limits, batch.clone(), handle.clone())
            };
            move || rejoining(&control, alone, run).context("the batch layer ended")
        })?);
        let connect = {
            let kafka = kafka.clone();
            move || kafka.consumer(Membership::all(), options.clone())
        };
        let yard = LogYard { rules: Arc::clone(&rules), connect: Arc::new(connect) };
        tokio::spawn(tidemark_speed_layer::run::close_epochs(speed, history, yard, batch.reached()));
        Ok(Self { engine: Arc::new(engine), kafka, ended, threads })
    }

    fn stop(self) {
        self.engine.speed.control.stop();
        self.engine.batch.control.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a layer's thread panicked while stopping");
            }
        }
    }
}

/// Runs the batch layer, and again under a new membership where the old one is lost for good. A broker that is killed can
/// have given this member a new id in an answer that never came, and then fences it by its own name; it can also go away
/// in the middle of an assignment. Where the broker is the embedded one, nobody else can have the name; elsewhere being
/// fenced means that another process has it, and ends this one.
fn rejoining(
    control: &Control,
    alone: bool,
    run: impl Fn() -> Result<(), tidemark_batch_layer::run::Error>,
) -> Result<(), tidemark_batch_layer::run::Error> {
    use tidemark_batch_layer::run::Error::Log;
    use tidemark_topic::Error::{Refused, Unavailable};
    loop {
        match run() {
            Err(error @ Log(Unavailable { .. })) if !control.is_stopping() => {
                control.trouble(Some(format!("history stands still: {error}")))
            }
            Err(error @ Log(Refused { .. })) if alone && !control.is_stopping() => {
                control.trouble(Some(format!("history stands still: {error}")))
            }
            ended => return ended,
        }
        std::thread::sleep(REJOIN_PAUSE);
    }
}

/// While history does not answer, the batch layer waits inside a block and does not poll; the session's heartbeat, not
/// the pace of polling, tells whether it lives.
fn batch_kafka(kafka: &Kafka) -> Kafka {
    let mut kafka = kafka.clone();
    kafka.client_options.entry("max.poll.interval.ms".into()).or_insert_with(|| "86400000".into());
    kafka
}

/// A static member: a restart takes its partitions back at once, and fences a former process that still runs.
fn batch_membership(config: &Config, rules: &Rules) -> Membership {
    Membership::Group {
        group: format!("{}-batch-g{}", config.kafka.group, rules.generation),
        instance: Some("up".into()),
        session_timeout: Duration::from_millis(config.kafka.session_timeout_ms),
    }
}

async fn open_history(config: &Config, url: &str, rules: &Rules) -> Result<ClickHouse> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let ClickHouseConfig { database, user, password, .. } = &config.clickhouse;
    let server = Server { url: url.to_owned(), database: database.clone(), user: given(user), password: given(password) };
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    loop {
        match ClickHouse::open(&server, &config.kafka.topic, rules.clone()).await {
            Err(error @ tidemark_history::Error::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                tracing::info!("waiting for ClickHouse: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

type ClickHouseConfig = crate::config::ClickHouse;

fn thread(
    name: &str,
    ended: mpsc::Sender<anyhow::Error>,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<std::thread::JoinHandle<()>> {
    let body = move || {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let error = match done {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => anyhow!("a layer panicked; the log has the place"),
        };
        // Only the first one matters: it stops the process.
        let _ = ended.blocking_send(error);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).context("starting a thread")
}

async fn serve(
    mut parts: Parts,
    listener: TcpListener,
    url: &str,
    embedded: &Embedded,
    access: Arc<Access>,
    demo: bool,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let producer = parts.kafka.producer(ProducerOptions::default())?;
    let ingest = Arc::new(Ingest::new(producer, parts.engine.rules.limits.clone()));
    let registry = registry(&parts.engine, &ingest);
    let Routes { open, read, admin } = tidemark_serving::api::routes(&parts.engine);
    let routes = open
        .merge(access.guard(Scope::Read, read))
        .merge(access.guard(Scope::Admin, admin))
        .merge(access.guard(Scope::Ingest, tidemark_ingest::routes(ingest)))
        .fallback(tidemark_serving::api::not_found);
    let mut server = Http::serve(listener, http::with_metrics(&access, registry, routes));
    embedded.set_http(url)?;
    let ready = tokio::spawn(announce(Arc::clone(&parts.engine), url.to_owned()));
    let demo = demo
        .then(|| parts.kafka.producer(ProducerOptions::default()))
        .transpose()?
        .map(|producer| tokio::spawn(super::demo::stream(producer)));
    let outcome = tokio::select! {
        () = stop => Ok(()),
        error = parts.ended.recv() => Err(error.unwrap_or_else(|| anyhow!("the layers ended"))),
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
fn registry<P>(engine: &Engine<ClickHouse>, ingest: &Ingest<P>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    ingest.register(&mut registry);
    tidemark_speed_layer::metrics::register(&engine.speed, &mut registry);
    tidemark_batch_layer::metrics::register(&engine.batch, &mut registry);
    engine.meters.register(&mut registry);
    registry
}

/// Says that it is ready when a query can be answered, and what to try.
async fn announce(engine: Arc<Engine<ClickHouse>>, http: String) {
    let mut changes = engine.speed.changes();
    while engine.speed.positions().iter().len() < engine.partitions as usize {
        if changes.changed().await.is_err() {
            return;
        }
    }
    tracing::info!("ready: {http}/");
    eprintln!("\n  Tidemark is ready: {http}/\n\n  Try:  curl '{http}/v1/query?step=5m&group_by=event_type&measures=count,sum'\n");
}
