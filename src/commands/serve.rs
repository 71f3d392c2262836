//! `tidemark serve`: answers alone. Any number of them, anywhere: they keep nothing.

use super::Deployed;
use crate::config::Config;
use crate::http::{self, Http};
use crate::parts::{self, Servers};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use tidemark_access::{Access, Scope};
use tidemark_metrics::Registry;
use tidemark_serving::api::Routes;
use tidemark_serving::engine::{Engine, Layers};
use tidemark_serving::live::Live;
use tidemark_serving::snapshots::Snapshots;

pub fn run(arguments: Deployed) -> Result<()> {
    super::log("serve")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "serve", true)?;
    super::runtime()?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let access = Access::new(config.keys()?);
    let (door, url) = http::listen(&config, &access).await?;
    let starting = async {
        let servers = Servers::elsewhere(&config).await?;
        let store = parts::open_snapshots(&config, &servers.rules).await?.context("there is no Redis")?;
        let reached = servers.follow(&config)?;
        let Servers { rules, partitions, history, .. } = servers;
        let snapshots = Arc::new(Snapshots::new(store, Arc::clone(&rules), partitions));
        tokio::spawn(Arc::clone(&snapshots).follow());
        let (topic, live) = (config.kafka.topic.clone(), Live::InRedis(snapshots));
        anyhow::Ok(Arc::new(Engine::new(rules, topic, partitions, live, reached, history, Layers::default())))
    };
    let engine = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let mut registry = Registry::default();
    tidemark_serving::metrics::register(&engine, &mut registry);
    tidemark_history::clickhouse::metrics::register(&engine.history, &mut registry);
    let Routes { open, read, admin } = tidemark_serving::api::routes(&engine);
    let routes = open.merge(access.guard(Scope::Read, read)).fallback(tidemark_serving::api::not_found);
    let server = Http::serve(door, &access, registry, routes, admin);
    tracing::info!("answering: {url}/");
    server.serve_until(stop).await
}
