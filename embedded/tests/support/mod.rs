//! What the tests of the real engines share: a running engine, and waiting for a condition instead of for a while.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses its own part of this")]

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use clickhouse::{Client, Compression};
use tidemark_embedded::{ChildState, Engine, EngineArgs, EngineCommand, EngineLimits, Engines, Supervisor, free_ports};

/// Generous: two busy cores, and a JVM.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Missing engines fail the test with the sentence that says what to do; a test that skips itself proves nothing.
pub fn engines() -> Engines {
    Engines::locate().unwrap_or_else(|error| panic!("{error}"))
}

pub fn engine_command() -> EngineCommand {
    EngineCommand { program: env!("CARGO_BIN_EXE_tidemark-engine").into(), args: Vec::new() }
}

pub struct TestEngine {
    pub supervisor: Supervisor,
    pub url: String,
    pub port: u16,
}

impl TestEngine {
    pub async fn start(dir: &Path) -> Self {
        let [port] = free_ports().unwrap();
        let args = EngineArgs { library: engines().libchdb, data: dir.to_owned(), port, limits: EngineLimits::default() };
        let supervisor = Engine::start(engine_command(), &args, dir).await.unwrap_or_else(|error| panic!("{error}"));
        Self { supervisor, url: format!("http://127.0.0.1:{port}"), port }
    }

    pub fn client(&self) -> Client {
        Client::default().with_url(&self.url).with_compression(Compression::None)
    }
}

pub async fn pid_when_ready(supervisor: &Supervisor, not: u32) -> u32 {
    let mut state = supervisor.state();
    let ready = state.wait_for(|state| matches!(state, ChildState::Ready { pid } if *pid != not));
    match *tokio::time::timeout(DEADLINE, ready).await.expect("ready in time").expect("supervised") {
        ChildState::Ready { pid } => pid,
        _ => unreachable!("waited for it"),
    }
}

pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A zombie counts as gone: it holds nothing any more.
pub fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

pub fn kill(pid: u32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

pub fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
