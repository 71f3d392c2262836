//! `tidemark serve`: answers alone. Any number of them, anywhere: they keep nothing.

use super::Deployed;
use crate::config::Config;
use crate::crew::{Crew, Part};
use crate::http::{self, Http};
use crate::parts::{self, Ground, Servers, Threads};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use tidemark_access::{Access, Scope};
use tidemark_batch_layer::Batch;
use tidemark_history::clickhouse::ClickHouse;
use tidemark_metrics::Registry;
use tidemark_serving::api::Routes;
use tidemark_serving::engine::{Engine, Layers};
use tidemark_serving::live::Live;
use tidemark_serving::push::Listened;
use tidemark_serving::snapshots::Snapshots;
use tokio::task::JoinHandle;

pub fn run(arguments: Deployed) -> Result<()> {
    super::log("serve")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "serve", true)?;
    super::runtime()?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let access = Access::new(config.keys()?, config.open);
    let (door, url) = http::listen(&config, &access).await?;
    let starting = async { Crew::<Serving>::start(config.clone(), Servers::elsewhere(&config).await?).await };
    let mut crew = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let Routes { open, read, admin, push } = tidemark_serving::api::routes(&http::engines(&crew, |part: &Serving| &part.engine));
    let routes = open.merge(access.guard(Scope::Read, read)).fallback(tidemark_serving::api::not_found);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Listened(Arc::clone(&push))));
    let server = Http::serve(door, &access, registry, http::answering(&crew), routes, admin);
    tracing::info!("answering: {url}/");
    let stop = async {
        stop.await;
        push.close();
    };
    let outcome = tokio::select! {
        served = server.serve_until(stop) => served,
        error = crew.follow() => Err(error),
    };
    crew.stop().await;
    outcome
}

/// One generation's answers.
struct Serving {
    engine: Arc<Engine>,
    history: Arc<ClickHouse>,
    following: JoinHandle<()>,
}

impl Part for Serving {
    async fn start(config: &Config, ground: &Ground, _: &Batch, threads: &mut Threads) -> Result<Self> {
        let store = parts::open_snapshots(config, &ground.rules).await?.context("there is no Redis")?;
        let reached = ground.follow(config, threads)?;
        let snapshots = Arc::new(Snapshots::new(store, Arc::clone(&ground.rules), ground.partitions.clone()));
        let following = tokio::spawn(Arc::clone(&snapshots).follow());
        let engine = parts::engine(config, ground, Live::InRedis(snapshots), reached, Layers::default());
        Ok(Self { engine, history: Arc::clone(&ground.history), following })
    }

    fn is_ready(&self) -> bool {
        self.engine.live.trouble().is_none()
    }

    /// It has no layers that could be held up.
    fn lag(&self) -> u64 {
        0
    }

    fn register(&self, registry: &mut Registry) {
        tidemark_serving::metrics::register(&self.engine, registry);
        tidemark_history::clickhouse::metrics::register(&self.history, registry);
    }

    /// It has no layers.
    fn gently(&self, _: bool) {}

    fn stop(&self) {
        self.following.abort();
    }
}
