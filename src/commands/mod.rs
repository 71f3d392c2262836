//! One file a command. Each wires crates together and decides nothing.

pub mod bench;
pub mod demo;
pub mod ingest;
pub mod key;
pub mod send;
pub mod up;

use crate::config::Config;
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// What every process that listens takes.
#[derive(clap::Args)]
pub struct Settings {
    /// Settings that differ from the defaults (see tidemark.default.toml)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address of the HTTP interface [default: 127.0.0.1:8080]
    #[arg(long)]
    listen: Option<String>,
    /// Let everybody who reaches that address do everything, though it is not loopback and there are no keys
    #[arg(long)]
    open: bool,
    /// A Kafka that runs elsewhere: host:port, comma separated
    #[arg(long)]
    kafka: Option<String>,
    /// The topic that is counted [default: events]
    #[arg(long)]
    topic: Option<String>,
}

impl Settings {
    /// The configuration, with what the command line says instead.
    fn load(self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        config.listen = self.listen.unwrap_or(config.listen);
        config.open |= self.open;
        config.kafka.bootstrap = self.kafka.unwrap_or(config.kafka.bootstrap);
        config.kafka.topic = self.topic.unwrap_or(config.kafka.topic);
        Ok(config)
    }
}

/// The runtime that all of a process's tasks share.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// Logs go to standard error; `RUST_LOG` chooses.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rdkafka=error,librdkafka=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
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
