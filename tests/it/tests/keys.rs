//! Keys: made by the program, let in by its configuration, and asked for wherever others could reach.

use std::process::{Command, Output};
use tidemark_tests::client::Client;
use tidemark_tests::server::{Site, binary, free_port};

/// A key's secret, and the lines of the configuration that let it in, as `tidemark key` prints them.
pub(crate) fn key(name: &str, scopes: &str) -> (String, String) {
    let output = Command::new(binary()).args(["key", name, "--scopes", scopes]).output().expect("started");
    assert!(output.status.success());
    let (secret, said) = (String::from_utf8(output.stdout).expect("text"), String::from_utf8(output.stderr).expect("text"));
    let lines = &said[said.find("[[key]]").expect("lines for the configuration")..];
    assert!(!said.contains(secret.trim()), "the configuration holds the secret itself");
    (secret.trim().to_owned(), lines.to_owned())
}

fn status(client: &Client, path: &str, key: Option<&str>) -> u16 {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", &**bearer)).collect();
    client.try_get_with(path, &headers).expect("an answer").status
}

#[test]
fn only_keys_open_what_their_scopes_name() {
    let (reader, reads) = key("a reader", "read");
    let (sender, sends) = key("a \"sender\"", "ingest");
    let (keeper, keeps) = key("keeper", "read,admin");
    let site = Site::new(&format!("{reads}\n{sends}\n{keeps}"));
    let server = site.up();
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(status(&server.client, path, None), 200, "{path}");
    }
    for path in ["/v1/query?step=total", "/v1/status", "/v1/dead-letters", "/metrics"] {
        let with = |key| status(&server.client, path, key);
        assert_eq!((with(None), with(Some("tm_0")), with(Some(&sender)), with(Some(&reader))), (401, 401, 403, 200), "{path}");
    }
    let post = |path: &str, key: &str| {
        let headers = [("authorization", &*format!("Bearer {key}")), ("content-type", "application/json")];
        server.client.try_post(path, &headers, br#"{"event_type":"a","timestamp":1795564800000}"#).expect("an answer").status
    };
    assert_eq!((post("/v1/events", &reader), post("/v1/events", &sender)), (403, 200));
    assert_eq!((post("/v1/layers/batch/pause", &reader), post("/v1/layers/batch/pause", &keeper)), (403, 200));

    let file = site.data().join("one.ndjson");
    std::fs::write(&file, "{\"event_type\":\"b\",\"timestamp\":1795564800000}\n").expect("written");
    let send = |key: Option<&str>| -> Output {
        let mut command = Command::new(binary());
        command.args(["send", "--url", &server.client.url]).arg(&file).env_remove("TIDEMARK_KEY");
        if let Some(key) = key {
            command.env("TIDEMARK_KEY", key);
        }
        command.output().expect("started")
    };
    let refused = send(None);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("needs a key"), "{refused:?}");
    assert!(send(Some(&sender)).status.success());
    server.stop();
}

#[test]
fn what_operators_do_can_have_an_address_of_its_own() {
    let apart = format!("127.0.0.1:{}", free_port());
    let site = Site::new(&format!("admin_listen = \"{apart}\"\n"));
    let server = site.up();
    let operators = Client::new(format!("http://{apart}"));
    let pause = |client: &Client| client.post("/v1/layers/batch/pause", &[], b"").status;
    assert_eq!((status(&server.client, "/metrics", None), pause(&server.client)), (404, 404));
    assert_eq!((status(&operators, "/metrics", None), pause(&operators)), (200, 200));
    assert_eq!((status(&server.client, "/v1/status", None), status(&operators, "/v1/status", None)), (200, 404));
    server.stop();
}

#[test]
fn an_address_that_others_can_reach_wants_keys_or_a_word() {
    let ingest = |words: &[&str]| {
        // Nothing listens at port 1: it gets no further than its own door, or waits for a Kafka that never comes.
        let output = Command::new("timeout")
            .args(["--signal=TERM", "5"])
            .arg(binary())
            .args(["ingest", "--kafka", "127.0.0.1:1", "--listen", "0.0.0.0:0"])
            .args(words)
            .output()
            .expect("started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = ingest(&[]);
    assert!(code == Some(5) && said.contains("tidemark key") && said.contains("--open"), "{code:?} {said}");
    let (_, said) = ingest(&["--open"]);
    assert!(!said.contains("tidemark key"), "{said}");
}
