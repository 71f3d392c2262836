//! A role of the built binary beside a server, on that server's Kafka.

use crate::client::Client;
use crate::server::{Server, binary, free_port, terminate};
use crate::wait;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// A process that has been ready. Dropped, it is killed.
#[derive(Debug)]
pub struct Role {
    arguments: Vec<String>,
    child: Child,
    pub client: Client,
}

impl Role {
    /// `tidemark ingest`, ready.
    pub fn ingest(beside: &Server) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let kafka = beside.runtime().kafka;
        let arguments = ["ingest", "--listen", &address, "--kafka", &kafka, "--topic", &beside.topic()].map(str::to_owned).to_vec();
        let role = Self { child: spawned(&arguments), arguments, client: Client::new(format!("http://{address}")) };
        role.wait_ready();
        role
    }

    fn wait_ready(&self) {
        wait::until("the role is ready", DEADLINE, || self.client.try_get("/readyz").ok().filter(|reply| reply.status == 200));
    }

    /// SIGKILL, and another process at the same address, ready.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a killed child");
        self.child = spawned(&self.arguments);
        self.wait_ready();
    }

    /// SIGTERM, and it ends well.
    pub fn stop(mut self) {
        terminate(self.child.id());
        let ended = wait::until("the role stops", DEADLINE, || self.child.try_wait().expect("waiting for a child"));
        assert!(ended.success(), "after SIGTERM the role ended with {ended}");
    }
}

fn spawned(arguments: &[String]) -> Child {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary().display()))
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
