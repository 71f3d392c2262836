//! `/metrics` says what the rest of the interface says, and has all that alerts and dashboards are made of.

use serde_json::Value;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tidemark_tests::client::Client;
use tidemark_tests::data;
use tidemark_tests::question::Question;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site};
use tidemark_tests::wait;

const MANNER: Manner = Manner { batch: 1000, clients: 1, persistent: false };
const CONFIG: &str = "[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n";
const EVENTS: usize = 4000;

/// A file of the project.
fn text_of(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics that a file names.
fn named_in(path: &str) -> BTreeSet<String> {
    let text = text_of(path);
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tidemark_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[test]
fn metrics_agree_with_what_was_sent_and_with_the_status() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..EVENTS];
    by_http(&server.client, lines, MANNER, &Pace::free());
    // The same ten again are duplicates; what is no event is refused at the door, and is in no topic.
    let sent = by_http(&server.client, &lines[EVENTS - 10..], MANNER, &Pace::free());
    let refused = server.client.try_post("/v1/events", &[("content-type", "application/x-ndjson")], b"{}\n{}\n").expect("an answer");
    assert_eq!(refused.status, 200, "{}", refused.text());
    // Small enough to be kept.
    let question = Question::by("1d", &["event_type"]);
    question.ask(&server.client, Some(&sent.position));
    let status = server.settled();
    // Asked twice where nothing moves: the second time it is sent as it was written the first time.
    question.ask(&server.client, None);
    question.ask(&server.client, None);
    assert_eq!(server.client.get("/v1/query?step=7m").status, 400);
    assert_eq!(server.client.get("/made/up").status, 404);

    let at = wait::until("all is counted", Duration::from_secs(30), || {
        let at = server.client.metrics();
        (at["tidemark_speed_records_total{outcome=\"duplicate\"}"] == 10.0).then_some(at)
    });
    assert_eq!(at["tidemark_ingest_items_total{outcome=\"accepted\"}"], (EVENTS + 10) as f64);
    assert_eq!(at["tidemark_ingest_items_total{outcome=\"rejected\"}"], 2.0);
    assert_eq!(at["tidemark_ingest_items_total{outcome=\"failed\"}"], 0.0);
    assert_eq!(at["tidemark_speed_records_total{outcome=\"event\"}"], EVENTS as f64);
    for (metric, field) in [
        ("tidemark_log_end", "end"),
        ("tidemark_speed_position", "speed"),
        ("tidemark_history_position", "history"),
        ("tidemark_mark", "mark"),
        ("tidemark_open_epochs", "open_epochs"),
    ] {
        for partition in status["partitions"].as_array().expect("partitions") {
            let name = format!("{metric}{{partition=\"{}\"}}", partition["partition"]);
            assert_eq!(Some(at[&name]), partition[field].as_f64(), "{name}");
        }
    }
    assert_eq!(Some(at["tidemark_epochs_closed_total"]), status["reconciliation"]["closed"].as_f64());
    assert!(at["tidemark_epoch_close_duration_seconds_count"] >= 1.0);
    assert!(at["tidemark_batch_block_rows_sum"] == (EVENTS + 10) as f64, "{}", at["tidemark_batch_block_rows_sum"]);
    assert!(at["tidemark_query_duration_seconds_count{source=\"kept\"}"] >= 1.0, "{at:?}");
    for (route, status) in [("/v1/query", 400), ("/v1/events", 200), ("none", 404)] {
        let name = format!("tidemark_http_request_duration_seconds_count{{route=\"{route}\",status=\"{status}\"}}");
        assert!(at.get(&name).is_some_and(|count| *count >= 1.0), "{name}");
    }

    let known: BTreeSet<&str> = at.keys().map(|name| name.split('{').next().unwrap_or(name)).collect();
    for file in ["deploy/prometheus/rules.yml", "deploy/grafana/tidemark.json", "docs/operations.md"] {
        let named = named_in(file);
        assert!(named.len() > 10, "{file} names only {named:?}");
        let unknown: Vec<&String> = named.iter().filter(|name| !known.iter().any(|known| is_of(known, name))).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which are not in /metrics");
    }
    let documented = named_in("docs/operations.md");
    let undocumented: Vec<&&str> = known.iter().filter(|known| !documented.iter().any(|name| is_of(known, name))).collect();
    assert!(undocumented.is_empty(), "docs/operations.md says nothing of {undocumented:?}");

    // And a Prometheus that reads them can draw every panel of the dashboard.
    let prometheus = Prometheus::watching(&server);
    let dashboard: Value = serde_json::from_str(&text_of("deploy/grafana/tidemark.json")).expect("the dashboard is JSON");
    let targets = dashboard["panels"].as_array().expect("panels").iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("an expression")).collect();
    assert!(queries.len() > 30, "only {} queries", queries.len());
    for query in queries {
        let found = prometheus.query(&query.replace("$__rate_interval", "10s"));
        assert!(found.as_array().is_some_and(|series| !series.is_empty()), "{query} finds nothing: {found}");
    }
    server.stop();
}

/// A Prometheus with the configuration and the rules of `deploy/`, on a directory and a port of its own.
struct Prometheus {
    child: Child,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// Comes back when it has read the server's metrics a few times.
    fn watching(server: &Server) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let target = server.client.url.strip_prefix("http://").expect("an HTTP address");
        let config = text_of("deploy/prometheus/prometheus.yml")
            .replace("tidemark:8080", target)
            .replace("scrape_interval: 5s", "scrape_interval: 1s");
        assert!(config.contains(target) && config.contains("scrape_interval: 1s"), "{config}");
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        std::fs::write(dir.path().join("rules.yml"), text_of("deploy/prometheus/rules.yml")).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts; tests/prometheus/run.sh installs it");
        let prometheus = Self { child, client: Client::new(format!("http://127.0.0.1:{port}")), _dir: dir };
        wait::until("prometheus has read the metrics", Duration::from_secs(60), || {
            let reply =
                prometheus.client.try_get("/api/v1/query?query=count_over_time(up%5B10s%5D)").ok().filter(|reply| reply.status == 200)?;
            let read = reply.json()["data"]["result"][0]["value"][1].as_str()?.parse::<u32>().ok()?;
            (read >= 4).then_some(())
        });
        assert_eq!(prometheus.query("up")[0]["value"][1], "1", "the metrics cannot be read");
        prometheus
    }

    fn query(&self, query: &str) -> Value {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let reply = self.client.try_post("/api/v1/query", &headers, form.as_bytes()).unwrap_or_else(|error| panic!("{}", error.0));
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        reply.json()["data"]["result"].clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a sample's name is a metric's, or one of its histogram.
fn is_of(sample: &str, metric: &str) -> bool {
    sample.strip_prefix(metric).is_some_and(|rest| matches!(rest, "" | "_bucket" | "_sum" | "_count" | "_total"))
        || metric.strip_suffix("_bucket").or(metric.strip_suffix("_count")).is_some_and(|of| sample.strip_prefix(of).is_some())
}
