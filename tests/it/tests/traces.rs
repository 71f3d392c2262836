//! The way of a request through all processes, as a collector of traces gets to see it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;
use tidemark_tests::client::{Position, raise};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::collector::{Collector, Span};
use tidemark_tests::question::Question;
use tidemark_tests::role::{Role, Way};
use tidemark_tests::server::binary;
use tidemark_tests::wait;

const CONFIG: &str = "[kafka]\npartitions = 2\n[batch]\nmax_age_ms = 200\n";
const EVENT: &[u8] = br#"{"event_type":"click","timestamp":"2026-01-01T00:00:00Z"}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// What was done as part of the caller's trace, and by whom.
const WHOLE_WAY: [(&str, &str); 8] = [
    ("tidemark-batch", "write"),
    ("tidemark-ingest", "POST /v1/events"),
    ("tidemark-ingest", "send"),
    ("tidemark-serve", "GET /v1/query"),
    ("tidemark-serve", "closed part"),
    ("tidemark-serve", "live part"),
    ("tidemark-speed", "count"),
    ("tidemark-speed", "publish"),
];

#[test]
fn a_request_is_followed_from_the_post_to_the_answer_of_a_query() {
    let (cluster, collector) = (Cluster::start(1), Collector::start());
    fs::write(cluster.dir().join("config.toml"), CONFIG).expect("writing the configuration");
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "200")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let way = Way { environment, ..Way::default() };
    let [ingest, speed, batch, serve] = ["ingest", "speed", "batch", "serve"].map(|role| Role::by(&cluster, role, role, &way));
    wait::until("queries are answered from snapshots", Duration::from_secs(60), || {
        let status = serve.client.status();
        status["live"]["trouble"].is_null().then_some(())
    });
    let mut position = Position::new();
    // The caller does not record the first one, so nobody does; the second one is recorded on its whole way.
    for (trace, flags) in [("11111111111111111111111111111111", "00"), (TRACE, "01")] {
        let traceparent = format!("00-{trace}-{CALLER}-{flags}");
        let reply = ingest.client.post("/v1/events", &[("content-type", "application/json"), ("traceparent", &traceparent)], EVENT);
        assert_eq!(reply.status, 200, "{}", reply.text());
        raise(&mut position, reply.json()["position"].as_str().expect("a position"));
    }
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let asked = serve.client.try_get_with(&Question::total().path(Some(&position)), &[("traceparent", &traceparent)]);
    let answer = asked.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let spans = wait::until("all spans of the trace have come", Duration::from_secs(30), || {
        let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace == TRACE).collect();
        let ways: BTreeSet<(&str, &str)> = spans.iter().map(|span| (span.service.as_str(), span.name.as_str())).collect();
        (ways == BTreeSet::from(WHOLE_WAY)).then(|| spans.clone())
    });
    let id_of = |name: &str| spans.iter().find(|span| span.name == name).expect("it is among them").id.clone();
    for span in &spans {
        let parent = match span.name.as_str() {
            "POST /v1/events" | "GET /v1/query" => CALLER.to_owned(),
            "send" => id_of("POST /v1/events"),
            "count" | "publish" | "write" => id_of("send"),
            _ => id_of("GET /v1/query"),
        };
        assert_eq!(span.parent, parent, "{span:?}");
    }
    assert_eq!(spans.len(), WHOLE_WAY.len(), "something was done twice: {spans:?}");
    assert!(collector.spans().iter().all(|span| !span.trace.starts_with("1111")), "what the caller does not record was recorded");
    for role in [ingest, speed, batch, serve] {
        role.stop();
    }
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused_with_what_to_do() {
    let mut command = Command::new(binary());
    command.args(["ingest", "--kafka", "127.0.0.1:1"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    let output = command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("http/protobuf"), "{said}");
}
