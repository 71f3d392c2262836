//! `tidemark bench ingest`: NDJSON over HTTP to events that Kafka has acknowledged. Ingest runs in this process, by the
//! product's own routes; the client is `tidemark send`, and with the broker it shares the machine.

use super::measured::Usage;
use super::report::{Figure, Run, memory_of_first};
use super::topic::{Bench, write_ndjson};
use super::{Topic, recount};
use anyhow::{Context as _, Result, ensure};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tidemark_core::event::Limits;
use tidemark_ingest::Ingest;
use tidemark_topic::kafka::ProducerOptions;

pub async fn run(topic: &Topic, run: u32) -> Result<Run> {
    let bench = Bench::empty(topic).await?;
    let dir = tempfile::tempdir().context("a directory for the run")?;
    let file = dir.path().join("events.ndjson");
    write_ndjson(&file, topic.events)?;
    let producer = bench.kafka.producer(ProducerOptions::default())?;
    let routes = tidemark_ingest::routes(Arc::new(Ingest::new(producer, Limits::default())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });

    let (began, before, servers) = (Instant::now(), Usage::begin()?, bench.servers()?);
    let program = std::env::current_exe().context("finding the program's own file")?;
    let mut client = Command::new(program).arg("send").arg(&file).args(["--url", &url]).stdout(Stdio::null()).spawn()?;
    let sent = tokio::task::spawn_blocking(move || client.wait()).await??;
    let (took, used) = (began.elapsed().as_secs_f64(), Usage::now()?.since(before));
    let servers = bench.servers()?.figures_since(servers, topic.events);
    ensure!(sent.success(), "`tidemark send` did not succeed");
    server.abort();

    let counted = recount::events(&recount::by_type_and_window(&bench.kafka).await?);
    ensure!(counted == topic.events, "{} events were acknowledged, but the topic has {counted}", topic.events);
    let on_disk =
        bench.topic_bytes()?.map(|bytes| Figure::new("bytes on Kafka's disk", "bytes an event", bytes as f64 / topic.events as f64));
    bench.stop().await;
    let figures = [
        Figure::new("sent and acknowledged", "events/s", topic.events as f64 / took),
        Figure::cpu("CPU of ingest", used.cpu_secs, topic.events),
    ];
    let memory = memory_of_first(run, "peak resident memory of ingest", used.peak_mib);
    Ok(Run { figures: figures.into_iter().chain(memory).chain(servers).chain(on_disk).collect(), result: None })
}
