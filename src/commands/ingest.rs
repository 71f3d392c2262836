//! `tidemark ingest`: the HTTP door of the topic alone. Any number of them, anywhere: they share nothing but Kafka.

use super::Settings;
use crate::config::Config;
use crate::http::{self, Http};
use crate::{input, parts};
use anyhow::{Result, bail};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;
use tidemark_access::{Access, Scope};
use tidemark_ingest::{Ingest, Problem};
use tidemark_metrics::Registry;
use tidemark_topic::kafka::{Admin, Kafka, ProducerOptions};

pub fn run(settings: Settings) -> Result<()> {
    super::log("ingest")?;
    let config = settings.load()?;
    if config.kafka.bootstrap.is_empty() {
        bail!(
            "ingest writes to a Kafka that runs elsewhere: name it with --kafka HOST:PORT or kafka.bootstrap (`tidemark up` brings one along)"
        );
    }
    super::runtime()?.block_on(ingest(config))
}

async fn ingest(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let limits = config.rules()?.limits;
    let access = Access::new(config.keys()?, config.open);
    let (door, url) = http::listen(&config, &access).await?;
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let partitions = tokio::select! {
        ensured = ensure_topic(&config, &kafka) => ensured?,
        () = &mut stop => return Ok(()),
    };
    let ingest = Arc::new(Ingest::new(kafka.producer(ProducerOptions::default())?, limits));
    let mut registry = Registry::default();
    ingest.register(&mut registry);
    let events = access.guard(Scope::Ingest, tidemark_ingest::routes(ingest));
    let routes = health(kafka.admin()?).merge(events).fallback(not_found);
    let server = Http::serve(door, &access, registry, Arc::new(Arc::default), routes, Router::new());
    tracing::info!(topic = config.kafka.topic, partitions, "ready: {url}/v1/events");
    server.serve_until(stop).await
}

/// Creates the topic if there is none. Where the configuration names a ClickHouse, its history is asked first whether it was
/// counted from such a topic; nothing else here needs it.
async fn ensure_topic(config: &Config, kafka: &Kafka) -> Result<u32> {
    if config.clickhouse.url.is_empty() || kafka.admin()?.exists().await? {
        return config.kafka.ensure_topic(kafka).await;
    }
    input::ensure_topic(config, kafka, &parts::open_archive(config, &config.clickhouse.url).await?).await
}

fn health(admin: Admin) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).with_state(admin)
}

/// Ready while Kafka answers: what is sent now can be acknowledged.
async fn ready(State(admin): State<Admin>) -> Result<&'static str, Problem> {
    let not_yet = |error: tidemark_topic::Error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready", error.to_string());
    admin.partitions().await.map_err(not_yet)?;
    Ok("ready\n")
}

async fn not_found() -> Problem {
    let there = "this process takes events: there are /v1/events, /v1/track and /v1/batch (POST), /metrics, /healthz and /readyz; queries are answered elsewhere";
    Problem::new(StatusCode::NOT_FOUND, "not-found", "No such resource", there)
}
