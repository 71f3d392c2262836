//! A role of the built binary as a process: beside a server, on that server's Kafka, or on servers of the test's own.

use crate::client::Client;
use crate::cluster::{Cluster, Endpoints};
use crate::server::{Server, binary, free_port, freeze, terminate};
use crate::wait;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// A process that has been ready. Dropped, it is killed.
#[derive(Debug)]
pub struct Role {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: Option<PathBuf>,
    child: Child,
    pub client: Client,
}

impl Role {
    /// `tidemark ingest`, ready.
    pub fn ingest(beside: &Server) -> Self {
        let (kafka, topic) = (beside.runtime().kafka, beside.topic());
        Self::start(&["ingest", "--kafka", &kafka, "--topic", &topic], &[], None)
    }

    /// A role on these servers, ready, with settings from `DIR/config.toml`. `name` is its log's.
    pub fn on(cluster: &Cluster, role: &str, name: &str) -> Self {
        Self::at(cluster, &cluster.endpoints(), role, name)
    }

    /// The same in an environment of its own, and with its role's name.
    pub fn traced(cluster: &Cluster, role: &str, environment: &[(&str, &str)]) -> Self {
        Self::begin(cluster, &cluster.endpoints(), role, role, environment)
    }

    /// The same by other ways to the servers.
    pub fn at(cluster: &Cluster, servers: &Endpoints, role: &str, name: &str) -> Self {
        Self::begin(cluster, servers, role, name, &[])
    }

    fn begin(cluster: &Cluster, servers: &Endpoints, role: &str, name: &str, environment: &[(&str, &str)]) -> Self {
        let config = cluster.dir().join("config.toml").display().to_string();
        let mut arguments = vec![role, "--config", &config, "--kafka", &servers.kafka];
        if role != "ingest" {
            arguments.extend(["--clickhouse", &servers.clickhouse, "--redis", &servers.redis]);
        }
        Self::start(&arguments, environment, Some(cluster.dir().join(format!("{name}.log"))))
    }

    fn start(arguments: &[&str], environment: &[(&str, &str)], log: Option<PathBuf>) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let arguments: Vec<String> = arguments.iter().copied().chain(["--listen", &address]).map(str::to_owned).collect();
        let environment: Vec<_> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let child = spawned(&arguments, &environment, log.as_ref());
        let role = Self { child, arguments, environment, log, client: Client::new(format!("http://{address}")) };
        role.wait_ready();
        role
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

    /// Another process at the same address, ready.
    pub fn restart(&mut self) {
        self.child = spawned(&self.arguments, &self.environment, self.log.as_ref());
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

fn spawned(arguments: &[String], environment: &[(String, String)], log: Option<&PathBuf>) -> Child {
    let mut command = Command::new(binary());
    command.args(arguments).envs(environment.iter().cloned()).stdin(Stdio::null());
    if let Some(log) = log {
        let file = File::options().create(true).append(true).open(log).expect("opening a role's log");
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
    }
    command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary().display()))
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
