//! The client behind `tidemark send FILE…` (⇄): streams files of events to ingest in batches, a few of them in flight.
//!
//! [`files`] reads and cuts batches on a thread of its own, [`client`] posts one batch until it is answered, [`report`]
//! is what comes of it. Batches are posted in the order of the files, but may arrive in another: `in_flight: 1` keeps
//! the order of each key's events too.

mod client;
mod files;
mod report;

use crate::lines::LineError;
use client::Client;
use files::Batch;
use indicatif::{ProgressBar, ProgressStyle};
use report::Acknowledged;
pub use report::{Rejected, SendReport};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Batches that are read ahead of those in flight: reading and sending overlap, and memory stays bounded.
const READ_AHEAD_BATCHES: usize = 2;

/// How files are sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SendOptions {
    /// Events in a request; at most [`crate::MAX_ITEMS`].
    pub batch: usize,
    /// Requests under way at a time.
    pub in_flight: usize,
    /// A progress bar on standard error, if that is a terminal.
    pub progress: bool,
    /// How long a batch that fails is sent again before giving up. Longer than a broker takes to come back.
    pub retry_for: Duration,
    /// Whether bodies are packed with zstd; `None` packs them unless the address is this machine.
    pub pack: Option<bool>,
    /// For servers that want one.
    pub key: Option<Key>,
    /// Whom to trust over TLS, a file in PEM; the system's own authorities otherwise.
    pub authorities: Option<PathBuf>,
}

/// A key, which does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { batch: 1000, in_flight: 4, progress: true, retry_for: Duration::from_secs(120), pack: None, key: None, authorities: None }
    }
}

/// Why sending stopped before the end.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("`{url}` is not an address to send to: {reason}")]
    Url { url: String, reason: String },
    #[error("the key has characters that no key has")]
    Key,
    #[error("whom to trust cannot be read: {reason}")]
    Authorities { reason: String },
    #[error("{name} cannot be opened: {source}")]
    Open { name: String, source: std::io::Error },
    /// What was acknowledged before is in the report; so may be later lines than the one that failed.
    #[error("stopped at {name}:{line}: {cause}; {} events had been accepted by then", report.accepted)]
    Stopped {
        name: String,
        /// The first line of the batch that failed, from 1.
        line: u64,
        cause: Cause,
        report: Box<SendReport>,
    },
}

/// What stopped it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Read(#[from] LineError),
    #[error("the server refused the batch with {status}: {detail}")]
    Refused { status: u16, detail: String },
    #[error("the server's answer is not understood: {reason}")]
    BadAnswer { reason: String },
    #[error("no success within {} s of attempts, the last one: {reason}", tried_for.as_secs())]
    GaveUp { tried_for: Duration, reason: String },
    #[error("a fault of this program: {0}")]
    Internal(String),
}

/// Where something stopped, and why.
#[derive(Debug)]
struct Stop {
    name: Arc<str>,
    line: u64,
    cause: Cause,
}

/// Sends NDJSON files (plain, gzip or zstd; `-` is standard input) to the ingest at `url` and waits until each event
/// has been acknowledged or rejected. A batch without an answer is sent again: events with an `event_id` are counted
/// once all the same, the others may then be counted twice ([`SendReport::resent`] says how many were at risk).
pub async fn send(files: &[PathBuf], url: &str, options: SendOptions) -> Result<SendReport, SendError> {
    let client = Arc::new(Client::new(url, &options)?);
    let bar = progress_bar(files, &options)?;
    let started = Instant::now();
    let mut report = SendReport::default();
    let stopped = match read_on_a_thread(files, options.batch) {
        Ok(reading) => post_all(reading, &client, options.in_flight.max(1), &mut report, &bar).await,
        Err(stop) => Err(stop),
    };
    report.took = started.elapsed();
    bar.finish_and_clear();
    match stopped {
        Ok(()) => Ok(report),
        Err(stop) => Err(SendError::Stopped { name: stop.name.to_string(), line: stop.line, cause: stop.cause, report: Box::new(report) }),
    }
}

/// The reader and what it has read.
struct Reading {
    batches: mpsc::Receiver<Result<Batch, Stop>>,
    thread: JoinHandle<()>,
}

/// Starts the reader. It ends when it has read everything or when nobody takes batches any more. Its thread is not one
/// of the runtime's, which would wait at its end for a terminal or a pipe that says nothing.
fn read_on_a_thread(files: &[PathBuf], batch: usize) -> Result<Reading, Stop> {
    let (sender, batches) = mpsc::channel(READ_AHEAD_BATCHES);
    let files = files.to_vec();
    let most = batch.clamp(1, crate::MAX_ITEMS);
    let thread = std::thread::Builder::new().name("send-reader".to_owned()).spawn(move || {
        for file in &files {
            match files::read(file, most, |batch| sender.blocking_send(Ok(batch)).is_ok()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(stop) => {
                    // Nobody is waiting if sending has stopped for another reason.
                    sender.blocking_send(Err(stop)).ok();
                    return;
                }
            }
        }
    });
    let thread = thread.map_err(|error| fault(format!("starting the reader: {error}")))?;
    Ok(Reading { batches, thread })
}

fn fault(reason: String) -> Stop {
    Stop { name: "the sender".into(), line: 0, cause: Cause::Internal(reason) }
}

/// Keeps up to `in_flight` batches under way. What is still under way when one fails is abandoned.
async fn post_all(
    mut reading: Reading,
    client: &Arc<Client>,
    in_flight: usize,
    report: &mut SendReport,
    bar: &ProgressBar,
) -> Result<(), Stop> {
    let mut under_way: JoinSet<Result<Acknowledged, Stop>> = JoinSet::new();
    let mut more = true;
    while more || !under_way.is_empty() {
        tokio::select! {
            batch = reading.batches.recv(), if more && under_way.len() < in_flight => match batch {
                None => more = false,
                Some(batch) => {
                    let (batch, client) = (batch?, Arc::clone(client));
                    under_way.spawn(async move { client.post(batch).await });
                }
            },
            Some(done) = under_way.join_next() => {
                let done = done.map_err(|error| fault(error.to_string()))?;
                report.add(done?, bar);
            }
        }
    }
    // It has let go of the channel, so it is at its end; a panic must not look like the end of the files.
    reading.thread.join().map_err(|_| fault("the reader panicked".to_owned()))
}

/// A bar over the files' bytes as they lie on disk; a spinner where a length is not known.
fn progress_bar(files: &[PathBuf], options: &SendOptions) -> Result<ProgressBar, SendError> {
    let mut total = Some(0);
    for file in files {
        let length = files::length(file).map_err(|source| SendError::Open { name: file.display().to_string(), source })?;
        total = total.zip(length).map(|(sum, length)| sum + length);
    }
    if !options.progress {
        return Ok(ProgressBar::hidden());
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{wide_bar} {binary_bytes}/{binary_total_bytes}  {msg}  {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes}  {msg}"),
    };
    let style = ProgressStyle::with_template(template);
    Ok(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
}

/// What a path is called in reports.
fn name_of(file: &Path) -> Arc<str> {
    if file == Path::new("-") { "standard input".into() } else { file.display().to_string().into() }
}
