//! The embedded ClickHouse engine: from outside a child process with ClickHouse's HTTP interface, inside libchdb.
//!
//! Outside: [`Engine::start`]. Inside: [`engine_main`], which the program runs when it is started as its own engine.
//! `http.rs` receives, `request.rs` takes apart, `gate.rs` decides what may run, `ffi/chdb.rs` runs it.

mod config;
pub(crate) mod exception;
mod framing;
mod gate;
mod http;
mod mend;
mod request;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::serve::ListenerExt as _;
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

pub use config::EngineLimits;
use exception::Exception;
use http::Front;

use crate::child::{Launch, Probe, Supervisor};
use crate::data_dir::write_secret;
use crate::error::Error;
use crate::ffi::chdb::{Chdb, Connection};
use crate::ffi::process::leave;
use crate::ffi::sandbox;

/// Largest request body. The client keeps inserts to 500,000 rows, far below; ten times that could no longer be written whole.
pub(crate) const BODY_LIMIT_BYTES: usize = 256 << 20;
/// After SIGTERM, how long running requests may take to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL: draining, and writing what the engine holds.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long the engine runs at least before it starts again because of a part that cannot be read.
const LOADS_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Loading half a gigabyte from a cold disk, and many parts, takes a while.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How to start the engine's process: a program, and what comes before the engine's own arguments.
///
/// The `tidemark` binary passes itself and its hidden subcommand.
#[derive(Debug, Clone)]
pub struct EngineCommand {
    /// The program.
    pub program: PathBuf,
    /// For instance `["__engine"]`.
    pub args: Vec<OsString>,
}

/// The engine, seen from its parent.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Starts the engine and waits until it answers on `http://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::EndedAtStart`], [`Error::NotReady`] and [`Error::Spawn`].
    pub async fn start(command: EngineCommand, args: &EngineArgs, logs: &Path) -> Result<Supervisor, Error> {
        let mut all = command.args;
        all.extend(args.to_args());
        Supervisor::start(Launch {
            name: "the ClickHouse engine",
            program: command.program,
            args: all,
            log: logs.join("engine.log"),
            ports: vec![args.port],
            probe: Probe::Http,
            start_limit: START_LIMIT,
            stop_limit: STOP_LIMIT,
            // Secrets of the parent's environment are none of the engine's business.
            bare: true,
        })
        .await
    }
}

/// The file in the engine's data that holds the password of clients that may write; other clients may read. Each start makes another
/// one. It is not on the command line, which all users of the machine can see. Without the file all clients may write.
const SECRET: &str = "secret";

/// The user that sends it.
pub(crate) const USER: &str = "tidemark";

/// Makes another secret, and keeps it where the engine will look.
pub(crate) fn renew_secret(data: &Path) -> std::io::Result<String> {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(&data.join(SECRET), secret.as_bytes())?;
    Ok(secret)
}

/// What the engine's process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineArgs {
    /// `libchdb.so`.
    pub library: PathBuf,
    /// The engine's data; one process at a time.
    pub data: PathBuf,
    /// On 127.0.0.1.
    pub port: u16,
    /// What it may use.
    pub limits: EngineLimits,
}

impl EngineArgs {
    /// As command line arguments.
    fn to_args(&self) -> Vec<OsString> {
        vec![
            "--library".into(),
            self.library.clone().into(),
            "--data".into(),
            self.data.clone().into(),
            "--port".into(),
            self.port.to_string().into(),
            "--memory-bytes".into(),
            self.limits.memory_bytes.to_string().into(),
            "--merge-threads".into(),
            self.limits.merge_threads.to_string().into(),
        ]
    }

    /// The inverse of `to_args`, order aside.
    fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let wrong = |what: String| Error::EngineArguments(what);
        let (mut library, mut data, mut port) = (None, None, None);
        let mut limits = EngineLimits::default();
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let name = name.to_string_lossy().into_owned();
            let value = args.next().ok_or_else(|| wrong(format!("{name} has no value")))?;
            let number = || {
                let text = value.to_string_lossy();
                text.parse::<u64>().map_err(|_| wrong(format!("{name} is not a number: {text}")))
            };
            let too_large = |_| wrong(format!("{name} is too large"));
            match &*name {
                "--library" => library = Some(PathBuf::from(value)),
                "--data" => data = Some(PathBuf::from(value)),
                "--port" => port = Some(u16::try_from(number()?).map_err(too_large)?),
                "--memory-bytes" => limits.memory_bytes = number()?,
                "--merge-threads" => limits.merge_threads = u32::try_from(number()?).map_err(too_large)?,
                _ => return Err(wrong(format!("{name} is unknown"))),
            }
        }
        match (library, data, port) {
            (Some(library), Some(data), Some(port)) => Ok(Self { library, data, port, limits }),
            _ => Err(wrong("--library, --data and --port are needed".to_owned())),
        }
    }
}

/// The engine's process, from its arguments to its end. Call it from a plain `main`, outside of any runtime.
///
/// Does not return once the engine has run: it leaves with `_exit`, for the library's exit handlers are not reliable.
pub fn engine_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Already set when the program has a subscriber of its own.
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!("{error}");
        ExitCode::FAILURE
    };
    let args = match EngineArgs::from_args(args) {
        Ok(args) => args,
        Err(error) => return failed(&error),
    };
    let (front, keep) = match boot(&args) {
        Ok(booted) => booted,
        Err(error) => return failed(&error),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(http::RUNNING_LIMIT + 1).enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(serve(front, args.port)),
        Err(error) => Err(error),
    };
    // Sessions are closed by their requests; closing the last one lets the engine write what it holds.
    drop(keep);
    match served {
        Ok(()) => leave(0),
        Err(error) => {
            tracing::error!("cannot listen on 127.0.0.1:{}: {error}", args.port);
            leave(1)
        }
    }
}

/// Loads the library and starts the engine by its first session, which is held for life.
fn boot(args: &EngineArgs) -> Result<(Front, Connection), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let config = config::write(&args.data, args.limits)?;
    let secret = match std::fs::read_to_string(args.data.join(SECRET)) {
        Ok(secret) => Some(secret),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    for file in mend::remove_empty_mutations(&args.data)? {
        tracing::warn!("removed {}, which a full disk has left empty", file.display());
    }
    let chdb = Chdb::load(&args.library)?;
    let loaded = start.elapsed();
    confine(args)?;
    let base = vec![format!("--path={}", args.data.display())];
    let mut first = base.clone();
    first.push(format!("--config-file={}", config.display()));
    let keep = chdb.connect(&first).map_err(said)?;
    let known = known_settings(&keep).map_err(said)?;
    let (settings, ready) = (known.len(), start.elapsed());
    tracing::info!(?loaded, ?ready, settings, "the engine is up on {}", args.data.display());
    Ok((Front::new(chdb, base, known, secret), keep))
}

/// What the engine reads besides its data: its own code for stack traces, time zones, and what it counts load and memory by.
const READABLE: [&str; 13] = [
    "/usr/lib",
    "/usr/share/zoneinfo",
    "/lib",
    "/lib64",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/sys",
];

/// Must come before the engine starts its threads: only threads that start later are confined with this one.
fn confine(args: &EngineArgs) -> std::io::Result<()> {
    let mut readable: Vec<&Path> = READABLE.iter().map(Path::new).collect();
    readable.push(&args.library);
    if !sandbox::confine(&readable, &[&args.data, Path::new("/dev")])? {
        tracing::warn!(
            "this kernel has no Landlock (5.19 or newer), so SQL that reaches the engine can read files with the function \
             file(); let only trusted programs reach its port"
        );
    }
    Ok(())
}

fn said(exception: Exception) -> String {
    exception.text
}

fn known_settings(session: &Connection) -> Result<HashSet<String>, Exception> {
    let names = session.query("SELECT name FROM system.settings", "TabSeparated", &[])?;
    Ok(String::from_utf8_lossy(names.as_ref()).lines().map(str::to_owned).collect())
}

/// One process asks the engine, and a few people.
const MAX_CONNECTIONS: usize = 512;

/// Serves until SIGTERM, or until a part cannot be read; then lets what runs come to its end.
///
/// ClickHouse leaves a merged part without its marks when the disk was full, and uses it in place of those that it was made of. What
/// would read it fails from then on. A start sets such a part aside, and loads the others, which stay for eight minutes.
async fn serve(front: Front, port: u16) -> std::io::Result<()> {
    let front = Arc::new(front);
    let mut asked = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let listener = listener.tap_io(|stream| {
        // Small answers must not wait for an acknowledgement: p95 of a small query was 50 ms with Nagle's delay.
        let _ = stream.set_nodelay(true);
    });
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    // An error means the same: the sender is gone, so stop.
    let stopped = async { drop(stopping.await) }.boxed().shared();
    let server = tokio::spawn(tidemark_https::serve(listener, front.router(), MAX_CONNECTIONS, stopped));
    let since = Instant::now();
    tokio::select! {
        _ = asked.recv() => {}
        () = front.corrupted() => {
            let left = LOADS_AGAIN_AFTER.saturating_sub(since.elapsed());
            tracing::error!("a part on the disk cannot be read; the engine starts again in {left:?}, to set it aside");
            let _ = timeout(left, asked.recv()).await;
        }
    }
    let _ = stop.send(());
    let drained = async {
        let _ = server.await;
        front.drained().await;
    };
    if timeout(DRAIN_LIMIT, drained).await.is_err() {
        tracing::warn!("requests were still running {DRAIN_LIMIT:?} after SIGTERM and are cut off");
        leave(0);
    }
    tracing::info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_back_as_they_went() {
        let args = EngineArgs {
            library: "/l/libchdb.so".into(),
            data: "/d".into(),
            port: 8123,
            limits: EngineLimits { memory_bytes: 1 << 30, merge_threads: 3 },
        };
        assert_eq!(EngineArgs::from_args(args.to_args()).unwrap(), args);
        for wrong in [&["--port"][..], &["--port", "x"], &["--port", "70000"], &["--path", "/"], &[]] {
            assert!(EngineArgs::from_args(wrong.iter().map(OsString::from)).is_err(), "{wrong:?}");
        }
    }
}
