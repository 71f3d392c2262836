//! A role of the built binary as a process: beside a server, on that server's Kafka, or on servers of the test's own.

use crate::client::Client;
use crate::cluster::{Cluster, Endpoints};
use crate::server::{Server, binary, free_port, freeze, terminate};
use crate::wait;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// A process that has been ready. Dropped, it is killed.
#[derive(Debug)]
pub struct Role {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: Option<PathBuf>,
    child: Child,
    pub client: Client,
}

/// What is not as usual with a process.
#[derive(Clone, Default, Debug)]
pub struct Way {
    /// By other ways to the servers.
    pub servers: Option<Endpoints>,
    /// Besides what the test's own has.
    pub environment: Vec<(String, String)>,
    /// Another program than the one under test.
    pub program: Option<PathBuf>,
}

impl Role {
    /// `tidemark ingest`, ready.
    pub fn ingest(beside: &Server) -> Self {
        let (kafka, topic) = (beside.runtime().kafka, beside.topic());
        let arguments = ["ingest", "--kafka", &kafka, "--topic", &topic].map(str::to_owned);
        Self::start(arguments.to_vec(), &Way::default(), None)
    }

    /// A role on these servers, ready, with settings from `DIR/config.toml`. `name` is its log's.
    pub fn on(cluster: &Cluster, role: &str, name: &str) -> Self {
        Self::by(cluster, role, name, &Way::default())
    }

    /// The same in another way.
    pub fn by(cluster: &Cluster, role: &str, name: &str, way: &Way) -> Self {
        let servers = way.servers.clone().unwrap_or_else(|| cluster.endpoints());
        Self::start(Self::arguments(cluster, role, &servers), way, Some(cluster.dir().join(format!("{name}.log"))))
    }

    /// The same, but it must end by itself without having been ready, for a reason; gives what it said.
    pub fn refused(cluster: &Cluster, role: &str) -> String {
        Self::refused_by(cluster, role, &Way::default())
    }

    /// The same in another way.
    pub fn refused_by(cluster: &Cluster, role: &str, way: &Way) -> String {
        let port = free_port();
        let log = cluster.dir().join(format!("{role}-refused-{port}.log"));
        let servers = way.servers.clone().unwrap_or_else(|| cluster.endpoints());
        let mut arguments = Self::arguments(cluster, role, &servers);
        arguments.extend(["--listen".into(), format!("127.0.0.1:{port}")]);
        let mut child = spawned(&binary(), &arguments, &way.environment, Some(&log));
        let ended = wait::until("the role gives up", DEADLINE, || child.try_wait().expect("waiting for a child"));
        assert!(!ended.success(), "{role} ended as if all were well");
        std::fs::read_to_string(&log).expect("reading a role's log")
    }

    fn arguments(cluster: &Cluster, role: &str, servers: &Endpoints) -> Vec<String> {
        let config = cluster.dir().join("config.toml").display().to_string();
        let mut arguments = vec![role, "--config", &config, "--kafka", &servers.kafka];
        if role != "ingest" {
            arguments.extend(["--clickhouse", &servers.clickhouse, "--redis", &servers.redis]);
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn start(mut arguments: Vec<String>, way: &Way, log: Option<PathBuf>) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        arguments.extend(["--listen".to_owned(), address.clone()]);
        let program = way.program.clone().unwrap_or_else(binary);
        let child = spawned(&program, &arguments, &way.environment, log.as_ref());
        let client = Client::new(format!("http://{address}"));
        let role = Self { program, arguments, environment: way.environment.clone(), log, child, client };
        role.wait_ready();
        role
    }

    /// Waits until it has ended by itself, for a reason.
    pub fn wait_ended(&mut self) {
        let ended = wait::until("the role ends by itself", DEADLINE, || self.child.try_wait().expect("waiting for a child"));
        assert!(!ended.success(), "{:?} ended as if all were well", self.arguments);
    }

    fn wait_ready(&self) {
        wait::until("the role is ready", DEADLINE, || self.client.try_get("/readyz").ok().filter(|reply| reply.status == 200));
    }

    /// SIGKILL, and another process at the same address, ready.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a killed child");
    }

    /// The next processes have these variables, too.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Another process at the same address, ready.
    pub fn restart(&mut self) {
        self.child = spawned(&self.program, &self.arguments, &self.environment, self.log.as_ref());
        self.wait_ready();
    }

    /// Stands still without closing its connections, or goes on.
    pub fn freeze(&self, frozen: bool) {
        freeze(self.child.id(), frozen);
    }

    /// SIGTERM, it ends well, and another process at the same address is ready.
    pub fn stop_and_restart(&mut self) {
        self.end();
        self.restart();
    }

    /// The same, and the process at the same address is of another version.
    pub fn change_to(&mut self, program: &Path) {
        self.end();
        self.program = program.to_owned();
        self.restart();
    }

    fn end(&mut self) {
        terminate(self.child.id());
        let ended = wait::until("the role stops", DEADLINE, || self.child.try_wait().expect("waiting for a child"));
        assert!(ended.success(), "after SIGTERM {:?} ended with {ended}", self.arguments);
    }

    /// SIGTERM, and it ends well.
    pub fn stop(mut self) {
        self.end();
    }
}

fn spawned(program: &Path, arguments: &[String], environment: &[(String, String)], log: Option<&PathBuf>) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().cloned()).stdin(Stdio::null());
    if let Some(log) = log {
        let file = File::options().create(true).append(true).open(log).expect("opening a role's log");
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
    }
    command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()))
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
