//! One file a command. Each wires crates together and decides nothing.

pub mod bench;
pub mod demo;
pub mod ingest;
pub mod key;
pub mod send;
pub mod up;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

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
