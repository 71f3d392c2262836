//! A Redis of the test's own: the server from the distribution's packages, which keeps nothing on disk.

use crate::certificates::certificates;
use crate::server::{free_port, freeze};
use crate::wait;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// A server that has answered. Dropped, it is killed.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    policy: String,
    child: Child,
}

impl Redis {
    pub fn start() -> Self {
        Self::with_policy("noeviction")
    }

    pub fn with_policy(policy: &str) -> Self {
        let port = free_port();
        let redis = Self { port, policy: policy.to_owned(), child: spawned(port, policy) };
        redis.wait_ready();
        redis
    }

    /// One that speaks TLS alone, and only with clients that have a certificate; those of [`certificates`] in `dir`.
    pub fn with_tls(dir: &Path, password: &str) -> Self {
        certificates(dir);
        let port = free_port();
        let file = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--requirepass", password]);
        command.args(["--tls-cert-file", &file("own.crt"), "--tls-key-file", &file("own.key"), "--tls-ca-cert-file", &file("ca.crt")]);
        command.args(["--loglevel", "warning"]).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("redis-server starts");
        wait::until("redis listens", DEADLINE, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        Self { port, policy: "noeviction".into(), child }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn wait_ready(&self) {
        wait::until("redis answers", DEADLINE, || (self.try_ask(&["PING"])? == "+PONG").then_some(()));
    }

    /// Sends a command; the first line of its answer.
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|| panic!("redis does not answer {words:?}"))
    }

    fn try_ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text += &format!("${}\r\n{word}\r\n", word.len()));
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = [0; 256];
        let read = stream.read(&mut answer).ok()?;
        String::from_utf8_lossy(&answer[..read]).lines().next().map(str::to_owned)
    }

    /// SIGKILL, and all is lost.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a killed child");
    }

    /// Another one at the same place, empty.
    pub fn restart(&mut self) {
        self.child = spawned(self.port, &self.policy);
        self.wait_ready();
    }

    /// Stands still without closing its connections, or goes on.
    pub fn freeze(&self, frozen: bool) {
        freeze(self.child.id(), frozen);
    }
}

fn spawned(port: u16, policy: &str) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxmemory-policy", policy]);
    command.args(["--loglevel", "warning"]).current_dir(std::env::temp_dir()).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("redis-server cannot be started ({error}): scripts/test.sh installs it"))
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
