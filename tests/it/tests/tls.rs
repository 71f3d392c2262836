//! The HTTP interface over TLS: to those that trust it, and to those that it trusts.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tidemark_tests::certificates::certificates;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::server::{binary, free_port};
use tidemark_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);

/// `curl` speaks TLS as other people's tools do.
fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["--silent", "--show-error", "--max-time", "10"]).args(arguments).output().expect("curl is there")
}

#[test]
fn events_are_sent_over_tls_and_strangers_are_kept_out() {
    let cluster = Cluster::start(1);
    let dir = cluster.dir();
    certificates(dir);
    let file = |name: &str| dir.join(name).display().to_string();
    let tls = format!(
        "[tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\nclient_ca_file = \"{}\"\n",
        file("own.crt"),
        file("own.key"),
        file("ca.crt")
    );
    let run = |name: &str, config: &str| {
        let path = file(name);
        fs::write(&path, config).expect("writing the configuration");
        let address = format!("127.0.0.1:{}", free_port());
        let arguments = ["ingest", "--config", &path, "--kafka", &cluster.kafka(), "--listen", &address];
        let child = Command::new(binary()).args(arguments).stdin(Stdio::null()).spawn().expect("started");
        (Ended(child), format!("https://localhost:{}", address.rsplit(':').next().expect("a port")))
    };
    // To everybody that trusts the authority.
    let open = tls.split("client_ca_file").next().expect("the part before");
    let (_server, url) = run("open.toml", open);
    let (ca, ready) = (file("ca.crt"), format!("{url}/readyz"));
    wait::until("it is ready", DEADLINE, || (curl(&["--cacert", &ca, &ready]).stdout == b"ready\n").then_some(()));
    let stranger = curl(&[&ready]);
    assert!(!stranger.status.success() && stranger.stdout.is_empty(), "nobody must take the certificate on trust");
    let events = file("events.ndjson");
    fs::File::create(&events)
        .and_then(|mut file| file.write_all(b"{\"event_type\":\"a\",\"timestamp\":1767225600000}\n"))
        .expect("written");
    let send = |more: &[&str]| Command::new(binary()).args(["send", "--url", &url, &events]).args(more).output().expect("started");
    let sent = send(&["--ca", &ca]);
    assert!(sent.status.success() && String::from_utf8_lossy(&sent.stdout).contains('1'), "{sent:?}");
    let missing = send(&["--ca", &file("nowhere.crt")]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("whom to trust"), "{missing:?}");

    // To those with a certificate alone.
    let (_server, url) = run("closed.toml", &tls);
    let (ready, own, key) = (format!("{url}/readyz"), file("own.crt"), file("own.key"));
    let with = ["--cacert", &ca, "--cert", &own, "--key", &key, &ready];
    wait::until("it is ready", DEADLINE, || (curl(&with).stdout == b"ready\n").then_some(()));
    let without = curl(&["--cacert", &ca, &ready]);
    assert!(!without.status.success() && without.stdout.is_empty(), "{without:?}");

    // A wrong file is refused with its name.
    fs::write(file("wrong.toml"), tls.replace("own.crt", "own.key")).expect("writing the configuration");
    let wrong =
        Command::new(binary()).args(["ingest", "--config", &file("wrong.toml"), "--kafka", "127.0.0.1:1"]).output().expect("started");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("own.key holds no certificate"), "{wrong:?}");
}

/// A child that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
