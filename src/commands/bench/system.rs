//! A whole system under measurement: `tidemark up` as people start it, and a client that asks it over HTTP.

use super::measured::Usage;
use anyhow::{Context as _, Result, ensure};
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidemark_embedded::{Runtime, spawn_dying_with_us};

/// How long starting may take, and how long counting and closing may stand still.
const PATIENCE: Duration = Duration::from_secs(120);

/// `tidemark up` as people start it, on a directory of its own.
#[derive(Debug)]
pub struct System {
    child: Child,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
}

impl System {
    /// Starts it with a configuration and further words.
    pub async fn start(config: &str, words: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for the run")?;
        let file = dir.path().join("tidemark.toml");
        std::fs::write(&file, config).context("writing the configuration")?;
        let own = ["up", "--listen", "127.0.0.1:0", "--config"].map(str::to_owned).into_iter().chain([file.display().to_string()]);
        let data = ["--data".to_owned(), dir.path().join("data").display().to_string()];
        let arguments: Vec<String> = own.chain(data).chain(words.iter().map(|word| (*word).to_owned())).collect();
        Ok(Self { child: spawned(&arguments, &dir.path().join("up.log")).await?, dir, arguments })
    }

    /// Kills it by SIGKILL, and starts it again.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill().context("killing the system")?;
        self.child.wait().context("waiting for the system's end")?;
        self.child = spawned(&self.arguments, &self.dir.path().join("up.log")).await?;
        Ok(())
    }

    /// What the process itself has used, its engines apart.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }

    pub fn runtime(&self) -> Result<Runtime> {
        Runtime::read(&self.data()).context("the system has gone")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A client, once a query can be answered.
    pub async fn ready(&self) -> Result<Asking> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = Runtime::read(&self.data()).and_then(|runtime| runtime.http) {
                let client = Asking::new(address);
                if client.get("/readyz").await.is_ok() {
                    return Ok(client);
                }
            }
            ensure!(
                Path::new(&format!("/proc/{}", self.child.id())).exists() && Instant::now() < deadline,
                "the system did not start: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }
}

/// It dies with us: a bench that is killed leaves no system behind.
async fn spawned(arguments: &[String], log: &Path) -> Result<Child> {
    let log = std::fs::File::create(log).context("a log for the system")?;
    let mut command = Command::new(std::env::current_exe().context("finding the program's own file")?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    spawn_dying_with_us(command).await.context("starting the system")
}

impl Drop for System {
    /// Its engines die with it.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client, with as many connections as it needs.
#[derive(Clone, Debug)]
pub struct Asking {
    url: String,
    http: Client<HttpConnector, Body>,
}

impl Asking {
    pub fn new(url: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { url, http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    pub async fn get(&self, path: &str) -> Result<Bytes> {
        self.ask(Request::get(format!("{}{path}", self.url)).body(Body::empty())?).await
    }

    pub async fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    /// The rows of a query by type and window, as the recount has them.
    pub async fn counts(&self, path: &str) -> Result<Vec<String>> {
        let answer = self.json(path).await?;
        let line = |row: &Value| {
            let window: jiff::Timestamp = row["window"].as_str().context("window")?.parse()?;
            let event_type = row["event_type"].as_str().context("event_type")?;
            Ok(format!("{event_type},{},{}", window.as_millisecond(), row["count"].as_u64().context("count")?))
        };
        let mut lines = answer["rows"].as_array().context("rows")?.iter().map(line).collect::<Result<Vec<String>>>()?;
        lines.sort();
        Ok(lines)
    }

    /// Posts NDJSON events, and returns what the server says when they are safe.
    pub async fn post(&self, events: String) -> Result<Value> {
        let request = Request::post(format!("{}/v1/events", self.url)).header("content-type", "application/x-ndjson");
        Ok(serde_json::from_slice(&self.ask(request.body(events.into())?).await?)?)
    }

    async fn ask(&self, request: Request<Body>) -> Result<Bytes> {
        let what = request.uri().to_string();
        let response = self.http.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{what}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Waits until history has all but so many events of each partition.
    pub async fn wait_until_behind_at_most(&self, events: u64) -> Result<()> {
        self.wait(|partition| partition["history_lag"].as_u64().is_some_and(|lag| lag <= events)).await
    }

    /// Waits until both layers have read the log to its end.
    pub async fn wait_until_read(&self) -> Result<()> {
        self.wait(|partition| partition["history_lag"].as_u64() == Some(0) && partition["lag"].as_u64() == Some(0)).await
    }

    /// Waits until, besides, every complete epoch is closed.
    pub async fn wait_until_closed(&self, bits: u8) -> Result<()> {
        let at = |partition: &Value, name: &str| partition[name].as_u64().map(|offset| offset >> bits);
        self.wait_until_read().await?;
        self.wait(|partition| at(partition, "mark").is_some() && at(partition, "mark") == at(partition, "end")).await
    }

    async fn wait(&self, done: impl Fn(&Value) -> bool) -> Result<()> {
        let (mut deadline, mut known) = (Instant::now() + PATIENCE, Value::Null);
        loop {
            let mut status = self.json("/v1/status").await?;
            let partitions = status["partitions"].take();
            if partitions.as_array().context("partitions")?.iter().all(&done) {
                return Ok(());
            }
            if partitions != known {
                (deadline, known) = (Instant::now() + PATIENCE, partitions);
            }
            ensure!(Instant::now() < deadline, "nothing has moved for {} s: {known}", PATIENCE.as_secs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Offsets below the mark.
    pub async fn closed(&self) -> Result<u64> {
        let status = self.json("/v1/status").await?;
        Ok(status["partitions"].as_array().context("partitions")?.iter().filter_map(|partition| partition["mark"].as_u64()).sum())
    }
}
