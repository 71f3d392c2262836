//! A `tidemark up` of the built binary, on a directory and a port of its own.

use crate::client::Client;
use crate::slots::Slots;
use crate::wait;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;
use serde_json::Value;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Both engines start within this, on a machine that is busy with other things.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// A clean stop, engines included.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// From a parent's SIGKILL to its children's end.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);
/// From the last event to the last epoch's close.
const SETTLED_DEADLINE: Duration = Duration::from_secs(240);
/// Below the ports that `tidemark` chooses for its engines.
const PORTS: std::ops::Range<u16> = 11_000..15_000;
/// Lines of the server's log that a failed test shows.
const LOG_LINES: usize = 40;

/// Where a server lives: it can be started here, killed, and started again.
#[derive(Debug)]
pub struct Site {
    dir: tempfile::TempDir,
    port: u16,
    _slots: Slots,
}

/// `DIR/tidemark.json`
#[derive(Clone, Debug, Deserialize)]
pub struct Runtime {
    pub pid: u32,
    pub http: Option<String>,
    pub kafka: String,
    pub clickhouse: String,
    pub kafka_pid: Option<u32>,
    pub engine_pid: Option<u32>,
}

/// A server that has been ready. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    pub client: Client,
}

/// The binary under test: `TIDEMARK_BIN`, else the one beside this test, else the other profile's.
pub fn binary() -> PathBuf {
    if let Some(given) = std::env::var_os("TIDEMARK_BIN") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "TIDEMARK_BIN names {}, which is not there", given.display());
        return given.canonicalize().expect("a file that is there has a path");
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("tests are in TARGET/PROFILE/deps");
    let target = profile.parent().expect("PROFILE is in TARGET");
    let places = [profile.join("tidemark"), target.join("release/tidemark"), target.join("debug/tidemark")];
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.unwrap_or_else(|| {
        panic!("the binary under test is not at {}; build it first (cargo build --release), or set TIDEMARK_BIN", places[0].display())
    })
}

impl Site {
    /// `config` is TOML: only what differs from the default.
    pub fn new(config: &str) -> Self {
        Self::with(config, Slots::one())
    }

    /// The same, and no other test has a server meanwhile: for tests that measure time.
    pub fn alone(config: &str) -> Self {
        Self::with(config, Slots::all())
    }

    fn with(config: &str, slots: Slots) -> Self {
        let dir = tempfile::Builder::new().prefix("tidemark-it-").tempdir().expect("a temporary directory");
        let site = Self { dir, port: free_port(), _slots: slots };
        site.configure(config);
        site
    }

    /// Another configuration for the servers to come.
    pub fn configure(&self, config: &str) {
        fs::write(self.config(), config).expect("writing the configuration");
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What its servers have logged.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Another file beside the configuration.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("writing a file");
        path
    }

    /// Starts a server and does not wait.
    fn spawn(&self, port: u16, log: &Path, environment: &[(String, String)]) -> Child {
        let file = File::options().create(true).append(true).open(log).expect("opening the server's log");
        let mut command = Command::new(binary());
        command.arg("up").arg("--data").arg(self.data()).arg("--listen").arg(format!("127.0.0.1:{port}"));
        command.arg("--config").arg(self.config());
        // The engines are looked for above the working directory too.
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        command.envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary().display()))
    }

    /// Starts a server here and waits until it is ready.
    pub fn up(&self) -> Server {
        self.up_with(&[])
    }

    /// With these variables in its environment.
    pub fn up_with(&self, environment: &[(String, String)]) -> Server {
        let log = self.log();
        let child = self.spawn(self.port, &log, environment);
        let client = Client::new(format!("http://127.0.0.1:{}", self.port));
        let mut server = Server { child, data: self.data(), log, client };
        wait::until("GET /readyz answers 200", READY_DEADLINE, || {
            if let Some(ended) = server.child.try_wait().expect("waiting for a child") {
                panic!("tidemark up ended by itself: {ended}");
            }
            server.is_ready().then_some(())
        });
        server
    }

    /// Starts another one on the same directory, which must end by itself; gives its status and what it said.
    pub fn up_again(&self) -> (ExitStatus, String) {
        let log = self.dir.path().join("second.log");
        let mut child = self.spawn(free_port(), &log, &[]);
        let ended = wait::until("the second server gives up", Duration::from_secs(30), || child.try_wait().expect("waiting for a child"));
        (ended, fs::read_to_string(log).expect("reading the second server's log"))
    }
}

impl Server {
    pub fn is_ready(&self) -> bool {
        self.client.try_get("/readyz").is_ok_and(|reply| reply.status == 200)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where things listen now. It is replaced as a whole, so it can always be read.
    pub fn runtime(&self) -> Runtime {
        let path = self.data.join("tidemark.json");
        let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}: {}", path.display(), String::from_utf8_lossy(&text)))
    }

    pub fn topic(&self) -> String {
        self.client.status()["topic"].as_str().expect("the status names the topic").to_owned()
    }

    /// Waits until all is quiet: history has everything, every full epoch is closed. Gives the status then.
    pub fn settled(&self) -> Value {
        wait::until("history reaches the log's end and every full epoch closes", SETTLED_DEADLINE, || {
            let status = self.client.status();
            let span = 1 << status["epoch_bits"].as_u64().expect("the status has epoch_bits");
            let is_settled = |at: &Value| {
                let end = at["end"].as_u64();
                end.is_some()
                    && at["speed"].as_u64() == end
                    && at["history"].as_u64() == end
                    && at["mark"].as_u64() == end.map(|end| end / span * span)
            };
            let partitions = status["partitions"].as_array().expect("the status lists partitions");
            partitions.iter().all(is_settled).then_some(status)
        })
    }

    /// What people ask ClickHouse directly: lines of tab-separated text.
    pub fn sql(&self, statement: &str) -> Vec<Vec<String>> {
        self.try_sql(statement).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, or what is wrong.
    pub fn try_sql(&self, statement: &str) -> Result<Vec<Vec<String>>, String> {
        Client::new(self.runtime().clickhouse).try_sql(statement)
    }

    /// The most memory that the process itself has had, in MiB. Its engines are other processes.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux says VmHWM");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("VmHWM is a number");
        kib / 1024
    }

    /// SIGTERM, and everything ends.
    pub fn stop(mut self) {
        let children = self.children();
        terminate(self.pid());
        let ended = wait::until("the server stops", STOP_DEADLINE, || self.child.try_wait().expect("waiting for a child"));
        assert!(ended.success(), "after SIGTERM tidemark ended with {ended}");
        assert_gone(&children);
    }

    /// SIGKILL to the whole tree by way of its root; panics if a child outlives it.
    pub fn kill(mut self) {
        self.kill_tree();
    }

    fn kill_tree(&mut self) {
        let children = self.children();
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a killed child");
        assert_gone(&children);
    }

    /// Kafka and the engine, as far as they run.
    fn children(&self) -> Vec<u32> {
        if !self.data.join("tidemark.json").is_file() {
            return Vec::new();
        }
        let runtime = self.runtime();
        [runtime.kafka_pid, runtime.engine_pid].into_iter().flatten().collect()
    }

    /// SIGKILL to the engine alone, or nothing if it is down.
    pub fn kill_engine(&self) -> Option<u32> {
        self.runtime().engine_pid.inspect(|&pid| kill(pid))
    }

    /// SIGKILL to Kafka alone, or nothing if it is down.
    pub fn kill_kafka(&self) -> Option<u32> {
        self.runtime().kafka_pid.inspect(|&pid| kill(pid))
    }

    /// Waits until both engines run, none of them being `killed`, and queries are answered.
    pub fn wait_recovered(&self, killed: u32) {
        wait::until("the engine that was killed is replaced, and the server ready again", READY_DEADLINE, || {
            let runtime = self.runtime();
            let replaced = |pid: Option<u32>| pid.is_some_and(|pid| pid != killed);
            (replaced(runtime.engine_pid) && replaced(runtime.kafka_pid) && self.is_ready()).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- the server's log, last lines\n{}\n---", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if std::thread::panicking() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            } else {
                self.kill_tree();
            }
        }
    }
}

fn pid(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is a positive i32")
}

pub(crate) fn signal(process: u32, signal: Signal) {
    // One that has just ended by itself needs no killing.
    let _ = kill_process(pid(process), signal);
}

/// Makes a process stand still without closing its connections, or go on.
pub fn freeze(process: u32, frozen: bool) {
    signal(process, if frozen { Signal::STOP } else { Signal::CONT });
}

/// SIGTERM.
pub(crate) fn terminate(process: u32) {
    signal(process, Signal::TERM);
}

/// SIGKILL, and it has ended: nothing listens on its ports.
fn kill(process: u32) {
    signal(process, Signal::KILL);
    assert_gone(&[process]);
}

fn assert_gone(processes: &[u32]) {
    for &process in processes {
        let what = format!("process {process}, a child of tidemark, ends");
        wait::until(&what, DEATH_DEADLINE, || (test_kill_process(pid(process)).is_err() || is_zombie(process)).then_some(()));
    }
}

/// Ended, and not yet collected by its parent. The first of its threads may end before the last, which has the sockets.
fn is_zombie(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
    threads <= 1 && stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
}

pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (first, count) = (PORTS.start, PORTS.end - PORTS.start);
    let own = u16::try_from(std::process::id() % u32::from(count)).expect("below a u16");
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut tried = (0..count).map(|_| first + (own + NEXT.fetch_add(1, Ordering::Relaxed) % count) % count);
    tried.find(is_free).expect("one of four thousand ports is free")
}
