//! The life of a child process: it dies with us, ends when asked, and comes back when it falls over.
//!
//! * **Dies with us.** The kernel sends it SIGKILL when the *thread* that forked it ends (PR_SET_PDEATHSIG). A runtime's
//!   threads come and go, so one thread of this module, [`spawner`], forks every child and lives as long as the process.
//! * **Does not hear the terminal.** It has a process group of its own: Ctrl-C reaches us alone, and we drain first.
//! * **Comes back** on the same ports and data, after a pause that grows with each failure in a row.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::ffi;

/// A log beyond this is set aside at the next start of its writer; one older log is kept.
const LOG_LIMIT_BYTES: u64 = 16 << 20;
/// How much of a log an error shows.
const TAIL_BYTES: u64 = 2000;
/// Variables that a child without an environment has all the same.
const KEPT: [&str; 5] = ["PATH", "HOME", "TZ", "RUST_LOG", "RUST_BACKTRACE"];
/// Pause between two looks whether a child answers: short beside any start, and cheap.
const PROBE_EVERY: Duration = Duration::from_millis(25);
/// One probe: a child that listens but does not answer within this is not ready.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// A child that stayed ready this long starts its failures from zero.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// How to run a child, the same way each time.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// For people.
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Takes standard output and standard error.
    pub(crate) log: PathBuf,
    /// Ports that it will listen on; the first one answers the probe.
    pub(crate) ports: Vec<u16>,
    pub(crate) probe: Probe,
    pub(crate) start_limit: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) stop_limit: Duration,
    /// Without the parent's environment, but for [`KEPT`].
    pub(crate) bare: bool,
}

/// What a child must answer to count as ready: a port that merely accepts is too early.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    /// `GET /ping`.
    Http,
    /// Kafka's FindCoordinator request, version 0, for a group of any name: length, key 10, version 0, correlation 1, no client id,
    /// name. Asked first, a new node makes its topic of positions; a consumer that joins before that is ready waits two seconds.
    Kafka,
}

impl Probe {
    async fn answers(self, port: u16) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            match self {
                Self::Http => {
                    stream.write_all(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
                    let mut start = [0; 12];
                    stream.read_exact(&mut start).await?;
                    Ok(&start == b"HTTP/1.1 200")
                }
                Self::Kafka => {
                    stream.write_all(b"\0\0\0\x0d\0\x0a\0\0\0\0\0\x01\xff\xff\0\x01g").await?;
                    // length, correlation, error code
                    let mut start = [0; 10];
                    stream.read_exact(&mut start).await?;
                    Ok(start[4..] == [0, 0, 0, 1, 0, 0])
                }
            }
        };
        let answer: Result<io::Result<bool>, _> = timeout(PROBE_LIMIT, ask).await;
        matches!(answer, Ok(Ok(true)))
    }
}

/// Where a child is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildState {
    /// Started, does not answer yet.
    Starting,
    /// Answers.
    Ready {
        /// Its process id.
        pid: u32,
    },
    /// Fell over; will be started again.
    Down {
        /// For people.
        reason: String,
    },
    /// Stopped on purpose.
    Stopped,
}

/// Keeps one child alive until [`Supervisor::stop`]. Dropped without it, the child is killed.
#[derive(Debug)]
pub struct Supervisor {
    state: watch::Receiver<ChildState>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts the child and waits until it answers. A first start that fails is an error; later ones are repeated.
    pub(crate) async fn start(launch: Launch) -> Result<Self, Error> {
        for &port in &launch.ports {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            TcpListener::bind(address).map_err(|_| Error::PortTaken { name: launch.name, port })?;
        }
        let mut child = spawn(&launch).await?;
        let pid = ready(&launch, &mut child).await?;
        let (state_to, state) = watch::channel(ChildState::Ready { pid });
        let (stop, stop_asked) = watch::channel(false);
        let task = tokio::spawn(supervise(launch, child, state_to, stop_asked));
        Ok(Self { state, stop, task })
    }

    /// The child's state, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ChildState> {
        self.state.clone()
    }

    /// Asks the child to end, kills it after its deadline, and returns when it is gone.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // The task ends by itself; it can only fail by a panic, which has been reported already.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The task owns the child, which is killed when it is dropped.
        self.task.abort();
    }
}

/// What can happen to a child that was ready.
enum Event {
    Exited(io::Result<ExitStatus>),
    StopAsked,
}

async fn supervise(launch: Launch, mut child: Child, state: watch::Sender<ChildState>, mut stop: watch::Receiver<bool>) {
    let mut failures = 0;
    'lives: loop {
        let since = Instant::now();
        match next_event(&mut child, &mut stop).await {
            Event::StopAsked => {
                end(&launch, &mut child).await;
                break;
            }
            Event::Exited(status) => {
                failures = if since.elapsed() > STEADY_AFTER { 1 } else { failures + 1 };
                let reason = format!("{} ended unasked ({}); it is started again", launch.name, ending(&status));
                tracing::warn!(log = %launch.log.display(), "{reason}");
                state.send_replace(ChildState::Down { reason });
            }
        }
        loop {
            if unless_stopped(sleep(backoff(failures)), &mut stop).await.is_none() {
                break 'lives;
            }
            state.send_replace(ChildState::Starting);
            let again = async {
                let mut child = spawn(&launch).await?;
                let pid = ready(&launch, &mut child).await?;
                Ok::<_, Error>((child, pid))
            };
            match unless_stopped(again, &mut stop).await {
                None => break 'lives,
                Some(Ok((new, pid))) => {
                    tracing::info!(pid, "{} is back", launch.name);
                    child = new;
                    state.send_replace(ChildState::Ready { pid });
                    break;
                }
                Some(Err(error)) => {
                    failures += 1;
                    tracing::error!("{} does not come back: {error}", launch.name);
                    state.send_replace(ChildState::Down { reason: error.to_string() });
                }
            }
        }
    }
    state.send_replace(ChildState::Stopped);
}

async fn next_event(child: &mut Child, stop: &mut watch::Receiver<bool>) -> Event {
    tokio::select! {
        status = child.wait() => Event::Exited(status),
        // An error means that the supervisor is gone, and this task with it.
        _ = stop.wait_for(|asked| *asked) => Event::StopAsked,
    }
}

/// What `work` gives, or None as soon as a stop is asked; `work` is dropped then, and a child in it killed.
async fn unless_stopped<T>(work: impl Future<Output = T>, stop: &mut watch::Receiver<bool>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = stop.wait_for(|asked| *asked) => None,
    }
}

/// Pause before a start after this many failures in a row: short at first, for clients wait; then patient.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.saturating_sub(1).min(6))
}

async fn end(launch: &Launch, child: &mut Child) {
    if let Some(pid) = child.id() {
        ffi::process::terminate(pid);
    }
    if timeout(launch.stop_limit, child.wait()).await.is_err() {
        tracing::warn!("{} did not end within {:?} and is killed", launch.name, launch.stop_limit);
        if let Err(error) = child.kill().await {
            tracing::error!("{} could not be killed: {error}", launch.name);
        }
    }
}

fn ending(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end could not be read: {error}"),
    }
}

/// Waits until the child answers; its pid.
async fn ready(launch: &Launch, child: &mut Child) -> Result<u32, Error> {
    let port = launch.ports.first().copied().unwrap_or_default();
    let answered = async {
        while !launch.probe.answers(port).await {
            sleep(PROBE_EVERY).await;
        }
    };
    let died = tokio::select! {
        status = child.wait() => Some(status),
        done = timeout(launch.start_limit, answered) => {
            done.map_err(|_| Error::NotReady {
                name: launch.name,
                after: launch.start_limit,
                log: launch.log.clone(),
                tail: tail(&launch.log),
            })?;
            None
        }
    };
    match (died, child.id()) {
        (None, Some(pid)) => Ok(pid),
        (status, _) => Err(Error::EndedAtStart {
            name: launch.name,
            status: status.map_or_else(|| "no status".to_owned(), |status| ending(&status)),
            log: launch.log.clone(),
            tail: tail(&launch.log),
        }),
    }
}

/// Runs a program that ends by itself, such as Kafka's formatter, with the same care as a child that stays.
pub(crate) async fn run_to_end(launch: &Launch) -> Result<(), Error> {
    let mut child = spawn(launch).await?;
    let (log, tail_now) = (launch.log.clone(), || tail(&launch.log));
    match timeout(launch.start_limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(status) => Err(Error::EndedAtStart { name: launch.name, status: ending(&status), log, tail: tail_now() }),
        Err(_) => Err(Error::NotReady { name: launch.name, after: launch.start_limit, log, tail: tail_now() }),
    }
}

async fn spawn(launch: &Launch) -> Result<Child, Error> {
    let log = open_log(&launch.log).map_err(Error::file("open the log", &launch.log))?;
    let second = log.try_clone().map_err(Error::file("open the log", &launch.log))?;
    let mut command = std::process::Command::new(&launch.program);
    command.args(&launch.args).stdin(Stdio::null()).stdout(log).stderr(second);
    if launch.bare {
        command.env_clear().envs(KEPT.iter().filter_map(|&name| Some((name, std::env::var_os(name)?))));
    }
    // The runtime that will wait for the child.
    let runtime = Handle::current();
    let start = move |command| {
        let _runtime = runtime.enter();
        Command::from(command).process_group(0).kill_on_drop(true).spawn()
    };
    let failed = |source| Error::Spawn { name: launch.name, program: launch.program.clone(), source };
    forked(command, start).await.map_err(failed)
}

/// Starts a program that dies with this process, however this process ends. It is the caller's to stop and to wait for.
///
/// # Errors
/// The program could not be started.
pub async fn spawn_dying_with_us(command: std::process::Command) -> io::Result<std::process::Child> {
    forked(command, |mut command| command.spawn()).await
}

/// Runs `start` on the thread that forks, so that the child dies with this process.
async fn forked<C: Send + 'static>(
    mut command: std::process::Command,
    start: impl FnOnce(std::process::Command) -> io::Result<C> + Send + 'static,
) -> io::Result<C> {
    ffi::process::die_with_parent(&mut command);
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts children is gone");
    let job = move || {
        // Nobody waiting any more: the child is dropped.
        let _ = reply.send(start(command));
    };
    spawner().send(Box::new(job)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that forks; never ends, for its end would kill every child.
fn spawner() -> &'static mpsc::Sender<Job> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let work = move || inbox.into_iter().for_each(|job| job());
        if let Err(error) = std::thread::Builder::new().name("children".to_owned()).spawn(work) {
            tracing::error!("no thread to start children from: {error}");
        }
        jobs
    })
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_LIMIT_BYTES) {
        fs::rename(path, path.with_extension("old.log"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The end of a log, from a line's start.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    match read() {
        Ok(text) if text.is_empty() => "(nothing)".to_owned(),
        Ok(text) => text,
        Err(error) => format!("(not readable: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stop_growing() {
        let pauses = [1, 2, 3, 7, 50].map(|failures| backoff(failures).as_millis());
        assert_eq!(pauses, [100, 200, 400, 6400, 6400]);
    }

    fn launch(dir: &Path, script: &str) -> Launch {
        let [port] = crate::free_ports().unwrap();
        Launch {
            name: "a test's child",
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            log: dir.join("child.log"),
            ports: vec![port],
            probe: Probe::Http,
            start_limit: Duration::from_millis(300),
            stop_limit: Duration::from_millis(300),
            bare: false,
        }
    }

    #[tokio::test]
    async fn a_first_start_that_fails_shows_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let error = Supervisor::start(launch(dir.path(), "echo no disk left; exit 3")).await.unwrap_err();
        assert!(matches!(&error, Error::EndedAtStart { tail, .. } if tail == "no disk left"), "{error}");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let error = Supervisor::start(launch(dir.path(), "exec sleep 60")).await.unwrap_err();
        assert!(matches!(error, Error::NotReady { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut launch = launch(dir.path(), "exec sleep 60");
        launch.ports[0] = other.local_addr().unwrap().port();
        let error = Supervisor::start(launch).await.unwrap_err();
        assert!(matches!(error, Error::PortTaken { .. }), "{error}");
    }
}
